"""Latents of images, encoded once by an autoencoder and kept on disk: `<cache>/latents-<key>/part-00000.npy`, ...

The key is a hash of the images, the autoencoder's weights and config, and whether the images are mirrored first.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.facts import spatial_factor
from pipelines.latents import encode
from training.data import cache
from training.data.images import ImageData
from training.metrics.features import classifier_hash
from training.parts import kept_in_parts

PART, BATCH = 512, 32  # images per file, and encoded together: always the same ones
LAYOUT = 1  # part of every key: increase it when the encoding or the layout of the files changes


@dataclass(frozen=True)
class LatentData(ImageData):
    """`ImageData` whose `images` are latents z_0, float16 (N, c, h, w), of mean 0 and standard deviation 1.

    Attributes:
        mirrored: the latents of the mirrored images; None if they were not asked for
        factor: how many pixels of a side one value stands for
    """

    mirrored: np.ndarray | None = None
    factor: int = 1

    @property
    def unit(self) -> int:
        """How many pixels of a side one value of `images` stands for."""
        return self.factor

    def take(self, index: np.ndarray, flipped: Tensor | None, like: Tensor) -> Tensor:
        """The latents `index`, (N, c, h, w), of the mirrored images where `flipped` (N,) says so, as `like` is.

        A mirrored latent is not the latent of the mirrored image.
        """
        latents = self.images[index]
        if flipped is not None:
            latents = np.where(flipped.numpy()[:, None, None, None], self.mirrored[index], latents)
        return torch.from_numpy(latents).to(like.device).to(like.dtype)


def latent_data(data: ImageData, vae: nn.Module, mirrored: bool = False, cache_dir: Path | None = None) -> LatentData:
    """The latents of all images of `data`, from the cache where they are there.

    Args:
        data: 8-bit images (N, C, H, W)
        vae: an AutoencoderKL, on the device to encode on; its scale and shift count
        mirrored: whether to encode the mirrored images, too
        cache_dir: by default that of the decoded images

    Raises:
        ValueError: images of other channels than the autoencoder's, or of sides that it does not divide.
    """
    _check(data, vae)
    place, identity = cache_dir or cache.default_cache_dir(), autoencoder_hash(vae)
    kept = {field.name: getattr(data, field.name) for field in fields(ImageData)}
    fingerprint = hashlib.sha256(f"{LAYOUT} {data.fingerprint} {identity}".encode()).hexdigest()
    kept |= {"images": _encoded(data, vae, place / f"latents-{fingerprint[:24]}", False), "fingerprint": fingerprint}
    other = _encoded(data, vae, place / f"latents-{fingerprint[:24]}-mirrored", True) if mirrored else None
    return LatentData(**kept, mirrored=other, factor=spatial_factor(vae.config))


def autoencoder_hash(vae: nn.Module) -> str:
    """A hash of an autoencoder's weights and of its config, without what says who wrote it and where."""
    config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    text = f"{classifier_hash(vae)} {json.dumps(config, sort_keys=True, default=str)}"
    return hashlib.sha256(text.encode()).hexdigest()


def _check(data: ImageData, vae: nn.Module) -> None:
    _, channels, height, width = data.images.shape
    factor = spatial_factor(vae.config)
    if channels != vae.config.in_channels:
        raise ValueError(f"vae must take the images' {channels} channel(s), it takes {vae.config.in_channels}")
    if height % factor or width % factor:
        nearest = max(factor, round(min(height, width) / factor) * factor)
        raise ValueError(
            f"--resolution must be a multiple of {factor} for this vae (try {nearest}), got {width}x{height}"
        )


def _encoded(data: ImageData, vae: nn.Module, folder: Path, mirrored: bool) -> np.ndarray:
    """The latents of all images, float16 (N, c, h, w)."""

    def make(some: slice) -> np.ndarray:
        images = torch.from_numpy(np.array(data.images[some])).to(vae.device).float() / 127.5 - 1
        return encode(vae, images.flip(3) if mirrored else images, BATCH).half().cpu().numpy()

    what = "mirrored images" if mirrored else "images"
    return kept_in_parts(folder, len(data.images), PART, make, f"Encoding {what}")
