"""From files of weights to a folder that draws: what is no such file is refused, and nothing is left half."""

from __future__ import annotations

import pickle
import re
import runpy
import sys
from pathlib import Path

import published_adm as published
import pytest
import torch
from conversion_runs import GUIDED, SHAPE, SMALL, Harmful, assert_same, converted, make, refused, save, seen
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DModel
from toys import quiet, seeded

import pipelines
from pipelines import ClassifierGuidancePipeline, DDPMPipeline
from training import convert
from training.conversion import weights
from training.conversion.architecture import unet_architecture
from training.conversion.flags import parse_flags

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


# --- what is no file of weights ---


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
