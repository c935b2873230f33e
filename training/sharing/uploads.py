"""The files of a model's folder that are uploaded to the Hub. Only what is listed here, by name, is uploaded.

Weights (safetensors only), configs, tokenizers, the sources that model_index.json names, with those that they import,
the card, the metrics and their images. Checkpoints, optimizer states, logs and a run's sample grids are not uploaded.
Local paths are cut to their last part.
"""

import json
import re
from collections.abc import Collection
from pathlib import Path

from pipelines.facts import where_to_look
from training.files import read_json_object
from training.model_index import ADAPTER, ModelIndex, is_adapter, is_pipeline, read_index
from training.run_record import record_path
from training.sharing.links import check_links
from training.sharing.local_paths import without_paths

RECORDS = (
    "metrics.json",
    "training.json",
    "noise_accuracy.json",
)  # written by this project; they hold commands and flags
IMAGES = (
    "samples.png",
    "before.png",
    "strengths.png",
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
# what diffusers and transformers write of a network, a scheduler, a tokenizer, an image processor
CONFIGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "scheduler_config.json",
    "tokenizer_config.json",
)
TOKENIZERS = (
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)
_CARRIED = re.compile(r"\w+_[0-9a-f]{8}\.py")
_IMPORTED = re.compile(r"^from \.(\w+) import ", flags=re.MULTILINE)
_STEM, _SHARD = "(diffusion_pytorch_model|pytorch_model|model)", r"(-\d{5}-of-\d{5})?"
_WEIGHTS = re.compile(
    rf"{_STEM}((\.\w+)?{_SHARD}|{_SHARD}\.\w+)\.safetensors|{_STEM}\.safetensors\.index(\.\w+)?\.json"
)
# which files of an earlier push a push may delete: that of version 0.1.0 uploaded all of these
_WERE_CONFIGS = re.compile(r"(model_index|config|\w+_config)\.json")
_WERE_TOKENIZERS = re.compile(
    r"(tokenizer|vocab|special_tokens_map|added_tokens)\.json|(vocab|merges)\.txt|[\w.]+\.model"
)
_WERE_WEIGHTS = re.compile(rf"{_STEM}([.-][\w.-]+)?\.safetensors(\.index(\.\w+)?\.json)?")
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


def uploads(folder: Path) -> dict[str, bytes | Path]:
    """The files of `folder` to upload, by their names in the repository: a path, or the content if that is changed.

    Raises:
        ValueError: the folder holds no model, a part of it has no weights as safetensors, or a file is a link that
            leaves the folder.
    """
    parts = components(folder)
    for part in parts or [folder]:
        _check_weights(part)
    sources = _sources(folder, read_index(folder)) if is_pipeline(folder) else set()
    files = [path for path in folder.iterdir() if _is_of_the_root(path.name) or path in sources]
    for part in (part for part in parts if part != folder):
        files += [path for path in part.iterdir() if _is_of_a_part(path.name) or path in sources]
    check_links(files, folder)
    found = {path.relative_to(folder).as_posix(): path for path in sorted(files) if path.is_file()}
    record = record_path(folder)
    if record is not None:
        check_links([record], record.parent)  # that of a checkpoint lies beside its pipeline
        found["training.json"] = record
    return {name: _cleaned(path) for name, path in found.items()}


def _sources(folder: Path, index: ModelIndex) -> set[Path]:
    """The carried sources that the index names, and all that they import.

    Raises ValueError if one is not there or would not be uploaded: the model could not be loaded."""
    named = [(folder, index.source), *((folder / name, stem) for name, (stem, _) in index.components.items())]
    found: set[Path] = set()
    for place, stem in named:
        source = place / f"{stem}.py"
        if not stem or not (source.is_file() or _CARRIED.fullmatch(source.name)):
            continue  # a class of diffusers or transformers
        if not _CARRIED.fullmatch(f"{stem}.py"):
            raise ValueError(
                f"folder must carry its code as save_pretrained of this project writes it, NAME_<8 hex digits>.py; "
                f"model_index.json names {source.relative_to(folder)}, which a push leaves out"
            )
        _add_with_imports(source, folder, found)
    return found


def _add_with_imports(source: Path, folder: Path, found: set[Path]) -> None:
    if source in found:
        return
    if not source.is_file():
        raise ValueError(f"folder must hold {source.relative_to(folder)}, which its code needs; {folder} does not")
    found.add(source)
    for stem in _IMPORTED.findall(source.read_text(encoding="utf-8", errors="replace")):
        if _CARRIED.fullmatch(f"{stem}.py"):
            _add_with_imports(source.with_name(f"{stem}.py"), folder, found)


def belongs_to_a_model(name: str, parts: Collection[str]) -> bool:
    """Whether a push of a model with these component folders may delete a file of the repository."""
    folder, slash, rest = name.rpartition("/")
    if slash and folder not in parts:
        return False
    kinds = (_CARRIED, _WERE_WEIGHTS, _WERE_CONFIGS, *([_WERE_TOKENIZERS] if slash else []))
    return any(kind.fullmatch(rest) for kind in kinds) or (not slash and rest in (*RECORDS, *IMAGES, ADAPTER))


def components(folder: Path) -> list[Path]:
    """The folders of a pipeline's components; `folder` itself for those at the root, as in the first published models.

    Raises:
        ValueError: the folder holds no model, or a component is missing.
    """
    if is_adapter(folder):
        return []
    if not is_pipeline(folder):
        if (folder / "config.json").is_file():
            return []
        hint = where_to_look(folder)
        raise ValueError(
            f"folder must hold a model_index.json, or a single model's config.json; {folder} does not{hint}"
        )
    names = list(read_index(folder).components)
    outside = [name for name in names if not re.fullmatch(r"\w[\w.-]*", name)]
    if outside:
        raise ValueError(f"model_index.json must name components by their folders in it, {folder} names {outside[0]!r}")
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing and not (folder / "config.json").is_file():
        raise ValueError(f"folder must hold {missing[0]}/, which its model_index.json names; {folder} does not")
    return [folder / name if name not in missing else folder for name in names]


def _is_of_the_root(name: str) -> bool:
    """Whether a file at the root is uploaded; the sources are not asked for here."""
    return name in ("model_index.json", ADAPTER, *CONFIGS, *RECORDS, *IMAGES, *NEVER_DELETED) or bool(
        _WEIGHTS.fullmatch(name)
    )


def _is_of_a_part(name: str) -> bool:
    """The same of a component's folder."""
    return name in (*CONFIGS, *TOKENIZERS) or bool(_WEIGHTS.fullmatch(name))


def _check_weights(part: Path) -> None:
    names = [path.name for path in part.iterdir() if path.is_file()]
    others = [name for name in names if name.endswith(_OTHER_WEIGHTS)]
    if others and not any(name.endswith(".safetensors") for name in names):
        raise ValueError(f"weights must be .safetensors, {part / others[0]} is not: save it with save_pretrained first")


def _cleaned(path: Path) -> bytes | Path:
    """The content of a record or a config without local paths; the path if it has none."""
    if path.name not in ("model_index.json", *CONFIGS, *RECORDS):
        return path
    content = read_json_object(path)
    if path.name in RECORDS:
        cleaned = without_paths(content)
    else:
        cleaned = {key: value for key, value in content.items() if key != "_name_or_path"}
    return path if cleaned == content else (json.dumps(cleaned, indent=2) + "\n").encode()
