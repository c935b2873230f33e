"""What version 0.1.0 saved stays good: its folders draw the same images and open everywhere, its checkpoints resume,
and the names that others read have not changed. tests/saved_0_1_0/README.md says what lies there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from saved_0_1_0.runs import FOLDER, RUNS, SAVED_AT, STEPS, arguments, place
from saved_by_0_1_0 import FOLDERS, on_the_page
from toys import seeded
from training_runs import alone, checkpoint_state, flat, run_here

import pipelines
from training.card import render
from training.evaluation.sampling import draw_batch, open_model
from ui.catalogue import Catalogue, describe
from ui.run import draw
from ui.settings import Settings

WITHOUT_CLASSES = {"ddpm", "ddpm_learned", "ddim", "guidance_alone", "latent"}
# Heun is left out: its first step was ruined in 0.1.0
SAMPLERS = {
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
    "DPM-Solver++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
}
OWN = "own"


# ------------------------------------------------------------------------------------------- the images are the same


@cache
def both(name: str) -> tuple[DiffusionPipeline, DiffusionPipeline]:
    """A folder opened with the code that it carries, and with that of the working tree."""
    kind = FOLDERS[name][0]
    carried = DiffusionPipeline.from_pretrained(FOLDER / name, trust_remote_code=True)
    ours = getattr(pipelines, kind).from_pretrained(FOLDER / name)
    assert type(ours) is getattr(pipelines, kind)
    assert type(carried).__name__ == kind and type(carried).__module__.startswith("diffusers_modules.")
    for pipe in (carried, ours):
        pipe.set_progress_bar_config(disable=True)
    return carried, ours


def drawn(pipe: DiffusionPipeline, sampler: str, **call: object) -> tuple[np.ndarray, float]:
    """8-bit images (N, H, W) in four steps, and the evaluations per image."""
    own = pipe.scheduler
    if sampler != OWN:
        pipe.scheduler = getattr(diffusers, SAMPLERS[sampler]).from_config(own.config, timestep_spacing="trailing")
    try:
        output = pipe(num_inference_steps=4, generator=seeded(3), **call)
    finally:
        pipe.scheduler = own
    return np.stack([np.asarray(image) for image in output.images]), output.nfe


def calls(name: str, sampler: str) -> Iterator[dict[str, Any]]:
    """What a pipeline is asked for: noise besides, where DDIM's steps take some."""
    kind, asked = FOLDERS[name]
    yield from asked
    if sampler == "DDIM" and kind != "DDPMPipeline":
        yield from (call | {"eta": 0.6} for call in asked)


@pytest.mark.parametrize("sampler", [OWN, *SAMPLERS])
@pytest.mark.parametrize("name", FOLDERS)
def test_the_working_tree_draws_what_the_carried_code_draws(name: str, sampler: str) -> None:
    carried, ours = both(name)
    for call in calls(name, sampler):
        (before, evaluations_before), (now, evaluations) = (drawn(pipe, sampler, **call) for pipe in (carried, ours))
        assert np.array_equal(before, now), call
        assert evaluations == evaluations_before, call
        assert len(np.unique(before)) > 20, "black and white images would agree whatever the code does"


def test_the_folders_are_all_compared() -> None:
    assert {path.parent.name for path in FOLDER.glob("*/model_index.json")} == set(FOLDERS)
    assert {path.name for path in FOLDER.glob("run_*")} == set(RUNS)


# ------------------------------------------------------------------------------------------------ they open everywhere


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """All of the folders on the page."""
    return on_the_page()


@pytest.mark.parametrize("name", FOLDERS)
def test_the_page_draws(name: str, catalogue: Catalogue) -> None:
    info = describe(name, FOLDER / name)
    assert (info.pipeline, info.carries_code, info.shape) == (FOLDERS[name][0], True, (8, 8, 1))
    assert bool(info.class_names) == (name not in WITHOUT_CLASSES)
    assert bool(set(info.page) - {"model"}) == name.startswith("guidance"), "a guidance scale of its own"
    assert set(SAMPLERS) <= set(info.samplers)
    for sampler in SAMPLERS:
        *_, last = draw(Settings(name, steps=2, count=2, sampler=sampler), catalogue)
        assert [image.size for image in last.images] == [(8, 8)] * 2 and last.evaluations >= 2


