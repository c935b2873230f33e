"""Training a classifier of noisy images: it learns, the network it will steer stays as it is, the result draws."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from fresh_processes import run_elsewhere
from image_files import parquet_folder
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from toys import ddim, ddpm, guided, seeded
from training_runs import alone, assert_same, command, image_folder, noise_images, run_here, settings_of

from pipelines import ClassifierGuidancePipeline, NoiseSchedule, NoisyClassifier
from training.data import ImageData
from training.evaluation import noise_accuracy
from training.loop import Trainer
from training.metrics.noise_accuracy import accuracy_by_noise_level, noise_levels
from training.objectives.noisy_classifier import NoisyClassification
from training.recipes import Recipe

SHAPE = {
    "_class_name": "NoisyClassifier",
    "block_out_channels": [16, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


pytestmark = pytest.mark.usefixtures("alone")


def classifier_config(root: Path, **changes: object) -> str:
    """A file for --model_config_name_or_path."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "classifier.json").write_text(json.dumps(SHAPE | changes))
    return str(root / "classifier.json")


def steered(root: Path, steps: int = 10) -> Path:
    """The folder of an unconditional pipeline of 8 x 8 grey images."""
    if not (root / "steered").exists():
        ddpm(num_train_timesteps=steps).save_pretrained(root / "steered")
    return root / "steered"


def flags(root: Path, **changes: object) -> dict[str, object]:
    fixed = {"train_batch_size": 8, "max_train_steps": 6, "lr_warmup_steps": 2, "validation_steps": 1000}
    fixed |= {"pretrained_model_name_or_path": str(steered(root)), "report_to": "none"}
    return fixed | {"model_config_name_or_path": classifier_config(root)} | changes


def recipe_and_objective(
    root: Path, data: ImageData | None = None, **changes: object
) -> tuple[Recipe, NoisyClassification]:
    chosen = flags(root, objective="noisy_classifier", **changes)
    recipe, options = settings_of(NoisyClassification, chosen)
    return recipe, NoisyClassification.build(recipe, options, data or noise_images())


def objective(root: Path, data: ImageData | None = None, **changes: object) -> NoisyClassification:
    return recipe_and_objective(root, data, **changes)[1]


def black_and_white(count: int = 16) -> ImageData:
    """The bird is black, the cat is white."""
    images = np.zeros((count, 1, 8, 8), dtype=np.uint8)
    images[1::2] = 255
    return replace(noise_images(count), images=images)


def run(root: Path, name: str, **changes: object) -> Path:
    """A run through the command line, from a recipe whose data are replaced."""
    arguments = flags(root, output_dir=root / name, train_data_dir=root / "images", **changes)
    arguments.pop("ddpm_num_steps", None)
    run_here(command("--recipe fashion-noisy-classifier", **arguments, ddpm_num_steps=None))
    return root / name


# --- learning ---


def test_a_few_dozen_updates_tell_black_from_white_at_little_noise(tmp_path: Path) -> None:
    data, root = black_and_white(), tmp_path / "root"
    ddpm().save_pretrained(root / "steered")
    recipe, task = recipe_and_objective(
        root, data, learning_rate=3e-3, max_train_steps=60, output_dir=str(tmp_path / "run")
    )
    before, _ = task.diagnostics(task.network)
    trainer = Trainer(recipe, data, task)
    losses = [trainer.update() for _ in range(40)]
    assert losses[0] == pytest.approx(math.log(2), abs=0.3)
    assert np.mean(losses[-10:]) < 0.5 * math.log(2), losses
    values, shown = task.diagnostics(trainer.network.eval())
    assert [*values] == [f"accuracy/t={t}" for t in (0, 100, 250, 500, 750)]
    assert values["accuracy/t=0"] > 0.9 and values["accuracy/t=100"] > 0.9 and values != before
    assert [*shown] == ["accuracy"] and np.asarray(shown["accuracy"]).std() > 10


