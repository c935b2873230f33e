"""One run per folder: a lock that the operating system drops when its process dies, however it dies."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from training.data.runs import LOCK

try:
    import fcntl
except ImportError:  # Windows: runs are not kept apart
    fcntl = None

logger = logging.getLogger(__name__)


@contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """Hold `output_dir` for this process. Folders that this made, and that are still empty at the end, are removed.

    Raises:
        ValueError: another process holds it, or it is no folder that can be written; nothing has been changed.
    """
    made = [path for path in (output_dir, *output_dir.parents) if not path.exists()]
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        file = _acquired(output_dir / LOCK)
    except OSError as error:
        raise ValueError(
            f"output_dir must be a folder that can be written, got {str(output_dir)!r}: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        (output_dir / LOCK).unlink(missing_ok=True)
        file.close()
        _remove_empty(made)


def _acquired(path: Path) -> TextIO:
    """The open lock file, locked and with this process's name in it."""
    while True:
        file = open(path, "a+", encoding="utf-8")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise ValueError(
                f"output_dir must be a folder that no other run writes to, got {str(path.parent)!r}, in use by {holder}"
            ) from error
        except OSError:  # a file system without locks
            logger.warning("%s cannot be locked: start no second run there", path.parent)
        if _is_still(path, file):
            break
        file.close()  # the process before has removed it in between
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def _is_still(path: Path, file: TextIO) -> bool:
    """Whether `path` is the open `file`, and not another one of its name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders from the innermost on, up to one that is not empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
