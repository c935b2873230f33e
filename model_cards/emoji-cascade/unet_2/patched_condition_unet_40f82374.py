"""A U-Net for prompts, behind a pixel-unshuffle: diffusers' `UNet2DConditionModel` over patches.

It is told the prompt by cross-attention to its tokens, by one embedding of it that is added to that of the time, or
both, as the config says. Folding p x p values into channels (space-to-depth; Shi et al. 2016,
https://arxiv.org/abs/1609.05158) skips the layers at the full resolution. This file travels with its weights and
imports nothing of ours.

    output = shuffle(U(unshuffle(x), t)) + W(t) y

A network of super-resolution is given the enlarged small image y in the second half of its channels, and most of x_0 is
known from it. W(t), a small matrix that is the same for every pixel, hands it to the output (`low_resolution_skip`),
and U is left with the detail. x_t is not handed over: U would have to take its noise off again.
"""

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

OWN = ("patch_size", "low_resolution_skip")  # arguments that the parent lacks


class PatchedUNet2DConditionModel(UNet2DConditionModel):
    """`UNet2DConditionModel` over patches of `patch_size` x `patch_size`; its config speaks of what it denoises.

    The arguments are those of `UNet2DConditionModel`; `sample_size`, `in_channels` and `out_channels` are those of a
    sample. With `class_embed_type="projection"` the embedding of a prompt, of
    `projection_class_embeddings_input_dim` values, is passed as `class_labels`.

    Args:
        low_resolution_skip: whether W(t) y is added, where y are the channels in the second half and W(t),
            (out_channels, in_channels / 2), is made from the embedding of the time and 0 at first

    Raises:
        ValueError: `sample_size` is no multiple of `patch_size * 2 ** (levels - 1)`, or `patch_size` is below 1.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 4,
        out_channels: int = 4,
        patch_size: int = 2,
        center_input_sample: bool = False,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        down_block_types: tuple[str, ...] = ("AttnDownBlock2D", "AttnDownBlock2D"),
        mid_block_type: str | None = "UNetMidBlock2D",
        up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D"),
        only_cross_attention: bool | tuple[bool] = False,
        block_out_channels: tuple[int, ...] = (256, 256),
        layers_per_block: int | tuple[int] = 1,
        downsample_padding: int = 1,
        mid_block_scale_factor: float = 1,
        dropout: float = 0.0,
        act_fn: str = "silu",
        norm_num_groups: int | None = 32,
        norm_eps: float = 1e-05,
        cross_attention_dim: int | tuple[int] = 384,
        transformer_layers_per_block: int | tuple[int] | tuple[tuple] = 1,
        reverse_transformer_layers_per_block: tuple[tuple[int]] | None = None,
        encoder_hid_dim: int | None = None,
        encoder_hid_dim_type: str | None = None,
        attention_head_dim: int | tuple[int] = 64,
        num_attention_heads: int | tuple[int] | None = None,
        dual_cross_attention: bool = False,
        use_linear_projection: bool = False,
        class_embed_type: str | None = "projection",
        addition_embed_type: str | None = None,
        addition_time_embed_dim: int | None = None,
        num_class_embeds: int | None = None,
        upcast_attention: bool = False,
        resnet_time_scale_shift: str = "scale_shift",
        resnet_skip_time_act: bool = False,
        resnet_out_scale_factor: float = 1.0,
        time_embedding_type: str = "positional",
        time_embedding_dim: int | None = None,
        time_embedding_act_fn: str | None = None,
        timestep_post_act: str | None = None,
        time_cond_proj_dim: int | None = None,
        conv_in_kernel: int = 3,
        conv_out_kernel: int = 3,
        projection_class_embeddings_input_dim: int | None = 384,
        attention_type: str = "default",
        class_embeddings_concat: bool = False,
        mid_block_only_cross_attention: bool | None = None,
        cross_attention_norm: str | None = None,
        addition_embed_type_num_heads: int = 64,
        low_resolution_skip: bool = False,
    ) -> None:
        _check_sizes(sample_size, patch_size, len(block_out_channels))
        _check_heads(attention_head_dim, block_out_channels, down_block_types, up_block_types)
        inner = {key: value for key, value in self.config.items() if key not in OWN and not key.startswith("_")}
        inner |= {"in_channels": in_channels * patch_size**2, "out_channels": out_channels * patch_size**2}
        super().__init__(**inner)
        # the parent has registered what it sees; a caller deals in samples
        self.register_to_config(in_channels=in_channels, out_channels=out_channels)
        if low_resolution_skip:
            width = self.time_embedding.linear_2.out_features
            self.skip = nn.Sequential(nn.SiLU(), nn.Linear(width, out_channels * (in_channels // 2)))
            nn.init.zeros_(self.skip[1].weight)
            nn.init.zeros_(self.skip[1].bias)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor | None = None,
        class_labels: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        timestep_cond: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[torch.Tensor]:
        """The prediction (N, out_channels, H, W) for samples (N, in_channels, H, W).

        Args:
            sample: (N, in_channels, H, W)
            timestep: a scalar or (N,)
            encoder_hidden_states: (N, tokens, width), for networks with cross-attention
            class_labels: (N, width) embeddings, or (N,) labels
            encoder_attention_mask: (N, tokens), 1 for tokens to attend to
            timestep_cond: (N, time_cond_proj_dim), added to the embedding of the time
            return_dict: False gives a tuple
        """
        (output,) = super().forward(
            pixel_unshuffle(sample, self.config.patch_size),
            timestep,
            encoder_hidden_states,
            class_labels=class_labels,
            encoder_attention_mask=encoder_attention_mask,
            timestep_cond=timestep_cond,
            return_dict=False,
        )
        output = pixel_shuffle(output, self.config.patch_size)
        if self.config.low_resolution_skip:
            output = output + self._skip(sample, timestep, timestep_cond)
        return UNet2DConditionOutput(sample=output) if return_dict else (output,)

    def _skip(
        self, sample: torch.Tensor, timestep: torch.Tensor | float | int, timestep_cond: torch.Tensor | None
    ) -> torch.Tensor:
        """W(t) y: (N, out_channels, H, W)."""
        time = self.time_embedding(self.get_time_embed(sample, timestep), timestep_cond)
        y = sample[:, self.config.in_channels // 2 :]
        weights = self.skip(time).unflatten(1, (self.config.out_channels, y.shape[1]))
        return (weights[..., None, None] * y[:, None]).sum(2).to(sample.dtype)


def _check_heads(
    heads: int | tuple[int], widths: tuple[int, ...], downs: tuple[str, ...], ups: tuple[str, ...]
) -> None:
    """Raise ValueError for more than a level that attends is wide: it would be built without any heads."""
    each = (heads,) * len(widths) if isinstance(heads, int) else tuple(heads)
    levels = zip(each, widths, downs, reversed(ups), strict=True)
    wrong = [width for head, width, down, up in levels if "Attn" in f"{down} {up}" and not 1 <= head <= width]
    if wrong:
        raise ValueError(
            f"attention_head_dim must be 1 to {min(wrong)}, the width of a level that attends, got {heads}"
        )


def _check_sizes(sample_size: int | tuple[int, int] | None, patch_size: int, levels: int) -> None:
    if patch_size < 1:
        raise ValueError(f"patch_size must be at least 1, got {patch_size}")
    factor = patch_size * 2 ** (levels - 1)
    sizes = (sample_size,) if isinstance(sample_size, int) else sample_size or ()
    if any(size % factor for size in sizes):
        raise ValueError(f"sample_size must be a multiple of {factor} (patches and {levels} levels), got {sample_size}")
