"""Builds a new network from a config, to fit the data."""

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

import pipelines
from pipelines.facts import spatial_factor
from pipelines.text import takes_embedding, takes_tokens
from training.data import ImageData
from training.recipes import Recipe

# the network without --model_config_name_or_path: a U-Net behind a pixel-unshuffle
NETWORK: dict[str, Any] = {
    "_class_name": "PatchedUNet2DModel",
    "patch_size": 2,
    "block_out_channels": [128, 128],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 64,
    "norm_num_groups": 32,
    "resnet_time_scale_shift": "scale_shift",
}
# and for captions: an embedding of the whole caption tells more, sooner, than attention to its tokens
TEXT_NETWORK: dict[str, Any] = {"_class_name": "PatchedUNet2DConditionModel"}
# and for captions of small images: attention at a quarter of their size
SMALL_TEXT_NETWORK: dict[str, Any] = TEXT_NETWORK | {
    "patch_size": 2,
    "block_out_channels": [128, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
# and for super-resolution: large images in large patches
UPSAMPLING_NETWORK: dict[str, Any] = {
    "_class_name": "PatchedUNet2DConditionModel",
    "patch_size": 4,
    "block_out_channels": [64, 128, 256],
    "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    "low_resolution_skip": True,
}


def build_network(
    recipe: Recipe,
    data: ImageData,
    num_class_embeds: int | None,
    learned_variance: bool = False,
    text_width: int | None = None,
    **settings: Any,
) -> UNet2DModel | UNet2DConditionModel:
    """A new network for images of the data's size and channels; its weights depend only on the seed.

    With `learned_variance` it has twice as many output channels. `text_width` is that of the embeddings of captions,
    None for a network that is told none. `settings` override those of the config; those of super-resolution have other
    `in_channels`.

    Raises:
        ValueError: a size that the network cannot halve, or a config that names no known class.
    """
    default = NETWORK if text_width is None else TEXT_NETWORK if data.unit > 1 else SMALL_TEXT_NETWORK
    if "in_channels" in settings:
        default = UPSAMPLING_NETWORK | ({"class_embed_type": None} if text_width is None else {})
    config = _network_config(recipe, default)
    config = {k: v for k, v in config.items() if k not in ("_diffusers_version", "_name_or_path")}
    class_name = config.pop("_class_name", "UNet2DModel")
    _, channels, height, width = data.images.shape
    outputs = channels * (2 if learned_variance else 1)
    config |= {"in_channels": channels, "out_channels": outputs, "num_class_embeds": num_class_embeds} | settings
    config["sample_size"] = height if height == width else [height, width]
    model_class = getattr(pipelines, class_name, None) or getattr(diffusers, class_name, None)
    if model_class is None:
        raise ValueError(
            f"model_config_name_or_path must name a class of diffusers or of pipelines, got {class_name!r}"
        )
    defaults = {k: p.default for k, p in inspect.signature(model_class.__init__).parameters.items()}
    lacking = sorted(set(settings) - set(defaults))
    if lacking:
        raise ValueError(
            f"model_config_name_or_path must be of a network with {', '.join(lacking)}, got a {class_name}"
        )
    if text_width is not None:
        config |= _text_inputs(class_name, defaults | config, text_width)
    check_divisible(defaults | config, height, width, data.unit)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return model_class(**config)


def _text_inputs(class_name: str, config: dict[str, Any], width: int) -> dict[str, int]:
    """Settings of a network with this config that is told captions by embeddings of `width` values.

    Raises:
        ValueError: it is told none.
    """
    if not takes_tokens(config) and not takes_embedding(config):
        raise ValueError(
            "model_config_name_or_path must be of a network with cross-attention or with class_embed_type 'projection' "
            f"for a text_encoder, got a {class_name} without"
        )
    projected = {"projection_class_embeddings_input_dim": width} if takes_embedding(config) else {}
    return {"cross_attention_dim": width} | projected


def _network_config(recipe: Recipe, default: dict[str, Any]) -> dict[str, Any]:
    if recipe.model_config_name_or_path is None:
        return dict(default)
    path = Path(recipe.model_config_name_or_path)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"model_config_name_or_path must be a JSON file or a folder with config.json, got {str(path)!r}"
        )
    return json.loads(path.read_text())


def check_divisible(config: dict[str, Any], height: int, width: int, unit: int = 1) -> None:
    """Raise ValueError, suggesting a size, unless a network with this config can halve images of this size.

    Height and width count values of which each stands for `unit` pixels of a side.
    """
    factor = spatial_factor(config)
    if height % factor or width % factor:
        nearest = max(factor, round(min(height, width) / factor) * factor)
        raise ValueError(
            f"--resolution must be a multiple of {factor * unit} for this network (try {nearest * unit}), "
            f"got {width * unit}x{height * unit}"
        )
