"""The records beside a model, from which its card is written.

training.json records the run (steps, images, seconds, device, flags); pushed.json the repository it was pushed to.
"""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError

from training.data import ImageData
from training.data.captions import trigger_words
from training.files import read_json_object, weights_hash
from training.model_index import FILE
from training.recipes import Recipe

PUSHED = "pushed.json"  # is not uploaded


def origin(recipe: Recipe, settings: dict[str, Any], data: ImageData) -> dict[str, Any]:
    """The part of training.json that is known when a run begins: its data, its `settings`, and the runs before it.

    Raises:
        ValueError: the training.json of the model to start from is not a JSON object.
    """
    start = recipe.pretrained_model_name_or_path
    words = {"trigger_words": trigger_words(data.captions or ())}
    return {
        "dataset_fingerprint": data.fingerprint,
        "dataset_images": len(data.images),
        "dataset_loaded": data.loaded,
        "dataset_id": None if recipe.train_data_dir else _hub_id(recipe.dataset_name),
        "recipe": settings,
        "base_model": _hub_id(start) or (pushed_id(Path(start)) if start else None),
        "continues": record_of(start),
        **({} if recipe.lora_rank is None else _adapted(start) | words),
    }


def _adapted(start: str) -> dict[str, str | None]:
    """Of which base an adapter is: its Hub id, or else the name of its folder and the hash of its weights, and its
    revision where that is known."""
    folder = Path(start)
    if not folder.exists():
        found = Path(hf_hub_download(start, FILE))
        return {"base": start, "base_revision": found.parent.name}  # of the Hub's cache: snapshots/REVISION
    known = pushed_id(folder)
    revision = pushed_revision(folder) if known else None
    return {"base": known or folder.resolve().name, "base_revision": revision, "base_weights": weights_hash(folder)}


def base_of(record: dict[str, Any]) -> tuple[str, str | None]:
    """The Hub id of an adapter's base, or else the name of its folder, and its revision where that is known.

    A base that was pushed after the adapter was trained has one by now, unless its weights have changed since.
    """
    folder = Path(record["recipe"].get("pretrained_model_name_or_path") or record["base"])
    if "/" not in record["base"] and folder.is_dir() and record.get("base_weights") == weights_hash(folder):
        return pushed_id(folder) or record["base"], pushed_revision(folder)
    return record["base"], record.get("base_revision")


def record_path(folder: Path) -> Path | None:
    """The training.json of a folder, or of a checkpoint's pipeline, beside which it lies; None if there is none."""
    paths = [folder / "training.json", *([folder.parent / "training.json"] if folder.name == "pipeline" else [])]
    return next((path for path in paths if path.is_file()), None)


def pushed_id(folder: Path) -> str | None:
    """The Hub id that a folder was pushed to; None if it was not.

    Raises:
        ValueError: its pushed.json is damaged.
    """
    return _pushed(folder).get("repo_id")


def pushed_revision(folder: Path) -> str | None:
    """The revision that a folder was pushed as; None if its weights have changed since, or it was not pushed.

    Raises:
        ValueError: its pushed.json is damaged.
    """
    pushed = _pushed(folder)
    return pushed["revision"] if pushed and pushed["weights"] == weights_hash(folder) else None


def _pushed(folder: Path) -> dict[str, str]:
    """What pushed.json says, {} if there is none.

    Raises ValueError if it says no repository, revision and weights."""
    path = folder / PUSHED
    if not path.is_file():
        return {}
    content = read_json_object(path)
    wrong = [name for name in ("repo_id", "revision", "weights") if not isinstance(content.get(name), str)]
    if wrong:
        raise ValueError(
            f"{path} must hold repo_id, revision and weights as text, {wrong[0]} is {content.get(wrong[0])!r}: delete "
            "the file, which only records where the model was pushed to, or repair it"
        )
    return content


def record_of(pretrained: str | None) -> dict[str, Any] | None:
    """The record of the run that trained a pipeline, from its folder or its Hub repository; None if it has none."""
    if pretrained is None:
        return None
    path = record_path(Path(pretrained))
    if path is None and _hub_id(pretrained):
        try:
            path = Path(hf_hub_download(pretrained, "training.json"))
        except RemoteEntryNotFoundError:  # a model that was not trained with this project
            return None
    return read_json_object(path) if path else None


def _hub_id(name: str | None) -> str | None:
    return None if name is None or Path(name).exists() else name


def device_name(device: torch.device) -> str:
    """The device of a run as text: the GPU's name, or the CPU and its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"
