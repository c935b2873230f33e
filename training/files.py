"""Files, whole or not at all: writing, JSON objects, and models as 16 hex digits."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_VOLATILE = ("_diffusers_version", "_name_or_path")  # of a config: who wrote it, and where it lay


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name and rename it into place: readers never see half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json_object(path: Path) -> dict[str, Any]:
    """What a JSON file holds.

    Raises:
        ValueError: it is no JSON, or no object, by its name.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, it holds a {type(content).__name__}")
    return content


def weights_hash(folder: Path) -> str:
    """16 hex digits that change with the weights in `folder` and its components and with the configs beside them, the
    scheduler's too; not with checkpoints further down. Rows of metrics.json hold them, and are never shown for others.
    """
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
