"""Refuses links that leave the folder that is uploaded: what they point at was never meant for others."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import constants

_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # named by the hash of what it holds


def check_links(paths: Iterable[Path], folder: Path) -> None:
    """Raise ValueError if one of the `paths` in `folder` is, or lies behind, a link to outside or to nothing.

    The files of a model in the Hub's cache are links to its blobs: these may be uploaded.
    """
    base = Path(os.path.realpath(folder))
    for path in paths:
        target = Path(os.path.realpath(path))  # of links to links, the end; it never raises, also in a loop of links
        if not target.is_relative_to(base) and not _is_blob(target, base):
            raise ValueError(
                f"{path.relative_to(folder)} is a link to {target}, outside {folder}: a push uploads only what lies in "
                "the folder; copy the file there, or remove the link"
            )
        if path.is_symlink() and not path.exists():
            raise ValueError(f"{path.relative_to(folder)} in {folder} is a link to nothing: remove it")


def _is_blob(target: Path, base: Path) -> bool:
    """Whether a file is a blob of the Hub's cache, or of the cache that the folder `base` is a snapshot in."""
    if target.parent.name != "blobs" or not _BLOB.fullmatch(target.name):
        return False
    repository, cache = target.parent.parent, Path(os.path.realpath(constants.HF_HUB_CACHE))
    return repository.parent == cache or base.parent == repository / "snapshots"
