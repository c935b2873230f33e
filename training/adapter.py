"""A run that trains an adapter (--lora_rank) of a pipeline: what must fit.

The base is not changed and not copied: its classes, captions, latents and noise process stay as they are.
"""

from __future__ import annotations

import json
from typing import Any

import diffusers
import torch
from diffusers import ConfigMixin
from torch import nn

import pipelines
from pipelines.about import of_class
from training.model_index import FILE, parse_index
from training.networks.lora import add_lora, check_rank, target_layers
from training.networks.open import pretrained_json
from training.objectives.base import Objective
from training.recipes import Recipe
from training.resume import SCHEDULE


def check_adapter(recipe: Recipe) -> None:
    """Raise ValueError, from the configs of the base alone, for layers or a rank that it does not have."""
    network = _empty_network(recipe.pretrained_model_name_or_path)
    check_rank(network, target_layers(network, recipe.lora_target_modules), recipe.lora_rank)


def adapt(recipe: Recipe, objective: Objective) -> None:
    """Give the network of a run its adapter.

    Raises:
        ValueError: the data or the objective would have changed the base.
    """
    _check_kept(recipe.pretrained_model_name_or_path, objective)
    add_lora(objective.network, recipe)


def _empty_network(start: str) -> nn.Module:
    """The network of a pipeline without its weights."""
    name, config = _part(start)
    kind = getattr(pipelines, name, None) or getattr(diffusers, name)
    with torch.device("meta"):
        return kind.from_config(config)


def _part(start: str) -> tuple[str, dict[str, Any]]:
    """The class name and the config of the network of a pipeline.

    Raises:
        ValueError: it has no U-Net.
    """
    parts = parse_index(pretrained_json(start, FILE)[1]).components
    if "unet" not in parts:
        raise ValueError(f"pretrained_model_name_or_path must have a unet for lora_rank, {start!r} has none")
    return parts["unet"][1], pretrained_json(start, "unet/config.json", "config.json")[1]


def _check_kept(start: str, objective: Objective) -> None:
    """Raise ValueError unless the pipeline of a run is the base: its inputs, its classes, and what it predicts."""
    pipeline, index = objective.pipeline(objective.network), parse_index(pretrained_json(start, FILE)[1])
    names = list(getattr(pipeline, "class_names", None) or [])
    if names != index.class_names:
        old, new = (", ".join(some) or "none" for some in (index.class_names, names))
        raise ValueError(
            f"lora_rank: the classes of the data must be those of {start} ({old}), got {new}; without --lora_rank the "
            "whole model learns new ones"
        )
    wanted = _trained_by(index.class_name, index.content.get("path"))
    if wanted != _trained_by(type(pipeline).__name__, pipeline.config.get("path")):
        raise ValueError(f"objective must be {wanted} for an adapter of {start}, which predicts what that trains")
    if index.content.get("path") != pipeline.config.get("path"):
        raise ValueError(f"path must be {index.content['path']} for an adapter of {start}, got {pipeline.config.path}")
    shapes = {name: value.shape for name, value in objective.network.state_dict().items()}
    if shapes != {name: value.shape for name, value in _empty_network(start).state_dict().items()}:
        raise ValueError(f"lora_rank: the network of {start} must stay as it is, but these flags or data change it")
    _check_schedule(start, pipeline.scheduler)


def _trained_by(class_name: str, path: str | None) -> str:
    """The objective that trains the network of a pipeline of this class."""
    about = of_class(class_name)
    if about is not None and "sde" in about.arguments:
        return "score_matching"
    return "flow_matching" if path else "denoising"


def _check_schedule(start: str, scheduler: ConfigMixin) -> None:
    saved = pretrained_json(start, "scheduler/scheduler_config.json", "scheduler_config.json")[1]
    config = json.loads(json.dumps(dict(scheduler.config), default=str))
    changed = [
        key
        for key in sorted((SCHEDULE | {"sigma_min", "sigma_max"}) & saved.keys() & config.keys())
        if saved[key] != config[key]
    ]
    if changed:
        key = changed[0]
        raise ValueError(f"{key} must be {saved[key]} for an adapter of {start}, got {config[key]}")