@pytest.mark.parametrize("name", FOLDERS)
def test_evaluation_draws(name: str) -> None:
    model = open_model(str(FOLDER / name), torch.float32)
    assert model.name == name and model.shape == (1, 8, 8)
    assert model.num_classes == (None if name in WITHOUT_CLASSES else 3)
    batch = draw_batch(model, range(3), 0, num_inference_steps=2)
    assert batch.pixels.shape == (3, 1, 8, 8) and batch.evaluations >= 6


@pytest.mark.parametrize("name", FOLDERS)
def test_the_card_is_written(name: str) -> None:
    card = render(FOLDER / name)
    assert f"pipelines.{FOLDERS[name][0]}.from_pretrained" in card and "How this model was trained is not" in card


@pytest.mark.parametrize("name", RUNS)
def test_the_card_of_a_checkpoint_tells_of_its_run(name: str) -> None:
    card = render(FOLDER / name / f"checkpoint-{SAVED_AT}" / "pipeline")
    assert f"--recipe {RUNS[name]['recipe']}" in card and "7 updates, 56 images" in card


# -------------------------------------------------------------------------------------------------- checkpoints resume

TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}  # processors differ in the last bits


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the runs were started, made again; on one thread, as they were."""
    root = tmp_path_factory.mktemp("runs")
    place(root)
    with alone(root / "cache"):
        yield root


@pytest.fixture
def run(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs the trainer there: f(name, folder, **flags) -> the folder that it wrote to."""
    monkeypatch.chdir(runs)

    def train(name: str, folder: str, **flags: object) -> Path:
        run_here(arguments(name, output_dir=folder, **flags))
        return runs / folder

    return train


@pytest.fixture(scope="module", params=list(RUNS))
def unbroken(request: pytest.FixtureRequest, runs: Path) -> tuple[str, Path]:
    """The name of a run, and where the current code has written all of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(runs)
        run_here(arguments(request.param, output_dir=f"{request.param}-unbroken"))
    return request.param, runs / f"{request.param}-unbroken"


def copied(name: str, folder: Path) -> Path:
    """The old checkpoint of a run, in a folder to go on in."""
    shutil.copytree(FOLDER / name / f"checkpoint-{SAVED_AT}", folder / f"checkpoint-{SAVED_AT}")
    return folder / f"checkpoint-{SAVED_AT}"


def state_of(checkpoint: Path) -> dict[str, Any]:
    """Path -> value of all that a checkpoint restores."""
    return flat(checkpoint_state(checkpoint))


def pipeline_weights(folder: Path) -> dict[str, Any]:
    """Of all networks of a saved pipeline."""
    return flat({path.parent.name: load_file(path) for path in folder.glob("*/*.safetensors")})


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal counts and settings, and numbers that agree but for rounding."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            torch.testing.assert_close(value, other[key], **TOLERANCE, msg=lambda text, key=key: f"{key}: {text}")
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        else:
            assert value == pytest.approx(other[key]) if isinstance(value, float) else value == other[key], key


def test_a_checkpoint_resumes_and_ends_where_an_uninterrupted_run_does(
    unbroken: tuple[str, Path],
    run: Callable[..., Path],
    runs: Path,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, whole = unbroken
    saved = copied(name, runs / f"{name}-resumed")
    flags = {"resume_from_checkpoint": "latest", "checkpointing_steps": 1, "checkpoints_total_limit": 20}
    resumed = run(name, f"{name}-resumed", **flags)
    assert f"checkpoint-{SAVED_AT} at step {SAVED_AT}" in capsys.readouterr().out
    assert "the data are not those" not in caplog.text
    steps = sorted(int(path.name.partition("-")[2]) for path in resumed.glob("checkpoint-*"))
    assert steps == list(range(SAVED_AT, STEPS + 1)), "it took the steps that were left, and no others"
    record = json.loads((resumed / "training.json").read_text())
    assert (record["steps"], record["images"]) == (STEPS, STEPS * 8)
    assert record["dataset_fingerprint"] == json.loads((saved / "training.json").read_text())["dataset_fingerprint"]
    assert_close(state_of(resumed / f"checkpoint-{STEPS}"), state_of(whole / f"checkpoint-{STEPS}"))
    assert_close(pipeline_weights(resumed), pipeline_weights(whole))


def test_the_comparison_would_see_a_run_that_had_not_gone_on(unbroken: tuple[str, Path]) -> None:
    """The checkpoint's own weights, and the end of the run, are apart by many times the tolerance."""
    name, whole = unbroken
    saved, end = FOLDER / name / f"checkpoint-{SAVED_AT}", whole / f"checkpoint-{STEPS}"
    before, after = pipeline_weights(saved / "pipeline"), pipeline_weights(whole)
    assert max(float((after[key] - before[key]).abs().max()) for key in after) > 20 * TOLERANCE["atol"]
    with pytest.raises(AssertionError):
        assert_close(before, after)
    with pytest.raises(AssertionError):
        assert_close(state_of(saved), state_of(end))


