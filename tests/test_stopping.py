"""Runs that end early: by a signal, a full disk or an error. One line, a checkpoint, and the command that goes on."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from training_runs import (
    assert_same,
    checkpoint_state,
    command,
    image_folder,
    network_file,
    run_here,
    small_trainer,
)

from training import loop
from training.objectives.denoising import Denoising
from training.signals import NUMBERS, Interrupted, Noted, noted, raised
from training.stopping import cause_of, exit_early, resume_command

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Runs the command: f(name, **flags) -> its folder, whose path has a space in it."""
    flags = {"train_data_dir": image_folder(tmp_path / "images")}
    flags["model_config_name_or_path"] = network_file(tmp_path / "network.json")

    def train(name: str, **more: object) -> Path:
        folder = tmp_path / f"of {name}"
        run_here(command("--recipe conditional", output_dir=folder, **flags | more))
        return folder

    return train


@pytest.fixture
def at_update(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """f(n, what): `what` is done while the n-th update is computed."""

    def arrange(number: int, what: Callable[[], object]) -> None:
        loss, calls = Denoising.loss, []

        def watched(self: Denoising, *args: object) -> Tensor:
            calls.append(None)
            if len(calls) == number:
                what()
            return loss(self, *args)

        monkeypatch.setattr(Denoising, "loss", watched)

    return arrange


def to_go_on(text: str) -> list[str]:
    """The arguments of the command in a message."""
    launcher, module, *arguments = shlex.split(text.partition("To go on: python ")[2])
    assert (launcher, module) == ("-m", "training.train")
    return arguments


# --- signals ---


@pytest.fixture
def in_a_terminal() -> Iterator[None]:
    """No signal is ignored, as they are in what a shell starts in the background or under nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in NUMBERS}
    yield
    for number, old in before.items():
        signal.signal(number, old)


@pytest.mark.usefixtures("in_a_terminal")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_writes_a_checkpoint_and_names_the_command_that_goes_on(
    name: str,
    run: Callable[..., Path],
    at_update: Callable[[int, Callable], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = getattr(signal, name)
    at_update(3, lambda: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as ended:
        run("stopped", hub_token="hf_secret")
    assert ended.value.code == 128 + number
    last = capsys.readouterr().err.strip().splitlines()[-1]
    folder = tmp_path / "of stopped"
    assert last.startswith(f"stopped by {name}; {folder / 'checkpoint-3'} is complete. To go on: ")
    assert "hf_secret" not in last
    assert not (folder / "model_index.json").exists()
    if name == "SIGTERM":
        monkeypatch.undo()
        run_here(to_go_on(last))
        assert_same(checkpoint_state(folder / "checkpoint-6"), checkpoint_state(run("whole") / "checkpoint-6"))


def test_a_signal_before_the_first_update_is_one_line(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("training.train.load_images", lambda **options: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        run("early")
    assert ended.value.code == 143
    assert capsys.readouterr().err == "stopped by SIGTERM before the first update\n"


def test_a_second_signal_ends_it_at_once_but_an_echo_of_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seen = Noted()
    for now[0] in (5.0, 5.2):
        seen(signal.SIGTERM, None)
    assert seen.number == signal.SIGTERM
    now[0] = 7.0
    with pytest.raises(Interrupted, match="SIGINT"):
        seen(signal.SIGINT, None)


def test_handlers_are_put_back_and_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        old = signal.getsignal(signal.SIGTERM)
        with raised(), noted() as seen:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
        assert seen.number == signal.SIGTERM and signal.getsignal(signal.SIGTERM) == old
    finally:
        signal.signal(signal.SIGHUP, before)


def test_all_processes_stop_for_a_signal_to_one_of_them(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path / "run")
    assert trainer._of_any_process(None) == 0 and trainer._of_any_process(15) == 15

    class Two:
        num_processes, device = 2, "cpu"

        def gather(self, own: Tensor) -> Tensor:
            return torch.cat([own, torch.tensor([signal.SIGTERM])])

    trainer.accelerator = Two()
    assert trainer._of_any_process(None) == signal.SIGTERM


# --- the end of the disk ---


@pytest.fixture
def files_of_at_most() -> Iterator[Callable[[int], None]]:
    """f(size): from now on a write beyond `size` bytes fails, as on a full disk, until the test ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(
    run: Callable[..., Path],
    at_update: Callable[[int, Callable], None],
    files_of_at_most: Callable[[int], None],
    tmp_path: Path,
) -> None:
    at_update(4, lambda: files_of_at_most(100_000))
    with pytest.raises(SystemExit, match=r"^error: the disk is full: File too large.*; .*checkpoint-2 is complete. "):
        run("full", checkpointing_steps=2)
    names = [path.name for path in (tmp_path / "of full").iterdir() if "checkpoint" in path.name]
    assert names == ["checkpoint-2"], "no part of a checkpoint takes up room"


def test_samples_that_find_no_room_cost_no_update(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "step-000003.png")

    monkeypatch.setattr(loop, "keep_images", full)
    told = r"^error: the disk is full: No space left on device: step-000003.png; .*checkpoint-3 is complete. To go on: "
    with pytest.raises(SystemExit, match=told) as ended:
        run("full", validation_steps=3)
    monkeypatch.undo()
    run_here(to_go_on(str(ended.value)))


def test_what_libraries_raise_on_a_full_disk_is_told_alike(
    files_of_at_most: Callable[[int], None], tmp_path: Path
) -> None:
    files_of_at_most(1000)
    with pytest.raises(SafetensorError) as found:
        save_file({"x": torch.zeros(10_000)}, tmp_path / "x.safetensors")
    assert cause_of(found.value) == "the disk is full: File too large"
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert cause_of(error) == "the disk is full: No space left on device"


# --- errors ---


def test_an_error_on_the_way_is_one_line_and_unforeseen_ones_leave_their_traceback(
    run: Callable[..., Path], at_update: Callable[[int, Callable], None], tmp_path: Path
) -> None:
    (tmp_path / "of file").mkdir()
    (tmp_path / "of file" / "samples").write_text("a file where a folder must be")
    with pytest.raises(SystemExit, match=r"^error: File exists: .*samples; .*checkpoint-2 is complete"):
        run("file", validation_steps=2)

    def fail() -> None:
        raise RuntimeError("something odd\nin two lines")

    at_update(4, fail)
    with pytest.raises(SystemExit) as ended:
        run("odd", checkpointing_steps=2)
    log = tmp_path / "of odd" / "error.log"
    assert str(ended.value).startswith(f"error: RuntimeError: something odd in two lines (traceback in {log}); ")
    assert "checkpoint-2 is complete" in str(ended.value) and "\n" not in str(ended.value)
    assert "in fail" in log.read_text()


def test_memory_that_runs_out_is_told_with_what_helps() -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("x can't allocate memory: y"),
        MemoryError(),
    ):
        assert cause_of(error).startswith("out of memory; lower --train_batch_size and raise --gradient_accum")


