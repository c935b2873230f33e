"""A classifier of noisy images, p(y | x_t), whose gradient steers a diffusion model (Dhariwal & Nichol 2021, app. H).

    grad_{x_t} log p(y | x_t)    is what classifier guidance adds to the score         https://arxiv.org/abs/2105.05233

The downsampling half of their U-Net, told the timestep, and one of their four ways to pool (`EncoderUNetModel`). The
modules are diffusers' and `out` is built and named as the published one, so that published weights can be converted.
This file travels with its weights and imports nothing of ours.
"""

import math
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block
from diffusers.utils import BaseOutput
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

POOLS = ("attention", "adaptive", "spatial", "spatial_v2")
TIME_SCALE_SHIFTS = ("default", "scale_shift")


class AttentionPool2d(nn.Module):
    """CLIP's pooling (Radford et al. 2021): the mean, as one more token, attends to every position.

    Args:
        positions: number of places, H W
        channels: of the input
        head_dim: channels of a head
        outputs: length of what comes out
    """

    def __init__(self, positions: int, channels: int, head_dim: int, outputs: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(channels, positions + 1) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, outputs, 1)
        self.head_dim = head_dim

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, outputs)."""
        tokens = x.flatten(2)
        tokens = torch.cat([tokens.mean(2, keepdim=True), tokens], dim=2)
        tokens = tokens + self.positional_embedding.to(tokens.dtype)
        q, k, v = (part.unflatten(1, (-1, self.head_dim)) for part in self.qkv_proj(tokens).chunk(3, dim=1))
        scale = 1 / math.sqrt(math.sqrt(self.head_dim))  # on both factors: steadier in half precision
        weights = torch.einsum("nhct,nhcs->nhts", q * scale, k * scale)
        precise = torch.promote_types(weights.dtype, torch.float32)
        weights = weights.to(precise).softmax(-1).to(v.dtype)
        pooled = torch.einsum("nhts,nhcs->nhct", weights, v).flatten(1, 2)
        return self.c_proj(pooled)[:, :, 0]


@dataclass
class NoisyClassifierOutput(BaseOutput):
    """`logits`, (N, num_classes)."""

    logits: Tensor


class NoisyClassifier(ModelMixin, ConfigMixin):
    """log p(y | x_t) of images at any noise level; its config has the names of `UNet2DModel`'s.

    Args:
        sample_size: height and width of the images, an int or (height, width); "attention" cannot do without
        in_channels: of the images
        num_classes: how many classes it tells apart
        pool: "attention", "adaptive" (mean over places), "spatial" or "spatial_v2" (means at every depth)
        patch_size: p x p pixels are folded into channels on the way in (see patched_unet.py)
        block_out_channels, down_block_types, layers_per_block: the shape of the encoder, a level each
        attention_head_dim: channels of an attention head, there and in the pool
        time_embedding_channels: of the sines and cosines; default: `block_out_channels[0]`

    Raises:
        ValueError: a `pool`, `sample_size`, `patch_size`, `attention_head_dim`, `down_block_types` or
            `resnet_time_scale_shift` that cannot be built.
    """

    # half precision is for the network that it steers: its gradients are small differences
    _keep_in_fp32_modules = ["conv_in", "time_embedding", "down_blocks", "mid_block", "out"]

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 3,
        num_classes: int = 1000,
        pool: str = "attention",
        patch_size: int = 1,
        block_out_channels: tuple[int, ...] = (64, 128),
        down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D"),
        layers_per_block: int = 2,
        attention_head_dim: int = 64,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "scale_shift",
        downsample_type: str = "conv",
        dropout: float = 0.0,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        time_embedding_channels: int | None = None,
    ) -> None:
        super().__init__()
        _check(self.config)
        width, time_channels = block_out_channels[0], time_embedding_channels or block_out_channels[0]
        self.conv_in = nn.Conv2d(in_channels * patch_size**2, width, 3, padding=1)
        self.time_proj = Timesteps(time_channels, flip_sin_to_cos, freq_shift)
        self.time_embedding = TimestepEmbedding(time_channels, 4 * time_channels)
        shared = {"temb_channels": 4 * time_channels, "resnet_eps": norm_eps, "resnet_act_fn": "silu"}
        shared |= {"resnet_groups": norm_num_groups, "resnet_time_scale_shift": resnet_time_scale_shift}
        shared |= {"attention_head_dim": attention_head_dim, "dropout": dropout}
        self.down_blocks = nn.ModuleList(
            get_down_block(
                kind,
                num_layers=layers_per_block,
                in_channels=before,
                out_channels=channels,
                add_downsample=level < len(block_out_channels) - 1,
                downsample_padding=1,
                downsample_type=downsample_type,
                **shared,
            )
            for level, (kind, before, channels) in enumerate(
                zip(down_block_types, (width, *block_out_channels), block_out_channels, strict=False)
            )
        )
        # attn_groups: left out, diffusers would drop the attention's norm with scale_shift
        self.mid_block = UNetMidBlock2D(block_out_channels[-1], attn_groups=norm_num_groups, **shared)
        self.out = self._pool()

    def _pool(self) -> nn.Sequential:
        config, channels = self.config, self.config.block_out_channels[-1]
        norm = nn.GroupNorm(config.norm_num_groups, channels, eps=config.norm_eps)
        if config.pool == "attention":
            factor = _factor(config)
            positions = math.prod(size // factor for size in _pair(config.sample_size))
            pool = AttentionPool2d(positions, channels, config.attention_head_dim, config.num_classes)
            return nn.Sequential(norm, nn.SiLU(), pool)
        if config.pool == "adaptive":
            last = nn.Conv2d(channels, config.num_classes, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            return nn.Sequential(norm, nn.SiLU(), nn.AdaptiveAvgPool2d((1, 1)), last, nn.Flatten())
        first, last = nn.Linear(self._feature_size, 2048), nn.Linear(2048, config.num_classes)
        if config.pool == "spatial":
            return nn.Sequential(first, nn.ReLU(), last)
        return nn.Sequential(first, nn.GroupNorm(32, 2048), nn.SiLU(), last)

    @property
    def _feature_size(self) -> int:
        """Channels of conv_in, of every layer and downsampling, and of the middle block, together."""
        channels, layers = self.config.block_out_channels, self.config.layers_per_block
        return channels[0] + (layers + 1) * sum(channels)  # the last level does not halve; the middle block stands in

    def forward(
        self, sample: Tensor, timestep: Tensor | float | int, return_dict: bool | None = None
    ) -> Tensor | tuple[Tensor] | NoisyClassifierOutput:
        """sample (N, in_channels, H, W) in [-1, 1] before noise, timestep a number or (N,) -> logits (N, num_classes).

        The logits come in the dtype of the weights: as they are, or as diffusers' models give them, in an object with
        `return_dict=True` and in a tuple with False.
        """
        dtype = self.conv_in.weight.dtype
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        emb = self.time_embedding(self.time_proj(times).to(dtype))
        h = self.conv_in(pixel_unshuffle(sample.to(dtype), self.config.patch_size))
        depths = [h]
        for block in self.down_blocks:
            h, states = block(h, emb)
            depths.extend(states)
        h = self.mid_block(h, emb)
        if self.config.pool.startswith("spatial"):
            h = torch.cat([depth.mean((2, 3)) for depth in (*depths, h)], dim=1)
        logits = self.out(h)
        if return_dict is None:
            return logits
        return NoisyClassifierOutput(logits=logits) if return_dict else (logits,)

    def log_prob(self, sample: Tensor, timestep: Tensor | float | int, labels: Tensor | int) -> Tensor:
        """log p(labels | sample at timestep), (N,) in float32 or better and differentiable in `sample`.

        `sample` and `timestep` are those of `forward`; `labels` is an index or (N,). Autocast does not reach in here.
        """
        with torch.autocast(sample.device.type, enabled=False):
            logits = self(sample, timestep)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        index = torch.as_tensor(labels, device=logits.device).expand(len(logits))
        return logits.log_softmax(1).gather(1, index[:, None])[:, 0]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _factor(config: dict) -> int:
    """How many pixels of the image, per side, one position of the middle block covers."""
    return config["patch_size"] * 2 ** (len(config["block_out_channels"]) - 1)


def _check(config: dict) -> None:
    """Raise ValueError for what cannot be built, or what would be built silently wrong."""
    for name, allowed in (("pool", POOLS), ("resnet_time_scale_shift", TIME_SCALE_SHIFTS)):
        if config[name] not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {config[name]!r}")
    for name in ("patch_size", "num_classes", "layers_per_block", "attention_head_dim"):
        if config[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {config[name]}")
    kinds, channels, head = config["down_block_types"], config["block_out_channels"], config["attention_head_dim"]
    if len(kinds) != len(channels):
        raise ValueError(f"down_block_types must be one per level ({len(channels)}), got {len(kinds)}")
    attending = [width for kind, width in zip(kinds, channels, strict=True) if "Attn" in kind] + [channels[-1]]
    if any(width % head for width in attending):  # diffusers would round the number of heads down
        raise ValueError(f"attention_head_dim must divide the channels that attend {attending}, got {head}")
    size, factor = config["sample_size"], _factor(config)
    if size is None and config["pool"] == "attention":
        raise ValueError("sample_size must be given for the pool 'attention', which has an embedding a place")
    if size is not None and any(side < factor or side % factor for side in _pair(size)):
        raise ValueError(f"sample_size must be a multiple of {factor} (patches and {len(channels)} levels), got {size}")
