"""Models as 16 hex digits: rows of metrics.json hold them, and are never shown for other weights or configs."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

_VOLATILE = ("_diffusers_version", "_name_or_path")  # of a config: who wrote it, and where it lay


def weights_hash(folder: Path) -> str:
    """16 hex digits that change with the weights in `folder` and its components and with the configs beside them, the
    scheduler's too; not with checkpoints further down."""
    weights = hash_files(folder, [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")])
    digest = hashlib.sha256(weights.encode())
    for path in sorted([*folder.glob("*config.json"), *folder.glob("*/*config.json")]):
        config = {key: value for key, value in json.loads(path.read_text()).items() if key not in _VOLATILE}
        digest.update(f"{path.relative_to(folder).as_posix()} {json.dumps(config, sort_keys=True)}".encode())
    return digest.hexdigest()[:16]


def hash_files(folder: Path, paths: Iterable[Path]) -> str:
    """16 hex digits of the names, below `folder`, and the contents of files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(folder).as_posix().encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
