"""The published networks, written out from the structure of guided_diffusion/unet.py: parameters bear their names.

`UNet` is UNetModel and, given `low_res`, SuperResModel; `Encoder` is EncoderUNetModel. The UNetModel of
improved-diffusion is `UNet` with `num_heads`, the legacy order and convolutions that resample. Nothing here comes from
diffusers or from us.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """ResBlock; `resize` is 2 (up), 0.5 (down) or 1."""

    def __init__(self, net: Net, before: int, after: int, resize: float = 1) -> None:
        super().__init__()
        self.scale_shift, self.resize = net.scale_shift, resize
        self.in_layers = nn.Sequential(net.norm(before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * net.width, after * (2 if net.scale_shift else 1)))
        last = nn.Conv2d(after, after, 3, padding=1)
        self.out_layers = nn.Sequential(net.norm(after), nn.SiLU(), nn.Dropout(0.1), last)
        self.skip_connection = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        h = conv(resized(act(norm(x)), self.resize))
        told = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + told)
        return self.skip_connection(resized(x, self.resize)) + h


def resized(x: Tensor, factor: float) -> Tensor:
    """Doubled by repeating, halved by averaging, or as it is."""
    if factor == 1:
        return x
    return F.avg_pool2d(x, 2) if factor < 1 else x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


class Resample(nn.Module):
    """Upsample (its convolution is called conv) or Downsample (op)."""

    def __init__(self, channels: int, factor: float, with_conv: bool) -> None:
        super().__init__()
        self.factor, self.name = factor, "conv" if factor > 1 else "op"
        if with_conv:
            setattr(self, self.name, nn.Conv2d(channels, channels, 3, stride=1 if factor > 1 else 2, padding=1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        conv = getattr(self, self.name, None)
        if conv is None:
            return resized(x, self.factor)
        return conv(resized(x, 2) if self.factor > 1 else x)


class Attention(nn.Module):
    """AttentionBlock, in the legacy order (split into heads, then q, k, v) or the new one (q, k, v, then heads)."""

    def __init__(self, net: Net, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.new_order = heads, net.new_order
        self.norm, self.qkv = net.norm(channels), nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        flat = x.flatten(2)
        mixed = attend(self.qkv(self.norm(flat)), self.heads, self.new_order)
        return (flat + self.proj_out(mixed)).reshape(x.shape)


def attend(qkv: Tensor, heads: int, new_order: bool) -> Tensor:
    """(N, 3C, L) -> (N, C, L)."""
    count, rows, length = qkv.shape
    d = rows // (3 * heads)
    parts = qkv.reshape(count, 3, heads, d, length) if new_order else qkv.reshape(count, heads, 3, d, length)
    q, k, v = parts.unbind(1 if new_order else 2)
    weights = (q.transpose(-1, -2) @ k / math.sqrt(d)).softmax(-1)
    return (v @ weights.transpose(-1, -2)).reshape(count, rows // 3, length)


class Pool(nn.Module):
    """AttentionPool2d."""

    def __init__(self, places: int, channels: int, head: int, outputs: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(channels, places + 1))
        self.qkv_proj, self.c_proj = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, outputs, 1)
        self.heads = channels // head

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)
        tokens = torch.cat([tokens.mean(-1, keepdim=True), tokens], dim=-1) + self.positional_embedding
        return self.c_proj(attend(self.qkv_proj(tokens), self.heads, new_order=True))[..., 0]


class Stage(nn.Sequential):
    """TimestepEmbedSequential."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, emb)
        return x


