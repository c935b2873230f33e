"""How a run that ends before its last update tells why: in one line, with the command that goes on from it."""

import errno
import os
import re
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError

from training.files import write_whole
from training.launch import several_processes, wait_for_others
from training.machine import is_reporter
from training.signals import Interrupted, default_handlers, name_of

TRACEBACK = "error.log"
_RUST = re.compile(r"\(os error (\d+)\)")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DROPPED = ("--resume_from_checkpoint", "--overwrite_output_dir", "--hub_token")  # of the command that goes on
_FORESEEN = (OSError, SafetensorError, MemoryError, torch.OutOfMemoryError, ValueError, FloatingPointError)
_SMALLER = "lower --train_batch_size and raise --gradient_accumulation_steps by the same factor"


def exit_before_training(interrupted: Interrupted) -> NoReturn:
    """End the process with one line: a signal came before there was anything to save."""
    failed = several_processes() and interrupted.number == signal.SIGTERM  # another one has: the launcher ends the rest
    _exit_interrupted(interrupted, "" if failed else " before the first update")


def _exit_interrupted(interrupted: Interrupted, way_on: str) -> NoReturn:
    """Exit with the status of a signal; the first process alone says so, and the others give it time to."""
    if not is_reporter():
        default_handlers()
        time.sleep(1)
    elif way_on:
        print(f"stopped by {name_of(interrupted.number)}{way_on}", file=sys.stderr)
    sys.exit(128 + interrupted.number)


def exit_early(error: BaseException, checkpoint: Path | None, output_dir: Path, arguments: Sequence[str]) -> NoReturn:
    """End the process with one line: the cause, the last checkpoint, and the command that goes on from it.

    A signal ends it with the usual exit status, 128 and its number. An error that nobody foresaw leaves its traceback
    in `output_dir`.
    """
    way_on = _way_on(checkpoint, output_dir, arguments)
    if isinstance(error, Interrupted):
        _exit_interrupted(error, f"; {way_on}")
    wait_for_others(error)
    kept = "" if isinstance(error, _FORESEEN) else _keep_traceback(error, output_dir)
    sys.exit(f"error: {cause_of(error)}{kept}; {way_on}")


def cause_of(error: BaseException) -> str:
    """What went wrong, in a line, and what can be done about it where that is known."""
    text = " ".join(str(error).split("\n\n")[0].split())
    rust = _RUST.search(text) if isinstance(error, SafetensorError) else None
    if rust:  # safetensors reports what the system said as text
        error = OSError(int(rust[1]), os.strerror(int(rust[1])))
    if isinstance(error, OSError) and error.errno is not None:
        full = "the disk is full: " if error.errno in _FULL else ""
        return f"{full}{error.strerror}" + (f": {error.filename}" if error.filename is not None else "")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return f"out of memory; {_SMALLER} ({text[:200]})"
    return text if isinstance(error, _FORESEEN) else f"{type(error).__name__}: {text[:400]}"


def _keep_traceback(error: BaseException, output_dir: Path) -> str:
    """Write the traceback, and say where; nothing if that cannot be done."""
    path = output_dir / TRACEBACK
    try:
        write_whole(path, "".join(traceback.format_exception(error)).encode())
    except OSError:
        return ""
    return f" (traceback in {path})"


def _way_on(checkpoint: Path | None, output_dir: Path, arguments: Sequence[str]) -> str:
    if checkpoint is None:
        return "there is no checkpoint to go on from"
    wanted = "latest" if checkpoint.parent == output_dir else str(checkpoint)
    return f"{checkpoint} is complete. To go on: {resume_command(arguments, wanted)}"


def resume_command(arguments: Sequence[str], wanted: str) -> str:
    """The command line that goes on with a run of these arguments from a checkpoint. It holds no token."""
    kept, dropping = [], False
    for argument in arguments:
        if argument.startswith("--"):
            dropping = argument.partition("=")[0] in _DROPPED
        if not dropping:
            kept.append(argument)
    return f"{_launcher()} training.train {shlex.join([*kept, '--resume_from_checkpoint', wanted])}"


def _launcher() -> str:
    """How this process was started, as far as it can know."""
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return "python -m"
    if not several_processes():
        return "accelerate launch -m"
    cpu = "ACCELERATE_USE_CPU=true " if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" else ""
    return f"{cpu}accelerate launch --multi_gpu --num_processes {os.environ['WORLD_SIZE']} -m"
