"""CompVis' latent diffusion (Rombach et al. 2022): from a `.ckpt` and its config.yaml to a LatentDiffusionPipeline.

The U-Net is that of guided-diffusion, with other names for the flags. The autoencoder, KL or VQ, is read by diffusers'
single-file converter. If the file has averaged weights (`model_ema`) they are used, as the published sampler does. Only
unconditional models: the others see their condition through cross-attention, which no network here has.

https://github.com/CompVis/latent-diffusion
"""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel, VQModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from pipelines import LatentDiffusionPipeline, NoiseSchedule
from training.conversion.architecture import GROUPS, Architecture, head_channels, parameter_count
from training.conversion.checkpoint import ANCHOR, check_finite, read, unwrapped
from training.conversion.flag_checks import differences
from training.conversion.latent_config import multiples, number, numbers, read_config
from training.conversion.weights import expected_shapes, fill, shapes_of

UNET, AVERAGED, AUTOENCODER = "model.diffusion_model.", "model_ema.", "first_stage_model."
# other entries of a checkpoint: tables of the process, counters, and losses of the autoencoder's training
IGNORED = re.compile(r"(betas|.*alphas.*|posterior_.*|lvlb_weights|logvar|scale_factor|cond_ids|model_ema\..*)")
SAMPLER = {"timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}


def read_latent(checkpoint: str, config: str) -> LatentDiffusionPipeline:
    """The pipeline in a checkpoint.

    Raises:
        ValueError: an unreadable file, a conditional model or one of another kind, or weights that do not fit.
    """
    params = read_config(config)
    try:  # all checks of the config come before the weights, which are large
        shape = params["unet_config"]["params"]
        architecture = _architecture(shape, params.get("image_size"))
        channels = (number(shape, name, int) for name in ("in_channels", "out_channels"))
        unet = architecture.build_unet(*channels, None)
        vae = _autoencoder(params["first_stage_config"]["params"], number(params, "scale_factor", float, 1.0))
        scheduler = _scheduler(params)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        if not reason.startswith("--config: "):
            reason = f"--config: {config}: {type(error).__name__} {reason}"
        raise ValueError(reason) from error
    state = _read_checkpoint(checkpoint)
    _fill_unet(checkpoint, state, unet, architecture)
    _fill_autoencoder(checkpoint, state, vae)
    for model in (vae, unet):
        print(f"{checkpoint}: {parameter_count(model) / 1e6:.1f} M weights -> {type(model).__name__}")
    return LatentDiffusionPipeline(vae, scheduler, unet=unet)


def _scheduler(params: dict[str, Any]) -> DDIMScheduler:
    scheduler = DDIMScheduler(
        num_train_timesteps=number(params, "timesteps", int, 1000),
        beta_start=number(params, "linear_start", float, 1e-4),
        beta_end=number(params, "linear_end", float, 2e-2),
        beta_schedule="scaled_linear",  # CompVis calls it linear: it is linear in sqrt(beta)
        prediction_type="epsilon",
        **SAMPLER,
    )
    NoiseSchedule.from_scheduler(scheduler)  # raises ValueError for betas outside (0, 1]
    return scheduler


def _read_checkpoint(path: str) -> dict[str, Tensor]:
    with _without_foreign_code(path):
        state = read(path)
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    state = unwrapped(path, state, f"{UNET}{ANCHOR}")
    named = isinstance(state, Mapping) and all(isinstance(name, str) for name in state)
    if not named or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} must hold named tensors under 'state_dict'")
    if state.get("scale_factor", torch.ones(())).numel() != 1:
        raise ValueError(f"{path}: scale_factor must be one number, got shape {tuple(state['scale_factor'].shape)}")
    known = (UNET, AUTOENCODER)
    unknown = [name for name in state if not name.startswith(known) and not IGNORED.fullmatch(name)]
    if unknown:
        raise ValueError(f"{path}: {len(unknown)} not used ({', '.join(unknown[:3])})")
    return dict(state)


