"""Published U-Nets and classifiers, converted: the same network, to the rounding of float32."""

from __future__ import annotations

from pathlib import Path

import published_adm as published
import pytest
import torch
from conversion_runs import CLASSIFIER_FLAGS, ENCODER, GUIDED, IMPROVED, SMALL, assert_same, converted, make, seen
from diffusers import UNet2DModel
from toys import quiet, seeded

from pipelines import ADMUNet2DModel, CascadePipeline, ClassifierGuidancePipeline, DDPMPipeline, NoisyClassifier
from training.cascade import main as join
from training.conversion import weights
from training.conversion.architecture import classifier_architecture
from training.conversion.flags import parse_flags

# flags, the same network in published_adm's terms, and whether a stock UNet2DModel can be it
NETWORKS = {
    "legacy order": (f"{SMALL} --num_head_channels 16", dict(head_channels=16), True),
    "new order": (
        f"{SMALL} --num_head_channels 16 --use_new_attention_order True",
        dict(head_channels=16, new_order=True),
        True,
    ),
    "no scale-shift": (f"{SMALL} --use_scale_shift_norm False", dict(scale_shift=False, num_heads=4), True),
    "resblock updown": (f"{SMALL} --resblock_updown True", dict(resblock_updown=True, num_heads=4), True),
    "resampled without weights": (f"{SMALL} --conv_resample False", dict(conv_resample=False, num_heads=4), False),
    "attention at every level": (
        f"{SMALL} --attention_resolutions 16,8 --num_head_channels 16 --resblock_updown True --num_res_blocks 2",
        dict(attention=(1, 2), head_channels=16, resblock_updown=True, layers=2),
        True,
    ),
    "attention in the middle alone": (
        f"{SMALL} --attention_resolutions 2 --num_heads 2",
        dict(attention=(), num_heads=2),
        True,
    ),
    "classes": (f"{SMALL} --class_cond True", dict(num_classes=7, num_heads=4), True),
    "learned sigma": (f"{SMALL} --learn_sigma True", dict(outputs=6, num_heads=4), True),
    "4 heads at every width": (
        f"{SMALL} --attention_resolutions 16,8 --num_heads 4",
        dict(attention=(1, 2), num_heads=4),
        False,
    ),
    "other heads on the way up": (
        f"{SMALL} --attention_resolutions 16,8 --num_heads 4 --num_heads_upsample 2",
        dict(attention=(1, 2), num_heads=4, up_heads=2),
        False,
    ),
    "half the width first": (
        f"{SMALL} --channel_mult 0.5,1 --num_channels 64 --num_head_channels 32 --resblock_updown True",
        dict(width=64, mult=(0.5, 1), head_channels=32, resblock_updown=True),
        False,
    ),
    "everything that imagenet-512 has": (
        f"{SMALL} --channel_mult 0.5,1,2 --num_channels 64 --num_head_channels 32 --resblock_updown True"
        " --class_cond True --learn_sigma True --attention_resolutions 8,4",
        dict(
            width=64,
            mult=(0.5, 1, 2),
            attention=(2, 4),
            head_channels=32,
            resblock_updown=True,
            num_classes=5,
            outputs=6,
        ),
        False,
    ),
    "grey images": (SMALL, dict(in_channels=1, outputs=1, num_heads=4), True),
}
IMPROVED_FLAGS = "--image_size 32 --num_channels 32 --num_res_blocks 1 --num_heads 4"
IMPROVED_SHAPE = dict(width=32, mult=(1, 2, 2, 2), attention=(2, 4), num_heads=4)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_unet_says_what_the_published_one_says(name: str, tmp_path: Path) -> None:
    flags, shape, stock = NETWORKS[name]
    net = make(**shape)
    pipe = DDPMPipeline.from_pretrained(converted(tmp_path, flags, net))
    assert type(pipe.unet) is (UNet2DModel if stock else ADMUNet2DModel)
    inputs = seen(net, pipe.unet.config.in_channels, 16)
    assert_same(pipe.unet(inputs["x"], inputs["t"], inputs.get("y")).sample, net(**inputs))
    assert pipe.variance_type == ("learned_range" if shape.get("outputs") == 6 else "fixed_large")
    assert pipe.num_classes == shape.get("num_classes") and pipe.config.id2label is None
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("flags", "wrong", "shape"),
    [
        ("--num_head_channels 16", "--use_new_attention_order True", dict(head_channels=16)),
        ("--num_heads 4", "--num_heads 2", dict(num_heads=4)),
        ("--num_heads 4", "--num_heads_upsample 2", dict(num_heads=4)),
    ],
)
@torch.no_grad()
def test_what_the_weights_do_not_say_matters(flags: str, wrong: str, shape: dict, tmp_path: Path) -> None:
    """The comparison above can fail: a wrong order or number of heads, which no key and no shape betrays, shows."""
    net = make(**shape)
    pipe = DDPMPipeline.from_pretrained(converted(tmp_path, f"{SMALL} {flags} {wrong}", net))
    inputs = seen(net, 3, 16)
    with pytest.raises(AssertionError):
        assert_same(pipe.unet(inputs["x"], inputs["t"]).sample, net(**inputs))


