"""The records beside a model: training.json, what the run was (how much, how long, on what, with which flags), and
pushed.json, where it was pushed to. Cards are written from them."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError

from training.data import ImageData
from training.files import read_json_object, weights_hash
from training.recipes import Recipe

PUSHED = "pushed.json"  # it stays where it is


def origin(recipe: Recipe, settings: dict[str, Any], data: ImageData) -> dict[str, Any]:
    """What training.json says of a run that is known when it begins: its data and `settings`, and the runs before it.

    Raises:
        ValueError: a training.json of the model to start from that is no JSON object, by name.
    """
    start = recipe.pretrained_model_name_or_path
    return {
        "dataset_fingerprint": data.fingerprint,
        "dataset_images": len(data.images),
        "dataset_id": None if recipe.train_data_dir else _hub_id(recipe.dataset_name),
        "recipe": settings,
        "base_model": _hub_id(start) or (pushed_id(Path(start)) if start else None),
        "continues": record_of(start),
    }


def record_path(folder: Path) -> Path | None:
    """training.json, which for a checkpoint's pipeline lies beside its folder."""
    paths = [folder / "training.json", *([folder.parent / "training.json"] if folder.name == "pipeline" else [])]
    return next((path for path in paths if path.is_file()), None)


def pushed_id(folder: Path) -> str | None:
    """The Hub id that a folder was pushed to, if it was."""
    path = folder / PUSHED
    return read_json_object(path)["repo_id"] if path.is_file() else None


def pushed_revision(folder: Path) -> str | None:
    """The revision that a folder was pushed as, where its weights, which are hashed for it, did not change since."""
    path = folder / PUSHED
    if not path.is_file():
        return None
    pushed = read_json_object(path)
    return pushed["revision"] if pushed["weights"] == weights_hash(folder) else None


def record_of(pretrained: str | None) -> dict[str, Any] | None:
    """The record of the run that made a pipeline: in its folder, for a checkpoint's beside it, or in its repository."""
    if pretrained is None:
        return None
    path = record_path(Path(pretrained))
    if path is None and _hub_id(pretrained):
        try:
            path = Path(hf_hub_download(pretrained, "training.json"))
        except RemoteEntryNotFoundError:  # a model of someone who keeps no such record
            return None
    return read_json_object(path) if path else None


def _hub_id(name: str | None) -> str | None:
    return None if name is None or Path(name).exists() else name


def device_name(device: torch.device) -> str:
    """What a run computed on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"
