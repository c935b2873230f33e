"""The classifier of noisy images is the published one, which published_adm.py writes out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from published_adm import Encoder
from torch import Tensor

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


def published_network(model: NoisyClassifier, variant: str, pool: str) -> Encoder:
    """The published network with the weights of ours, in float64."""
    plain = variant == "default"
    net = Encoder(
        size=8,
        pool=pool,
        outputs=5,
        width=TIME,
        mult=(0.5, 0.5, 1),
        layers=LAYERS,
        attention=(2,) if plain else (2, 4),
        head_channels=HEAD,
        scale_shift=not plain,
        resblock_updown=not plain,
        groups=GROUPS,
    ).double()
    net.load_state_dict(published_weights(model), strict=True)
    return net


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pool", POOLS)
def test_logits_and_input_gradients_are_those_of_the_published_network(pool: str, variant: str) -> None:
    model = make(pool, variant)
    published = published_network(model, variant, pool)
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


def test_images_need_not_be_square() -> None:
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
        ({"down_block_types": ("DownBlock2D",)}, r"down_block_types must be one per level \(3\), got 1"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        NoisyClassifier(**SHAPE | VARIANTS["default"] | changes)


def test_the_output_takes_the_form_that_models_of_diffusers_give() -> None:
    network, x = make(), torch.randn(2, 3, 8, 8)
    logits = network(x, 5)
    assert isinstance(logits, torch.Tensor)
    (in_a_tuple,), in_an_object = network(x, 5, return_dict=False), network(x, 5, return_dict=True)
    assert torch.equal(in_a_tuple, logits) and torch.equal(in_an_object.logits, logits)
