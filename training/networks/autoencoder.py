"""The autoencoder of a run: new, from a config, or the one of a pipeline."""

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from pipelines import PatchedAutoencoderKL
from training.data import ImageData
from training.networks.build import check_divisible
from training.networks.open import pretrained_json
from training.recipes import Recipe

logger = logging.getLogger(__name__)

KINDS = {kind.__name__: kind for kind in (AutoencoderKL, PatchedAutoencoderKL)}


def autoencoder_config(recipe: Recipe) -> dict[str, Any]:
    """The config of the autoencoder that a run starts from: the pretrained one's, a file's, or that of our own.

    Raises:
        ValueError: there is none, its class is not one of KINDS, or it takes neither grey nor RGB images.
    """
    if recipe.pretrained_model_name_or_path is not None:
        return pretrained_autoencoder_config(recipe.pretrained_model_name_or_path, "pretrained_model_name_or_path")
    if recipe.model_config_name_or_path is not None:
        return _checked(_config_file(recipe.model_config_name_or_path), "model_config_name_or_path")
    return {"_class_name": PatchedAutoencoderKL.__name__}


def pretrained_autoencoder_config(name_or_path: str, flag: str) -> dict[str, Any]:
    """The config of the `vae` of a pipeline, or of an autoencoder alone, by folder or Hub id.

    Raises:
        ValueError: as `autoencoder_config`; it names the `flag`.
    """
    return _checked(_pretrained(name_or_path, flag)[1], flag)


def _checked(config: dict[str, Any], flag: str) -> dict[str, Any]:
    if config.get("_class_name") not in KINDS:
        raise ValueError(f"{flag} must name an {' or a '.join(KINDS)}, got {config.get('_class_name')!r}")
    channels = {config[name] for name in ("in_channels", "out_channels") if name in config}
    if len(channels) > 1 or not channels <= {1, 3}:
        raise ValueError(
            f"{flag} must be of an autoencoder with 1 (grey) or 3 (colour) channels, as many out as in, got "
            f"{' and '.join(map(str, sorted(channels)))}"
        )
    return config


def new_autoencoder(recipe: Recipe, data: ImageData, latent_channels: int | None) -> AutoencoderKL:
    """A new autoencoder for images of the data's size and channels; its weights depend only on the seed.

    Raises:
        ValueError: a size that it cannot halve, or a config with unknown arguments.
    """
    config = autoencoder_config(recipe)
    kind = KINDS[config["_class_name"]]
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    _, channels, height, width = data.images.shape
    config |= {"in_channels": channels, "out_channels": channels, "sample_size": _size(height, width)}
    if latent_channels is not None:
        config["latent_channels"] = latent_channels
    defaults = {name: p.default for name, p in inspect.signature(kind.__init__).parameters.items()}
    unknown = sorted(set(config) - set(defaults))
    if unknown:
        raise ValueError(f"model_config_name_or_path must hold arguments of {kind.__name__}, got {', '.join(unknown)}")
    check_divisible(defaults | config, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return kind(**config)


def pretrained_autoencoder(recipe: Recipe, data: ImageData, latent_channels: int | None) -> AutoencoderKL:
    """The autoencoder of `--pretrained_model_name_or_path`, in float32; a change of its size is logged.

    Raises:
        ValueError: a size that it cannot halve, or other latent channels than `latent_channels`.
    """
    vae = open_autoencoder(recipe.pretrained_model_name_or_path)
    _, _, height, width = data.images.shape
    check_divisible(vae.config, height, width)
    if latent_channels not in (None, vae.config.latent_channels):
        raise ValueError(
            f"latent_channels must be left out, or {vae.config.latent_channels} as in "
            f"{recipe.pretrained_model_name_or_path!r}, got {latent_channels}"
        )
    if recipe.model_config_name_or_path is not None:
        logger.warning("the training of a pretrained autoencoder continues; model_config_name_or_path is not used")
    size, own = _size(height, width), vae.config.sample_size
    if size != (own if isinstance(own, int) else list(own)):
        logger.warning("sample_size changes from %s to %s", own, size)
        vae.register_to_config(sample_size=size)
    return vae


def open_autoencoder(name_or_path: str, flag: str = "pretrained_model_name_or_path") -> AutoencoderKL:
    """The `vae` of a pipeline, or an autoencoder alone, by folder or Hub id.

    Raises:
        ValueError: there is none; it names the `flag`.
    """
    file, config = _pretrained(name_or_path, flag)
    subfolder = {} if file == "config.json" else {"subfolder": "vae"}
    kind = KINDS[_checked(config, flag)["_class_name"]]
    return kind.from_pretrained(name_or_path, use_safetensors=True, **subfolder)


def _pretrained(name_or_path: str, flag: str) -> tuple[str, dict[str, Any]]:
    return pretrained_json(name_or_path, "vae/config.json", "config.json", flag=flag)


def _config_file(name: str) -> dict[str, Any]:
    path = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
    if not path.is_file():
        raise ValueError(f"model_config_name_or_path must be a JSON file or a folder with config.json, got {name!r}")
    return json.loads(path.read_text())


def _size(height: int, width: int) -> int | list[int]:
    return height if height == width else [height, width]
