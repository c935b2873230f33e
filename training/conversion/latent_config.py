"""The config.yaml of a latent-diffusion model: its numbers, and what in it no network here can be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from training.conversion.architecture import GROUPS

PLAIN = (  # where, option, the one value that is read, and why no other is
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
TARGETS = {  # the classes that are read
    "unet_config": ("openaimodel.UNetModel",),
    "first_stage_config": ("autoencoder.AutoencoderKL", "autoencoder.VQModelInterface"),
}


def read_config(path: str) -> dict[str, Any]:
    """`model.params` of a file.

    Raises:
        ValueError: the file is no config of a latent diffusion model, or one of a kind that is not read, by option.
    """
    if not Path(path).is_file():
        raise ValueError(f"no such file: {path}")
    try:
        params = yaml.safe_load(Path(path).read_text())["model"]["params"]
        parts = params["unet_config"]["params"], params["first_stage_config"]["params"]["ddconfig"]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        told = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no config of a latent diffusion model: {type(error).__name__} {told}") from error
    if not all(isinstance(part, Mapping) for part in parts):
        raise ValueError(f"{path} is no config of a latent diffusion model")
    places = dict(zip(("", "unet", "ddconfig"), (params, *parts), strict=True))
    for place, name, only, reason in PLAIN:
        value = places[place].get(name, only)
        if value != only and (value or only):  # None, False and [] all say no
            raise ValueError(f"--config: {name} must be {only}, got {str(value)[:80]}: {reason}")
    for name, classes in TARGETS.items():
        target = params[name].get("target")
        if target is not None and not str(target).endswith(tuple(f".{known}" for known in classes)):
            allowed = " or ".join(classes)
            raise ValueError(f"--config: {name}.target must be {allowed}, got {str(target)[:80]}: no other is read")
    return params


def number(
    config: Mapping[str, Any], name: str, kind: type[int] | type[float], otherwise: float | None = None
) -> int | float:
    """A number of the config above 0; PyYAML reads 1e-4 as a string. Missing without `otherwise`: KeyError.

    Raises:
        ValueError: it is none, by name.
    """
    given = config[name] if otherwise is None else config.get(name, otherwise)
    try:
        value = kind(given)
        valid = 0 < value < math.inf and value == float(given)
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        what = "a whole number" if kind is int else "a finite number"
        raise ValueError(f"--config: {name} must be {what} above 0, got {str(given)[:80]}")
    return value


def numbers(config: Mapping[str, Any], name: str, otherwise: tuple[int, ...] | None = None) -> list[int]:
    """A list of whole numbers above 0, at least one; missing without `otherwise`: KeyError."""
    given = config[name] if otherwise is None else config.get(name, otherwise)
    if not isinstance(given, (list, tuple)) or not given:
        raise ValueError(f"--config: {name} must be a list of whole numbers, one per level, got {str(given)[:80]}")
    return [number({name: value}, name, int) for value in given]


def multiples(config: Mapping[str, Any], name: str, factors: list[int]) -> tuple[int, ...]:
    """Channels of each level: those of option `name` times its factor, in whole groups of the normalisations."""
    found = tuple(number(config, name, int) * factor for factor in factors)
    if any(channels % GROUPS for channels in found):
        raise ValueError(f"--config: {name} must give every level a multiple of {GROUPS} channels, got {found}")
    return found
