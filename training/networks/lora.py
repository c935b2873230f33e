"""Layers of LoRA for a network (Hu et al. 2021, https://arxiv.org/abs/2106.09685), by peft: they alone are trained.

W' = W + (alpha / r) B A,     A: r x in, B: out x r, B = 0 at first, so that a run begins with the network as it was
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save
from torch import nn

from pipelines.lora import BASE_VALUES, NETWORKS, base_values, layers_of, with_adapters
from training.command_line import did_you_mean
from training.files import write_whole
from training.model_index import ADAPTER
from training.recipes import Recipe

NAME = "default"  # of the adapter in training
ALL = "all"
# without --lora_target_modules: what attends, the convolutions of residual blocks, which draw the lines of a style, and
# what these are told (training.evaluation.style, 20 images, 400 updates: 22 % of 32 prompts in it; without these, 6 %)
USUAL = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "time_emb_proj")
USUAL += ("class_embedding.linear_1", "class_embedding.linear_2")


def target_layers(network: nn.Module, wanted: str | None) -> list[str]:
    """The full names of the layers that get an adapter; `wanted` is --lora_target_modules.

    Raises:
        ValueError: a name that no linear or convolutional layer of the network ends in.
    """
    layers = [name for name, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    if wanted == ALL:
        return layers
    names = USUAL if wanted is None else [name.strip() for name in wanted.split(",") if name.strip()]
    unknown = [] if wanted is None else [name for name in names if not _ending_in([name], layers)]
    if unknown or not names:
        known = sorted({_short(name) for name in layers})
        got = repr(unknown[0] if unknown else wanted)
        hint = did_you_mean(unknown[0], known) if unknown else ""
        raise ValueError(
            f"lora_target_modules must be all, or some of {', '.join(known)}, with commas between, got {got}{hint}"
        )
    return _ending_in(names, layers) or layers


def _ending_in(names: Iterable[str], layers: list[str]) -> list[str]:
    return [layer for layer in layers if any(f".{layer}".endswith(f".{name}") for name in names)]


def _short(layer: str) -> str:
    """The end of a layer's name that tells it from its neighbours: to_q, to_out.0."""
    *_, before, last = ["", *layer.split(".")]
    return f"{before}.{last}" if last.isdigit() else last


def check_rank(network: nn.Module, layers: list[str], rank: int) -> None:
    """Raise ValueError for a rank above the width of a layer: it could say no more than the layer itself."""
    modules = dict(network.named_modules())
    widths = {name: _width(modules[name]) for name in layers}
    narrowest = min(widths, key=widths.__getitem__)
    if rank > widths[narrowest]:
        raise ValueError(
            f"lora_rank must be at most {widths[narrowest]}, the width of {narrowest}, got {rank}: a lower rank, or "
            "other --lora_target_modules"
        )


def _width(layer: nn.Module) -> int:
    """The highest rank that a change of its weight can have."""
    return min(layer.weight.shape[0], layer.weight[0].numel())


def add_lora(network: nn.Module, recipe: Recipe) -> None:
    """Give a network the adapter of a run, which depends only on the seed; all else of it is frozen.

    Raises:
        ValueError: layers or a rank that the network does not have.
    """
    layers = target_layers(network, recipe.lora_target_modules)
    check_rank(network, layers, recipe.lora_rank)
    alpha = recipe.lora_rank if recipe.lora_alpha is None else recipe.lora_alpha
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        with_adapters(network).add_adapter(LoraConfig(r=recipe.lora_rank, lora_alpha=alpha, target_modules=layers))


def trained_part(network: nn.Module) -> nn.Module:
    """What of a network is trained: its adapter's layers, by the names that they have in it, or else all of it."""
    adapted = [(name, value) for name, value in network.named_parameters() if ".lora_" in name]
    if not adapted:
        return network
    part = nn.Module()
    for name, value in adapted:
        *path, last = name.split(".")
        place = part
        for step in path:
            if step not in place._modules:
                place.add_module(step, nn.Module())
            place = place._modules[step]
        place.register_parameter(last, value)
    return part


def is_adapted(network: nn.Module) -> bool:
    """Whether a network has an adapter."""
    return trained_part(network) is not network


def save_trained(pipeline: DiffusionPipeline, folder: Path, base: str | None, revision: str | None) -> None:
    """Write what a run has trained: a pipeline, or an adapter alone, which says of which base and revision it is."""
    adapted = [name for name in NETWORKS if (part := getattr(pipeline, name, None)) is not None and is_adapted(part)]
    if not adapted:
        return pipeline.save_pretrained(folder)
    tensors, told = {}, {}
    for name in adapted:
        network = getattr(pipeline, name)
        state = get_peft_model_state_dict(network, adapter_name=NAME)
        config = _config_of(network, layers_of(state)) | {"base_model_name_or_path": base, "revision": revision}
        tensors |= {f"{name}.{key}": value.detach().cpu().contiguous() for key, value in state.items()}
        told |= {f"{name}.{key}": value for key, value in config.items()}
    folder.mkdir(parents=True, exist_ok=True)
    # one entry: safetensors writes several in an order that changes, and equal adapters shall be equal files
    metadata = {LORA_ADAPTER_METADATA_KEY: json.dumps(told, sort_keys=True)}
    write_whole(folder / ADAPTER, save(tensors, metadata))


def _config_of(network: nn.Module, layers: list[str]) -> dict[str, Any]:
    """The adapter's config as diffusers' loader reads it, with what tells this network from others of its shape."""
    config = network.peft_config[NAME].to_dict()
    config |= {key: sorted(value) for key, value in config.items() if isinstance(value, set)}
    values = [float(f"{value:.5g}") for value in base_values(network, layers)]
    return config | {"auto_mapping": {BASE_VALUES: values}}