def test_a_base_model_that_is_not_finite_is_not_a_matter_of_the_learning_rate(
    run: Callable[..., Path], tmp_path: Path
) -> None:
    path = run("base", max_train_steps=1) / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.weight"][0, 0, 0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    told = r"^error: pretrained_model_name_or_path '.*of base' must be finite, conv_in.weight is not$"
    with pytest.raises(SystemExit, match=told):
        run("tuned", pretrained_model_name_or_path=tmp_path / "of base", model_config_name_or_path=None)


def test_a_loss_that_is_not_finite_from_the_start_and_broken_weights_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = small_trainer(tmp_path / "run")
    with torch.no_grad():
        trainer.network.conv_out.bias.fill_(float("inf"))
    with pytest.raises(
        FloatingPointError, match="^the loss is .* at step 0; no update was made yet, so it is not the l"
    ):
        trainer.update()
    with pytest.raises(FloatingPointError, match="^the weights after update 0 must be finite, conv_out.bias is not"):
        trainer._save_checkpoint()
    assert not list((tmp_path / "run").glob("*checkpoint*"))


def test_the_command_that_goes_on_names_no_token_and_starts_as_this_one_was(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--recipe", "finetune", "--hub_token", "hf_x", "--overwrite_output_dir", "--resume_from_checkpoint=latest"]
    given += ["--train_data_dir", "my images"]
    end = "--recipe finetune --train_data_dir 'my images' --resume_from_checkpoint latest"
    assert resume_command(given, "latest") == f"python -m training.train {end}"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert resume_command(given, "latest") == f"accelerate launch -m training.train {end}"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    start = "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 -m training.train"
    assert resume_command(given, "latest") == f"{start} {end}"


def test_the_first_of_several_processes_alone_tells_of_a_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr("training.stopping.default_handlers", lambda: waits.append(0))
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as ended:
            exit_early(Interrupted(signal.SIGINT), tmp_path / "checkpoint-3", tmp_path, ["--recipe", "finetune"])
        assert ended.value.code == 130
    assert capsys.readouterr().err.count("stopped by SIGINT; ") == 1 and waits == [0, 1]
