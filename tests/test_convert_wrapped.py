"""Foreign files: weights in wrappers, flags as they are pasted, pickles that ask for more, and files that are none."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conversion_runs import GUIDED, IMPROVED, SMALL, Harmful, make, refused
from diffusers import UNet2DModel
from torch import Tensor

from training import convert
from training.conversion.checkpoint import read_state_dict
from training.conversion.flags import parse_flags

State = dict[str, Tensor]
WEIGHT = "out.2.bias"


@pytest.fixture(scope="module")
def state() -> State:
    return make(num_heads=4).state_dict()


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def changed(state: State) -> State:
    return state | {WEIGHT: state[WEIGHT] + 1}


# --- wrappers ---


@pytest.mark.parametrize(
    ("wrap", "place", "averaged"),
    [
        (lambda s: prefixed(s, "module."), "module.", False),
        (lambda s: prefixed(s, "_orig_mod.module."), "_orig_mod.module.", False),
        (lambda s: {"state_dict": s, "step": 7}, "state_dict", False),
        (lambda s: {"state_dict": prefixed(s, "module."), "args": {"lr": 1.0}}, "state_dict/module.", False),
        (lambda s: {"model": s, "optimizer": {"state": {0: {"step": 1}}, "param_groups": []}}, "model", False),
        (lambda s: {"model": s, "ema": changed(s)}, "ema", True),
        (lambda s: {"ema_state_dict": changed(s), "state_dict": s}, "ema_state_dict", True),
        (lambda s: prefixed(s, "online_model.") | prefixed(changed(s), "ema_model."), "ema_model.", True),
        (lambda s: {"all": {"net": {"params_ema": changed(s), "params": s}}}, "all/net/params_ema", True),
    ],
)
def test_wrapped_weights_are_found_and_it_is_said(
    wrap: Callable, place: str, averaged: bool, state: State, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "unet.pt"
    torch.save(wrap(state), path)
    found = read_state_dict(path)
    assert set(found) == set(state) and torch.equal(found[WEIGHT], (changed(state) if averaged else state)[WEIGHT])
    assert capsys.readouterr().out.startswith(f"{path}: the weights under {place!r} are taken")


def test_a_wrapped_file_is_converted(state: State, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"ema": prefixed(state, "module."), "model": state}, tmp_path / "unet.pt")
    flags = f"{SMALL} --num_heads 4"
    convert.main([GUIDED, "--unet", str(tmp_path / "unet.pt"), "--flags", flags, "--out", str(tmp_path / "out")])
    assert "the weights under 'ema/module.' are taken, not those under 'model'" in capsys.readouterr().out
    unet = UNet2DModel.from_pretrained(tmp_path / "out", subfolder="unet")
    assert torch.equal(unet.conv_out.bias, state[WEIGHT])


def test_several_sets_of_weights_are_not_guessed_at(state: State, tmp_path: Path) -> None:
    torch.save({"one": state, "two": state}, tmp_path / "unet.pt")
    with pytest.raises(ValueError, match=r"holds several sets of weights \(one, two\): save one of them by itself"):
        read_state_dict(tmp_path / "unet.pt")


def test_plain_weights_are_taken_without_a_word(state: State, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(state, tmp_path / "unet.pt")
    assert set(read_state_dict(tmp_path / "unet.pt")) == set(state) and capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(
    value: float, state: State, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    wrong = state[WEIGHT].clone()
    wrong[1] = value
    torch.save(state | {WEIGHT: wrong}, tmp_path / "unet.pt")
    arguments = ["--unet", str(tmp_path / "unet.pt"), "--flags", f"{SMALL} --num_heads 4", "--out", str(tmp_path / "o")]
    said = f"1 of {len(state)} tensors hold weights that are NaN or infinite ({WEIGHT})"
    assert refused(capsys, GUIDED, *arguments).endswith(said) and not (tmp_path / "o").exists()


# --- flags ---


@pytest.mark.parametrize(
    "text",
    [
        "--image_size 16 \\\n  --num_channels 32 \\\n--learn_sigma True",
        "--image_size 16 \\  \r\n --num_channels 32 \\\r\n --learn_sigma True \\",
        "--image_size 16 \\ --num_channels 32 \\ --learn_sigma True",
        "--image_size 16 --lr 1e-4 --num_channels 32 --ema_rate 0.9999,0.999 --batch_size 128 --learn_sigma True",
        "--data_dir 'my images' --image_size=16 --num_channels=32 --lr=3e-4 --learn_sigma True --save_interval 10000",
        "mpiexec -n 8 python scripts/image_train.py --data_dir x --image_size 16 --num_channels 32 --learn_sigma True "
        "--use_fp16 True",
        'MODEL_FLAGS="--image_size 16 --num_channels 32"\nDIFFUSION_FLAGS="--learn_sigma True"\n'
        "TRAIN_FLAGS='--lr 1e-4 --batch_size 128'",
    ],
)
@pytest.mark.parametrize("family", [GUIDED, IMPROVED])
def test_flags_as_they_are_pasted(text: str, family: str) -> None:
    flags = parse_flags(family, text)
    assert (flags.image_size, flags.num_channels, flags.learn_sigma) == (16, 32, True)


def test_training_flags_are_said_to_be_ignored(state: State, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(state, tmp_path / "unet.pt")
    flags = f"{SMALL} --lr 1e-4 \\\n --num_heads 4 --weight_decay 0.05 --batch_size 4"
    convert.main([GUIDED, "--unet", str(tmp_path / "unet.pt"), "--flags", flags, "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines()[:2] == [
        "ignored, because they only concern sampling: batch_size",
        "ignored, because they only concern training: lr, weight_decay",
    ]


# --- files ---


class System:
    """Asks for a module that torch has blocked by name."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch ran",)


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for name in names:
            written.writestr(name, pickle.dumps(System(), protocol=4))
    return buffer.getvalue()


