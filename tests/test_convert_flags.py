"""Flags of published checkpoints: the sets, and what contradicts itself or the weights is named."""

from __future__ import annotations

import re
from pathlib import Path

import published_adm as published
import pytest
from conversion_runs import CLASSIFIER_FLAGS, ENCODER, GUIDED, IMPROVED, SMALL, make, refused, save
from diffusers import UNet2DModel

from pipelines import ADMUNet2DModel
from training.conversion.architecture import classifier_architecture, parameter_count, unet_architecture
from training.conversion.flags import PUBLISHED, parse_flags

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
