"""Published checkpoints, converted: the same network, the same process, and nothing where they cannot be."""

from __future__ import annotations

import math
import pickle
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import published_adm as published
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DModel
from torch import Tensor
from toys import quiet, seeded

import pipelines
from pipelines import ADMUNet2DModel, ClassifierGuidancePipeline, DDPMPipeline, NoiseSchedule, NoisyClassifier
from training import convert
from training.conversion import weights
from training.conversion.architecture import classifier_architecture, parameter_count, unet_architecture
from training.conversion.flags import PUBLISHED, parse_flags
from training.conversion.respacing import spacing_for

GUIDED, IMPROVED = "guided-diffusion", "improved-diffusion"
SMALL = "--image_size 16 --channel_mult 1,2 --num_channels 32 --num_res_blocks 1 --attention_resolutions 8"
SHAPE = dict(width=32, mult=(1, 2), attention=(2,))

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


def save(net: torch.nn.Module, path: Path) -> str:
    torch.save(net.state_dict(), path)
    return str(path)


def make(**shape: object) -> published.UNet:
    return published.UNet(**SHAPE | shape)


def converted(
    folder: Path, flags: str, net: published.UNet, family: str = GUIDED, classifier: published.Encoder | None = None
) -> Path:
    """The command line's folder for published networks."""
    out = folder / "out"
    arguments = [family, "--unet", save(net, folder / "unet.pt"), "--flags", flags, "--out", str(out)]
    if classifier is not None:
        arguments += ["--classifier", save(classifier, folder / "classifier.pt")]
    convert.main(arguments)
    return out


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line that the command line ends with."""
    with pytest.raises(SystemExit) as stop:
        convert.main(list(arguments))
    message = str(stop.value.code)
    assert message.startswith("error: ") and "\n" not in message
    return message.removeprefix("error: ")


def assert_same(found: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the output's scale, which is near 1."""
    assert found.shape == expected.shape and 0.1 < float(expected.std()) < 10
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.std())))