def test_the_loss_is_the_cross_entropy_of_the_images_under_the_noise_of_the_pipeline(tmp_path: Path) -> None:
    data, root = noise_images(16), tmp_path / "root"
    ddim(num_train_timesteps=48, beta_schedule="linear").save_pretrained(root / "steered")
    recipe, task = recipe_and_objective(root, data, output_dir=str(tmp_path / "run"))
    trainer = Trainer(recipe, data, task)
    network = trainer.network.double().eval()
    batch, rng = trainer.batch(0)
    loss = task.loss(batch, rng).item()
    t = (rng.stratified("t") * 48).floor().long()
    assert len(set(t.numpy() // 6)) == 8  # one in each eighth of the process
    abar = np.cumprod(1 - np.linspace(1e-4, 2e-2, 48))[t.numpy()]
    kept = torch.from_numpy(abar)[:, None, None, None]
    x_t = kept.sqrt() * batch["images"] + (1 - kept).sqrt() * rng.normal("noise", (1, 8, 8)).double()
    logits = network(x_t, t)
    expected = (logits.logsumexp(1) - logits[torch.arange(8), batch["labels"]]).mean()
    assert loss == pytest.approx(expected.item(), rel=1e-6)


def test_the_optimizer_has_the_classifier_and_nothing_else(tmp_path: Path) -> None:
    recipe, task = recipe_and_objective(tmp_path / "root", output_dir=str(tmp_path / "run"))
    trainer = Trainer(recipe, noise_images(), task)
    held = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in trainer.network.parameters()}
    assert isinstance(trainer.network, NoisyClassifier)
    trainer.update()
    assert not any(p.requires_grad or p.grad is not None for p in task.frozen["unet"].parameters())


def test_the_weights_at_the_start_follow_from_the_seed_alone(tmp_path: Path) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(states))
        states.append(objective(tmp_path, seed=seed).network.state_dict())
    assert_same(states[0], states[1])
    assert not torch.equal(states[0]["conv_in.weight"], states[2]["conv_in.weight"])


def test_without_a_config_the_classifier_is_the_shipped_shape(tmp_path: Path) -> None:
    config = objective(tmp_path, model_config_name_or_path=None).network.config
    assert (config.patch_size, tuple(config.block_out_channels), config.pool) == (2, (64, 128), "attention")
    assert (config.sample_size, config.in_channels, config.num_classes) == (8, 1, 2)


# --- what a run leaves behind ---


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    image_folder(root / "images", count=12)
    return root


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    with alone(place / "cache"):
        return run(place, "finished", checkpointing_steps=3, validation_steps=3, report_to="tensorboard")


LOADER = """
import sys, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
half = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.bfloat16)
assert {p.dtype for p in half.classifier.parameters()} == {torch.float32} and half.unet.dtype == torch.bfloat16
drawn = {}
for scale in (0.0, 5.0):
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    options = dict(num_inference_steps=3, guidance_scale=scale, generator=generators, output_type="pt")
    drawn[scale] = pipe(["bird", "cat"], **options).images
assert "pipelines" not in sys.modules and "training" not in sys.modules
torch.save(drawn, sys.argv[2])
"""


def test_the_pipeline_draws_in_a_fresh_process(finished: Path, tmp_path: Path) -> None:
    run_elsewhere(tmp_path, LOADER, str(finished), str(tmp_path / "drawn.pt"))
    drawn = torch.load(tmp_path / "drawn.pt")
    assert drawn[0.0].shape == (2, 1, 8, 8)
    assert not torch.equal(drawn[0.0], drawn[5.0]), "the classifier steers"


def test_the_steered_network_and_its_schedule_stay_as_they_were(finished: Path, place: Path) -> None:
    before, after = (load_file(folder / "unet" / WEIGHTS) for folder in (steered(place), finished))
    assert_same(before, after)
    before, after = (folder / "scheduler" / "scheduler_config.json" for folder in (steered(place), finished))
    assert before.read_text() == after.read_text()
    pipe = ClassifierGuidancePipeline.from_pretrained(finished)
    assert pipe.class_names == ["bird", "cat"] and pipe.classifier.config.num_classes == 2


