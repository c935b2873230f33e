"""What of a model's folder may leave for the Hub, by a list of what belongs to a model: all else stays.

Weights (safetensors only), configs, carried sources, the card, the measured numbers, pictures. Checkpoints, optimizer
states, logs and pictures of a run are none of these. Paths of this machine are cut to their last part on the way.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

ROOT_FILES = (
    "README.md LICENSE LICENSE.txt NOTICE model_index.json config.json scheduler_config.json "
    "metrics.json training.json noise_accuracy.json samples.png guidance.png steps.png likelihood.png "
    "noise_accuracy.png diffusion_pytorch_model.safetensors diffusion_pytorch_model.fp16.safetensors"
).split()
COMPONENT_SUFFIXES = (".json", ".safetensors", ".py", ".txt", ".model")
RECORDS = ("metrics.json", "training.json", "noise_accuracy.json")  # written here, with commands and flags
PUSHED = "pushed.json"  # where a folder was pushed to; it stays
CARRIED = re.compile(r"\w+_[0-9a-f]{8}\.py")


def outgoing(folder: Path) -> dict[str, bytes | Path]:
    """What of `folder` would be uploaded, by its name in the repository: a path, or the content where that changes.

    Raises:
        ValueError: the folder holds no model, or weights that are not safetensors.
    """
    if not (folder / "model_index.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(f"folder must hold a model_index.json, or a single model's config.json; {folder} does not")
    files = [folder / name for name in ROOT_FILES] + [p for p in folder.glob("*.py") if CARRIED.fullmatch(p.name)]
    for component in _components(folder):
        files += [path for path in component.iterdir() if path.suffix in COMPONENT_SUFFIXES]
    found = {path.relative_to(folder).as_posix(): path for path in sorted(files) if path.is_file()}
    if not any(name.endswith(".safetensors") for name in found):
        raise ValueError(f"folder must hold weights as .safetensors, {folder} does not")
    return {name: _without_paths(path) if name in RECORDS else path for name, path in found.items()}


def is_ours(name: str) -> bool:
    """Whether a file of a repository is of the kind that a push writes, so that the next one may remove it."""
    path = Path(name)
    if len(path.parts) == 1:
        return name in ROOT_FILES or bool(CARRIED.fullmatch(name))
    return len(path.parts) == 2 and path.suffix in COMPONENT_SUFFIXES


def content_hash(folder: Path) -> str:
    """16 hex digits of what decides what the model draws: all that leaves but the card, records and pictures."""
    digest = hashlib.sha256()
    for name, content in outgoing(folder).items():
        if name not in (*RECORDS, "README.md") and not name.endswith(".png"):
            digest.update(name.encode() + (content if isinstance(content, bytes) else content.read_bytes()))
    return digest.hexdigest()[:16]


def pushed_to(folder: Path) -> tuple[str | None, str | None]:
    """The Hub id that a folder was pushed to and, where it did not change since, the revision; else None."""
    path = folder / PUSHED
    if not path.is_file():
        return None, None
    pushed = json.loads(path.read_text())
    return pushed["repo_id"], pushed["revision"] if pushed["content"] == content_hash(folder) else None


def without_path(word: str) -> str:
    """A path of this machine cut to its last part; anything else as it is."""
    is_path = word.startswith(("/", "~", "../")) or re.match(r"[A-Za-z]:[\\/]", word)
    return re.split(r"[\\/]", word.rstrip("\\/"))[-1] if is_path else word


def without_paths(text: str) -> str:
    """`without_path` of each word of a command."""
    return " ".join(map(without_path, text.split(" ")))


def _components(folder: Path) -> list[Path]:
    index = folder / "model_index.json"
    names = json.loads(index.read_text()) if index.is_file() else {}
    return [folder / name for name in names if not name.startswith("_") and (folder / name).is_dir()]


def _without_paths(path: Path) -> bytes | Path:
    content = json.loads(path.read_text())
    cleaned = _walk(content)
    return path if cleaned == content else (json.dumps(cleaned, indent=2) + "\n").encode()


def _walk(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _walk(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_walk(part) for part in value]
    return without_paths(value) if isinstance(value, str) else value