def saved(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as written:
        written.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


ASKED = "Unsupported global: GLOBAL {} was not an allowed global by default."
EXEC, SYSTEM, NAMESPACE = (ASKED.format(name) for name in ("builtins.exec", "posix.system", "argparse.Namespace"))
DAMAGED = "a zip file that is damaged or was cut short"
FOREIGN = "a zip file, but not one that torch has written"
FILES = {
    **{f"protocol {n}": (pickle.dumps(System(), protocol=n), SYSTEM) for n in range(6)},
    "protocol 5, exec": (pickle.dumps({"a": Harmful()}, protocol=5), EXEC),
    "beside weights": (saved({"state_dict": {"a": torch.ones(2)}, "x": System()}), SYSTEM),
    "an old file": (saved({"a": torch.ones(2), "x": System()}, _use_new_zipfile_serialization=False), SYSTEM),
    "a zip with a newer pickle": (archive("a/version", "a/data.pkl"), SYSTEM),
    "options": (saved({"ema": {}, "args": argparse.Namespace(lr=1.0)}), NAMESPACE),
    "a script": (script(), "a TorchScript archive, which holds code"),
    "a tar": (tar(), "a tar file of an old version of torch"),
    "a zip that is none": (b"PK\x03\x04" + b"junk" * 99, DAMAGED),
    "cut short": (saved({"a": torch.ones(999)})[:-99], DAMAGED),
    "a zip without its version": (archive("a/data.pkl"), DAMAGED),
    "another zip": (archive("word/document.xml"), FOREIGN),
    "an empty zip": (archive(), FOREIGN),
    "a page": (b"<html>404</html>", "nothing in it can be read"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FILES)
def test_what_a_file_asks_for_or_lacks_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, said = FILES[name]
    Path("unet.pt").write_bytes(content)
    found = refused(capsys, GUIDED, "--unet", "unet.pt", "--flags", SMALL, "--out", "out")
    assert found.startswith(f"unet.pt is not a file of weights: {said}")
    assert "weights_only" not in found and capsys.readouterr().err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["unet.pt"], "nothing has run"
