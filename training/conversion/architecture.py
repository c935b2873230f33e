"""From published flags to the levels of a U-Net or classifier, and to the same network built with diffusers.

Follows `create_model`, `sr_create_model` and `create_classifier` of the published `script_util.py`, and the
constructors of `UNetModel`, `SuperResModel` and `EncoderUNetModel` (flags.py links to the repositories).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import nn

from pipelines import ADMUNet2DModel, NoisyClassifier
from training.conversion.flags import Flags

GROUPS = 32  # of every group norm
LONG, MIDDLE, SHORT = (1, 1, 2, 2, 4, 4), (1, 1, 2, 3, 4), (1, 2, 3, 4)
MULTIPLIERS = {  # by image size
    "guided-diffusion": {512: (0.5, 1, 1, 2, 2, 4, 4), 256: LONG, 128: MIDDLE, 64: SHORT},
    "improved-diffusion": {256: LONG, 64: SHORT, 32: (1, 2, 2, 2)},
    "guided-diffusion super-resolution": {512: LONG, 256: LONG, 64: SHORT},
    "improved-diffusion super-resolution": {256: LONG, 64: SHORT},
}


@dataclass(frozen=True)
class Architecture:
    """A published network, level by level; level 0 sees the whole image.

    Attributes:
        size: height and width of the images
        model_channels: width of the sinusoidal timestep embedding; `widths` are multiples of it
        widths, attends: the channels of each level, and whether it has attention; the middle block always has it
        layers: residual blocks per level
        heads, up_heads: channels per attention head at each level, on the way down and on the way up
        scale_shift, resblock_updown, conv_resample, new_order: the flags use_scale_shift_norm, resblock_updown,
            conv_resample and use_new_attention_order
        dropout: share of activations dropped in training
        timestep_scale: the timestep is multiplied by this before the network sees it
    """

    size: int
    model_channels: int
    widths: tuple[int, ...]
    attends: tuple[bool, ...]
    layers: int
    heads: tuple[int, ...]
    up_heads: tuple[int, ...]
    scale_shift: bool
    resblock_updown: bool
    conv_resample: bool
    new_order: bool
    dropout: float = 0.0
    timestep_scale: float = 1.0

    # ---------------------------------------------------------------------------------------- built with diffusers

    def blocks(self, direction: str) -> tuple[str, ...]:
        """The block type of each level, `direction` "Down" or "Up", level 0 first."""
        plain = f"Resnet{direction}sampleBlock2D" if self.resblock_updown else f"{direction}Block2D"
        return tuple(f"Attn{direction}Block2D" if attends else plain for attends in self.attends)

    @property
    def resampling(self) -> str:
        """`downsample_type` and `upsample_type`."""
        return "resnet" if self.resblock_updown else "conv"

    @property
    def time_scale_shift(self) -> str:
        """`resnet_time_scale_shift`."""
        return "scale_shift" if self.scale_shift else "default"

    def build_unet(self, in_channels: int, out_channels: int, num_classes: int | None) -> UNet2DModel:
        """A U-Net without weights (on the meta device): diffusers' own where its config can express it, else ours."""
        config = {
            "sample_size": self.size,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "num_class_embeds": num_classes,
            "block_out_channels": self.widths,
            "layers_per_block": self.layers,
            "down_block_types": self.blocks("Down"),
            "up_block_types": self.blocks("Up")[::-1],
            "downsample_type": self.resampling,
            "upsample_type": self.resampling,
            "resnet_time_scale_shift": self.time_scale_shift,
            "dropout": self.dropout,
            "norm_num_groups": GROUPS,
            "attn_norm_num_groups": GROUPS,  # without it the middle attention has no norm if scale_shift is on
            "norm_eps": 1e-5,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
        }
        with torch.device("meta"):
            if self._is_stock:
                return UNet2DModel(**config, attention_head_dim=self.heads[-1]).eval()
            return ADMUNet2DModel(**config, **self._beyond_stock()).eval()

    @property
    def _is_stock(self) -> bool:
        used = [head for head, attends in zip(self.heads, self.attends, strict=True) if attends] + [self.heads[-1]]
        used += [head for head, attends in zip(self.up_heads, self.attends, strict=True) if attends]
        resamples = self.conv_resample or self.resblock_updown
        return len(set(used)) == 1 and self.widths[0] == self.model_channels and self.timestep_scale == 1 and resamples

    def _beyond_stock(self) -> dict[str, Any]:
        return {
            "attention_head_dim": self.heads,
            "up_attention_head_dim": None if self.up_heads == self.heads else self.up_heads,
            "time_embedding_channels": self.model_channels,
            "timestep_scale": self.timestep_scale,
            "conv_resample": self.conv_resample or self.resblock_updown,
        }

    def build_classifier(self, in_channels: int, num_classes: int, pool: str) -> NoisyClassifier:
        """A classifier without weights (on the meta device)."""
        with torch.device("meta"):
            return NoisyClassifier(
                sample_size=self.size,
                in_channels=in_channels,
                num_classes=num_classes,
                pool=pool,
                block_out_channels=self.widths,
                down_block_types=self.blocks("Down"),
                layers_per_block=self.layers,
                attention_head_dim=self.heads[-1],
                norm_num_groups=GROUPS,
                resnet_time_scale_shift=self.time_scale_shift,
                downsample_type=self.resampling,
                time_embedding_channels=self.model_channels,
            ).eval()