def emptied(value: Any) -> Any:
    """The same structure with zeros for its numbers: nothing is remembered."""
    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value)
    return {key: emptied(part) for key, part in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("run_denoising", "optimizer.bin"),
        ("run_classifier", "optimizer.bin"),
        ("run_history", "custom_checkpoint_2.pkl"),
    ],
)
def test_the_comparison_would_see_what_is_not_restored(
    name: str, file: str, run: Callable[..., Path], runs: Path
) -> None:
    """A run that goes on without AdamW's moments, or without its history of losses, ends elsewhere."""
    ends = []
    for folder in (f"{name}-good", f"{name}-forgetful"):
        part = copied(name, runs / folder) / "state" / file
        if folder.endswith("forgetful"):
            torch.save(emptied(torch.load(part, weights_only=False)), part)
        ends.append(pipeline_weights(run(name, folder, resume_from_checkpoint="latest")))
    assert max(float((ends[0][key] - ends[1][key]).abs().max()) for key in ends[0]) > 5 * TOLERANCE["atol"]


def test_the_history_goes_on(run: Callable[..., Path], runs: Path) -> None:
    """Its counts go on from the checkpoint's. They decide the timesteps of every later step."""
    saved = copied("run_history", runs / "history")
    end = run("run_history", "history", resume_from_checkpoint=saved.name) / f"checkpoint-{STEPS}"
    before, after = (state_of(folder)["/history/counts"] for folder in (saved, end))
    assert (before >= 10).all(), "ten at each t: importance sets in before the checkpoint"
    assert int(before.sum()) == SAVED_AT * 8 and int(after.sum()) == STEPS * 8 and (after >= before).all()


# --------------------------------------------------------------------------------- the record of a run keeps its keys

RECORD = set(
    "steps images seconds processes device dataset_fingerprint dataset_images dataset_id recipe base_model "
    "continues".split()
)
RECIPE = set(
    "recipe dataset_name dataset_config_name train_data_dir resolution image_column label_column max_train_samples "
    "random_flip objective class_conditional label_dropout prediction_type ddpm_num_steps ddpm_beta_schedule "
    "variance_type timestep_sampling snr_gamma pretrained_model_name_or_path model_config_name_or_path "
    "train_batch_size gradient_accumulation_steps max_train_steps learning_rate lr_scheduler lr_warmup_steps "
    "adam_beta1 adam_beta2 adam_weight_decay adam_epsilon max_grad_norm ema_decay seed mixed_precision channels_last "
    "torch_compile checkpointing_steps checkpoints_total_limit resume_from_checkpoint validation_steps "
    "report_to".split()
)
# 0.1.0 recorded these of classifiers too, which never used them
DENOISING = set(
    "class_conditional label_dropout prediction_type ddpm_num_steps ddpm_beta_schedule variance_type snr_gamma".split()
)


def test_the_record_of_a_run_keeps_its_keys(unbroken: tuple[str, Path]) -> None:
    name, whole = unbroken
    recipe = RECIPE - DENOISING if name == "run_classifier" else RECIPE
    for folder in (FOLDER / name / f"checkpoint-{SAVED_AT}", whole, whole / f"checkpoint-{STEPS}"):
        record = json.loads((folder / "training.json").read_text())
        assert set(record) >= RECORD and set(record["recipe"]) >= recipe, folder.name
