"""The published U-Nets that `UNet2DModel` has no config for (Dhariwal & Nichol 2021, Nichol & Dhariwal 2021).

Its config fixes one width of attention heads for all levels; ties the sines and cosines of the timestep to the width of
the first level; always resamples with a convolution; and shows the network the timestep as it is. The published ones
may have a fixed number of heads, a first level of half the width, resampling without weights, and count the time up to
1000 whatever the length of the schedule. https://arxiv.org/abs/2105.05233, https://arxiv.org/abs/2102.09672

This file travels with its weights and imports nothing of ours.
"""

import torch
from diffusers import UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.models.upsampling import Upsample2D
from torch import nn

OURS = ("up_attention_head_dim", "time_embedding_channels", "timestep_scale", "conv_resample")


class ADMUNet2DModel(UNet2DModel):
    """`UNet2DModel` whose levels may differ in the width of their attention heads; its other arguments are the same.

    A stock `UNet2DModel` given this config fails on `attention_head_dim`, rather than run as another network.

    Args:
        attention_head_dim: channels of a head at each level, widest image first; the last is the middle's, too
        up_attention_head_dim: the same on the way up; default: as on the way down
        time_embedding_channels: of the sines and cosines; default: `block_out_channels[0]`
        timestep_scale: the network sees the timestep times this
        conv_resample: False: "conv" levels halve by averaging and double by repeating, without weights

    Raises:
        ValueError: an `attention_head_dim` or `up_attention_head_dim` that is not one per level, or divides no width.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        center_input_sample: bool = False,
        time_embedding_type: str = "positional",
        time_embedding_dim: int | None = None,
        freq_shift: int = 0,
        flip_sin_to_cos: bool = True,
        down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D"),
        mid_block_type: str | None = "UNetMidBlock2D",
        up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels: tuple[int, ...] = (128, 256),
        layers_per_block: int = 2,
        mid_block_scale_factor: float = 1,
        downsample_padding: int = 1,
        downsample_type: str = "conv",
        upsample_type: str = "conv",
        dropout: float = 0.0,
        act_fn: str = "silu",
        attention_head_dim: tuple[int, ...] = (64, 64),
        norm_num_groups: int = 32,
        attn_norm_num_groups: int | None = 32,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "scale_shift",
        add_attention: bool = True,
        class_embed_type: str | None = None,
        num_class_embeds: int | None = None,
        num_train_timesteps: int | None = None,
        up_attention_head_dim: tuple[int, ...] | None = None,
        time_embedding_channels: int | None = None,
        timestep_scale: float = 1.0,
        conv_resample: bool = True,
    ) -> None:
        down, up = attention_head_dim, up_attention_head_dim or attention_head_dim
        _check_heads("attention_head_dim", down, block_out_channels)
        _check_heads("up_attention_head_dim", up, block_out_channels)
        channels = time_embedding_channels or block_out_channels[0]
        stock = {key: value for key, value in self.config.items() if key not in OURS and not key.startswith("_")}
        stock |= {"attention_head_dim": None, "time_embedding_dim": time_embedding_dim or 4 * channels}
        super().__init__(**stock)
        # the parent has registered what it sees
        self.register_to_config(attention_head_dim=attention_head_dim, time_embedding_dim=time_embedding_dim)
        self.time_proj = Timesteps(channels, flip_sin_to_cos, freq_shift)
        self.time_embedding = TimestepEmbedding(channels, time_embedding_dim or 4 * channels)
        for head, block in zip((*down, down[-1], *reversed(up)), self._levels(), strict=True):
            _set_heads(block, head)
        if not conv_resample:
            self._resample_without_weights()

    def _levels(self) -> list[nn.Module]:
        return [*self.down_blocks, self.mid_block, *self.up_blocks]

    def _resample_without_weights(self) -> None:
        for block, channels in zip(self.down_blocks, self.config.block_out_channels, strict=True):
            if isinstance((block.downsamplers or [None])[0], Downsample2D):
                block.downsamplers[0] = Downsample2D(channels, use_conv=False)
        for block, channels in zip(self.up_blocks, reversed(self.config.block_out_channels), strict=True):
            if isinstance((block.upsamplers or [None])[0], Upsample2D):
                block.upsamplers[0] = Upsample2D(channels, use_conv=False)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """sample (N, in_channels, H, W), timestep scalar or (N,), class_labels (N,) -> (N, out_channels, H, W)."""
        times = torch.as_tensor(timestep, device=sample.device).float() * self.config.timestep_scale
        return super().forward(sample, times, class_labels, return_dict)


def _set_heads(block: nn.Module, head_dim: int) -> None:
    for attention in getattr(block, "attentions", None) or ():
        if isinstance(attention, Attention):
            attention.heads = attention.sliceable_head_dim = attention.inner_dim // head_dim
            attention.scale = head_dim**-0.5


def _check_heads(name: str, heads: tuple[int, ...], widths: tuple[int, ...]) -> None:
    fits = isinstance(heads, (tuple, list)) and len(heads) == len(widths)
    if not fits or any(head < 1 or width % head for head, width in zip(heads, widths, strict=True)):
        raise ValueError(f"{name} must be one per level and divide its channels {tuple(widths)}, got {heads}")