class Net(nn.Module):
    """What the U-Net and the classifier share: the time, the way down and the middle.

    `attention` holds the factors of downsampling at which there is attention; every weight is drawn at random, and
    none left at 0 or 1, so that each of them matters.
    """

    def __init__(
        self,
        *,
        width: int,
        mult: tuple[float, ...],
        layers: int = 1,
        attention: tuple[int, ...] = (),
        in_channels: int = 3,
        num_heads: int = 1,
        head_channels: int = -1,
        scale_shift: bool = True,
        resblock_updown: bool = False,
        conv_resample: bool = True,
        new_order: bool = False,
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.width, self.mult, self.layers, self.attention = width, mult, layers, attention
        self.num_heads, self.head_channels, self.scale_shift = num_heads, head_channels, scale_shift
        self.updown, self.conv_resample = resblock_updown, conv_resample
        self.new_order, self.groups = new_order, groups
        self.time_embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        channels = int(mult[0] * width)
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(in_channels, channels, 3, padding=1))])
        self.depths = [channels]
        for level, factor in enumerate(mult):
            for _ in range(layers):
                after = int(factor * width)
                self.add(self.input_blocks, [Block(self, channels, after), *self.attending(after, 2**level, num_heads)])
                self.depths.append(channels := after)
            if level < len(mult) - 1:
                self.add(self.input_blocks, [self.resampling(channels, 0.5)])
                self.depths.append(channels)
        middle = [Block(self, channels, channels), *self.attending(channels, None, num_heads)]
        self.middle_block = Stage(*middle, Block(self, channels, channels))

    def norm(self, channels: int) -> nn.Module:
        return nn.GroupNorm(self.groups, channels, eps=1e-5)

    def attending(self, channels: int, factor: int | None, heads: int) -> list[Attention]:
        heads = heads if self.head_channels == -1 else channels // self.head_channels
        return [Attention(self, channels, heads)] if factor is None or factor in self.attention else []

    def resampling(self, channels: int, factor: float) -> nn.Module:
        if self.updown:
            return Block(self, channels, channels, factor)
        return Resample(channels, factor, self.conv_resample)

    @staticmethod
    def add(blocks: nn.ModuleList, layers: list[nn.Module]) -> None:
        blocks.append(Stage(*layers))

    def embedding(self, t: Tensor) -> Tensor:
        half = self.width // 2
        angles = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half).float() / half)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.time_embed(waves.to(self.time_embed[0].weight.dtype))

    def randomized(self, seed: int = 0) -> Net:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            spread = 0.3 if parameter.ndim < 2 else 1 / math.sqrt(parameter[0].numel())
            offset = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.data = offset + spread * noise
        return self.eval()


class UNet(Net):
    """UNetModel, and SuperResModel where it is called with an image `low_res`."""

    def __init__(
        self, *, outputs: int = 3, num_classes: int | None = None, up_heads: int | None = None, **shape: object
    ) -> None:
        super().__init__(**shape)
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, 4 * self.width)
        channels, depths = self.depths[-1], list(self.depths)
        self.output_blocks = nn.ModuleList()
        for level, factor in reversed(list(enumerate(self.mult))):
            for i in range(self.layers + 1):
                after = int(factor * self.width)
                layers = [Block(self, channels + depths.pop(), after)]
                layers += self.attending(after, 2**level, up_heads or self.num_heads)
                layers += [self.resampling(after, 2)] if level and i == self.layers else []
                self.add(self.output_blocks, layers)
                channels = after
        self.out = nn.Sequential(self.norm(channels), nn.SiLU(), nn.Conv2d(channels, outputs, 3, padding=1))
        self.randomized()

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, low_res: Tensor | None = None) -> Tensor:
        """x (N, C, H, W), t (N,), y (N,), low_res (N, C, h, w) -> (N, outputs, H, W)."""
        if low_res is not None:
            x = torch.cat([x, F.interpolate(low_res, x.shape[-2:], mode="bilinear")], dim=1)
        emb = self.embedding(t)
        if y is not None:
            emb = emb + self.label_emb(y)
        kept = []
        for block in self.input_blocks:
            kept.append(x := block(x, emb))
        x = self.middle_block(x, emb)
        for block in self.output_blocks:
            x = block(torch.cat([x, kept.pop()], dim=1), emb)
        return self.out(x)


class Encoder(Net):
    """EncoderUNetModel with one of its four pools, for images of `size` pixels."""

    def __init__(self, *, size: int, pool: str, outputs: int, **shape: object) -> None:
        super().__init__(**shape)
        self.pool, channels = pool, self.depths[-1]
        if pool == "adaptive":
            last = nn.Conv2d(channels, outputs, 1)
            self.out = nn.Sequential(self.norm(channels), nn.SiLU(), nn.AdaptiveAvgPool2d(1), last, nn.Flatten())
        elif pool == "attention":
            places = (size // 2 ** (len(self.mult) - 1)) ** 2
            self.out = nn.Sequential(
                self.norm(channels), nn.SiLU(), Pool(places, channels, self.head_channels, outputs)
            )
        else:
            first, last = nn.Linear(sum(self.depths) + channels, 2048), nn.Linear(2048, outputs)
            between = [nn.ReLU()] if pool == "spatial" else [nn.GroupNorm(32, 2048), nn.SiLU()]
            self.out = nn.Sequential(first, *between, last)
        self.randomized()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (N, C, H, W), t (N,) -> logits (N, outputs)."""
        emb, means = self.embedding(t), []
        for block in [*self.input_blocks, self.middle_block]:
            x = block(x, emb)
            means.append(x.mean((2, 3)))
        return self.out(torch.cat(means, dim=1) if self.pool.startswith("spatial") else x)