@pytest.mark.parametrize(("steps", "rescale", "scale"), [(1000, True, 1.0), (4000, True, 0.25), (4000, False, 1.0)])
@torch.no_grad()
def test_improved_diffusion_shows_the_network_times_up_to_1000(
    steps: int, rescale: bool, scale: float, tmp_path: Path
) -> None:
    net = published.UNet(**IMPROVED_SHAPE)
    flags = f"{IMPROVED_FLAGS} --diffusion_steps {steps} --noise_schedule cosine --rescale_timesteps {rescale}"
    pipe = DDPMPipeline.from_pretrained(converted(tmp_path, flags, net, IMPROVED))
    x, t = torch.randn(2, 3, 32, 32, generator=seeded()), torch.tensor([5, steps - 1])
    assert_same(pipe.unet(x, t).sample, net(x, t * scale))
    assert_same(pipe.unet(x, int(t[1])).sample, net(x, t[[1, 1]] * scale))
    assert_same(pipe.network(x, t), net(x, t * scale))


@pytest.mark.parametrize(("flags", "fixed_heads"), [("--num_head_channels 32", False), ("--num_heads 4", True)])
@torch.no_grad()
def test_a_super_resolution_network_is_a_stage_that_a_cascade_runs(
    flags: str, fixed_heads: bool, tmp_path: Path
) -> None:
    heads = dict(num_heads=4) if fixed_heads else dict(head_channels=32)
    shape = dict(width=32, mult=(1, 2, 3, 4), attention=(4, 8), in_channels=6, outputs=6, num_classes=5)
    net, base = published.UNet(**shape, **heads, resblock_updown=True), make(num_classes=5, num_heads=4)
    line = f"--large_size 64 --small_size 16 --num_channels 32 --num_res_blocks 1 {flags} --resblock_updown True"
    for part in ("large", "small"):
        (tmp_path / part).mkdir()
    out = converted(tmp_path / "large", f"{line} --class_cond True --learn_sigma True", net)
    first = converted(tmp_path / "small", f"{SMALL} --class_cond True", base)
    alone = CascadePipeline.from_pretrained(out)
    assert type(alone.unet_2) is (ADMUNet2DModel if fixed_heads else UNet2DModel)
    assert alone.scheduler_2.config.variance_type == "learned_range" and alone.sizes == [(16, 16), (64, 64)]
    inputs, low_res = seen(net, 3, 64), torch.randn(2, 3, 16, 16, generator=seeded(1))
    larger = torch.nn.functional.interpolate(low_res, (64, 64), mode="bilinear")
    found = alone.unet_2(torch.cat([inputs["x"], larger], dim=1), inputs["t"], inputs["y"]).sample
    assert_same(found, net(**inputs, low_res=low_res))
    join([str(tmp_path / "both"), str(first), str(out)])
    pipe = quiet(CascadePipeline.from_pretrained(tmp_path / "both"))
    steps = list(pipe.stream(class_labels=4, num_inference_steps=2, generator=seeded()))
    small = steps[1].prev_sample.clamp(-1, 1)
    for step in steps:
        x, t, y = step.x_t, torch.tensor([step.timestep]), torch.tensor([4])
        eps = net(x, t, y, low_res=small)[:, :3] if step.stage else base(x, t, y)
        a = pipe.scheduler.alphas_cumprod[step.timestep].sqrt()
        b = (1 - a * a).sqrt()
        torch.testing.assert_close(step.pred_original_sample, ((x - b * eps) / a).clamp(-1, 1), rtol=0, atol=2e-3)
    assert [step.stage for step in steps] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="^class_labels is required"):
        pipe(num_inference_steps=2)


# --- classifiers ---


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
@pytest.mark.parametrize("plain", [False, True])
def test_a_classifier_has_the_published_logits_and_gradients(pool: str, plain: bool, tmp_path: Path) -> None:
    unet, changes = make(num_heads=4, attention=(8,)), {"scale_shift": not plain, "resblock_updown": not plain}
    encoder = published.Encoder(**ENCODER, **changes, pool=pool)
    flags = f"{CLASSIFIER_FLAGS} --classifier_attention_resolutions 8 --classifier_pool {pool}"
    flags += f" --classifier_use_scale_shift_norm {not plain} --classifier_resblock_updown {not plain}"
    pipe = ClassifierGuidancePipeline.from_pretrained(converted(tmp_path, flags, unet, classifier=encoder))
    assert isinstance(pipe.classifier, NoisyClassifier) and pipe.num_classes == 5 and pipe.class_names is None
    x, t = torch.randn(2, 3, 64, 64, generator=seeded()).requires_grad_(), torch.tensor([3, 712])
    ours, theirs = pipe.classifier(x, t), encoder(x, t)
    assert_same(ours.detach(), theirs.detach())
    labels = torch.tensor([4, 2])
    x = x.detach().double().requires_grad_()  # float32 gradients differ by 1e-5 on some processors
    mine = torch.autograd.grad(pipe.classifier.double().log_prob(x, t, labels).sum(), x)[0]
    other = torch.autograd.grad(encoder.double()(x, t).log_softmax(1)[[0, 1], labels].sum(), x)[0]
    assert_same(mine / other.std(), other / other.std())


def test_the_first_level_of_a_classifier_may_be_half_as_wide() -> None:
    flags = parse_flags(GUIDED, "imagenet-512 --classifier_width 64 --classifier_depth 1")
    architecture = classifier_architecture(flags)
    encoder = published.Encoder(
        **ENCODER
        | dict(size=512, width=64, mult=(0.5, 1, 1, 2, 2, 4, 4), attention=(16, 32, 64), resblock_updown=True),
        pool="spatial",
    )
    model = architecture.build_classifier(3, 5, "spatial")
    assert weights.expected_shapes(model, architecture) == weights.shapes_of(encoder.state_dict())
    weights.fill(model, encoder.state_dict(), architecture)
    x, t = torch.randn(1, 3, 64, 64, generator=seeded()), torch.tensor([5])  # this pool takes any size
    with torch.no_grad():
        assert_same(model(x, t), encoder(x, t))
