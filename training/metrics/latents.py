"""Latents of an autoencoder over a set of images: their mean, their spread, and a linear map to colours.

    m = mean(mu),   s = 1 / std(mu),   (A, b) = argmin sum || A mu + b - x_h ||^2

mu are the posterior means of all images at all positions, and x_h the images averaged down to the size of the latents.
m and s are one number each, over all channels: `shift_factor` and `scaling_factor` of diffusers' configs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from training.metrics.features import to_input

CHUNK = 25  # images at a time; always the same, because the last bits of a convolution depend on it


@dataclass(frozen=True)
class LatentStatistics:
    """`mean` and `std` of all latents; `factors` (C, latent channels) and `bias` (C,) of the map to colours."""

    mean: float
    std: float
    factors: list[list[float]]
    bias: list[float]


@torch.no_grad()
def latent_statistics(vae: nn.Module, pixels: np.ndarray) -> LatentStatistics:
    """The statistics of 8-bit images (N, C, H, W), whose colours count in [-1, 1]; all sums are in float64."""
    device, dtype = next(vae.parameters()).device, next(vae.parameters()).dtype
    count, total, squares, gram, cross = 0, 0.0, 0.0, 0.0, 0.0
    for start in range(0, len(pixels), CHUNK):
        x = to_input(pixels[start : start + CHUNK]).to(device, dtype)
        mu = vae.encode(x).latent_dist.mean
        colours = adaptive_avg_pool2d(x, mu.shape[2:])
        z, y = (t.double().cpu().permute(0, 2, 3, 1).flatten(0, 2).numpy() for t in (mu, colours))
        count, total, squares = count + z.size, total + z.sum(), squares + (z**2).sum()
        design = np.concatenate([z, np.ones((len(z), 1))], axis=1)
        gram, cross = gram + design.T @ design, cross + design.T @ y
    solution = np.linalg.lstsq(gram, cross, rcond=None)[0]  # rows: the latent channels, then the bias
    mean = total / count
    std = float(np.sqrt(max(squares / count - mean**2, 0.0)))
    return LatentStatistics(float(mean), std, solution[:-1].T.tolist(), solution[-1].tolist())
