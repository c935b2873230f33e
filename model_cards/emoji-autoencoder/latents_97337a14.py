"""Images to the latents of an autoencoder, and back (Rombach et al. 2022, https://arxiv.org/abs/2112.10752, section 3).

    z_0 = s (mu(x) - m),   x = D(z_0 / s + m)

mu(x) is the mean of the encoder's posterior; s and m are the `scaling_factor` and the `shift_factor` of the config,
which bring z_0 to mean 0 and standard deviation 1. Images are decoded one at a time, so that none depends on what lies
beside it, and memory is that of one image.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from .facts_c265849c import spatial_factor
from .image_inputs_34f57068 import Images, given_pixels


@torch.no_grad()
def encode(vae: nn.Module, images: Tensor, batch_size: int = 1) -> Tensor:
    """z_0, float32 (N, c, h, w), of images (N, C, H, W) in [-1, 1], `batch_size` of them at a time.

    The last bits depend on the batch: with 1 they are those of each image alone.
    """
    means = [vae.encode(some.to(vae.dtype)).latent_dist.mean for some in images.split(batch_size)]
    return (torch.cat(means).float() - _shift(vae)) * vae.config.scaling_factor


@torch.no_grad()
def decode(vae: nn.Module, latents: Tensor) -> Tensor:
    """x, (N, C, H, W) in about [-1, 1], of latents (N, c, h, w), in their dtype."""
    z = latents / vae.config.scaling_factor + _shift(vae)
    return torch.cat([vae.decode(one.to(vae.dtype)).sample for one in z.split(1)]).to(latents.dtype)


def latents_of(
    vae: nn.Module,
    image: Images | None,
    mask_image: Images | None,
    image_shape: tuple[int, int, int],
    count: int,
    device: torch.device,
) -> tuple[Tensor | None, Tensor | None]:
    """z_0 of an image to begin with, (N, c, h, w), and where to draw, bool of the same shape; None where not given.

    A latent is drawn where any of its pixels is. N is `count`, for which one image or mask may stand; `image_shape` is
    (C, H, W).

    Raises:
        ValueError: a mask without an image, or images and masks of another size or number.
    """
    y, mask = given_pixels(image, mask_image, image_shape, count)
    if y is None:
        return None, None
    z = encode(vae, y.to(device)).expand(count, -1, -1, -1)
    if mask is None:
        return z, None
    return z, (max_pool2d(mask.float(), spatial_factor(vae.config)) > 0).to(device).expand_as(z)


def check_latents(vae: nn.Module | None, channels: int) -> None:
    """Raise ValueError if the latents of `vae` have other `channels` than the network that denoises them."""
    latent_channels = channels if vae is None else vae.config.get("latent_channels", channels)
    if latent_channels != channels:
        raise ValueError(f"vae must have the network's {channels} latent channels, got {latent_channels}")


def _shift(vae: nn.Module) -> float:
    return vae.config.get("shift_factor") or 0.0