def test_accuracy_by_noise_level_is_logged_and_drawn(finished: Path) -> None:
    events = EventAccumulator(str(finished / "stepwise")).Reload()
    for t in (0, 1, 2, 5, 7):
        points = events.Scalars(f"accuracy/t={t}")
        assert [point.step for point in points] == [3, 6] and all(0 <= point.value <= 1 for point in points)
    for tag in ("samples", "accuracy"):
        assert [image.step for image in events.Images(tag)] == [3, 6]
    names = sorted(path.name for path in (finished / "samples").iterdir())
    assert names == [f"{prefix}step-{step:06d}.png" for prefix in ("accuracy-", "") for step in (3, 6)]
    assert Image.open(finished / "samples" / names[0]).size == (640, 400)


def test_a_resumed_run_ends_bit_for_bit_where_the_unbroken_one_ends(finished: Path, place: Path) -> None:
    again = run(place, "resumed", checkpointing_steps=3, resume_from_checkpoint=finished / "checkpoint-3")
    assert_same(load_file(again / "classifier" / WEIGHTS), load_file(finished / "classifier" / WEIGHTS))
    early = load_file(finished / "checkpoint-3" / "pipeline" / "classifier" / WEIGHTS)
    assert any(not torch.equal(early[k], v) for k, v in load_file(again / "classifier" / WEIGHTS).items())


def test_training_goes_on_from_the_classifier_of_a_pipeline(finished: Path, tmp_path: Path) -> None:
    task = objective(tmp_path, pretrained_model_name_or_path=str(finished))
    assert_same(dict(task.network.state_dict()), load_file(finished / "classifier" / WEIGHTS))
    assert all(p.requires_grad for p in task.network.parameters())
    with pytest.raises(ValueError, match="the data must have the 2 classes of the classifier to train on, got 3"):
        objective(tmp_path, noise_images(classes=3), pretrained_model_name_or_path=str(finished))


# --- what is refused ---


def test_data_without_labels_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = tmp_path / "root"
    image_folder(root / "images", count=4, names=())
    with pytest.raises(SystemExit, match="error: objective must be denoising for data without labels"):
        run(root, "run")
    assert not (root / "run").exists()


def test_pipelines_that_cannot_be_steered_are_refused_by_name(tmp_path: Path) -> None:
    guided().save_pretrained(tmp_path / "cfg")
    named = "pretrained_model_name_or_path must be one of DDPMPipeline, DDIMPipeline, ClassifierGuidancePipeline"
    with pytest.raises(ValueError, match=f"{named}, got a ClassifierFreeGuidancePipeline"):
        objective(tmp_path, pretrained_model_name_or_path=str(tmp_path / "cfg"))
    with pytest.raises(ValueError, match=r"resolution must be that of .*, 1 channel\(s\) of 8x8, got .* 16x16"):
        objective(tmp_path, noise_images(size=16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "UNet2DModel"}, "must be the config of a NoisyClassifier, got 'UNet2DModel'"),
        ({"heads": 4}, "must hold arguments of NoisyClassifier, got heads"),
    ],
)
def test_a_config_that_is_no_classifiers_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    config = classifier_config(tmp_path / "other", **changes)
    with pytest.raises(ValueError, match=f"model_config_name_or_path {message}"):
        objective(tmp_path, model_config_name_or_path=config)
    with pytest.raises(ValueError, match="model_config_name_or_path must be a JSON file or a folder"):
        objective(tmp_path, model_config_name_or_path=str(tmp_path / "nowhere"))


# --- accuracy by noise level ---


