"""What a super-resolution network is told of the smaller image: it is enlarged, spoilt a little, and put beside x_t.

    z_s = sqrt(1 - s^2) z + s eps            conditioning augmentation, s in [0, 1)   Ho et al. 2022, section 4

In training s is random, so that the network learns to mend what an earlier stage does wrong; it is told s, as the sines
and cosines that its time embedding takes as `timestep_cond`. Ho et al. 2022: https://arxiv.org/abs/2106.15282.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d, interpolate, pad

from .conditions_5712ea1d import Conditions
from .run_32486b83 import Denoiser, evaluate

TIME_SCALE = 1000  # s is told as a time of as many steps


def enlarged(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (N, C, h, w) in (N, C, *size), between pixels on lines."""
    return interpolate(image, size, mode="bilinear", align_corners=False)


def known_at(size: tuple[int, int], image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What a stage of another size keeps of an image, and where it draws anew.

    A pixel of that size is kept if the mask leaves at least half of it, and is then the mean of what is left.

    Args:
        size: (h, w)
        image: (N or 1, C, H, W) in [-1, 1]
        mask: bool (N or 1, 1, H, W), True where the image is drawn anew

    Returns:
        The image (N or 1, C, h, w), 0 where nothing is left, and the mask (N or 1, 1, h, w).
    """
    left = adaptive_avg_pool2d((~mask).to(image), size)
    mean = adaptive_avg_pool2d(image * ~mask, size) / left.clamp(min=torch.finfo(left.dtype).eps)
    return mean, left < 0.5


def noisy_condition(image: Tensor, level: Tensor, eps: Tensor) -> Tensor:
    """z_s of images (N, C, h, w) at levels s, (N,)."""
    s = level.to(image).reshape(-1, 1, 1, 1)
    return (1 - s * s).sqrt() * image + s * eps


def blurred(image: Tensor, sigma: Tensor) -> Tensor:
    """Images (N, C, h, w) under 3 x 3 Gaussians of standard deviations `sigma` (N,), in pixels; 0 leaves them."""
    count, channels, height, width = image.shape
    side = torch.where(sigma > 0, (-0.5 / sigma.clamp(min=1e-6) ** 2).exp(), torch.zeros_like(sigma)).to(image)
    kernel = torch.stack([side, torch.ones_like(side), side], dim=1)
    kernel = kernel / kernel.sum(1, keepdim=True)
    kernel = (kernel[:, :, None] * kernel[:, None, :]).repeat_interleave(channels, 0)[:, None]
    framed = pad(image, (1, 1, 1, 1), mode="replicate").reshape(1, count * channels, height + 2, width + 2)
    return conv2d(framed, kernel, groups=count * channels).reshape(image.shape)


def is_told_levels(config: Mapping[str, Any]) -> bool:
    """Whether a network with this config is told the level of augmentation."""
    return config.get("time_cond_proj_dim") is not None


def told_level(config: Mapping[str, Any], level: Tensor) -> Conditions:
    """What a network with this config is given of levels s, (N,)."""
    if not is_told_levels(config):
        return {}
    width = config["time_cond_proj_dim"]
    embedded = get_timestep_embedding(TIME_SCALE * level, width, flip_sin_to_cos=True, downscale_freq_shift=0)
    return {"timestep_cond": embedded.to(level) * math.sqrt(2)}  # of root mean square 1


def beside(network: nn.Module) -> Denoiser:
    """A denoiser of (x_t, t, low_resolution, ...) from a network whose input is x_t with the other image beside it."""

    def denoise(x_t: Tensor, t: Tensor | float, low_resolution: Tensor, **conditions: Tensor) -> Tensor:
        return evaluate(network, torch.cat([x_t, low_resolution.to(x_t)], dim=1), t, conditions)

    return denoise
