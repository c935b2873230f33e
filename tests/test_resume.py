"""Checkpoints: whole or absent, of a number asked for, and a run that goes on from one ends where it would have."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from fresh_processes import run_elsewhere
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import (
    alone,
    assert_same,
    checkpoint_state,
    command,
    forget_accelerate,
    image_folder,
    network_file,
    noise_images,
    run_here,
    small_trainer,
)
from training_runs import weights as weights_of

from training.checkpoints import checkpoint_steps, find_checkpoint, new_checkpoint

STEPS, EVERY = 40, 5


@pytest.fixture(scope="module", autouse=True)
def one_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Bit for bit holds for an equal number of threads: one, here and in the processes that are started."""
    with alone(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a network with dropout."""
    root = tmp_path_factory.mktemp("runs")
    image_folder(root / "images", count=14)
    network_file(root / "network.json", dropout=0.1)
    return root


def arguments(place: Path, name: str, **flags: object) -> list[str]:
    """The same run in another output folder."""
    fixed = {"train_data_dir": place / "images", "model_config_name_or_path": place / "network.json"}
    fixed |= {"max_train_steps": STEPS, "checkpointing_steps": EVERY, "report_to": "tensorboard"}
    fixed |= {"random_flip": True, "gradient_accumulation_steps": 2, "train_batch_size": 2}
    return command("--recipe conditional", output_dir=place / name, **fixed | flags)


@pytest.fixture(scope="module")
def unbroken(place: Path) -> Path:
    """The run that nothing happens to."""
    run_here(arguments(place, "unbroken"))
    return place / "unbroken"


@pytest.fixture(scope="module")
def killed(place: Path) -> Path:
    """The same run in a process of its own, killed at some moment after its first checkpoint."""
    folder = place / "killed"
    started = [sys.executable, "-m", "training.train", *arguments(place, "killed", resume_from_checkpoint="latest")]
    with open(place / "killed.log", "w") as log:
        process = subprocess.Popen(started, cwd=ROOT, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 180
            while not checkpoint_steps(folder) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(random.uniform(0, 0.3))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert process.returncode == -signal.SIGKILL, (place / "killed.log").read_text()
    assert checkpoint_steps(folder) and not (folder / "model_index.json").exists()
    return folder


def state_of(checkpoint: Path) -> dict[str, object]:
    """Everything that a checkpoint holds but the clock."""
    saved = checkpoint_state(checkpoint)
    record = json.loads((checkpoint / "training.json").read_text())
    for changing in ("seconds", "device"):
        record.pop(changing)
    record["recipe"].pop("resume_from_checkpoint")
    assert {"optimizer", "lr_scheduler", "average-0"} <= saved.keys()
    return saved | {
        "pipeline": load_file(checkpoint / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"),
        "record": record,
    }


def losses(folder: Path) -> dict[int, float]:
    events = EventAccumulator(str(folder / "stepwise"), size_guidance={"scalars": 0}).Reload()
    return {point.step: point.value for point in events.Scalars("loss")}


# --- killed and resumed ---


def test_a_killed_run_resumes_and_ends_bit_for_bit_where_the_unbroken_one_ends(
    unbroken: Path, killed: Path, place: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    step = checkpoint_steps(killed)[-1]
    half = killed / f".checkpoint-{step + 1}.part" / "state"
    half.mkdir(parents=True)
    (half / "optimizer.safetensors").write_bytes(b"half of it")
    assert EVERY <= step < STEPS
    run_here(arguments(place, "killed", resume_from_checkpoint="latest"))
    assert f"Resuming from {killed / f'checkpoint-{step}'} at step {step}" in capsys.readouterr().out
    assert_same(state_of(killed / f"checkpoint-{STEPS}"), state_of(unbroken / f"checkpoint-{STEPS}"))
    assert losses(killed) == losses(unbroken) and len(losses(unbroken)) == STEPS
    for name in ("model_index.json", "unet/diffusion_pytorch_model.safetensors"):
        assert (killed / name).read_bytes() == (unbroken / name).read_bytes()
    assert [path.name for path in killed.iterdir() if path.name.startswith(".")] == []


def test_the_number_of_checkpoints_is_limited(unbroken: Path) -> None:
    assert checkpoint_steps(unbroken) == [STEPS - EVERY, STEPS]


@pytest.mark.parametrize("named_by", ["name", "path"])
def test_a_run_resumes_from_a_checkpoint_that_is_named(unbroken: Path, place: Path, named_by: str) -> None:
    name = f"checkpoint-{STEPS - EVERY}"
    other = place / f"by-{named_by}"
    if named_by == "name":
        for step in (STEPS - EVERY, STEPS):  # the named one, not the latest
            shutil.copytree(unbroken / f"checkpoint-{step}", other / f"checkpoint-{step}")
        shutil.rmtree(other / f"checkpoint-{STEPS}" / "state")
    wanted = name if named_by == "name" else unbroken / name
    run_here(arguments(place, other.name, resume_from_checkpoint=wanted))
    assert_same(state_of(other / f"checkpoint-{STEPS}"), state_of(unbroken / f"checkpoint-{STEPS}"))


# --- the pipeline in each checkpoint ---

LOADER = """
import sys, torch
from diffusers import DiffusionPipeline
found = {}
for folder in sys.argv[2:]:
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    images = pipe(class_labels=["bird", "cat"], num_inference_steps=2).images
    found[folder] = {"weights": [p.data for p in pipe.unet.parameters()], "sizes": [image.size for image in images]}
assert "pipelines" not in sys.modules and "training" not in sys.modules
torch.save(found, sys.argv[1])
"""


def test_every_checkpoint_holds_the_averaged_weights_in_a_pipeline_that_loads_anywhere(
    unbroken: Path, tmp_path: Path
) -> None:
    folders = [unbroken / f"checkpoint-{step}" / "pipeline" for step in checkpoint_steps(unbroken)] + [unbroken]
    run_elsewhere(tmp_path, LOADER, str(tmp_path / "found.pt"), *map(str, folders))
    found = torch.load(tmp_path / "found.pt")
    for folder in folders:
        checkpoint = unbroken / f"checkpoint-{STEPS}" if folder == unbroken else folder.parent
        average = checkpoint_state(checkpoint)["average-0"]["shadow_params"]
        assert_same(found[str(folder)]["weights"], average)
        raw = load_file(checkpoint / "state" / "model.safetensors")
        assert any(not torch.equal(a, b) for a, b in zip(average, raw.values(), strict=True))
        assert found[str(folder)]["sizes"] == [(8, 8), (8, 8)]


# --- whole or absent ---

ALONE = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)


def save(folder: Path, step: int, limit: int | None) -> None:
    with new_checkpoint(ALONE, folder, step, limit) as temporary:
        (temporary / "weights").write_text(str(step))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_oldest_go_first_by_number_and_no_limit_keeps_all(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        save(tmp_path, step, None)
    assert checkpoint_steps(tmp_path) == [8, 9, 10, 100]
    save(tmp_path, 101, 3)
    assert checkpoint_steps(tmp_path) == [10, 100, 101]
    save(tmp_path, 102, 1)
    assert names(tmp_path) == ["checkpoint-102"]


def test_the_newest_is_kept_beside_later_steps_of_an_earlier_run(tmp_path: Path) -> None:
    for step in (50, 60):
        save(tmp_path, step, 2)
    save(tmp_path, 10, 2)
    assert checkpoint_steps(tmp_path) == [10, 60]
    save(tmp_path, 60, 2)
    assert (tmp_path / "checkpoint-60" / "weights").read_text() == "60"


def test_a_checkpoint_that_cannot_be_written_whole_does_not_appear(tmp_path: Path) -> None:
    save(tmp_path, 5, 2)
    with pytest.raises(OSError, match="disk full"):
        with new_checkpoint(ALONE, tmp_path, 10, 1) as temporary:
            (temporary / "weights").write_text("half")
            raise OSError("disk full")
    assert checkpoint_steps(tmp_path) == [5] and find_checkpoint(tmp_path, "latest") == tmp_path / "checkpoint-5"
    save(tmp_path, 10, 2)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-5"]
    assert names(tmp_path / "checkpoint-10") == ["weights"]


def test_a_kill_during_a_removal_leaves_no_half_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        save(tmp_path, step, None)

    def dies(folder: Path, **options: object) -> None:
        for file in Path(folder).glob("weights"):
            file.unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", dies)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 3, 2)
    assert checkpoint_steps(tmp_path) == [2, 3]
    assert all((tmp_path / f"checkpoint-{step}" / "weights").is_file() for step in (2, 3))
    monkeypatch.undo()
    save(tmp_path, 4, 2)
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-4"]


def test_what_is_not_a_checkpoint_is_not_taken_for_one(tmp_path: Path) -> None:
    for name in ("checkpoint-3", "checkpoint-x", "checkpoint-4-old", ".checkpoint-9.part"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-8").write_text("a file")
    assert checkpoint_steps(tmp_path) == [3]
    assert find_checkpoint(tmp_path, "latest") == tmp_path / "checkpoint-3"
    for wanted in ("checkpoint-8", "checkpoint-x", ".checkpoint-9.part", "nonsense"):
        with pytest.raises(ValueError, match=r"resume_from_checkpoint must be .*\(checkpoint-3\), got '"):
            find_checkpoint(tmp_path, wanted)
    assert find_checkpoint(tmp_path / "empty", "latest") is None
    with pytest.raises(ValueError, match=r"\(none\)"):
        find_checkpoint(tmp_path / "empty", "checkpoint-3")


# --- resumed otherwise than before ---


def test_another_split_of_the_batch_goes_on_alike(tmp_path: Path) -> None:
    """One micro-step of four examples before the checkpoint, two of two after it: an odd step is no trap."""
    ends = []
    for name, later in (("same", {}), ("split", {"train_batch_size": 2, "gradient_accumulation_steps": 2})):
        folder = tmp_path / name
        forget_accelerate()
        small_trainer(folder, double=True, max_train_steps=3, checkpointing_steps=3, lr_scheduler="constant").train()
        forget_accelerate()
        flags = {"max_train_steps": 5, "lr_scheduler": "constant", "resume_from_checkpoint": "latest"}
        resumed = small_trainer(folder, double=True, **flags | later)
        resumed.train()
        ends.append(weights_of(resumed))
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=0, atol=1e-9)


def test_starting_afresh_beside_old_checkpoints_and_resuming_on_other_data_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    forget_accelerate()
    small_trainer(tmp_path / "run", max_train_steps=1).train()
    assert caplog.text == ""
    forget_accelerate()
    small_trainer(tmp_path / "run", max_train_steps=1).train()
    assert "holds checkpoints of an earlier run" in caplog.text
    forget_accelerate()
    others = replace(noise_images(), fingerprint="others")
    small_trainer(tmp_path / "run", others, max_train_steps=1, resume_from_checkpoint="latest").train()
    assert "was trained on other data" in caplog.text