class Brightness(torch.nn.Module):
    """Says white (1) where the mean of x_t is above 0, and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[int, list[Tensor]] = {}

    def forward(self, x: Tensor, t: int) -> Tensor:
        self.seen.setdefault(t, []).append(x.clone())
        mean = x.mean((1, 2, 3))
        return torch.stack([-mean, mean], dim=1)


def test_accuracy_counts_what_is_recognised_under_noise_that_no_batch_changes() -> None:
    data, schedule = noise_images(7), NoiseSchedule.linear(20)
    levels, found, shown = [0, 5, 19], [], []
    for batch_size in (7, 3):
        judge = Brightness()
        found.append(
            accuracy_by_noise_level(judge, data.images, data.labels, schedule, levels, seed=11, batch_size=batch_size)
        )
        shown.append({t: torch.cat(parts) for t, parts in judge.seen.items()})
    assert found[0] == found[1] and [*found[0]] == levels
    abar = np.cumprod(1 - np.linspace(1e-4, 2e-2, 20))
    noise = torch.stack([torch.randn(1, 8, 8, generator=seeded(11 + k)) for k in range(7)])
    for t in levels:
        x_t = abar[t] ** 0.5 * (torch.from_numpy(data.images) / 127.5 - 1) + (1 - abar[t]) ** 0.5 * noise
        for parts in shown:
            torch.testing.assert_close(parts[t], x_t.float(), rtol=0, atol=1e-5)
        said = (x_t.mean((1, 2, 3)) > 0).numpy()
        assert found[0][t] == pytest.approx(np.mean(said == data.labels))


@pytest.mark.parametrize("wrong", [[20], [-1], []])
def test_timesteps_outside_the_schedule_are_refused(wrong: list[int]) -> None:
    data = noise_images(4)
    with pytest.raises(ValueError, match=r"timesteps must be in \[0, 19\]"):
        accuracy_by_noise_level(Brightness(), data.images, data.labels, NoiseSchedule.linear(20), wrong)


def test_the_five_noise_levels() -> None:
    assert noise_levels(NoiseSchedule.linear(1000)) == [0, 100, 250, 500, 750]
    assert noise_levels(NoiseSchedule.linear(4)) == [0, 1, 2, 3]


def parquet(root: Path, count: int = 12) -> Path:
    """A labelled test split, as training.data reads it."""
    return parquet_folder(root, {"test": noise_images(count).images[:, 0]}, ("bird", "cat"))


def test_the_command_writes_a_table_a_file_and_a_plot(
    finished: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pipe = ClassifierGuidancePipeline.from_pretrained(finished)
    pipe.save_pretrained(tmp_path / "model")
    data = parquet(tmp_path / "set")
    arguments = [str(tmp_path / "model"), "--dataset_name", str(data)]
    noise_accuracy.main(arguments)
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "model" / "noise_accuracy.json").read_text())
    assert [*found["accuracy"]] == ["0", "1", "2", "5", "7"]
    truth = noise_images(12)
    schedule = NoiseSchedule.from_scheduler(DDIMScheduler.from_config(pipe.scheduler.config))
    expected = accuracy_by_noise_level(pipe.classifier, truth.images, truth.labels, schedule, noise_levels(schedule))
    assert found["accuracy"] == {str(t): share for t, share in expected.items()}
    assert found["chance"] == 0.5 and found["num_images"] == 12
    assert found["standard_error"]["0"] == pytest.approx(math.sqrt(expected[0] * (1 - expected[0]) / 12))
    assert f"{expected[0]:.1%}" in printed and "chance" in printed
    assert Image.open(tmp_path / "model" / "noise_accuracy.png").size == (640, 400)
    noise_accuracy.main([*arguments, "--timesteps", "3", "--batch_size", "5"])
    assert [*json.loads((tmp_path / "model" / "noise_accuracy.json").read_text())["accuracy"]] == ["3"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--batch_sise", "3"], "unknown flag --batch_sise; did you mean --batch_size"),
        (["--batch_size", "0"], "batch_size must be at least 1, got 0"),
        (["--timesteps", "10"], r"timesteps must be in \[0, 9\], got \[10\]"),
        (["--dataset_name", "nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_the_command_names_what_is_wrong(extra: list[str], message: str, finished: Path, tmp_path: Path) -> None:
    data = parquet(tmp_path / "set", count=2)
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        noise_accuracy.main([str(finished), "--dataset_name", str(data), *extra])


def test_other_classes_are_not_measured(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    index["id2label"] = {"0": "car", "1": "ship"}
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    data = parquet(tmp_path / "set", count=2)
    with pytest.raises(SystemExit, match="^error: dataset_name must have the classifier's classes, car, ship; .* bird"):
        noise_accuracy.main([str(tmp_path / "model"), "--dataset_name", str(data)])


def test_a_pipeline_without_a_classifier_is_refused_by_name(place: Path, tmp_path: Path) -> None:
    data = parquet(tmp_path / "set", count=2)
    with pytest.raises(SystemExit, match="^error: model must be a pipeline with a NoisyClassifier, .* None"):
        noise_accuracy.main([str(steered(place)), "--dataset_name", str(data)])
