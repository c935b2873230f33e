"""A KL autoencoder behind a pixel-unshuffle: its two halves see patches, and a small residual mends their seams.

    E(x) = N(mu, sigma^2) of unshuffle(x),   D(z) = y + r(y),   y = shuffle(D'(z))

Almost all of the work of `AutoencoderKL` is done at the resolution of the image. Folding p x p pixels into channels
(space-to-depth; Shi et al. 2016, https://arxiv.org/abs/1609.05158) skips it, and r, two 3x3 convolutions at the full
resolution, starts at zero. This file travels with its weights and imports nothing of ours.
"""

import torch
from diffusers import AutoencoderKL
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

OWN = ("patch_size", "residual_channels", "latent_rgb_factors", "latent_rgb_bias")  # arguments that the parent lacks


class PatchedAutoencoderKL(AutoencoderKL):
    """`AutoencoderKL` over patches of `patch_size` x `patch_size` pixels; its config speaks of pixels.

    The other arguments are those of `AutoencoderKL`; `sample_size`, `in_channels` and `out_channels` are in pixels.

    Args:
        residual_channels: of the two convolutions after the patches are unfolded
        latent_rgb_factors, latent_rgb_bias: (out_channels, latent_channels) and (out_channels,), a linear map of the
            latents that `decode` takes to pixels in [-1, 1], one for each of their positions: a cheap preview

    Raises:
        ValueError: `sample_size` is no multiple of `patch_size * 2 ** (levels - 1)`, or `patch_size` is below 1.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 128,
        in_channels: int = 3,
        out_channels: int = 3,
        patch_size: int = 4,
        residual_channels: int = 16,
        down_block_types: tuple[str, ...] = ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types: tuple[str, ...] = ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels: tuple[int, ...] = (128, 128),
        layers_per_block: int = 1,
        act_fn: str = "silu",
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        scaling_factor: float = 1.0,
        shift_factor: float | None = None,
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
        force_upcast: bool = False,
        use_quant_conv: bool = False,
        use_post_quant_conv: bool = False,
        mid_block_add_attention: bool = False,
        latent_rgb_factors: tuple[tuple[float, ...], ...] | None = None,
        latent_rgb_bias: tuple[float, ...] | None = None,
    ) -> None:
        _check_sizes(sample_size, patch_size, len(block_out_channels))
        inner = {key: value for key, value in self.config.items() if key not in OWN and not key.startswith("_")}
        inner |= {"in_channels": in_channels * patch_size**2, "out_channels": out_channels * patch_size**2}
        inner["sample_size"] = min(_sides(sample_size)) // patch_size  # of the tiles, should someone ask for them
        super().__init__(**inner)
        # the parent has registered what it sees; a caller deals in pixels
        self.register_to_config(in_channels=in_channels, out_channels=out_channels, sample_size=sample_size)
        self.residual = nn.Sequential(
            nn.Conv2d(out_channels, residual_channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(residual_channels, out_channels, 3, padding=1),
        )
        nn.init.zeros_(self.residual[2].weight)
        nn.init.zeros_(self.residual[2].bias)

    @property
    def spatial_compression_ratio(self) -> int:
        """How many pixels of a side become one of a latent's."""
        return self.config.patch_size * 2 ** (len(self.config.block_out_channels) - 1)

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        return super()._encode(pixel_unshuffle(x, self.config.patch_size))

    def _decode(self, z: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        (patches,) = super()._decode(z, return_dict=False)
        image = pixel_shuffle(patches, self.config.patch_size)
        image = image + self.residual(image)
        return DecoderOutput(sample=image) if return_dict else (image,)


def _sides(sample_size: int | tuple[int, int]) -> tuple[int, ...]:
    return (sample_size,) if isinstance(sample_size, int) else tuple(sample_size)


def _check_sizes(sample_size: int | tuple[int, int], patch_size: int, levels: int) -> None:
    if sample_size is None:
        raise ValueError("sample_size must be an integer or (height, width), got None")
    if patch_size < 1:
        raise ValueError(f"patch_size must be at least 1, got {patch_size}")
    factor = patch_size * 2 ** (levels - 1)
    if any(size % factor for size in _sides(sample_size)):
        raise ValueError(f"sample_size must be a multiple of {factor} (patches and {levels} levels), got {sample_size}")
