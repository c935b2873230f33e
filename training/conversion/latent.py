"""CompVis' latent diffusion: a `.ckpt` and its config.yaml -> a LatentDiffusionPipeline (Rombach et al. 2022).

The U-Net is guided-diffusion's with its own names for the flags; the autoencoder, KL or VQ, is read by diffusers'
converter of single files. The averaged weights (`model_ema`) are taken where there are any, as the published sampler
does. Only unconditional models: the others look at their condition by cross-attention, which no network here has.

https://github.com/CompVis/latent-diffusion
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, ModelMixin, UNet2DModel, VQModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from pipelines import LatentDiffusionPipeline
from training.conversion.architecture import GROUPS, Architecture, head_channels, parameter_count
from training.conversion.evidence import differences
from training.conversion.weights import expected_shapes, fill, read, shapes_of

UNET, AVERAGED, AUTOENCODER = "model.diffusion_model.", "model_ema.", "first_stage_model."
# what else a checkpoint holds: the tables of the process, counters, and losses of the autoencoder's training
REST = re.compile(r"(betas|.*alphas.*|posterior_.*|lvlb_weights|logvar|scale_factor|cond_ids|model_ema\..*)")
SAMPLER = {"timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}


def read_latent(checkpoint: str, config: str) -> LatentDiffusionPipeline:
    """The pipeline of a checkpoint.

    Raises:
        ValueError: a file that is none, a model that is conditional or of another kind, or weights that do not fit.
    """
    params = _read_config(config)
    try:  # before the weights, which are large
        architecture = _architecture(params["unet_config"]["params"], params.get("image_size"))
        autoencoder, kind = _autoencoder(params["first_stage_config"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{config}: {type(error).__name__} {error}") from error
    state = _read_checkpoint(checkpoint)
    unet = _unet(checkpoint, state, params["unet_config"]["params"], architecture)
    scale = float(state.get("scale_factor", params.get("scale_factor", 1.0)))
    vae = _fill_autoencoder(checkpoint, state, kind, autoencoder | {"scaling_factor": scale})
    for model in (vae, unet):
        print(f"{checkpoint}: {parameter_count(model) / 1e6:.1f} M weights -> {type(model).__name__}")
    scheduler = DDIMScheduler(
        num_train_timesteps=params.get("timesteps", 1000),
        beta_start=params.get("linear_start", 1e-4),
        beta_end=params.get("linear_end", 2e-2),
        beta_schedule="scaled_linear",  # what is called linear there: in the root of beta
        prediction_type="epsilon",
        **SAMPLER,
    )
    return LatentDiffusionPipeline(vae, scheduler, unet=unet)


def _read_config(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ValueError(f"no such file: {path}")
    try:
        params = yaml.safe_load(Path(path).read_text())["model"]["params"]
        parts = params["unet_config"]["params"], params["first_stage_config"]["params"]["ddconfig"]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no config of a latent diffusion model: {type(error).__name__} {error}") from error
    if not all(isinstance(part, Mapping) for part in parts):
        raise ValueError(f"{path} is no config of a latent diffusion model")
    _must_be("cond_stage_config", params.get("cond_stage_config", "__is_unconditional__"), "__is_unconditional__")
    _must_be("parameterization", params.get("parameterization", "eps"), "eps")
    _must_be("beta_schedule", params.get("beta_schedule", "linear"), "linear")
    _must_be("learn_logvar", params.get("learn_logvar", False), False)
    return params


def _must_be(name: str, value: object, only: object) -> None:
    if value != only:
        raise ValueError(f"--config: {name} must be {only}, got {str(value)[:80]}")


def _read_checkpoint(path: str) -> dict[str, Tensor]:
    with _without_foreign_code(path):
        state = read(path)
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} must hold named tensors under 'state_dict'")
    known = (UNET, AUTOENCODER)
    strangers = [name for name in state if not name.startswith(known) and not REST.fullmatch(name)]
    if strangers:
        raise ValueError(f"{path}: {len(strangers)} not used ({', '.join(strangers[:3])})")
    return dict(state)


class _Inert:
    """Stands for a class that a checkpoint names and that is not there: it does nothing with what it is given."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _without_foreign_code(path: str) -> AbstractContextManager:
    """Let `torch.load` with `weights_only` pass over what the training framework left beside the weights."""
    names = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
    return safe_globals([(_Inert, name) for name in names])


