"""What of a model's folder may leave for the Hub, by a list of what belongs to a model: all else stays.

Weights (safetensors only), configs, tokenizers, carried sources, the card, the measured numbers, pictures. Checkpoints,
optimizer states, logs and pictures of a run are none of these. Paths of this machine are cut to their last part.
"""

import json
import re
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from training.files import read_json_object, weights_hash

RECORDS = ("metrics.json", "training.json", "noise_accuracy.json")  # written here, with commands and flags
PICTURES = ("samples.png", "guidance.png", "steps.png", "likelihood.png", "noise_accuracy.png")
THEIRS = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")  # a push writes these, and never removes them
PUSHED = "pushed.json"  # where a folder was pushed to; it stays
_CARRIED = re.compile(r"\w+_[0-9a-f]{8}\.py")
_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model)([.-][\w.-]+)?\.safetensors(\.index(\.\w+)?\.json)?"
)
_CONFIG = re.compile(r"(model_index|config|\w+_config)\.json")
_TEXT = re.compile(r"(tokenizer|vocab|special_tokens_map|added_tokens)\.json|(vocab|merges)\.txt|\w+\.model")
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


def outgoing(folder: Path) -> dict[str, bytes | Path]:
    """What of `folder` would be uploaded, by its name in the repository: a path, or the content where that changes.

    Raises:
        ValueError: the folder holds no model, or a part of one without its weights as safetensors.
    """
    parts = components(folder)
    for part in parts or [folder]:
        _check_weights(part)
    _check_sources(folder)
    files = [path for path in folder.iterdir() if _belongs(path.name) or path.name in THEIRS]
    files += [path for part in parts if part != folder for path in part.iterdir() if _is_part(path.name)]
    found = {path.relative_to(folder).as_posix(): path for path in sorted(files) if path.is_file()}
    if record_path(folder) is not None:
        found["training.json"] = record_path(folder)
    return {name: _cleaned(path) for name, path in found.items()}


def _check_sources(folder: Path) -> None:
    """Raise ValueError where the index names a source that would stay: the model could not be loaded."""
    path = folder / "model_index.json"
    index = read_json_object(path) if path.is_file() else {}
    named = {key: value[0] for key, value in index.items() if isinstance(value, list) and value and value[0]}
    for key, stem in named.items():
        source = (folder if key == "_class_name" else folder / key) / f"{stem}.py"
        if source.is_file() and not _CARRIED.fullmatch(source.name):
            raise ValueError(
                f"folder must carry its code as save_pretrained of this project writes it, NAME_<8 hex digits>.py; "
                f"model_index.json names {source.relative_to(folder)}, which a push leaves out"
            )


def belongs_to_a_model(name: str, parts: Collection[str]) -> bool:
    """Whether a push of a model with such component folders may remove a file of the repository."""
    folder, slash, rest = name.rpartition("/")
    return _is_part(rest) and folder in parts if slash else _belongs(name)


def components(folder: Path) -> list[Path]:
    """The folders of a pipeline's components; `folder` itself for those that the first published ones have at the root.

    Raises:
        ValueError: no model, or a component that is not there.
    """
    if not (folder / "model_index.json").is_file():
        if (folder / "config.json").is_file():
            return []
        raise ValueError(f"folder must hold a model_index.json, or a single model's config.json; {folder} does not")
    index = read_json_object(folder / "model_index.json")
    names = [key for key, value in index.items() if _names_a_component(key, value)]
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing and not (folder / "config.json").is_file():
        raise ValueError(f"folder must hold {missing[0]}/, which its model_index.json names; {folder} does not")
    return [folder / name if name not in missing else folder for name in names]


def record_path(folder: Path) -> Path | None:
    """training.json, which for a checkpoint's pipeline lies beside its folder."""
    paths = [folder / "training.json", *([folder.parent / "training.json"] if folder.name == "pipeline" else [])]
    return next((path for path in paths if path.is_file()), None)


def pushed_to(folder: Path) -> tuple[str | None, str | None]:
    """The Hub id that a folder was pushed to and, where its weights did not change since, the revision; else None."""
    path = folder / PUSHED
    if not path.is_file():
        return None, None
    pushed = read_json_object(path)
    return pushed["repo_id"], pushed["revision"] if pushed["weights"] == weights_hash(folder) else None


def without_path(text: str) -> str:
    """A path of this machine cut to its last part; in a command, each of its words; anything else as it is."""
    if _is_path(text):
        return re.split(r"[\\/]", text.rstrip("\\/"))[-1]
    if "/" not in text and "\\" not in text:
        return text
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    cut = [_word_without_path(word) for word in words]
    return text if cut == words else shlex.join(cut)


def _word_without_path(word: str) -> str:
    flag, equals, value = word.partition("=")
    if equals and flag.startswith("-"):
        return flag + equals + _word_without_path(value)
    return without_path(word) if _is_path(word) else word


def _is_path(text: str) -> bool:
    return bool(re.match(r"/|~|\.\.[\\/]|\\\\|file:|[A-Za-z]:[\\/]", text))


def _belongs(name: str) -> bool:
    """Of the files at the root."""
    return name in (*RECORDS, *PICTURES) or any(kind.fullmatch(name) for kind in (_CARRIED, _WEIGHTS, _CONFIG))


def _is_part(name: str) -> bool:
    """Of the files in a component's folder."""
    return any(kind.fullmatch(name) for kind in (_CARRIED, _WEIGHTS, _CONFIG, _TEXT))


def _names_a_component(key: str, value: Any) -> bool:
    return not key.startswith("_") and isinstance(value, list) and len(value) == 2 and isinstance(value[1], str)


def _check_weights(part: Path) -> None:
    names = [path.name for path in part.iterdir() if path.is_file()]
    others = [name for name in names if name.endswith(_OTHER_WEIGHTS)]
    if others and not any(name.endswith(".safetensors") for name in names):
        raise ValueError(f"weights must be .safetensors, {part / others[0]} is not: save it with save_pretrained first")


def _cleaned(path: Path) -> bytes | Path:
    """The content of a record or a config without paths of this machine; the path where there are none."""
    if path.name not in RECORDS and not _CONFIG.fullmatch(path.name):
        return path
    content = read_json_object(path)
    cleaned = _walk(content) if path.name in RECORDS else {k: v for k, v in content.items() if k != "_name_or_path"}
    return path if cleaned == content else (json.dumps(cleaned, indent=2) + "\n").encode()


def _walk(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _walk(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_walk(part) for part in value]
    return without_path(value) if isinstance(value, str) else value
