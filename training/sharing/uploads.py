"""The files of a model's folder that are uploaded to the Hub. Only what is listed here is uploaded.

Weights (safetensors only), configs, tokenizers, carried sources, the card, the metrics and their images. Checkpoints,
optimizer states, logs and a run's sample grids are not uploaded. Local paths are cut to their last part.
"""

import json
import re
from collections.abc import Collection
from pathlib import Path

from pipelines.facts import where_to_look
from training.files import read_json_object
from training.model_index import ModelIndex, is_pipeline, read_index
from training.run_record import record_path
from training.sharing.local_paths import without_paths

RECORDS = (
    "metrics.json",
    "training.json",
    "noise_accuracy.json",
)  # written by this project; they hold commands and flags
IMAGES = (
    "samples.png",
    "contact_sheet.png",
    "guidance_sheet.png",
    "nearest.png",
    "nearest_sheet.png",
    "checkpoints.png",
    "guidance.png",
    "steps.png",
    "likelihood.png",
    "noise_accuracy.png",
    "reconstructions.png",
)
NEVER_DELETED = (
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
)  # a push may write these, and never deletes them
_CARRIED = re.compile(r"\w+_[0-9a-f]{8}\.py")
_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model)([.-][\w.-]+)?\.safetensors(\.index(\.\w+)?\.json)?"
)
_CONFIG = re.compile(r"(model_index|config|\w+_config)\.json")
_TEXT = re.compile(r"(tokenizer|vocab|special_tokens_map|added_tokens)\.json|(vocab|merges)\.txt|\w+\.model")
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


def uploads(folder: Path) -> dict[str, bytes | Path]:
    """The files of `folder` to upload, by their names in the repository: a path, or the content if that is changed.

    Raises:
        ValueError: the folder holds no model, or a part of it has no weights as safetensors.
    """
    parts = components(folder)
    for part in parts or [folder]:
        _check_weights(part)
    if is_pipeline(folder):
        _check_sources(folder, read_index(folder))
    files = [path for path in folder.iterdir() if _belongs(path.name) or path.name in NEVER_DELETED]
    files += [path for part in parts if part != folder for path in part.iterdir() if _is_part(path.name)]
    found = {path.relative_to(folder).as_posix(): path for path in sorted(files) if path.is_file()}
    if record_path(folder) is not None:
        found["training.json"] = record_path(folder)
    return {name: _cleaned(path) for name, path in found.items()}


def _check_sources(folder: Path, index: ModelIndex) -> None:
    """Raise ValueError if the index names a source that would not be uploaded: the model could not be loaded."""
    named = [(folder, index.source), *((folder / name, stem) for name, (stem, _) in index.components.items())]
    for place, stem in named:
        source = place / f"{stem}.py"
        if stem and source.is_file() and not _CARRIED.fullmatch(source.name):
            raise ValueError(
                f"folder must carry its code as save_pretrained of this project writes it, NAME_<8 hex digits>.py; "
                f"model_index.json names {source.relative_to(folder)}, which a push leaves out"
            )


def belongs_to_a_model(name: str, parts: Collection[str]) -> bool:
    """Whether a push of a model with these component folders may delete a file of the repository."""
    folder, slash, rest = name.rpartition("/")
    return _is_part(rest) and folder in parts if slash else _belongs(name)


def components(folder: Path) -> list[Path]:
    """The folders of a pipeline's components; `folder` itself for those at the root, as in the first published models.

    Raises:
        ValueError: the folder holds no model, or a component is missing.
    """
    if not is_pipeline(folder):
        if (folder / "config.json").is_file():
            return []
        hint = where_to_look(folder)
        raise ValueError(
            f"folder must hold a model_index.json, or a single model's config.json; {folder} does not{hint}"
        )
    names = list(read_index(folder).components)
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing and not (folder / "config.json").is_file():
        raise ValueError(f"folder must hold {missing[0]}/, which its model_index.json names; {folder} does not")
    return [folder / name if name not in missing else folder for name in names]


def _belongs(name: str) -> bool:
    """Whether a file at the root is uploaded."""
    return name in (*RECORDS, *IMAGES) or any(kind.fullmatch(name) for kind in (_CARRIED, _WEIGHTS, _CONFIG))


def _is_part(name: str) -> bool:
    """Whether a file in a component's folder is uploaded."""
    return any(kind.fullmatch(name) for kind in (_CARRIED, _WEIGHTS, _CONFIG, _TEXT))


def _check_weights(part: Path) -> None:
    names = [path.name for path in part.iterdir() if path.is_file()]
    others = [name for name in names if name.endswith(_OTHER_WEIGHTS)]
    if others and not any(name.endswith(".safetensors") for name in names):
        raise ValueError(f"weights must be .safetensors, {part / others[0]} is not: save it with save_pretrained first")


def _cleaned(path: Path) -> bytes | Path:
    """The content of a record or a config without local paths; the path if it has none."""
    if path.name not in RECORDS and not _CONFIG.fullmatch(path.name):
        return path
    content = read_json_object(path)
    if path.name in RECORDS:
        cleaned = without_paths(content)
    else:
        cleaned = {key: value for key, value in content.items() if key != "_name_or_path"}
    return path if cleaned == content else (json.dumps(cleaned, indent=2) + "\n").encode()
