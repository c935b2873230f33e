"""The folders of training runs among images: what a run draws and saves is no training data."""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK = ".lock"  # stands in the folder of a run while it runs, before it reads its data
RECORDS = ("training.json", "model_index.json", LOCK)
FOLDERS = ("checkpoint-[0-9]*", "samples/step-[0-9]*.png")


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, at work, stopped or finished, or a model."""
    if any((folder / name).is_file() for name in RECORDS):
        return True
    return any(True for pattern in FOLDERS for _ in folder.glob(pattern))


def report_runs(root: Path) -> None:
    """Log which folders below `root` are left out."""
    found: list[str] = []
    for path, folders, _ in os.walk(root):
        runs = [name for name in folders if not name.startswith(".") and is_run(Path(path, name))]
        found += [Path(path, name).relative_to(root).as_posix() for name in runs]
        folders[:] = [name for name in folders if not name.startswith(".") and name not in runs]
    if found:
        logger.warning("%s: left out %s, which training runs wrote or are writing", root, ", ".join(sorted(found)))
