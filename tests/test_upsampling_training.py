"""Training the stages of a cascade: what the network is told of the smaller image, what is saved, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from text_models import tiny_bert, tiny_tokenizer
from torch.nn.functional import avg_pool2d
from toys import quiet, seeded
from training_runs import alone, assert_same, command, network_file, noise, run_here, trainer_of

from pipelines import CascadePipeline
from pipelines.low_resolution import enlarged, told_level
from training.cascade import main as join
from training.files import write_json
from training.objectives.denoising import Denoising
from training.objectives.flow_matching import FlowMatching

SMALL = {
    "_class_name": "PatchedUNet2DConditionModel", "block_out_channels": [16, 16], "attention_head_dim": 8,
    "norm_num_groups": 4,
}  # fmt: skip
DENOISING = {"objective": "denoising", "ddpm_num_steps": 5}
UNTOLD = SMALL | {"class_embed_type": None}  # of captions


@pytest.fixture(scope="module", autouse=True)
def one_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with alone(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 16 pixels with captions, a text encoder, and configs of networks."""
    root = tmp_path_factory.mktemp("stages")
    tiny_bert().save_pretrained(root / "encoder")
    tiny_tokenizer().save_pretrained(root / "encoder")
    (root / "images").mkdir()
    rows = []
    for i in range(8):
        Image.fromarray(noise(16, 16, 3, seed=i)).save(root / "images" / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": ["a red apple", "a blue pear"][i % 2]})
    (root / "images" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(root / "told.json", SMALL)
    write_json(root / "untold.json", UNTOLD)
    return root


def arguments(place: Path, name: str, **more: object) -> list[str]:
    """A run of two updates."""
    flags = {"train_data_dir": place / "images", "output_dir": place / name, "objective": "flow_matching"}
    flags |= {"max_train_steps": 2, "checkpointing_steps": 1, "train_batch_size": 2, "ddpm_num_steps": None}
    return command("--recipe unconditional", **flags | more)


@pytest.mark.parametrize("kind", [FlowMatching, Denoising])
def test_the_network_is_told_the_smaller_image_and_how_it_was_spoilt(kind: type, tmp_path: Path) -> None:
    settings = {"class_conditional": False} | ({"ddpm_num_steps": 5} if kind is Denoising else {})
    flags = {"low_resolution": 4, "max_augmentation": 0.6, "blur": 0.0, "train_batch_size": 256, "network": UNTOLD}
    trainer = trainer_of(kind, tmp_path, **flags | settings)
    objective, (batch, rng) = trainer.objective, trainer.batch(0)
    images, told = objective.examples(batch, rng)
    levels = (0.6 * rng.stratified("augmentation")).float()
    torch.testing.assert_close(told["timestep_cond"], told_level({"time_cond_proj_dim": 128}, levels)["timestep_cond"])
    assert levels.max() < 0.6 and abs(float(levels.mean()) - 0.3) < 0.01
    small = avg_pool2d(images, 2)
    plain = enlarged((1 - levels**2).sqrt()[:, None, None, None] * small, (8, 8))
    added = told["low_resolution"] - plain
    eps = enlarged(rng.normal("augmentation noise", (1, 4, 4)), (8, 8))
    torch.testing.assert_close(added, levels[:, None, None, None] * eps, rtol=0, atol=1e-5)
    seen = []
    objective.network.forward = lambda x, *a, **k: seen.append((x, k)) or (x[:, :1],)
    objective.loss(batch, rng)
    ((x, given),) = seen
    assert torch.equal(x[:, 1:], told["low_resolution"]) and "low_resolution" not in given


def test_a_share_of_the_smaller_images_is_blurred(tmp_path: Path) -> None:
    flags = {"low_resolution": 4, "max_augmentation": 0.0, "blur": 0.3, "train_batch_size": 256, "network": UNTOLD}
    trainer = trainer_of(FlowMatching, tmp_path, class_conditional=False, **flags)
    images, told = trainer.objective.examples(*trainer.batch(0))
    assert "timestep_cond" not in told
    sharp = enlarged(avg_pool2d(images, 2), (8, 8))
    changed = (told["low_resolution"] - sharp).abs().flatten(1).amax(1) > 1e-6
    assert abs(float(changed.float().mean()) - 0.3) < 0.08


def test_stages_are_trained_apart_and_joined(place: Path, capsys: pytest.CaptureFixture) -> None:
    base = {"text_encoder": place / "encoder", "resolution": 8, "model_config_name_or_path": place / "told.json"}
    run_here(arguments(place, "base", **base))
    larger = {"low_resolution": 8} | DENOISING
    run_here(arguments(place, "larger", model_config_name_or_path=place / "untold.json", **larger))
    assert {path.stat().st_size > 1000 for path in (place / "larger" / "samples").glob("*.png")} == {True}
    stages = str(place / "base"), str(place / "larger")
    join([str(place / "whole"), *stages, "--augmentations", "0.25", "--enlarging_steps", "3"])
    pipe = quiet(CascadePipeline.from_pretrained(place / "whole"))
    assert pipe.config.paths == {"unet": "linear"} and pipe.config.augmentations == [0.25]
    output = pipe("a red apple", num_inference_steps=2, generator=seeded(), return_stages=True, output_type="np")
    assert [stage.shape[1] for stage in output.stages] == [8, 16] and np.isfinite(output.images).all()
    assert pipe.config.enlarging_steps == [3] and output.nfe == 2 * 2 + 3, "the second stage is told no prompts"
    record = json.loads((place / "whole" / "training.json").read_text())
    assert record["recipe"]["low_resolution"] == 8 and record["continues"]["recipe"]["resolution"] == 8
    tuned = {"low_resolution": 8, "pretrained_model_name_or_path": place / "whole", "max_train_steps": 1}
    run_here(arguments(place, "tuned", **tuned | {"objective": "denoising", "learning_rate": 0}))
    again, before = (CascadePipeline.from_pretrained(place / name) for name in ("tuned", "whole"))
    assert again.unet is None and again.scheduler_2.config.num_train_timesteps == 5
    assert_same(dict(again.unet_2.state_dict()), dict(before.unet_2.state_dict()))
    for changes, told in (
        ({"low_resolution": 4}, "low_resolution must be 8, the side of images that .* enlarges, got 4"),
        ({"low_resolution": None, "pretrained_model_name_or_path": place / "larger"}, "low_resolution must be given"),
    ):
        with pytest.raises(SystemExit, match=told):
            run_here(arguments(place, "never", **tuned | changes))
    whole = ("a red apple",), {"num_inference_steps": 2}
    for image, told in (
        (Image.new("RGB", (9, 8)), "^image must have 8x8 pixels, got 9x8$"),
        (np.zeros((1, 8, 8, 1)), r"^image must have 3 channel\(s\), got the shape"),
    ):
        with pytest.raises(ValueError, match=told):
            pipe(*whole[0], image=image, **whole[1])
    for stages, told in (
        (("larger", "base"), "the first stage must draw small images from noise, a CascadePipeline does not"),
        (("base", "base"), "stage 2 must be of a run with --low_resolution, and of that alone"),
        (("base",), "stages must be two or three, got 1"),
    ):
        with pytest.raises(SystemExit, match=told):
            join([str(place / "never"), *(str(place / stage) for stage in stages)])
    assert not (place / "never").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            {"low_resolution": 5},
            "low_resolution must divide the side of square images, and be less: 16x16 images, got 5",
        ),
        ({"low_resolution": 16}, "low_resolution must divide the side of square images, and be less"),
        ({"low_resolution": 0}, "low_resolution must be at least 1, got 0"),
        ({"low_resolution": 8, "max_augmentation": 1.0}, "max_augmentation must be"),
        (
            {"low_resolution": 8, "lora_rank": 4, "pretrained_model_name_or_path": "nowhere"},
            "lora_rank must be None with --low_resolution, got 4",
        ),
        ({"low_resolution": 8, "vae": "nowhere"}, "low_resolution must be None with a vae, got 8"),
        (
            {"low_resolution": 8, "objective": "denoising", "variance_type": "learned_range"},
            "variance_type must be fixed",
        ),
        (
            {"low_resolution": 8, "pretrained_model_name_or_path": "model_cards/fashion-cfg"},
            "pretrained_model_name_or_path must be a cascade, or a stage of one, with --low_resolution, got a Class",
        ),
    ],
)
def test_what_does_not_go_with_smaller_images_is_refused_by_name(place: Path, flags: dict, told: str) -> None:
    if "model_config_name_or_path" in flags:
        flags = flags | {"model_config_name_or_path": network_file(place / "plain.json")}
    with pytest.raises(SystemExit, match=told):
        run_here(arguments(place, "never", **flags))