class _Ignored:
    """Stands for a class that a checkpoint names and that is not allowed here: it drops what it is given."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class _IgnoredDict:
    """The same for a dict: torch sets items only on instances of `dict` and `OrderedDict` themselves."""

    def __new__(cls, *args: object) -> OrderedDict:
        return OrderedDict()


def _without_foreign_code(path: str) -> AbstractContextManager:
    """Let `torch.load` with `weights_only` pass over what the training framework left beside the weights."""
    names = []
    with contextlib.suppress(Exception):  # what is no file of torch is refused when it is read
        names = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
    return safe_globals([(_IgnoredDict if name.lower().endswith("dict") else _Ignored, name) for name in names])


# ---------------------------------------------------------------------------------------------------------- the U-Net


def _architecture(config: dict[str, Any], size: int | None) -> Architecture:
    """The U-Net of a config. `size` is that of the latents, and overrides the U-Net's own `image_size`."""
    mult = numbers(config, "channel_mult", (1, 2, 4, 8))
    if mult[0] != 1:
        raise ValueError(f"--config: channel_mult[0] must be 1, got {mult[0]}: the first convolution has its width")
    widths = multiples(config, "model_channels", mult)
    attends = tuple(2**level in config["attention_resolutions"] for level in range(len(mult)))
    own, count = config.get("num_head_channels", -1), config.get("num_heads", -1)
    up = config.get("num_heads_upsample", -1)
    return Architecture(
        size=number({"image_size": size or config["image_size"]}, "image_size", int),
        model_channels=widths[0],
        widths=widths,
        attends=attends,
        layers=number(config, "num_res_blocks", int),
        heads=head_channels(widths, attends, own, count, "num_heads", "--config"),
        up_heads=head_channels(widths, attends, own, count if up == -1 else up, "num_heads_upsample", "--config"),
        scale_shift=config.get("use_scale_shift_norm", False),
        resblock_updown=config.get("resblock_updown", False),
        conv_resample=config.get("conv_resample", True),
        new_order=config.get("use_new_attention_order", False),
        dropout=config.get("dropout", 0.0),
    )


def _fill_unet(path: str, state: dict[str, Tensor], model: UNet2DModel, architecture: Architecture) -> None:
    expected = expected_shapes(model, architecture)
    # the key of an averaged weight is that of the network's weight without its dots
    averaged = {f"{AVERAGED}{f'{UNET}{key}'.removeprefix('model.').replace('.', '')}": key for key in expected}
    if any(name.startswith(AVERAGED) for name in state):
        found = {averaged.get(name, name): value for name, value in state.items() if name.startswith(AVERAGED)}
        found = {
            name: value for name, value in found.items() if name not in ("model_ema.decay", "model_ema.num_updates")
        }
    else:
        found = {name.removeprefix(UNET): value for name, value in state.items() if name.startswith(UNET)}
    _check(path, "U-Net", expected, found)
    fill(model, found, architecture)


# ---------------------------------------------------------------------------------------------------- the autoencoder


def _autoencoder(params: dict[str, Any], scale: float) -> AutoencoderKL | VQModel:
    """The autoencoder of a config, without weights (on the meta device)."""
    shape = params["ddconfig"]
    if params["embed_dim"] != shape["z_channels"]:
        raise ValueError(f"--config: embed_dim must be {shape['z_channels']} (z_channels), got {params['embed_dim']}")
    widths = multiples(shape, "ch", numbers(shape, "ch_mult"))
    levels = len(widths)
    found = {
        "sample_size": number(shape, "resolution", int),
        "in_channels": number(shape, "in_channels", int),
        "out_channels": number(shape, "out_ch", int),
        "latent_channels": number(shape, "z_channels", int),
        "block_out_channels": widths,
        "layers_per_block": number(shape, "num_res_blocks", int),
        "scaling_factor": scale,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "norm_num_groups": GROUPS,
    }
    with torch.device("meta"):
        if "n_embed" not in params:
            return AutoencoderKL(**found).eval()
        codes = number(params, "n_embed", int)
        return VQModel(**found, num_vq_embeddings=codes, vq_embed_dim=found["latent_channels"]).eval()


def _fill_autoencoder(path: str, state: dict[str, Tensor], model: AutoencoderKL | VQModel) -> None:
    if "scale_factor" in state:  # measured in training if the config does not set it
        model.register_to_config(scaling_factor=float(state["scale_factor"]))
    own = {key: value for key, value in state.items() if key.startswith(AUTOENCODER)}
    own = {key: value for key, value in own.items() if not key.startswith(f"{AUTOENCODER}loss.")}
    found = convert_ldm_vae_checkpoint(dict(own), dict(model.config))
    codes = own.get(f"{AUTOENCODER}quantize.embedding.weight")
    if codes is not None:
        found["quantize.embedding.weight"] = codes
    if len(found) != len(own):
        raise ValueError(f"{path}: {len(own) - len(found)} of the autoencoder's {len(own)} weights are not used")
    _check(path, "autoencoder", {key: tuple(value.shape) for key, value in model.state_dict().items()}, found)
    model.load_state_dict({key: value.float() for key, value in found.items()}, strict=True, assign=True)


def _check(path: str, what: str, expected: dict[str, tuple[int, ...]], found: dict[str, Tensor]) -> None:
    wrong = differences(expected, shapes_of(found))
    if wrong:
        raise ValueError(f"{path}: --config describes another {what}: {wrong}")
    check_finite(path, found)
