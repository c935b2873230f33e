"""The classifier of noisy pictures is the published one, written out below from the structure of its code."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv1d, conv2d, group_norm, linear, relu, silu

from pipelines import NoisyClassifier
from pipelines.noisy_classifier import POOLS

GROUPS, HEAD, LAYERS, TIME = 4, 8, 2, 32
SHAPE = dict(
    sample_size=8,
    in_channels=3,
    num_classes=5,
    block_out_channels=(16, 16, 32),
    layers_per_block=LAYERS,
    attention_head_dim=HEAD,
    norm_num_groups=GROUPS,
)
VARIANTS = {
    "scale_shift": dict(
        resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        downsample_type="resnet",
        time_embedding_channels=TIME,  # a first multiplier of one half
    ),
    "default": dict(
        resnet_time_scale_shift="default",
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        time_embedding_channels=TIME,
    ),
}


def make(pool: str = "attention", variant: str = "scale_shift", **changes: object) -> NoisyClassifier:
    """A small classifier in float64 whose every weight matters: none is left at 0 or 1."""
    torch.manual_seed(0)
    model = NoisyClassifier(**SHAPE | VARIANTS[variant] | {"pool": pool} | changes).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs(count: int = 3) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x.requires_grad_(), torch.tensor([0, 17, 999])[:count]


# --- the published names of our weights ---

KINDS = ("weight", "bias")
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def published_weights(model: NoisyClassifier) -> dict[str, Tensor]:
    """The state dict under guided-diffusion's names, attention in its legacy order (heads, 3, channels of a head)."""
    state = dict(model.named_parameters())
    found = {f"time_embed.{i}.{k}": state[f"time_embedding.linear_{n}.{k}"] for i, n in ((0, 1), (2, 2)) for k in KINDS}
    found |= {f"input_blocks.0.0.{k}": state[f"conv_in.{k}"] for k in KINDS}
    number, places = 1, {}
    for level, block in enumerate(model.down_blocks):
        for layer in range(LAYERS):
            places[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers is not None:
            places[f"down_blocks.{level}.downsamplers.0"] = f"input_blocks.{number}.0"
            number += 1
    for ours, theirs in (("resnets.0", 0), ("attentions.0", 1), ("resnets.1", 2)):
        places[f"mid_block.{ours}"] = f"middle_block.{theirs}"
    for ours, theirs in places.items():
        parts = {name.removeprefix(f"{ours}."): value for name, value in state.items() if name.startswith(f"{ours}.")}
        if not parts:
            continue
        if "attentions" in ours:
            found |= attention_weights(parts, theirs)
        elif "conv.weight" in parts:
            found |= {f"{theirs}.op.{k}": parts[f"conv.{k}"] for k in KINDS}
        else:
            found |= {f"{theirs}.{RESNET[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": v for n, v in parts.items()}
    found |= {name: value for name, value in state.items() if name.startswith("out.")}
    assert sum(value.numel() for value in found.values()) == sum(value.numel() for value in state.values())
    return found


def attention_weights(parts: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    found = {}
    for kind in KINDS:
        q, k, v = (parts[f"to_{letter}.{kind}"].unflatten(0, (-1, HEAD)) for letter in "qkv")
        found[f"{name}.qkv.{kind}"] = torch.stack([q, k, v], dim=1).flatten(0, 2)
        found[f"{name}.norm.{kind}"] = parts[f"group_norm.{kind}"]
        found[f"{name}.proj_out.{kind}"] = parts[f"to_out.0.{kind}"]
    found[f"{name}.qkv.weight"] = found[f"{name}.qkv.weight"][:, :, None]
    found[f"{name}.proj_out.weight"] = found[f"{name}.proj_out.weight"][:, :, None]
    return found


# --- the published forward pass ---


class Published:
    """EncoderUNetModel over a dict of its weights: plain functions, block by block."""

    def __init__(self, weights: dict[str, Tensor], scale_shift: bool, pool: str) -> None:
        self.w, self.scale_shift, self.pool = weights, scale_shift, pool

    def has(self, name: str) -> bool:
        return any(key.startswith(f"{name}.") for key in self.w)

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        return self.w[f"{name}.weight"], self.w[f"{name}.bias"]

    def norm(self, x: Tensor, name: str, groups: int = GROUPS) -> Tensor:
        return group_norm(x, groups, *self.of(name), eps=1e-5)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10000) * torch.arange(0, TIME // 2, dtype=torch.float32) / (TIME // 2))
        angles = t[:, None].float() * frequencies[None]
        embedding = torch.cat([angles.cos(), angles.sin()], dim=-1).to(x.dtype)
        emb = linear(silu(linear(embedding, *self.of("time_embed.0"))), *self.of("time_embed.2"))
        h, results, number = conv2d(x, *self.of("input_blocks.0.0"), padding=1), [], 1
        results.append(h.mean((2, 3)))
        while self.has(f"input_blocks.{number}"):
            h = self.block(h, emb, f"input_blocks.{number}", halves=number % (LAYERS + 1) == 0)
            results.append(h.mean((2, 3)))
            number += 1
        h = self.resblock(h, emb, "middle_block.0")
        h = self.resblock(self.attention(h, "middle_block.1"), emb, "middle_block.2")
        results.append(h.mean((2, 3)))
        return self.head(h, torch.cat(results, dim=-1))

    def block(self, h: Tensor, emb: Tensor, name: str, halves: bool) -> Tensor:
        if self.has(f"{name}.0.op"):
            return conv2d(h, *self.of(f"{name}.0.op"), stride=2, padding=1)
        h = self.resblock(h, emb, f"{name}.0", halves)
        return self.attention(h, f"{name}.1") if self.has(f"{name}.1") else h

    def resblock(self, x: Tensor, emb: Tensor, name: str, halves: bool = False) -> Tensor:
        h = silu(self.norm(x, f"{name}.in_layers.0"))
        if halves:
            h, x = avg_pool2d(h, 2), avg_pool2d(x, 2)
        h = conv2d(h, *self.of(f"{name}.in_layers.2"), padding=1)
        out = linear(silu(emb), *self.of(f"{name}.emb_layers.1"))[:, :, None, None]
        if self.scale_shift:
            scale, shift = out.chunk(2, dim=1)
            h = self.norm(h, f"{name}.out_layers.0") * (1 + scale) + shift
        else:
            h = self.norm(h + out, f"{name}.out_layers.0")
        h = conv2d(silu(h), *self.of(f"{name}.out_layers.3"), padding=1)
        return h + (conv2d(x, *self.of(f"{name}.skip_connection")) if self.has(f"{name}.skip_connection") else x)

    def attention(self, x: Tensor, name: str) -> Tensor:
        n, c, height, width = x.shape
        flat = x.reshape(n, c, -1)
        qkv = conv1d(self.norm(flat, f"{name}.norm"), *self.of(f"{name}.qkv"))
        q, k, v = qkv.reshape(n * (c // HEAD), 3 * HEAD, -1).split(HEAD, dim=1)  # the legacy order
        mixed = self.mix(q, k, v).reshape(n, c, -1)
        return (flat + conv1d(mixed, *self.of(f"{name}.proj_out"))).reshape(n, c, height, width)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """All (B, HEAD, L)."""
        return v @ (q.transpose(1, 2) @ k / math.sqrt(HEAD)).softmax(-1).transpose(1, 2)

    def head(self, h: Tensor, results: Tensor) -> Tensor:
        if self.pool == "spatial":
            return linear(relu(linear(results, *self.of("out.0"))), *self.of("out.2"))
        if self.pool == "spatial_v2":
            hidden = silu(self.norm(linear(results, *self.of("out.0")), "out.1", groups=32))
            return linear(hidden, *self.of("out.3"))
        h = silu(self.norm(h, "out.0"))
        if self.pool == "adaptive":
            return conv2d(h.mean((2, 3), keepdim=True), *self.of("out.3")).flatten(1)
        n, c = h.shape[:2]
        tokens = h.reshape(n, c, -1)
        tokens = torch.cat([tokens.mean(-1, keepdim=True), tokens], dim=-1) + self.w["out.2.positional_embedding"]
        q, k, v = conv1d(tokens, *self.of("out.2.qkv_proj")).chunk(3, dim=1)  # the new order
        heads = [self.mix(*(part[:, i : i + HEAD] for part in (q, k, v))) for i in range(0, c, HEAD)]
        return conv1d(torch.cat(heads, dim=1), *self.of("out.2.c_proj"))[:, :, 0]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pool", POOLS)
def test_logits_and_input_gradients_are_those_of_the_published_network(pool: str, variant: str) -> None:
    model = make(pool, variant)
    published = Published(published_weights(model), variant == "scale_shift", pool)
    x, t = inputs()
    weights = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours, theirs = model(x, t), published(x, t)
    assert ours.shape == (3, 5) and float(ours.detach().std()) > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    mine, other = (torch.autograd.grad((logits * weights).sum(), x)[0] for logits in (ours, theirs))
    assert float(mine.abs().max()) > 1e-3
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-9)


def test_the_adaptive_pool_starts_undecided() -> None:
    model = NoisyClassifier(**SHAPE | {"pool": "adaptive"} | VARIANTS["default"])
    assert torch.equal(model(torch.randn(2, 3, 8, 8), 3), torch.zeros(2, 5))


# --- what is asked of it ---


@pytest.mark.parametrize("pool", POOLS)
def test_probabilities_over_the_labels_sum_to_one(pool: str) -> None:
    model, (x, t) = make(pool), inputs()
    found = torch.stack([model.log_prob(x, t, label) for label in range(5)])
    torch.testing.assert_close(found.exp().sum(0), torch.ones(3).double(), rtol=0, atol=1e-12)
    picked = model.log_prob(x, t, torch.tensor([4, 0, 2]))
    torch.testing.assert_close(picked, found[[4, 0, 2], [0, 1, 2]], rtol=0, atol=1e-12)


def test_the_gradient_of_log_prob_is_that_of_finite_differences() -> None:
    model, (x, t) = make(), inputs(2)
    labels, h = torch.tensor([1, 3]), 1e-5
    (gradient,) = torch.autograd.grad(model.log_prob(x, t, labels).sum(), x)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ahead, behind = (model.log_prob(x + s * h * direction, t, labels) for s in (1, -1))
    torch.testing.assert_close((gradient * direction).sum((1, 2, 3)), (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("timestep", [17, 17.0, torch.tensor(17), torch.tensor(17.0), torch.tensor([17, 17, 17])])
def test_a_timestep_may_come_in_any_form(timestep: object) -> None:
    model, (x, _) = make(), inputs()
    expected = torch.cat([model(x[i : i + 1], torch.tensor([17])) for i in range(3)])
    torch.testing.assert_close(model(x, timestep), expected, rtol=0, atol=1e-12)
    assert (model(x, 18) - expected).abs().max().item() > 1e-6


def test_patches_are_pixels_folded_into_channels() -> None:
    patched = make(patch_size=2, in_channels=1, sample_size=16)
    plain = make(in_channels=4)
    plain.load_state_dict(patched.state_dict())
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    folded = torch.stack([x[:, 0, dy::2, dx::2] for dy in range(2) for dx in range(2)], dim=1)
    torch.testing.assert_close(patched(x, 5), plain(folded, 5), rtol=0, atol=1e-12)


def test_pictures_need_not_be_square() -> None:
    model = make(sample_size=(8, 16))
    assert model(torch.randn(2, 3, 8, 16, dtype=torch.float64), 5).shape == (2, 5)


@pytest.mark.parametrize("pool", POOLS)
def test_saved_and_loaded_it_says_the_same(pool: str, tmp_path: Path) -> None:
    model, (x, t) = make(pool).float(), inputs()
    model.save_pretrained(tmp_path)
    again = NoisyClassifier.from_pretrained(tmp_path)
    for name, value in model.config.items():
        if not name.startswith("_"):
            assert again.config[name] == (list(value) if isinstance(value, tuple) else value), name
    torch.testing.assert_close(again(x, t), model(x, t), rtol=0, atol=1e-6)


def test_half_precision_leaves_it_and_its_gradients_in_float32(tmp_path: Path) -> None:
    model, (x, t) = make().float(), inputs()
    model.save_pretrained(tmp_path)
    loaded = NoisyClassifier.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    single = x.detach().float().requires_grad_()
    expected = model(single, t).log_softmax(1)[:, 2]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loaded.log_prob(single, t, 2)
        assert loaded(single, t).dtype == torch.bfloat16  # training may use it
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # float32 both
    gradients = [torch.autograd.grad(value.sum(), single)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-7)
    cast = model.to(torch.bfloat16)  # on purpose
    assert cast.log_prob(x.detach().bfloat16(), t, 2).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "max"}, "pool must be one of attention, adaptive, spatial, spatial_v2, got 'max'"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift must be one of default, scale_shift"),
        ({"sample_size": None}, "sample_size must be given for the pool 'attention'"),
        ({"sample_size": 10}, "sample_size must be a multiple of 4 .*, got 10"),
        ({"sample_size": (8, 6)}, r"sample_size must be a multiple of 4 .*, got \(8, 6\)"),
        ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"attention_head_dim": 12}, "attention_head_dim must divide the channels that attend .*, got 12"),
        ({"down_block_types": ("DownBlock2D",)}, r"down_block_types must be one a level \(3\), got 1"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        NoisyClassifier(**SHAPE | VARIANTS["default"] | changes)
