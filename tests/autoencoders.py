"""Autoencoders of a few thousand weights, new, in runs, and in closed form."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn
from training_runs import SMALL, noise, noise_images, settings_of

from pipelines import PatchedAutoencoderKL
from training.data import ImageData
from training.loop import Trainer
from training.objectives.autoencoder import Autoencoding

TINY = {"patch_size": 2, "block_out_channels": [8, 8], "norm_num_groups": 4, "residual_channels": 4}
STOCK = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}


def tiny(seed: int = 0, size: int = 16, **changes: object) -> PatchedAutoencoderKL:
    """Of 16 x 16 pixels and 4 x 4 latents; its residual is not zero, as if it were trained."""
    torch.manual_seed(seed)
    vae = PatchedAutoencoderKL(**{"sample_size": size} | TINY | changes).eval()
    nn.init.normal_(vae.residual[2].weight, std=0.1)
    return vae


def colours(count: int = 6, size: int = 16) -> ImageData:
    """Coloured noise in squares of 4 pixels, which has something to learn."""
    pixels = noise(count, 3, size // 4, size // 4).repeat(4, axis=2).repeat(4, axis=3)
    return ImageData(pixels, None, None, None, 0, "colours")


def config_file(path: Path, **config: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"_class_name": "PatchedAutoencoderKL", **TINY} | config))
    return str(path)


def trainer(folder: Path, data: ImageData | None = None, double: bool = False, **changes: object) -> Trainer:
    """A run of the tiny autoencoder, in this process."""
    data = data or colours()
    flags = {name: value for name, value in SMALL.items() if name not in ("ddpm_num_steps", "class_conditional")}
    flags |= {"output_dir": str(folder), "model_config_name_or_path": config_file(folder.parent / "vae.json")} | changes
    recipe, options = settings_of(Autoencoding, flags)
    objective = Autoencoding.build(recipe, options, data)
    if double:
        objective.network.double()
    return Trainer(recipe, data, objective)


class Linear(nn.Module):
    """z = 2 x + offset at every pixel, and back: with an offset of 0 it follows whatever is done to an image."""

    def __init__(self, offset: Tensor | float = 0.0) -> None:
        super().__init__()
        self.offset = offset
        self.config = FrozenDict(latent_channels=1, block_out_channels=(1,))

    def encode(self, x: Tensor) -> SimpleNamespace:
        z = 2 * x + self.offset
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=z, std=torch.zeros_like(z), logvar=torch.zeros_like(z)))

    def decode(self, z: Tensor) -> SimpleNamespace:
        height, width = z.shape[2:]
        offset = self.offset if isinstance(self.offset, float) else self.offset[..., :height, :width]
        return SimpleNamespace(sample=(z - offset) / 2)


def linear(offset: Tensor | float = 0.0, **options: object) -> Autoencoding:
    """The objective over `Linear`, for 8 x 8 grey images."""
    return Autoencoding(Autoencoding.Options(**options), Linear(offset), noise_images().images)
