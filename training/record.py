"""The record of a run, training.json: how much, how long, on what, and with which flags. Cards are written from it."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError

from training.data import ImageData
from training.metrics.report import read_json_object
from training.outgoing import pushed_to, record_path
from training.recipes import Recipe


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
        "base_model": _hub_id(start) or (pushed_to(Path(start))[0] if start else None),
        "continues": record_of(start),
    }


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
