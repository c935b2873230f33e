"""The files of a checkpoint: no pickles, nothing in them runs, and a damaged one gives way to the one before."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from saved_0_1_0.runs import FOLDER
from training_runs import alone, assert_same, command, flat, forget_accelerate, noise_images, run_here, small_trainer

from training.checkpoints import intact_checkpoint
from training.loop import Trainer
from training.pickles import SUFFIXES, UnsafeFile
from training.run_state import damage, read_parts
from training.state_files import read_state, write_state

OLD = FOLDER / "run_history" / "checkpoint-7"


class Evil:
    """Unpickled, it runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of three updates with a checkpoint of each."""
    root = tmp_path_factory.mktemp("run")
    with alone(root / "cache"):
        flags = {"checkpointing_steps": 1, "max_train_steps": 3, "checkpoints_total_limit": 5}
        small_trainer(root / "run", second_ema_decay=0.5, **flags).train()
        yield root / "run"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


# --- what is written ---


def test_a_checkpoint_holds_no_pickle(run: Path) -> None:
    files = {path.relative_to(run / "checkpoint-3") for path in (run / "checkpoint-3").rglob("*") if path.is_file()}
    assert not [path for path in files if path.suffix in SUFFIXES]
    parts = ("optimizer", "average-0", "average-1")
    expected = {"model.safetensors", "lr_scheduler.json"} | {f"{p}.{s}" for p in parts for s in ("json", "safetensors")}
    assert {path.name for path in files if path.parent.name == "state"} == expected


def test_a_state_comes_back_to_the_bit_with_its_layout(tmp_path: Path) -> None:
    base = torch.randn(2, 3, 4, 4)
    state = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": base.to(memory_format=torch.channels_last)}},
        "betas": (0.1 + 0.2, 1e-300),
        "half": base.bfloat16(),
        "counts": torch.tensor([2**62]),
        "same": [base, base[1], None, "text", True, float("inf")],
        "$odd": {},
    }
    write_state(tmp_path, "part", state)
    again = read_state(tmp_path, "part")
    assert_same(again, state)
    assert again["betas"] == state["betas"] and list(again["state"]) == [0] and again["$odd"] == {}
    assert again["state"][0]["exp_avg"].stride() == state["state"][0]["exp_avg"].stride() != base.stride()


def test_what_cannot_be_saved_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^part/a/1 must be a tensor, a number, .* got a set"):
        write_state(tmp_path, "part", {"a": [1, {2}]})
    trainer = small_trainer(tmp_path / "run")
    trainer.lr_scheduler.odd = object()
    with pytest.raises(ValueError, match="^lr_scheduler/odd must be .* got a object"):
        trainer.state.check()


# --- nothing in it runs ---


def write_zip(content: object, path: Path) -> None:
    torch.save({"shadow_params": [torch.zeros(1)], "content": content}, path)


def write_legacy(content: object, path: Path) -> None:
    torch.save({"content": content}, path, _use_new_zipfile_serialization=False)


def write_plain(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [write_zip, write_legacy, write_plain])
@pytest.mark.parametrize(
    "name", ["optimizer.bin", "custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl", "random_states_0.pkl", "scaler.pt"]
)
def test_a_pickle_that_asks_for_more_is_refused_with_what_it_asks_for(
    name: str, write: Callable[[object, Path], None], tmp_path: Path
) -> None:
    checkpoint, mark = tmp_path / "run" / "checkpoint-7", tmp_path / "mark"
    shutil.copytree(OLD, checkpoint)
    assert damage(checkpoint) is None
    write(Evil(mark), checkpoint / "state" / name)
    for wanted in ("latest", "checkpoint-7"):
        with pytest.raises(UnsafeFile, match=rf"{name} is refused: .* asks for (posix|nt)\.system; nothing was run"):
            intact_checkpoint(tmp_path / "run", wanted)
    with pytest.raises(UnsafeFile):
        read_parts(checkpoint / "state")
    assert not mark.exists()


def test_the_command_refuses_a_pickle_planted_in_a_checkpoint_of_today(copy: Path, tmp_path: Path) -> None:
    write_zip(Evil(tmp_path / "mark"), copy / "checkpoint-3" / "state" / "custom_checkpoint_0.pkl")
    arguments = command("--recipe conditional", output_dir=copy, train_data_dir="nowhere")
    with pytest.raises(SystemExit, match=r"^error: .*custom_checkpoint_0.pkl is refused: .*system"):
        run_here([*arguments, "--resume_from_checkpoint=latest"])
    assert not (tmp_path / "mark").exists()


# --- damaged ---


def missing(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FILES = [f"state/{name}" for name in ("model.safetensors", "optimizer.json", "optimizer.safetensors")]
FILES += ["state/average-0.safetensors", "state/lr_scheduler.json", "training.json"]


@pytest.mark.parametrize("harm", [missing, truncated])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    file: str, harm: Callable[[Path], None], copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harm(copy / "checkpoint-3" / file)
    assert intact_checkpoint(copy, "latest") == copy / "checkpoint-2"
    (line,) = caplog.messages
    assert str(copy / "checkpoint-3" / file) in line and line.endswith("the checkpoint before, checkpoint-2")
    with pytest.raises(ValueError, match=r"^resume_from_checkpoint must be an intact checkpoint, got 'checkpoint-3': "):
        intact_checkpoint(copy, "checkpoint-3")
    for step in (1, 2):
        harm(copy / f"checkpoint-{step}" / file)
    with pytest.raises(ValueError, match=r"^resume_from_checkpoint: no checkpoint in .* is intact: "):
        intact_checkpoint(copy, "latest")


@pytest.mark.parametrize("file", ["optimizer.bin", "custom_checkpoint_1.pkl", "model.safetensors"])
def test_a_damaged_file_of_0_1_0_is_named(file: str, tmp_path: Path) -> None:
    for harm in (truncated, missing):
        checkpoint = tmp_path / harm.__name__ / "checkpoint-7"
        shutil.copytree(OLD, checkpoint)
        harm(checkpoint / "state" / file)
        assert file in damage(checkpoint)


def resumed(folder: Path, **flags: object) -> Trainer:
    forget_accelerate()
    flags = {"resume_from_checkpoint": "latest", "second_ema_decay": 0.5} | flags
    trainer = small_trainer(folder, noise_images(), **flags)
    trainer._resume()
    return trainer


def test_the_run_goes_on_from_the_checkpoint_before(copy: Path) -> None:
    truncated(copy / "checkpoint-3" / "state" / "optimizer.safetensors")
    trainer = resumed(copy)
    assert trainer.step == 2
    expected = read_parts(copy / "checkpoint-2" / "state")
    assert_same({name: part.state_dict() for name, part in trainer.state.parts.items()}, expected)
    assert len(flat(expected)) > 400


def test_a_checkpoint_of_other_flags_is_refused_in_a_line(copy: Path) -> None:
    with pytest.raises(
        ValueError, match=r"is of a run with other flags: it holds average-0, average-1, .*this run has"
    ):
        resumed(copy, second_ema_decay=None)
    state = copy / "checkpoint-3" / "state"
    content = (state / "optimizer.json").read_text()
    (state / "optimizer.json").write_text(content.replace('"param_groups": [{', '"param_groups": [{}, {'))
    with pytest.raises(ValueError, match=r"^optimizer in .* does not fit this run: "):
        resumed(copy)