def unet_architecture(flags: Flags) -> Architecture:
    """The U-Net that `flags` describe.

    Raises:
        ValueError: a size without published multipliers, or numbers that do not fit together; it names the flag.
    """
    size = flags.large_size if flags.super_resolution else flags.image_size
    widths = _widths(flags, size, flags.num_channels, "num_channels")
    up = flags.num_heads if flags.num_heads_upsample == -1 else flags.num_heads_upsample
    attends = _attends(size, len(widths), flags.attention_resolutions, "attention_resolutions")
    return Architecture(
        size=size,
        model_channels=flags.num_channels,
        widths=widths,
        attends=attends,
        layers=flags.num_res_blocks,
        heads=head_channels(widths, attends, flags.num_head_channels, flags.num_heads, "num_heads"),
        up_heads=head_channels(widths, attends, flags.num_head_channels, up, "num_heads_upsample"),
        scale_shift=flags.use_scale_shift_norm,
        resblock_updown=flags.resblock_updown,
        conv_resample=flags.conv_resample,
        new_order=flags.use_new_attention_order,
        dropout=flags.dropout,
        timestep_scale=1000 / flags.diffusion_steps if flags.rescale_timesteps else 1.0,
    )


def classifier_architecture(flags: Flags) -> Architecture:
    """The classifier that `flags` describe.

    Raises:
        ValueError: a size without published multipliers, or numbers that do not fit together; it names the flag.
    """
    size, resolutions = flags.image_size, "classifier_attention_resolutions"
    widths = _widths(flags, size, flags.classifier_width, "classifier_width")
    attends = _attends(size, len(widths), getattr(flags, resolutions), resolutions)
    heads = head_channels(widths, attends, 64, 1, "classifier_width")
    return Architecture(
        size=size,
        model_channels=flags.classifier_width,
        widths=widths,
        attends=attends,
        layers=flags.classifier_depth,
        heads=heads,
        up_heads=heads,
        scale_shift=flags.classifier_use_scale_shift_norm,
        resblock_updown=flags.classifier_resblock_updown,
        conv_resample=True,
        new_order=False,
    )


def _widths(flags: Flags, size: int, channels: int, name: str) -> tuple[int, ...]:
    """Channels of each level. A classifier of a published size ignores channel_mult, as the published code does."""
    table = MULTIPLIERS[f"{flags.family} super-resolution" if flags.super_resolution else flags.family]
    which = "large_size" if flags.super_resolution else "image_size"
    if flags.channel_mult and (name == "num_channels" or size not in table):
        multipliers = tuple(_numbers("channel_mult", flags.channel_mult, float))
    elif size in table:
        multipliers = table[size]
    else:
        sizes = ", ".join(str(known) for known in sorted(table))
        own = "; give channel_mult for another" if flags.family == "guided-diffusion" else ""
        raise ValueError(f"--flags: {which} must be one of {sizes}{own}, got {size}")
    widths = tuple(int(multiplier * channels) for multiplier in multipliers)
    if any(width < 1 or width % GROUPS for width in widths):
        raise ValueError(f"--flags: {name} must give every level a multiple of {GROUPS} channels, got {widths}")
    if size % 2 ** (len(widths) - 1):
        raise ValueError(f"--flags: {which} must halve {len(widths) - 1} times, got {size}")
    return widths


def _attends(size: int, levels: int, resolutions: str, name: str) -> tuple[bool, ...]:
    """As published: level l attends if 2^l is size // r for one of the resolutions r."""
    given = _numbers(name, resolutions, int)
    return tuple(2**level in {size // resolution for resolution in given} for level in range(levels))


def head_channels(
    widths: tuple[int, ...], attends: tuple[bool, ...], channels: int, count: int, name: str, source: str = "--flags"
) -> tuple[int, ...]:
    """Channels per attention head at each level: `channels`, or the level's width / `count` if that is -1.

    Raises:
        ValueError: a width that cannot be divided so; it names the option, `name` if it is `count`, and its `source`.
    """
    used = [*attends[:-1], True]
    number, name = (count, name) if channels == -1 else (channels, "num_head_channels")
    if number < 1 or any(width % number for width, here in zip(widths, used, strict=True) if here):
        attending = tuple(width for width, here in zip(widths, used, strict=True) if here)
        raise ValueError(f"{source}: {name} must divide the channels that attend {attending}, got {number}")
    heads = (width // count if channels == -1 else channels for width in widths)
    return tuple(head if here else width for head, width, here in zip(heads, widths, used, strict=True))


def _numbers(name: str, text: str, kind: type) -> list[Any]:
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < math.inf for number in numbers):  # false for nan, too
        raise ValueError(f"--flags: {name} must be finite numbers above 0, separated by commas, got {text!r}")
    return numbers


def parameter_count(model: nn.Module) -> int:
    """The number of parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters())
