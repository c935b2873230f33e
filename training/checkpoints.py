"""Checkpoints: folders checkpoint-N, written whole or not at all; the oldest are deleted."""

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from accelerate import Accelerator

from training.run_state import damage

logger = logging.getLogger(__name__)

LATEST = "latest"  # the file with the name of the checkpoint that is written last; it is named before it appears
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_steps(output_dir: Path) -> list[int]:
    """The steps of the checkpoints in a folder, ascending."""
    names = [_NAME.fullmatch(p.name) for p in output_dir.glob("checkpoint-*") if p.is_dir()]
    return sorted(int(match[1]) for match in names if match)


def find_checkpoint(output_dir: Path, wanted: str) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` names: a folder, its name in `output_dir`, or "latest".

    "latest" is the one that was written last, which need not have the highest number: a run may have gone back to an
    earlier checkpoint. It is None if there is no checkpoint: the run starts from scratch.

    Raises:
        ValueError: no such checkpoint.
    """
    if wanted == "latest":
        step = _last_written(output_dir, checkpoint_steps(output_dir))
        return None if step is None else output_dir / f"checkpoint-{step}"
    for path in (Path(wanted), output_dir / wanted):
        if _NAME.fullmatch(path.name) and path.is_dir():
            return path
    there = ", ".join(f"checkpoint-{step}" for step in checkpoint_steps(output_dir)) or "none"
    raise ValueError(f"resume_from_checkpoint must be latest or a checkpoint folder ({there}), got {wanted!r}")


def _last_written(output_dir: Path, steps: list[int]) -> int | None:
    """Which of the `steps`, ascending, was written last, as far as that is recorded; None if there are none.

    If the one that is named is not there, a run was killed before it was whole: the one before it counts.
    """
    file = output_dir / LATEST
    match = _NAME.fullmatch(file.read_text(errors="replace").strip()) if file.is_file() else None
    until = [step for step in steps if match is None or step <= int(match[1])]
    return (until or steps or [None])[-1]


def intact_checkpoint(output_dir: Path, wanted: str) -> Path | None:
    """The checkpoint of `find_checkpoint`; for "latest", if that is damaged, the one before it, with a warning.

    Raises:
        UnsafeFile: a file in it asks for code to be run.
        ValueError: no such checkpoint, or none that is intact.
    """
    newest = find_checkpoint(output_dir, wanted)
    if newest is None:
        return None
    fault = damage(newest)
    if fault is None:
        return newest
    if wanted != "latest":
        raise ValueError(f"resume_from_checkpoint must be an intact checkpoint, got {wanted!r}: {fault}")
    for step in reversed(checkpoint_steps(output_dir)):
        before = output_dir / f"checkpoint-{step}"
        if step < _step_of(newest) and damage(before) is None:
            _warn_once(f"{newest} is damaged: {fault}. Going on from the checkpoint before, {before.name}")
            return before
    raise ValueError(f"resume_from_checkpoint: no checkpoint in {output_dir} is intact: {fault}")


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


@cache
def _warn_once(text: str) -> None:
    """The command line looks for the checkpoint before any work, and the loop again when it starts."""
    logger.warning(text)


@contextmanager
def new_checkpoint(accelerator: Accelerator, output_dir: Path, step: int, limit: int | None) -> Iterator[Path]:
    """Yield a temporary folder to all processes, and rename it to checkpoint-`step` when they have all filled it."""
    final, temporary = output_dir / f"checkpoint-{step}", output_dir / f".checkpoint-{step}.part"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # of a full disk, it is the part that can be freed
        raise
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if final.exists():
            _remove(final)
        os.replace(temporary, final)
        _drop_oldest(output_dir, limit, step)
    accelerator.wait_for_everyone()


def _drop_oldest(output_dir: Path, limit: int | None, newest: int) -> None:
    """Keep `limit` checkpoints, `newest` among them even if an earlier run left checkpoints of later steps."""
    others = [step for step in checkpoint_steps(output_dir) if step != newest]
    for step in others[: max(len(others) + 1 - limit, 0)] if limit else []:
        _remove(output_dir / f"checkpoint-{step}")
    for part in output_dir.glob(".checkpoint-*.part"):
        shutil.rmtree(part)


def _remove(checkpoint: Path) -> None:
    """Rename, then delete: a run killed in between must not leave half a checkpoint under a checkpoint's name."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.old.part")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(checkpoint, doomed)
    shutil.rmtree(doomed)
