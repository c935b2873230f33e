"""bfloat16 where the processor is faster with it, float32 where it is slower, and what is said of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import command, image_folder, run_here

from pipelines.cpu import bfloat16_speedup, faster_in_bfloat16
from training import contact_sheet, machine
from training.evaluation.options import Options, recorded
from training.feature_classifier import Options as Classifying
from training.precision import report_precision
from training.train import parse

pytestmark = pytest.mark.usefixtures("alone")
DATA = ["--dataset_name", "data/emoji"]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "prefers_bfloat16", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("flags", "speedup", "faster"),
    [
        ({"avx512_bf16", "amx_bf16"}, None, True),
        ({"avx2", "avx512f"}, None, False),
        ({"avx512_bf16"}, 1.7, True),
        ({"avx512_bf16"}, 0.5, False),
        ({"bf16"}, 2.0, True),
    ],
)
def test_a_processor_whose_flags_do_not_tell_is_timed(flags: set[str], speedup: float | None, faster: bool) -> None:
    timed = []
    assert faster_in_bfloat16(frozenset(flags), lambda: timed.append(speedup) or speedup) == faster
    assert timed == ([] if speedup is None else [speedup])


def test_products_are_timed_in_both_formats() -> None:
    assert 1e-4 < bfloat16_speedup(size=64, times=2) < 1e3


def precision(line: str) -> str:
    return parse(line.split())[0].mixed_precision


def test_a_recipe_computes_in_float32_where_bfloat16_is_slower(slow: None) -> None:
    assert precision("--recipe fashion-cfg") == "no"
    assert precision("--recipe emoji-autoencoder") == "no" and precision("--recipe conditional") == "no"
    assert Classifying("classifier").mixed_precision == "no"
    assert precision("--recipe fashion-cfg --mixed_precision bf16") == "bf16", "a flag is followed"


def test_accelerate_is_followed_too(slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert precision("--recipe fashion-cfg") == "bf16"


def test_bfloat16_where_the_processor_is_faster_with_it(bfloat16_cpu: None) -> None:
    assert precision("--recipe fashion-cfg") == "bf16" and Classifying("classifier").mixed_precision == "bf16"
    assert Options(dataset_name="data").dtype == contact_sheet.Options().dtype == "bfloat16"


def test_a_gpu_has_bfloat16_whatever_the_processor(slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert precision("--recipe fashion-cfg") == "bf16"
    assert machine.usual_dtype() == "float32", "models are measured on a GPU by CUDA, or on the processor"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert machine.usual_dtype() == "bfloat16"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert precision("--recipe fashion-cfg") == "no", "accelerate computes on the processor"


def test_models_are_measured_in_float32_where_bfloat16_is_slower(slow: None) -> None:
    assert Options(dataset_name="data").dtype == contact_sheet.Options().dtype == "float32"
    assert Options(dataset_name="data", dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(ValueError, match="^dtype must be one of bfloat16, float32, got ''$"):
        Options(dataset_name="data", dtype="")


def test_the_recorded_command_draws_in_the_same_format_elsewhere() -> None:
    program = "python -m training.evaluate"
    expected = f"{program} 'a b' --dataset_name data/emoji --dtype bfloat16"
    assert recorded(program, ["a b", *DATA], "bfloat16") == expected
    assert recorded(program, ["a", "--dtype=float32"], "float32") == f"{program} a --dtype=float32"


def test_a_run_says_in_which_format_it_computes(slow: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    report_precision(parse(["--recipe", "conditional"])[0])
    assert caplog.text == "", "its recipe has float32"
    report_precision(parse(["--recipe", "fashion-cfg"])[0])
    assert "computing in float32: this CPU is slower in bfloat16" in caplog.text
    report_precision(parse("--recipe conditional --mixed_precision bf16".split())[0])
    assert "WARNING" in caplog.text and "mixed_precision is bf16, in which this CPU is slower" in caplog.text
    report_precision(replace(parse(["--recipe", "conditional"])[0], recipe="of another version"))


def test_a_resumed_run_keeps_its_format(
    bfloat16_cpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images, folder = image_folder(tmp_path / "images"), tmp_path / "run"
    line = f"--recipe fashion-cfg --torch_compile False --train_data_dir {images} --output_dir {folder}"
    run_here(command(line, max_train_steps=1))
    monkeypatch.setattr(machine, "prefers_bfloat16", lambda: False)
    run_here(["--resume_from_checkpoint", str(folder / "checkpoint-1"), "--max_train_steps=2"])
    assert "mixed_precision is bf16, in which this CPU is slower" in caplog.text
