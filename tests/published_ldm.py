"""CompVis' autoencoders, written out from the structure of ldm/models/autoencoder.py; parameters bear their names."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class Block(nn.Module):
    """ResnetBlock without a timestep."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = norm(after), nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """AttnBlock: one head over all places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(self.norm(x)).flatten(2) for layer in (self.q, self.k, self.v))
        weights = (q.transpose(1, 2) @ k / math.sqrt(q.shape[1])).softmax(-1)
        return x + self.proj_out((v @ weights.transpose(1, 2)).reshape(x.shape))


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            Block(channels, channels),
            Attention(channels),
            Block(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Half(nn.Module):
    """Encoder (`way` "down") or Decoder ("up"); `up` counts its levels from the whole image, too."""

    def __init__(self, way: str, inputs: int, outputs: int, ch: int, mult: tuple[int, ...], layers: int) -> None:
        super().__init__()
        down, widths = way == "down", [ch * factor for factor in mult]
        order = list(range(len(mult)))[:: 1 if down else -1]
        channels = ch if down else widths[-1]
        self.way, self.order = way, order
        self.conv_in = nn.Conv2d(inputs, channels, 3, padding=1)
        levels = nn.ModuleList(nn.Module() for _ in mult)
        setattr(self, way, levels)
        self.mid = Middle(widths[-1])
        for level in order:
            levels[level].block = nn.ModuleList()
            for _ in range(layers if down else layers + 1):
                levels[level].block.append(Block(channels, widths[level]))
                channels = widths[level]
            if level != order[-1]:
                resample = nn.Module()
                resample.conv = nn.Conv2d(channels, channels, 3, stride=2 if down else 1, padding=0 if down else 1)
                setattr(levels[level], f"{way}sample", resample)
        self.norm_out, self.conv_out = norm(channels), nn.Conv2d(channels, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        x = x if self.way == "down" else self.mid(x)
        for level in self.order:
            part = getattr(self, self.way)[level]
            for block in part.block:
                x = block(x)
            if hasattr(part, "downsample"):
                x = part.downsample.conv(F.pad(x, (0, 1, 0, 1)))
            if hasattr(part, "upsample"):
                x = part.upsample.conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
        x = self.mid(x) if self.way == "down" else x
        return self.conv_out(F.silu(self.norm_out(x)))


class Autoencoder(nn.Module):
    """AutoencoderKL, or VQModel with `codes` vectors; every weight is drawn at random."""

    def __init__(self, ch: int, mult: tuple[int, ...], layers: int, latents: int, codes: int | None = None) -> None:
        super().__init__()
        twice = 1 if codes else 2
        self.encoder = Half("down", 3, twice * latents, ch, mult, layers)
        self.decoder = Half("up", latents, 3, ch, mult, layers)
        self.quant_conv = nn.Conv2d(twice * latents, twice * latents, 1)
        self.post_quant_conv = nn.Conv2d(latents, latents, 1)
        if codes:
            self.quantize = nn.Module()
            self.quantize.embedding = nn.Embedding(codes, latents)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in self.named_parameters():
            spread = 0.3 if parameter.ndim < 2 else 1 / math.sqrt(parameter[0].numel())
            offset = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.data = offset + spread * torch.randn(parameter.shape, generator=generator)

    def encode(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> what describes the latents, (N, latents or 2 latents, h, w)."""
        return self.quant_conv(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """(N, latents, h, w) -> (N, 3, H, W); a VQ model first takes the nearest code."""
        if hasattr(self, "quantize"):
            codes = self.quantize.embedding.weight
            nearest = ((z.permute(0, 2, 3, 1)[..., None, :] - codes) ** 2).sum(-1).argmin(-1)
            z = codes[nearest].permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(z))