def seen(net: published.UNet, channels: int, size: int) -> dict[str, Tensor]:
    """Images, times and, where the network takes them, labels."""
    inputs = {"x": torch.randn(2, channels, size, size, generator=seeded()), "t": torch.tensor([3, 712])}
    return inputs | ({"y": torch.tensor([4, 1])} if hasattr(net, "label_emb") else {})


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
def test_a_super_resolution_network_is_written_without_a_pipeline(
    flags: str, fixed_heads: bool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    heads = dict(num_heads=4) if fixed_heads else dict(head_channels=32)
    shape = dict(width=32, mult=(1, 2, 3, 4), attention=(4, 8), in_channels=6, outputs=6, num_classes=5)
    net = published.UNet(**shape, **heads, resblock_updown=True)
    line = f"--large_size 64 --small_size 16 --num_channels 32 --num_res_blocks 1 {flags} --resblock_updown True"
    out = converted(tmp_path, f"{line} --class_cond True --learn_sigma True", net)
    unet = (ADMUNet2DModel if fixed_heads else UNet2DModel).from_pretrained(out, subfolder="unet")
    assert DDPMScheduler.from_pretrained(out, subfolder="scheduler").config.variance_type == "learned_range"
    assert not (out / "model_index.json").exists()
    home = "pipelines.ADMUNet2DModel" if fixed_heads else "diffusers.UNet2DModel"
    assert f"super-resolution network has no pipeline yet: {home} loads " in capsys.readouterr().out
    inputs, low_res = seen(net, 3, 64), torch.randn(2, 3, 16, 16, generator=seeded(1))
    larger = torch.nn.functional.interpolate(low_res, (64, 64), mode="bilinear")
    found = unet(torch.cat([inputs["x"], larger], dim=1), inputs["t"], inputs["y"]).sample
    assert_same(found, net(**inputs, low_res=low_res))


# --- classifiers ---

CLASSIFIER_FLAGS = f"{SMALL} --image_size 64 --classifier_width 32 --classifier_depth 1"
ENCODER = dict(size=64, width=32, mult=(1, 2, 3, 4), attention=(8,), head_channels=64, outputs=5)


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
    mine = torch.autograd.grad(pipe.classifier.log_prob(x, t, labels).sum(), x)[0]
    other = torch.autograd.grad(theirs.log_softmax(1)[[0, 1], labels].sum(), x)[0]
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


# --- from the command line to an image ---


DRAWN = {
    "stock": ("--num_head_channels 16", dict(head_channels=16), None),
    "ours": ("--num_heads 2 --attention_resolutions 16,8", dict(num_heads=2, attention=(1, 2)), None),
    "steered": (  # 16 is no published size: the classifier, too, has the multipliers that are given
        "--num_head_channels 16 --classifier_width 32 --classifier_depth 1 --classifier_attention_resolutions 8",
        dict(head_channels=16),
        dict(size=16, attention=(2,), head_channels=64, outputs=7, resblock_updown=True),
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_an_image_is_drawn_from_a_converted_folder(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags, shape, encoder = DRAWN[name]
    if encoder is not None:
        encoder = published.Encoder(**SHAPE | encoder, pool="attention")
    net = make(**shape, num_classes=7, outputs=6)
    out = converted(tmp_path, f"{SMALL} {flags} --class_cond True --learn_sigma True", net, classifier=encoder)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == (4 if encoder else 3) and "M weights" in printed[0] and str(out) in printed[-1]
    carried = quiet(DiffusionPipeline.from_pretrained(out, trust_remote_code=True))
    kind = ClassifierGuidancePipeline if encoder else DDPMPipeline
    own = quiet(getattr(pipelines, kind.__name__).from_pretrained(out))
    assert isinstance(own, kind) and type(carried).__name__ == kind.__name__
    drawn = [
        pipe(class_labels=3, num_inference_steps=2, generator=seeded(), output_type="pt").images
        for pipe in (carried, own)
    ]
    assert drawn[0].shape == (1, 3, own.unet.config.sample_size, own.unet.config.sample_size)
    assert torch.equal(*drawn) and bool(drawn[0].isfinite().all()) and float(drawn[0].std()) > 0.01
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["out", "unet.pt", *(["classifier.pt"] if encoder else [])]
    )


def test_the_module_is_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [GUIDED, "--unet", str(tmp_path / "none.pt"), "--flags", "imagenet-64", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["convert", *arguments])
    monkeypatch.delitem(sys.modules, "training.convert")
    with pytest.raises(SystemExit, match=f"^error: no such file: {tmp_path / 'none.pt'}$"):
        runpy.run_module("training.convert", run_name="__main__")
    assert list(tmp_path.iterdir()) == []


# --- the process ---


def published_betas(schedule: str, steps: int) -> np.ndarray:
    if schedule == "linear":
        return np.linspace(0.1 / steps, 20 / steps, steps)
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], 0.999)


@pytest.mark.parametrize("steps", [1000, 4000])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_process_is_the_published_one(schedule: str, steps: int) -> None:
    flags = parse_flags(GUIDED, f"--noise_schedule {schedule} --diffusion_steps {steps}")
    scheduler = convert.build_scheduler(flags)
    tables = NoiseSchedule.from_scheduler(scheduler)
    np.testing.assert_allclose(tables.betas.numpy(), published_betas(schedule, steps), rtol=1e-9)
    assert scheduler.config.clip_sample and scheduler.config.clip_sample_range == 1
    assert scheduler.config.timestep_spacing == "linspace"


# --- timestep_respacing ---


def published_timesteps(total: int, text: str) -> list[int] | None:
    """space_timesteps of respace.py for one count, or "ddim" and a count; None where it knows no stride."""
    if text.startswith("ddim"):
        count = int(text.removeprefix("ddim"))
        found = [list(range(0, total, i)) for i in range(1, total) if len(range(0, total, i)) == count]
        return found[0] if found else None
    stride, place, found = (total - 1) / max(int(text) - 1, 1), 0.0, []
    for _ in range(int(text)):
        found.append(round(place))
        place += stride
    return found


COMMON = (1, 2, 5, 10, 20, 25, 50, 100, 125, 200, 250, 500, 1000)


@pytest.mark.parametrize("steps", [1000, 4000])
def test_a_number_of_steps_is_our_linspace(steps: int) -> None:
    """At all common counts; at some of the odd ones from 21 on, halves that were added up are rounded otherwise."""
    tables = NoiseSchedule.linear(steps)
    for count in COMMON:
        spaced = tables.spaced_timesteps(count, "linspace")
        assert spaced[::-1] == published_timesteps(steps, str(count)), count
    counts = range(1, 300)
    ours = {n: np.array(tables.spaced_timesteps(n, "linspace")[::-1]) for n in counts}
    off = {n: np.abs(ours[n] - published_timesteps(steps, str(n))).max() for n in counts}
    assert {n for n in counts if off[n]} <= set(range(21, 300, 2)) and max(off.values()) == 1


@pytest.mark.parametrize("steps", [1000, 4000])
def test_ddim_and_a_number_is_our_leading_where_it_is_said_to_be(steps: int) -> None:
    tables, told = NoiseSchedule.linear(steps), []
    for count in range(1, 300):
        text = spacing_for(parse_flags(GUIDED, f"--diffusion_steps {steps} --timestep_respacing ddim{count}"))
        if "leading" in text:
            told.append(count)
            assert tables.spaced_timesteps(count, "leading")[::-1] == published_timesteps(steps, f"ddim{count}")
        else:
            assert text == f"no timestep_spacing has these {count} steps of {steps}"
    assert set(COMMON[1:11]) <= set(told)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("ddim25 --use_ddim True", "ddim25: a DDIMScheduler with timestep_spacing='leading', 25 steps"),
        ("250", "250: a DDPMScheduler with timestep_spacing='linspace', 250 steps"),
        ("10,10,20", "10,10,20: no timestep_spacing has sections of their own"),
        ("ddim30", "ddim30: no timestep_spacing has these 30 steps of 1000"),
    ],
)
def test_the_steps_of_the_sampling_are_told_in_our_terms(
    flags: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    converted(tmp_path, f"{SMALL} --timestep_respacing {flags}", make(num_heads=4))
    assert f"--timestep_respacing {told}" in capsys.readouterr().out.splitlines()


def test_images_that_were_not_clipped_are_not_clipped() -> None:
    assert convert.build_scheduler(parse_flags(IMPROVED, "--clip_denoised False")).config.clip_sample is False


@pytest.mark.parametrize(
    ("family", "flags", "prediction", "variance"),
    [
        (GUIDED, "", "epsilon", "fixed_large"),
        (GUIDED, "--learn_sigma True --use_kl True", "epsilon", "learned_range"),
        (GUIDED, "--predict_xstart=yes", "sample", "fixed_large"),
        (IMPROVED, "--sigma_small True", "epsilon", "fixed_small"),
        (IMPROVED, "--sigma_small True --learn_sigma True", "epsilon", "learned_range"),
    ],
)
def test_what_is_predicted_and_the_variance(family: str, flags: str, prediction: str, variance: str) -> None:
    config = convert.build_scheduler(parse_flags(family, flags)).config
    assert (config.prediction_type, config.variance_type) == (prediction, variance)


# --- published sets ---

SIZES = {  # millions of weights, as the published constructors give them: of the U-Net and of the classifier
    (GUIDED, "imagenet-64"): (296, 65, (192, 384, 576, 768), UNet2DModel),
    (GUIDED, "imagenet-128"): (422, 43, (256, 256, 512, 768, 1024), ADMUNet2DModel),
    (GUIDED, "imagenet-256"): (554, 54, (256, 256, 512, 512, 1024, 1024), UNet2DModel),
    (GUIDED, "imagenet-256-uncond"): (553, 54, (256, 256, 512, 512, 1024, 1024), UNet2DModel),
    (GUIDED, "imagenet-512"): (559, 54, (128, 256, 256, 512, 512, 1024, 1024), ADMUNet2DModel),
    (GUIDED, "upsampler-64-256"): (312, None, (192, 192, 384, 384, 768, 768), ADMUNet2DModel),
    (GUIDED, "upsampler-128-512"): (309, None, (192, 192, 384, 384, 768, 768), UNet2DModel),
    (GUIDED, "lsun-bedroom"): (553, 54, (256, 256, 512, 512, 1024, 1024), UNet2DModel),
    (IMPROVED, "imagenet-64-cond"): (273, None, (192, 384, 576, 768), ADMUNet2DModel),
    (IMPROVED, "imagenet-64-uncond"): (121, None, (128, 256, 384, 512), ADMUNet2DModel),
    (IMPROVED, "cifar10"): (53, None, (128, 256, 256, 256), ADMUNet2DModel),
    (IMPROVED, "lsun"): (114, None, (128, 128, 256, 256, 512, 512), UNet2DModel),
    (IMPROVED, "upsampler-64-256"): (280, None, (192, 192, 384, 384, 768, 768), UNet2DModel),
}


@pytest.mark.parametrize(("family", "name"), SIZES)
def test_a_published_set_has_the_published_size(family: str, name: str) -> None:
    unet_size, classifier_size, widths, kind = SIZES[family, name]
    flags = parse_flags(family, name)
    architecture = unet_architecture(flags)
    inputs, outputs = (3 * (1 + doubled) for doubled in (flags.super_resolution, flags.learn_sigma))
    model = architecture.build_unet(inputs, outputs, 1000 if flags.class_cond else None)
    assert type(model) is kind and tuple(model.config.block_out_channels) == widths
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert round(parameter_count(model) / 1e6) == unet_size
    if classifier_size is not None:
        classifier = classifier_architecture(flags).build_classifier(3, 1000, flags.classifier_pool)
        assert round(parameter_count(classifier) / 1e6) == classifier_size


def test_every_published_set_can_be_parsed_and_changed() -> None:
    for family, sets in PUBLISHED.items():
        for name in sets:
            unet_architecture(parse_flags(family, name))
    changed = parse_flags(GUIDED, "lsun-horse --dropout 0 --class_cond True")
    assert (changed.dropout, changed.class_cond, changed.num_channels) == (0.0, True, 256)
    assert parse_flags(GUIDED, "imagenet-64").rescale_timesteps is False
    assert parse_flags(IMPROVED, "cifar10").rescale_timesteps is True


# --- what is refused ---


@pytest.mark.parametrize(
    ("family", "flags", "message"),
    [
        (GUIDED, "--num_chanels 32", "guided-diffusion has no flag num_chanels; did you mean num_channels?"),
        (IMPROVED, "--num_head_channels 32", "improved-diffusion has no flag num_head_channels"),
        (GUIDED, "--clip_the_wings True", "has no flag clip_the_wings"),
        (GUIDED, "imagenet-63", "the published sets of guided-diffusion are imagenet-64, .*got 'imagenet-63'"),
        (GUIDED, "--num_channels wide", "argument --num_channels: invalid int value: 'wide'"),
        (GUIDED, "--num_channels", "argument --num_channels: expected one argument"),
        (GUIDED, "--learn_sigma maybe", "argument --learn_sigma: True or False expected, got 'maybe'"),
        (GUIDED, "--noise_schedule sigmoid", r"argument --noise_schedule: invalid choice: 'sigmoid'"),
        (GUIDED, "--num_res_blocks 0", "num_res_blocks must be at least 1, got 0"),
        (GUIDED, "--image_size 48", "image_size must be one of 64, 128, 256, 512; give channel_mult .*got 48"),
        (GUIDED, "--image_size 18 --channel_mult 1,1,1", "image_size must halve 2 times, got 18"),
        (GUIDED, "--num_channels 40", "num_channels must give every level a multiple of 32 channels"),
        (
            GUIDED,
            "--channel_mult 1,x",
            "channel_mult must be finite numbers above 0, separated by commas, got '1,x'",
        ),
        (GUIDED, "--num_head_channels 48", r"num_head_channels must divide the channels that attend \(.*\), got 48"),
        (GUIDED, "--num_heads 5", "num_heads must divide"),
        (GUIDED, "--diffusion_steps 10", "diffusion_steps must be at least 20 with the linear schedule, got 10"),
        (GUIDED, "--large_size 256 --image_size 64", "image_size must be large_size, 256, got 64"),
        (GUIDED, "--dropout '", "No closing quotation"),
        (GUIDED, "--dropout nan", "dropout must be at least 0 and below 1, got nan"),
        (IMPROVED, "--dropout 1", "dropout must be at least 0 and below 1, got 1.0"),
        (GUIDED, "--channel_mult 1,inf", "channel_mult must be finite numbers above 0, .*got '1,inf'"),
        (GUIDED, "--channel_mult nan,1", "channel_mult must be finite numbers above 0, .*got 'nan,1'"),
        (GUIDED, "--classifier_depth -1", "classifier_depth must be at least 1, got -1"),
        (GUIDED, "--large_size 100", "large_size must be one of 64, 256, 512; give channel_mult .*got 100"),
        (IMPROVED, "--large_size 100", "large_size must be one of 64, 256, got 100"),
        (GUIDED, "--timestep_respacing 1001", "timestep_respacing must be a number of steps, 1 to 1000, .*got '1001'"),
        (GUIDED, "--timestep_respacing ddim", "timestep_respacing must be a number of steps, .*got 'ddim'"),
    ],
)
def test_flags_that_cannot_be_are_refused_by_name(
    family: str, flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, out = save(make(), tmp_path / "unet.pt"), tmp_path / "folder" / "out"
    found = refused(capsys, family, "--unet", path, "--flags", flags, "--out", str(out))
    assert found.startswith("--flags: ") and re.search(message, found), found
    assert not (tmp_path / "folder").exists()


CONTRADICTIONS = {
    "--num_channels 64": r"--num_channels 64 gives time_embed.0.weight \(256, 64\), the file has .* \(128, 32\)",
    "--class_cond True": r"--class_cond True gives label_emb.weight \(1000, 128\), the file has no label_emb.weight",
    "--learn_sigma True": r"--learn_sigma True gives out.2.weight \(6, 32, 3, 3\), the file has .* \(3, 32, 3, 3\)",
    "--large_size 16": r"--large_size gives input_blocks.0.0.weight \(32, 6, 3, 3\), the file has .* \(32, 3, 3, 3\)",
    "--channel_mult 1,3": r"--channel_mult 1,3 gives input_blocks.3.0.in_layers.2.weight \(96,.* has .* \(64,",
    "--channel_mult 2,2": r"--channel_mult 2,2 gives input_blocks.0.0.weight \(64,.*, the file has .* \(32,",
    "--num_res_blocks 2": r"--num_res_blocks 2 gives input_blocks.5.*, the file has no input_blocks.5",
    "--resblock_updown True": r"--resblock_updown True gives no input_blocks.2.0.op.weight, the file has .* \(32, 32",
    "--attention_resolutions 16": r"--attention_resolutions 16 gives input_blocks.1.1.qkv.weight .*, the file has no ",
    "--use_scale_shift_norm False": r"--use_scale_shift_norm False gives .*emb_layers.1.weight \(32, 128\),.*\(64,",
}


@pytest.mark.parametrize("wrong", CONTRADICTIONS)
def test_flags_that_contradict_the_weights_are_named(wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = save(make(num_heads=4), tmp_path / "unet.pt")
    found = refused(capsys, GUIDED, "--unet", path, "--flags", f"{SMALL} {wrong}", "--out", str(tmp_path / "out"))
    assert re.search(CONTRADICTIONS[wrong], found), found
    assert found.startswith(f"{path}: ") and sorted(p.name for p in tmp_path.iterdir()) == ["unet.pt"]


def test_the_size_that_speaks_against_a_file_is_named_as_it_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    net = make(mult=(1, 2, 3, 3), attention=(4, 8), in_channels=6, num_heads=4)
    path, flags = (
        save(net, tmp_path / "unet.pt"),
        "--large_size 64 --small_size 16 --num_channels 32 --num_res_blocks 1",
    )
    found = refused(capsys, GUIDED, "--unet", path, "--flags", flags, "--out", str(tmp_path / "out"))
    assert found.startswith(f"{path}: --large_size 64 gives ")


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        (
            dict(num_classes=5),
            "",
            "--class_cond False gives no label_emb.weight, the file has label_emb.weight (5, 128)",
        ),
        (dict(in_channels=6), "", "no --large_size (an image model) gives input_blocks.0.0.weight (32, 3, 3, 3)"),
        (
            dict(in_channels=6, outputs=6),
            "--learn_sigma True",
            "no --large_size (an image model) gives input_blocks.0.0",
        ),
        (dict(outputs=6), "", "--learn_sigma False gives out.2.weight (3, 32, 3, 3), the file has out.2.weight (6,"),
    ],
)
def test_weights_that_go_beyond_the_flags_are_named(
    changes: dict, flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = save(make(**changes), tmp_path / "unet.pt")
    found = refused(capsys, GUIDED, "--unet", path, "--flags", f"{SMALL} {flags}", "--out", str(tmp_path / "out"))
    assert message in found


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--classifier_width 64", "--classifier_width 64 gives time_embed.0.weight (256, 64)"),
        ("--classifier_depth 2", "--classifier_depth 2 gives input_blocks."),
        ("--classifier_pool spatial", "--classifier_pool spatial gives out."),
        (
            "--classifier_attention_resolutions 32,8",
            "--classifier_attention_resolutions 32,8 gives input_blocks.3.1.qkv",
        ),
        ("--classifier_resblock_updown False", "--classifier_resblock_updown False gives input_blocks.2.0.op.weight"),
        ("--classifier_use_scale_shift_norm False", "--classifier_use_scale_shift_norm False gives "),
        ("--classifier_attention_resolutions 16", "--flags: num_head_channels must divide the channels that attend"),
    ],
)
def test_a_classifier_is_checked_like_a_unet(
    wrong: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    unet = save(make(attention=(8,), num_heads=4), tmp_path / "unet.pt")
    classifier = published.Encoder(**ENCODER, resblock_updown=True, pool="attention")
    path = save(classifier, tmp_path / "classifier.pt")
    flags = f"{CLASSIFIER_FLAGS} --classifier_attention_resolutions 8 {wrong}"
    arguments = ["--unet", unet, "--classifier", path, "--flags", flags, "--out", str(tmp_path / "out")]
    assert message in refused(capsys, GUIDED, *arguments)


@pytest.mark.parametrize(
    ("family", "flags", "message"),
    [
        (IMPROVED, "cifar10", "--classifier: improved-diffusion has no classifiers, guided-diffusion has"),
        (GUIDED, "upsampler-64-256", "--classifier: no pipeline here steers a super-resolution network"),
        (
            GUIDED,
            "imagenet-64 --rescale_timesteps True --diffusion_steps 4000",
            "--classifier: a NoisyClassifier cannot scale the timestep, as --rescale_timesteps asks for",
        ),
    ],
)
def test_a_classifier_that_cannot_steer_is_refused(
    family: str, flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = save(make(), tmp_path / "unet.pt")
    arguments = ["--unet", path, "--classifier", path, "--flags", flags, "--out", str(tmp_path / "out")]
    assert refused(capsys, family, *arguments) == message


class Harmful:
    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('run by unpickling')",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a checkpoint", "is not a file of weights: nothing in it can be read"),
        (b"", "is not a file of weights: "),
        (
            pickle.dumps(Harmful(), protocol=2),
            "weights: Unsupported global: GLOBAL exec was not an allowed global by default.",
        ),
        (Harmful(), "weights: Unsupported global: GLOBAL exec was not an allowed global by default."),
        ([torch.zeros(2)], "must hold named tensors (a state dict), it holds a list"),
        ({"step": 5}, "must hold named tensors (a state dict), its 'step' is a int"),
        ({"state_dict": {"a": torch.zeros(2)}}, "must hold named tensors (a state dict), its 'state_dict' is a dict"),
    ],
)
def test_a_file_of_something_else_is_refused(
    content: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "unet.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    found = refused(capsys, GUIDED, "--unet", str(path), "--flags", SMALL, "--out", str(tmp_path / "out"))
    assert str(path) in found and message in found
    assert not re.search(r"\x1b|Please|can still be loaded|safe_globals", found)  # torch's advice is to run its code
    assert sorted(p.name for p in tmp_path.iterdir()) == ["unet.pt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(extra=torch.zeros(3)), "1 not used (extra)"),
        (lambda s: s.pop("middle_block.1.proj_out.bias"), "1 missing (middle_block.1.proj_out.bias)"),
        (
            lambda s: s.update({"middle_block.1.norm.bias": torch.zeros(3)}),
            "middle_block.1.norm.bias must be (64,), got (3,)",
        ),
    ],
)
def test_every_weight_is_used_and_every_parameter_filled(
    change: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    state = make(num_heads=4).state_dict()
    change(state)
    torch.save(state, tmp_path / "unet.pt")
    arguments = ["--unet", str(tmp_path / "unet.pt"), "--flags", SMALL, "--out", str(tmp_path / "out")]
    assert f"the flags describe another network: {message}" in refused(capsys, GUIDED, *arguments)


# --- how it is written ---


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    arguments = ["--unet", save(make(num_heads=4), tmp_path / "unet.pt"), "--flags", SMALL, "--out", str(out)]
    assert refused(capsys, GUIDED, *arguments) == f"--out must be a new or an empty folder, got {out}"
    (out / "mine.txt").unlink()
    convert.main([GUIDED, *arguments])
    assert (out / "model_index.json").is_file()


def test_a_disk_that_fills_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DDPMScheduler, "save_pretrained", full)  # the U-Net has been written by then
    arguments = ["--unet", save(make(num_heads=4), tmp_path / "unet.pt"), "--flags", SMALL]
    assert "No space left" in refused(capsys, GUIDED, *arguments, "--out", str(tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["unet.pt"]


@torch.no_grad()
def test_half_precision_and_old_files_are_read(tmp_path: Path) -> None:
    net = make(num_heads=4).half()
    torch.save(net.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    convert.convert(GUIDED, str(tmp_path / "old.pt"), SMALL, tmp_path / "out")
    unet = UNet2DModel.from_pretrained(tmp_path / "out", subfolder="unet")
    assert {p.dtype for p in unet.parameters()} == {torch.float32}
    inputs = seen(net, 3, 16)
    assert_same(unet(inputs["x"], inputs["t"]).sample, net.float()(**inputs))


def test_weights_are_not_held_twice() -> None:
    state = make(num_heads=4).state_dict()
    architecture = unet_architecture(parse_flags(GUIDED, SMALL))
    model = architecture.build_unet(3, 3, None)
    weights.fill(model, state, architecture)
    places = {value.data_ptr() for value in state.values()}
    copied = [name for name, p in model.named_parameters() if p.data_ptr() not in places]
    assert copied and all(re.search(r"\.to_[qkv]\.", name) for name in copied)


def test_flags_that_have_no_part_are_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = f"{SMALL} --classifier_depth 4 --classifier_scale 1.0 --model_path a.pt --classifier_path b.pt"
    converted(tmp_path, f"{flags} --base_samples c.npz", make(num_heads=4))
    assert capsys.readouterr().out.splitlines()[:3] == [
        "ignored: base_samples, classifier_path, model_path",
        "ignored, because they only concern sampling: classifier_scale",
        "ignored without --classifier: classifier_depth",
    ]
