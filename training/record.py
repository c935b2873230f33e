"""The record of a run, training.json: how much, how long, on what, and with which flags. Cards are written from it."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from training.data import ImageData
from training.outgoing import pushed_to
from training.recipes import Recipe


def run_record(recipe: Recipe, data: ImageData, **run: Any) -> dict[str, Any]:
    """What training.json says of a run, with `run` its size and hardware, and of those before it."""
    start = recipe.pretrained_model_name_or_path
    return {
        **run,
        "dataset_fingerprint": data.fingerprint,
        "dataset_images": len(data.images),
        "dataset_id": None if recipe.train_data_dir else _hub_id(recipe.dataset_name),
        "recipe": recipe.settings(),
        "base_model": _hub_id(start) or (pushed_to(Path(start))[0] if start else None),
        "continues": record_of(start),
    }


def record_of(pretrained: str | None) -> dict[str, Any] | None:
    """The record of the run that made a pipeline: in its folder, for a checkpoint's beside it, or in its repository."""
    if pretrained is None:
        return None
    folder = Path(pretrained)
    found = [path for path in (folder / "training.json", folder.parent / "training.json") if path.is_file()]
    if not found and _hub_id(pretrained):
        try:
            found = [Path(hf_hub_download(pretrained, "training.json"))]
        except (EntryNotFoundError, HfHubHTTPError):  # a model of someone who keeps no such record
            return None
    return json.loads(found[0].read_text()) if found else None


def _hub_id(name: str | None) -> str | None:
    return None if name is None or Path(name).exists() else name


def device_name(device: torch.device) -> str:
    """What a run computed on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"
