"""Reads the config.yaml of a latent-diffusion model, and refuses options that no network here supports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from training.conversion.architecture import GROUPS

SUPPORTED = (  # section, option, its only supported value, and why there is no other
    ("", "cond_stage_config", "__is_unconditional__", "no network here looks at a condition by cross-attention"),
    ("", "parameterization", "eps", "only networks that predict eps are read"),
    ("", "beta_schedule", "linear", "the scheduler written is scaled_linear, its name in diffusers"),
    ("", "given_betas", None, "the scheduler is written by linear_start and linear_end"),
    ("", "learn_logvar", False, "it belongs to another loss"),
    ("unet", "dims", 2, "images have two"),
    ("unet", "use_spatial_transformer", False, "no network here has cross-attention"),
    ("unet", "num_classes", None, "only unconditional models are read"),
    ("unet", "n_embed", None, "no network here predicts codes"),
    ("ddconfig", "attn_type", "vanilla", "diffusers' autoencoders have no other attention"),
    ("ddconfig", "use_linear_attn", False, "diffusers' autoencoders have no linear attention"),
    ("ddconfig", "attn_resolutions", [], "diffusers' converter reads attention in the middle only"),
    ("ddconfig", "resamp_with_conv", True, "diffusers' autoencoders resample with convolutions"),
    ("ddconfig", "tanh_out", False, "diffusers' decoders end without tanh"),
    ("ddconfig", "give_pre_end", False, "diffusers' decoders go to the end"),
)
TARGETS = {  # the supported classes
    "unet_config": ("openaimodel.UNetModel",),
    "first_stage_config": ("autoencoder.AutoencoderKL", "autoencoder.VQModelInterface"),
}


def read_config(path: str) -> dict[str, Any]:
    """`model.params` of a config file, read with `yaml.safe_load`: nothing in it is executed.

    Raises:
        ValueError: not a config of a latent diffusion model, or an unsupported option; it names the option.
    """
    if not Path(path).is_file():
        raise ValueError(f"no such file: {path}")
    try:
        params = yaml.safe_load(Path(path).read_text())["model"]["params"]
        parts = params["unet_config"]["params"], params["first_stage_config"]["params"]["ddconfig"]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no config of a latent diffusion model: {type(error).__name__} {reason}") from error
    if not all(isinstance(part, Mapping) for part in parts):
        raise ValueError(f"{path} is no config of a latent diffusion model")
    places = dict(zip(("", "unet", "ddconfig"), (params, *parts), strict=True))
    for place, name, only, reason in SUPPORTED:
        value = places[place].get(name, only)
        if value != only and (value or only):  # None, False and [] all mean off
            raise ValueError(f"--config: {name} must be {only}, got {str(value)[:80]}: {reason}")
    for name, classes in TARGETS.items():
        target = params[name].get("target")
        if target is not None and not str(target).endswith(tuple(f".{known}" for known in classes)):
            allowed = " or ".join(classes)
            raise ValueError(f"--config: {name}.target must be {allowed}, got {str(target)[:80]}: no other is read")
    return params


def number(
    config: Mapping[str, Any], name: str, kind: type[int] | type[float], default: float | None = None
) -> int | float:
    """A number above 0 of the config, or `default` if it is missing. PyYAML reads 1e-4 as a string.

    Raises:
        KeyError: it is missing and there is no default.
        ValueError: it is not such a number; it names the option.
    """
    given = config[name] if default is None else config.get(name, default)
    try:
        value = kind(given)
        valid = 0 < value < math.inf and value == float(given)
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        what = "a whole number" if kind is int else "a finite number"
        raise ValueError(f"--config: {name} must be {what} above 0, got {str(given)[:80]}")
    return value


def numbers(config: Mapping[str, Any], name: str, default: tuple[int, ...] | None = None) -> list[int]:
    """The same for a list of whole numbers above 0, which must not be empty."""
    given = config[name] if default is None else config.get(name, default)
    if not isinstance(given, (list, tuple)) or not given:
        raise ValueError(f"--config: {name} must be a list of whole numbers, one per level, got {str(given)[:80]}")
    return [number({name: value}, name, int) for value in given]


def multiples(config: Mapping[str, Any], name: str, factors: list[int]) -> tuple[int, ...]:
    """Channels of each level: option `name` times the level's factor, which must be a multiple of GROUPS."""
    found = tuple(number(config, name, int) * factor for factor in factors)
    if any(channels % GROUPS for channels in found):
        raise ValueError(f"--config: {name} must give every level a multiple of {GROUPS} channels, got {found}")
    return found
