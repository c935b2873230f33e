"""How near reconstructions are to their images: PSNR, and SSIM (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861).

    PSNR = 10 log10(255^2 / mean squared error)
    SSIM = mean over windows of (2 m_x m_y + c_1)(2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1)(s_x^2 + s_y^2 + c_2))

Windows are Gaussian, 11 x 11 with a standard deviation of 1.5 pixels, and lie within the image (those of torchmetrics
also reach into a mirrored border, which is no part of the definition); c_1 = (0.01 255)^2, c_2 = (0.03 255)^2. Both
measures are per image, over its channels.

    python -m training.metrics.reconstruction runs/emoji-autoencoder --dataset_name data/emoji

measures a saved autoencoder (training/evaluation/reconstruction.py).
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from tqdm.auto import tqdm

from training.metrics.features import to_input

WINDOW, SPREAD = 11, 1.5  # pixels
FINEST = 1 / 12  # mean squared error of rounding to 8 bits: a perfect copy has 59 dB, and not infinitely many
CHUNK = 50


def psnr(made: np.ndarray, images: np.ndarray) -> np.ndarray:
    """PSNR in dB of 8-bit images (N, C, H, W), (N,) float64."""
    error = (made.astype(np.float64) - images) ** 2
    return 10 * np.log10(255**2 / np.maximum(error.reshape(len(error), -1).mean(1), FINEST))


def ssim(made: np.ndarray, images: np.ndarray) -> np.ndarray:
    """SSIM in [-1, 1] of 8-bit images (N, C, H, W), (N,) float64.

    Raises:
        ValueError: images smaller than a window.
    """
    if min(images.shape[2:]) < WINDOW:
        raise ValueError(f"images must have sides of at least {WINDOW} pixels for SSIM, got {min(images.shape[2:])}")
    return np.concatenate(
        [_ssim(made[start : start + CHUNK], images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)]
    )


def _ssim(made: np.ndarray, images: np.ndarray) -> np.ndarray:
    x, y = (torch.from_numpy(pixels.astype(np.float64)).flatten(0, 1)[:, None] for pixels in (made, images))
    m_x, m_y = _smooth(x), _smooth(y)
    s_x, s_y, s_xy = _smooth(x * x) - m_x**2, _smooth(y * y) - m_y**2, _smooth(x * y) - m_x * m_y
    c_1, c_2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * m_x * m_y + c_1) * (2 * s_xy + c_2) / ((m_x**2 + m_y**2 + c_1) * (s_x + s_y + c_2))
    return likeness.reshape(len(images), -1).mean(1).numpy()


def _smooth(x: Tensor) -> Tensor:
    """The mean of each window of (N, 1, H, W), (N, 1, H - 10, W - 10)."""
    offsets = torch.arange(WINDOW, dtype=x.dtype) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SPREAD**2))
    weights = weights / weights.sum()
    return conv2d(conv2d(x, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))


@torch.inference_mode()
def reconstruct(vae: nn.Module, pixels: np.ndarray, batch_size: int = CHUNK) -> np.ndarray:
    """8-bit images (N, C, H, W) through an autoencoder, by the mean of its posterior.

    Raises:
        ValueError: it gives values that are not finite.
    """
    device, dtype = next(vae.parameters()).device, next(vae.parameters()).dtype
    made = []
    for start in tqdm(range(0, len(pixels), batch_size), desc="Reconstructing", disable=None, leave=False):
        x = to_input(pixels[start : start + batch_size]).to(device, dtype)
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.float()
        if not y.isfinite().all():
            raise ValueError(f"the autoencoder gave values that are not finite, among images {start} and following")
        made.append(((y / 2 + 0.5).clamp(0, 1) * 255).round().byte().cpu().numpy())
    return np.concatenate(made)


@torch.inference_mode()
def seconds_to_decode(vae: nn.Module, pixels: np.ndarray, runs: int = 5) -> float:
    """Seconds to decode the latents of 8-bit images (N, C, H, W) at once: the median of some runs after a first."""
    device, dtype = next(vae.parameters()).device, next(vae.parameters()).dtype
    z = vae.encode(to_input(pixels).to(device, dtype)).latent_dist.mean
    seconds = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        vae.decode(z).sample.cpu()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[1:]))


if __name__ == "__main__":
    from training.evaluation.reconstruction import main

    main()