# ---------------------------------------------------------------------------------------------------------- the U-Net


def _architecture(config: dict[str, Any], size: int | None) -> Architecture:
    """`size` is that of the latents; the U-Net's own `image_size` says nothing where the two differ."""
    for name in ("use_spatial_transformer", "num_classes", "n_embed"):
        _must_be(name, config.get(name) or None, None)
    mult, width = config.get("channel_mult", (1, 2, 4, 8)), config["model_channels"]
    _must_be("channel_mult[0]", mult[0], 1)
    widths = tuple(width * factor for factor in mult)
    attends = tuple(2**level in config["attention_resolutions"] for level in range(len(mult)))
    own, count = config.get("num_head_channels", -1), config.get("num_heads", -1)
    up = config.get("num_heads_upsample", -1)
    return Architecture(
        size=size or config["image_size"],
        model_channels=width,
        widths=widths,
        attends=attends,
        layers=config["num_res_blocks"],
        heads=head_channels(widths, attends, own, count, "num_heads", "--config"),
        up_heads=head_channels(widths, attends, own, count if up == -1 else up, "num_heads_upsample", "--config"),
        scale_shift=config.get("use_scale_shift_norm", False),
        resblock_updown=config.get("resblock_updown", False),
        conv_resample=config.get("conv_resample", True),
        new_order=config.get("use_new_attention_order", False),
        dropout=config.get("dropout", 0.0),
    )


def _unet(path: str, state: dict[str, Tensor], config: dict[str, Any], architecture: Architecture) -> UNet2DModel:
    model = architecture.build_unet(config["in_channels"], config["out_channels"], None)
    expected = expected_shapes(model, architecture)
    # a key of the averaged ones is that of the network without its dots
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
    return model


# ---------------------------------------------------------------------------------------------------- the autoencoder


def _autoencoder(config: dict[str, Any]) -> tuple[dict[str, Any], type[ModelMixin]]:
    """Its config and class."""
    params, shape = config["params"], config["params"]["ddconfig"]
    _must_be("attn_resolutions", list(shape.get("attn_resolutions", [])), [])
    _must_be("embed_dim", params["embed_dim"], shape["z_channels"])
    levels = len(shape["ch_mult"])
    found = {
        "sample_size": shape["resolution"],
        "in_channels": shape["in_channels"],
        "out_channels": shape["out_ch"],
        "latent_channels": shape["z_channels"],
        "block_out_channels": tuple(shape["ch"] * factor for factor in shape["ch_mult"]),
        "layers_per_block": shape["num_res_blocks"],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "norm_num_groups": GROUPS,
    }
    if "n_embed" in params:
        return found | {"num_vq_embeddings": params["n_embed"], "vq_embed_dim": params["embed_dim"]}, VQModel
    return found, AutoencoderKL


def _fill_autoencoder(
    path: str, state: dict[str, Tensor], kind: type[ModelMixin], config: dict[str, Any]
) -> AutoencoderKL | VQModel:
    with torch.device("meta"):
        model = kind(**config).eval()
    own = {key: value for key, value in state.items() if key.startswith(AUTOENCODER)}
    own = {key: value for key, value in own.items() if not key.startswith(f"{AUTOENCODER}loss.")}
    found = convert_ldm_vae_checkpoint(dict(own), config)
    codes = own.get(f"{AUTOENCODER}quantize.embedding.weight")
    if codes is not None:
        found["quantize.embedding.weight"] = codes
    if len(found) != len(own):
        raise ValueError(f"{path}: {len(own) - len(found)} of the autoencoder's {len(own)} weights are not used")
    _check(path, "autoencoder", {key: tuple(value.shape) for key, value in model.state_dict().items()}, found)
    model.load_state_dict({key: value.float() for key, value in found.items()}, strict=True, assign=True)
    return model


def _check(path: str, what: str, expected: dict[str, tuple[int, ...]], found: dict[str, Tensor]) -> None:
    wrong = differences(expected, shapes_of(found))
    if wrong:
        raise ValueError(f"{path}: --config describes another {what}: {wrong}")
