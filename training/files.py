"""Atomic writes, JSON files, and hashes of models."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: two commands that write one file at the same time may lose a row
    fcntl = None

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


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if need be: other processes and threads that ask for it wait until it is let go."""
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def read_rows(path: Path, sections: Iterable[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows of a metrics.json by section and key; sections that it lacks are empty.

    Raises:
        ValueError: it is not one, or holds a damaged row, which is named.
    """
    content = read_json_object(path)
    if "results" not in content:
        raise ValueError(f"{path} must be a metrics.json, it has no 'results'")
    found = {section: content.get(section, {}) for section in sections}
    for section, rows in found.items():
        if not isinstance(rows, dict):
            raise ValueError(f"{path} must hold an object as {section!r}, it holds a {type(rows).__name__}")
        for key, row in rows.items():
            fault = _fault(row)
            if fault:
                raise ValueError(f"{path} holds a damaged row in {section!r}: {key!r} {fault}; mend or delete it")
    return found


def _fault(row: Any) -> str:
    """What is wrong with a row of a metrics.json; empty if nothing is."""
    if not isinstance(row, dict):
        return f"must be an object, it is a {type(row).__name__}"
    for name, kind in {"settings": dict, "weights": str, "measured": dict}.items():
        if not isinstance(row.get(name), kind):
            return f"has no {name}" if name not in row else f"has a {type(row[name]).__name__} as {name}"
    if "model" not in row["settings"]:
        return "has no model among its settings"
    for part in ("measured", "floor"):
        for name, value in _numbers(row.get(part, {}), part):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                return f"has {value!r} as {name}, which is no finite number"
    return ""


def _numbers(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The values in nested objects, with their dotted names."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, part in value.items():
        yield from _numbers(part, f"{name}.{key}")


def weights_hash(folder: Path) -> str:
    """16 hex digits that depend on the weights and configs in `folder` and its component folders, scheduler included.

    Checkpoints further down do not count. Each row of metrics.json holds the hash of the weights that it was measured
    with, and is shown for no others.
    """
    weights = hash_files(folder, [*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")])
    digest = hashlib.sha256(weights.encode())
    for path in sorted([*folder.glob("*config.json"), *folder.glob("*/*config.json")]):
        config = {key: value for key, value in read_json_object(path).items() if key not in _VOLATILE}
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
