"""A U-Net behind a pixel-unshuffle: it sees (C p^2, H/p, W/p) and speaks (C, H, W), so samplers stay in pixels.

The two layers at the full resolution are the dearest of a pixel U-Net and add the least to small images. Folding
p x p pixels into channels (space-to-depth; Shi et al. 2016, https://arxiv.org/abs/1609.05158) skips them: about three
times as many images per second at 28 x 28. This file travels with its weights and imports nothing of ours.
"""

import torch
from diffusers import UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


class PatchedUNet2DModel(UNet2DModel):
    """`UNet2DModel` over patches of `patch_size` x `patch_size` pixels; its config speaks of pixels.

    The arguments are those of `UNet2DModel`; `sample_size`, `in_channels` and `out_channels` are in pixels.

    Raises:
        ValueError: `sample_size` is no multiple of `patch_size * 2 ** (levels - 1)`, `patch_size` is below 1, or
            `attention_head_dim` is wider than a level that attends.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        patch_size: int = 2,
        center_input_sample: bool = False,
        time_embedding_type: str = "positional",
        time_embedding_dim: int | None = None,
        freq_shift: int = 0,
        flip_sin_to_cos: bool = True,
        down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D"),
        mid_block_type: str | None = "UNetMidBlock2D",
        up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels: tuple[int, ...] = (128, 128),
        layers_per_block: int = 1,
        mid_block_scale_factor: float = 1,
        downsample_padding: int = 1,
        downsample_type: str = "conv",
        upsample_type: str = "conv",
        dropout: float = 0.0,
        act_fn: str = "silu",
        attention_head_dim: int | None = 64,
        norm_num_groups: int = 32,
        attn_norm_num_groups: int | None = None,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "scale_shift",
        add_attention: bool = True,
        class_embed_type: str | None = None,
        num_class_embeds: int | None = None,
        num_train_timesteps: int | None = None,
    ) -> None:
        _check_sizes(sample_size, patch_size, len(block_out_channels))
        attending = [width for kind, width in zip(down_block_types, block_out_channels, strict=True) if "Attn" in kind]
        ups = zip(up_block_types, reversed(block_out_channels), strict=True)
        attending += [width for kind, width in ups if "Attn" in kind]
        attending += block_out_channels[-1:] if add_attention and mid_block_type is not None else ()
        _check_heads(attention_head_dim, attending)
        inner = {key: value for key, value in self.config.items() if key != "patch_size" and not key.startswith("_")}
        inner |= {"in_channels": in_channels * patch_size**2, "out_channels": out_channels * patch_size**2}
        super().__init__(**inner)
        # the parent has registered what it sees; a caller deals in pixels
        self.register_to_config(in_channels=in_channels, out_channels=out_channels)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """sample (N, in_channels, H, W), timestep scalar or (N,), class_labels (N,) -> (N, out_channels, H, W)."""
        patches = pixel_unshuffle(sample, self.config.patch_size)
        (output,) = super().forward(patches, timestep, class_labels, return_dict=False)
        output = pixel_shuffle(output, self.config.patch_size)
        return UNet2DOutput(sample=output) if return_dict else (output,)


def _check_heads(attention_head_dim: int | None, attending: list[int]) -> None:
    """Raise ValueError for heads wider than a level that attends: diffusers would build it without any."""
    if attention_head_dim is not None and attending and not 1 <= attention_head_dim <= min(attending):
        raise ValueError(
            f"attention_head_dim must be 1 to {min(attending)}, the width of the narrowest level that attends, "
            f"got {attention_head_dim}"
        )


def _check_sizes(sample_size: int | tuple[int, int] | None, patch_size: int, levels: int) -> None:
    if patch_size < 1:
        raise ValueError(f"patch_size must be at least 1, got {patch_size}")
    factor = patch_size * 2 ** (levels - 1)
    sizes = (sample_size,) if isinstance(sample_size, int) else sample_size or ()
    if any(size % factor for size in sizes):
        raise ValueError(f"sample_size must be a multiple of {factor} (patches and {levels} levels), got {sample_size}")
