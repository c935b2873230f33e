"""Folders that are written under a temporary name first: `.NAME.xxxxxxxx/NAME`, which then becomes NAME.

Each is locked while its process lives, however that ends. So whoever writes NAME next knows what a killed process has
left, and removes it. (pipelines/ and training/data/ may not import each other; a test keeps their two copies equal.)
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing removed
    fcntl = None


@contextmanager
def staged(target: Path, parent: Path | None = None) -> Iterator[Path]:
    """Yield a path to write instead of `target`, in a new folder in `parent`, by default beside `target`.

    Move it from there; what is left is removed. What killed processes have left there of `target` is removed first.
    """
    parent = parent or target.parent
    sweep(parent, re.escape(target.name))
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=parent))
        lock = _locked(folder, wait=True)
        if folder.is_dir():
            break  # else another process has swept it in the moment before it was locked
    try:
        yield folder / target.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def sweep(parent: Path, names: str) -> None:
    """Remove from `parent` what killed processes have left of targets whose names match the pattern `names`."""
    pattern = re.compile(rf"\.({names})\.[a-z0-9_]{{8}}")
    for folder in parent.iterdir() if parent.is_dir() else ():
        found = pattern.fullmatch(folder.name)
        if found is None or folder.is_symlink() or not folder.is_dir():
            continue
        lock = _locked(folder)
        if lock is not None:
            if _holds_only(folder, found[1]):
                shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _holds_only(folder: Path, name: str) -> bool:
    """Whether a folder is there and holds nothing, or that alone."""
    try:
        return {path.name for path in folder.iterdir()} <= {name}
    except FileNotFoundError:  # its writer was done in the moment before it was locked
        return False


def _locked(folder: Path, wait: bool = False) -> int | None:
    """An open and locked folder; None where another process holds it, or it is gone or cannot be locked."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        return None
    return handle
