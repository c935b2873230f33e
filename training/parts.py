"""Arrays that are costly to make, kept on disk in parts: `<folder>/part-00000.npy`, ...

Each part is written under a temporary name and then renamed: a run that was killed goes on with the first part that is
missing, and processes that make the same array at the same time write the same parts.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from training.files import write_whole

logger = logging.getLogger(__name__)

CHECKSUM = hashlib.sha256().digest_size  # bytes after the rows in a file


def kept_in_parts(
    folder: Path, count: int, size: int, make: Callable[[slice], np.ndarray], description: str
) -> np.ndarray:
    """The `count` rows that `make` returns `size` at a time, from `folder` where they are there.

    `description` stands beside the progress bar.
    """
    parts = {start: _read(_part(folder, start // size)) for start in range(0, count, size)}
    missing = [start for start, part in parts.items() if part is None]
    if missing and len(missing) < len(parts):
        logger.info("%d of %d parts are in %s already", len(parts) - len(missing), len(parts), folder)
    for start in tqdm(missing, desc=description, unit="part", disable=None if missing else True):
        parts[start] = make(slice(start, min(start + size, count)))
        _write(_part(folder, start // size), parts[start])
    return np.concatenate(list(parts.values()))


def _part(folder: Path, index: int) -> Path:
    return folder / f"part-{index:05d}.npy"


def _read(path: Path) -> np.ndarray | None:
    """A part; None if it is absent or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    rows, checksum = content[:-CHECKSUM], content[-CHECKSUM:]
    return np.load(io.BytesIO(rows)) if hashlib.sha256(rows).digest() == checksum else None


def _write(path: Path, rows: np.ndarray) -> None:
    """Write a part, and after it its checksum, which `np.load` of the file leaves out."""
    buffer = io.BytesIO()
    np.save(buffer, rows)
    write_whole(path, buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())
