"""What a step looks like before the run ends: pixels as they are, and latents by a linear map.

    rgb = W z + b,   z = z_0 / s + m

An autoencoder may have W and b in its config, `latent_rgb_factors` and `latent_rgb_bias`, which give each position of
its latents one colour. Without them a step is decoded, which takes several times as long as the step itself.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from pipelines.facts import spatial_factor


def preview_of(pipe: Any, to_images: Callable[..., Any]) -> tuple[Callable[[Any], np.ndarray], int]:
    """What turns a sample (N, C, h, w) into a preview, (N, H, W, C) uint8, and how many pixels of an image each of its
    pixels stands for; `to_images` decodes where there is no map."""
    config = getattr(getattr(pipe, "vae", None), "config", {})
    if not config.get("latent_rgb_factors"):
        return lambda sample: to_uint8(to_images(sample, "np")), 1
    return lambda sample: _colours(sample, config), spatial_factor(config)


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """(N, H, W, C) in [0, 1] -> uint8, rounded as diffusers rounds its images."""
    return (pixels * 255).round().astype(np.uint8)


def enlarged(images: np.ndarray, factor: int) -> np.ndarray:
    """(N, H, W, C) uint8 with sides `factor` times as long; C is 1 or 3.

    Smooth to twice their size and squares from there on: all smooth, a PNG took seven times as long to write.
    """
    if factor % 2:
        return images.repeat(factor, 1).repeat(factor, 2)
    count, height, width, channels = images.shape
    flat = (Image.fromarray(image.squeeze(2) if channels == 1 else image) for image in images)
    smooth = [np.asarray(image.resize((2 * width, 2 * height), Image.Resampling.BICUBIC)) for image in flat]
    doubled = np.stack(smooth).reshape(count, 2 * height, 2 * width, channels)
    return doubled.repeat(factor // 2, 1).repeat(factor // 2, 2)


def _colours(latents: Any, config: Any) -> np.ndarray:
    z = (latents.float() / config["scaling_factor"] + (config.get("shift_factor") or 0.0)).movedim(1, -1).cpu().numpy()
    factors, bias = (np.asarray(config[f"latent_rgb_{name}"], np.float32) for name in ("factors", "bias"))
    return to_uint8(((z @ factors.T + bias) / 2 + 0.5).clip(0, 1))
