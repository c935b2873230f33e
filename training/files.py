"""Atomic writes, JSON files, and hashes of models."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_VOLATILE = (
    "_diffusers_version",
    "_name_or_path",
)  # entries of a config that do not change the model: who wrote it, and where it was


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it, so that readers never see half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)
    try:
        with file:
            file.write(content)
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except BaseException:
        os.unlink(file.name)  # of a full disk, half of it
        raise


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: not valid JSON, or not an object; it names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, it holds a {type(content).__name__}")
    return content


def weights_hash(folder: Path) -> str:
    """16 hex digits that depend on the weights and configs in `folder` and its component folders, scheduler included.

    Checkpoints further down do not count. Each row of metrics.json holds the hash of the weights that it was measured
    with, and is shown for no others.
    """
    weights = hash_files(folder, [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")])
    digest = hashlib.sha256(weights.encode())
    for path in sorted([*folder.glob("*config.json"), *folder.glob("*/*config.json")]):
        config = {key: value for key, value in json.loads(path.read_text()).items() if key not in _VOLATILE}
        digest.update(f"{path.relative_to(folder).as_posix()} {json.dumps(config, sort_keys=True)}".encode())
    return digest.hexdigest()[:16]


def hash_files(folder: Path, paths: Iterable[Path]) -> str:
    """16 hex digits that depend on the paths below `folder` and the contents of files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(folder).as_posix().encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
