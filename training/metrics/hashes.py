"""What a model is, as 16 hex digits: rows of metrics.json hold them, and are never shown for other weights."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def weights_hash(folder: Path) -> str:
    """16 hex digits that change with the weights in `folder` and its components; not with checkpoints further down."""
    return hash_files(folder, [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")])


def hash_files(folder: Path, paths: Iterable[Path]) -> str:
    """16 hex digits of the names, below `folder`, and the contents of files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(folder).as_posix().encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
