"""The loop: averaged weights, clipping, learning rate, batches, trackers, samples, and what it does with a NaN."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from training_runs import (
    alone,
    command,
    forget_accelerate,
    image_folder,
    network_file,
    noise_images,
    run_here,
    small_settings,
    small_trainer,
)
from training_runs import weights as weights_of

from pipelines import ClassifierFreeGuidancePipeline
from training.loop import Trainer
from training.objectives.denoising import Denoising
from training.randomness import BatchRandom

pytestmark = pytest.mark.usefixtures("alone")


UNET = Path("unet", "diffusion_pytorch_model.safetensors")


def gradient_norm(trainer: Trainer) -> float:
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in trainer.network.parameters()))


def norms_at_each_update(trainer: Trainer, updates: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The norm of the gradients as the optimizer sees them."""
    seen, step = [], trainer.optimizer.step

    def noting() -> None:
        seen.append(gradient_norm(trainer))
        step()

    monkeypatch.setattr(trainer.optimizer, "step", noting)
    for _ in range(updates):
        trainer.update()
    return seen


# --- one update ---


@pytest.mark.parametrize("decay", [0.999, 0.15])
def test_the_average_is_warmed_up_as_computed_by_hand(decay: float, tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path / "run", double=True, ema_decay=decay, learning_rate=1e-2)
    expected: list[Tensor] | None = None
    for n in range(5):
        trainer.update()
        now = [p.detach().clone() for p in trainer.network.parameters()]
        share = 0.0 if n == 0 else min(decay, (1 + n) / (10 + n))
        expected = (
            now if expected is None else [share * e + (1 - share) * w for e, w in zip(expected, now, strict=True)]
        )
    for mine, theirs in zip(expected, trainer.averages[0].shadow_params, strict=True):
        torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-13)
    drawn = trainer.pipeline().unet
    assert not drawn.training and drawn is not trainer.network
    for mine, theirs in zip(expected, drawn.parameters(), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-13)
    assert any(not torch.equal(e, p) for e, p in zip(expected, trainer.network.parameters(), strict=True))


def test_a_second_average_is_saved_beside_the_first_and_survives_a_checkpoint(tmp_path: Path) -> None:
    flags = {"max_train_steps": 6, "checkpointing_steps": 3, "ema_decay": 0.3, "learning_rate": 1e-2}
    folders = {"one": tmp_path / "one", "other": tmp_path / "other", "both": tmp_path / "both"}
    small_trainer(folders["one"], **flags).train()
    forget_accelerate()
    small_trainer(folders["other"], **flags | {"ema_decay": 0.1}).train()
    forget_accelerate()
    small_trainer(folders["both"], second_ema_decay=0.1, **flags).train()
    forget_accelerate()
    resumed = small_trainer(
        tmp_path / "resumed",
        second_ema_decay=0.1,
        resume_from_checkpoint=str(folders["both"] / "checkpoint-3"),
        **flags,
    )
    resumed.train()
    one, other = ((folders[name] / UNET).read_bytes() for name in ("one", "other"))
    assert one != other
    for folder in (folders["both"], tmp_path / "resumed"):
        assert (folder / UNET).read_bytes() == one and (folder / "ema-0.1" / UNET).read_bytes() == other
    assert ClassifierFreeGuidancePipeline.from_pretrained(folder / "ema-0.1").num_classes == 2


def test_two_averages_that_must_be_equal_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small_trainer(tmp_path / "equal", second_ema_decay=0.9998, max_train_steps=20)
    assert "keep the same average: after 20 updates a decay is at most 0.7000" in caplog.text
    caplog.clear()
    forget_accelerate()
    small_trainer(tmp_path / "apart", second_ema_decay=0.5, max_train_steps=20)
    assert "same average" not in caplog.text


def test_gradients_are_clipped_to_the_norm_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = small_trainer(tmp_path / "free", max_grad_norm=0.0, learning_rate=0.0)
    raw = norms_at_each_update(free, 3, monkeypatch)
    assert min(raw) > 0.1
    forget_accelerate()
    bound = small_trainer(tmp_path / "bound", max_grad_norm=0.05, learning_rate=0.0)
    np.testing.assert_allclose(norms_at_each_update(bound, 3, monkeypatch), 0.05, rtol=1e-4)
    forget_accelerate()
    loose = small_trainer(tmp_path / "loose", max_grad_norm=1e6, learning_rate=0.0)
    np.testing.assert_allclose(norms_at_each_update(loose, 3, monkeypatch), raw, rtol=1e-5)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path / "run", learning_rate=1e-3, lr_warmup_steps=3, max_train_steps=8)
    used = []
    for _ in range(8):
        used.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.update()
    share = [k / 3 for k in range(3)] + [0.5 * (1 + math.cos(math.pi * k / 5)) for k in range(5)]
    np.testing.assert_allclose(used, np.array(share) * 1e-3, rtol=1e-12, atol=1e-15)


def test_a_few_dozen_steps_learn_four_images(tmp_path: Path) -> None:
    images = np.zeros((4, 1, 8, 8), dtype=np.uint8)
    images[1::2] = 255  # the cat is white, the bird is black
    flags = {"train_batch_size": 8, "learning_rate": 3e-3, "lr_warmup_steps": 5, "ddpm_num_steps": 1000}
    trainer = small_trainer(tmp_path / "run", replace(noise_images(4), images=images), max_train_steps=60, **flags)
    losses = [trainer.update() for _ in range(40)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5]), losses
    assert np.isfinite(losses).all()


def test_batches_hold_the_images_of_the_order_in_range(tmp_path: Path) -> None:
    data = noise_images(10, classes=2)
    trainer = small_trainer(tmp_path / "run", data)
    seen = []
    for trainer.step in range(5):
        batch, _ = trainer.batch(0)
        index = trainer.order.indices(trainer.step * 4, 4).numpy()
        expected = data.images[index].astype(np.float64) / 127.5 - 1
        np.testing.assert_allclose(batch["images"].numpy(), expected, atol=1e-6)
        assert batch["images"].dtype == torch.float32
        assert np.array_equal(batch["labels"].numpy(), data.labels[index])
        seen.extend(index.tolist())
    assert sorted(seen) == sorted([*range(10)] * 2)  # 20 examples are two epochs of ten


def test_random_flip_mirrors_about_half(tmp_path: Path) -> None:
    data = noise_images(64)
    plain = small_trainer(tmp_path / "plain", data, train_batch_size=64).batch(0)[0]["images"]
    forget_accelerate()
    mixed = small_trainer(tmp_path / "mixed", data, train_batch_size=64, random_flip=True).batch(0)[0]["images"]
    same = (mixed == plain).flatten(1).all(1)
    flipped = (mixed == plain.flip(3)).flatten(1).all(1)
    assert bool((same ^ flipped).all()) and 16 < int(flipped.sum()) < 48


def test_bf16_autocast_keeps_the_weights_and_the_noise_in_float32(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path / "run", mixed_precision="bf16", channels_last=True)
    seen = []
    conv_in = trainer.network.conv_in
    conv_in.register_forward_hook(lambda module, args, output: seen.append((args[0], output.dtype)))
    losses = [trainer.update() for _ in range(3)]
    assert np.isfinite(losses).all()
    assert {p.dtype for p in trainer.network.parameters()} == {torch.float32}
    assert all(x.dtype == torch.float32 and dtype == torch.bfloat16 for x, dtype in seen)
    trainer.step = 2
    batch, rng = trainer.batch(0)
    noise, (t, _) = rng.normal("noise", (1, 8, 8)), trainer.objective._timesteps(rng)
    assert torch.equal(seen[-1][0], trainer.objective.schedule.add_noise(batch["images"], noise, t))


def test_the_weights_at_the_start_and_dropout_follow_from_the_seed_alone(tmp_path: Path) -> None:
    ends = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        forget_accelerate()
        torch.manual_seed(len(ends))  # what the process drew before must not matter
        trainer = small_trainer(tmp_path / name, seed=seed, dropout=0.3)
        for _ in range(2):
            trainer.update()
        ends.append(weights_of(trainer))
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert not all(torch.equal(ends[0][key], ends[2][key]) for key in ends[0])


# --- what an objective may have besides ---


class Remembering:
    """A history that keeps all it is told of."""

    def __init__(self) -> None:
        self.told: list[list[float]] = []
        self.pending: list[list[float]] = []

    def timesteps(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        return (shares * 5).long(), torch.ones(len(shares))

    def take(self) -> Tensor:
        taken, self.pending = torch.tensor(self.pending, dtype=torch.float64), []
        return taken

    def update(self, rows: Tensor) -> None:
        assert rows.dtype == torch.float64
        self.told.extend(rows.tolist())

    def state_dict(self) -> dict[str, list]:
        return {"told": self.told}

    def load_state_dict(self, state: dict[str, list]) -> None:
        self.told = state["told"]


class WithHistory(Denoising):
    """Denoising that notes the labels it sees."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.history = Remembering()

    def loss(self, batch: dict[str, Tensor], rng: BatchRandom) -> Tensor:
        self.history.pending.extend([float(label), 0.5] for label in batch["labels"])
        return super().loss(batch, rng)


def with_history(folder: Path, **changes: object) -> Trainer:
    forget_accelerate()
    flags = {"gradient_accumulation_steps": 2, "train_batch_size": 2, "max_train_steps": 3} | changes
    recipe, options = small_settings(folder, **flags)
    return Trainer(recipe, noise_images(), WithHistory.build(recipe, options, noise_images()))


def test_a_history_is_told_of_every_example_and_goes_into_checkpoints(tmp_path: Path) -> None:
    trainer = with_history(tmp_path / "run", checkpointing_steps=2)
    trainer.train()
    labels = noise_images().labels[trainer.order.indices(0, 12).numpy()]
    assert trainer.objective.history.told == [[float(label), 0.5] for label in labels]
    again = with_history(tmp_path / "run", resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    again._resume()
    assert again.objective.history.told == trainer.objective.history.told[:8]


def test_the_history_of_several_processes_is_in_the_order_of_the_examples(tmp_path: Path) -> None:
    trainer = with_history(tmp_path / "run")  # two micro-steps of two examples
    gathered = SimpleNamespace(num_processes=2, device="cpu", gather=lambda rows: torch.cat([rows, rows + 2]))
    trainer.accelerator = gathered
    own = torch.tensor([0.0, 1.0, 4.0, 5.0])[:, None]  # the other process has 2, 3 and 6, 7
    assert trainer._of_all_processes(own).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_what_an_objective_shows_is_logged_beside_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, shown = tmp_path / "run", []

    def diagnostics(self: Denoising, network: torch.nn.Module) -> tuple[dict[str, float], dict[str, Image.Image]]:
        shown.append([p.clone() for p in network.parameters()])
        return {"nested/value": 0.25}, {"plot": Image.new("RGB", (6, 4), "red")}

    monkeypatch.setattr(Denoising, "diagnostics", diagnostics)
    trainer = small_trainer(folder, max_train_steps=2, validation_steps=2, report_to="tensorboard")
    trainer.train()
    events = EventAccumulator(str(folder / "stepwise")).Reload()
    assert [(point.step, point.value) for point in events.Scalars("nested/value")] == [(2, 0.25)]
    assert [image.step for image in events.Images("plot")] == [2]
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["plot-step-000002.png", "step-000002.png"]
    assert Image.open(folder / "samples" / "plot-step-000002.png").getpixel((0, 0)) == (255, 0, 0)
    (parameters,) = shown
    assert all(torch.equal(p, q) for p, q in zip(parameters, trainer.averages[0].shadow_params, strict=True))


# --- a NaN ---


def test_a_nan_loss_stops_the_run_and_leaves_the_last_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, calls, loss = tmp_path / "run", [], Denoising.loss

    def digests() -> dict[str, str]:
        files = sorted(p for p in (folder / "checkpoint-2").rglob("*") if p.is_file())
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    def fails_late(self: Denoising, *args: object) -> Tensor:
        calls.append(None)
        if len(calls) < 4:
            return loss(self, *args)
        calls.append(digests())
        return loss(self, *args) * float("nan")

    monkeypatch.setattr(Denoising, "loss", fails_late)
    flags = {"train_data_dir": image_folder(tmp_path / "images"), "checkpointing_steps": 2}
    flags["model_config_name_or_path"] = network_file(tmp_path / "network.json")
    with pytest.raises(SystemExit, match=r"error: the loss is nan at step 3; .*--learning_rate"):
        run_here(command("--recipe conditional", output_dir=folder, **flags))
    assert calls[-1] and digests() == calls[-1]
    assert not (folder / "checkpoint-4").exists() and not (folder / "model_index.json").exists()


# --- what a run leaves behind ---


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 updates through the command line, on a schedule shorter than the samples' usual 25 steps."""
    root = tmp_path_factory.mktemp("finished")
    with alone(root / "cache"):
        flags = {"train_data_dir": image_folder(root / "images"), "output_dir": root / "run"}
        flags |= {"model_config_name_or_path": network_file(root / "network.json"), "report_to": "tensorboard"}
        run_here(command("--recipe conditional", validation_steps=4, checkpointing_steps=4, **flags))
    return root / "run"


def test_tensorboard_has_the_curves_and_the_samples(finished: Path) -> None:
    events = EventAccumulator(str(finished / "stepwise")).Reload()
    for tag in ("loss", "lr", "images_per_second"):
        points = events.Scalars(tag)
        assert [point.step for point in points] == [1, 2, 3, 4, 5, 6], tag
        assert all(math.isfinite(point.value) and point.value >= 0 for point in points), tag
    rates = [point.value for point in events.Scalars("lr")]
    assert rates[:2] == pytest.approx([5e-4, 1e-3]) and rates[-1] == pytest.approx(0)
    assert [image.step for image in events.Images("samples")] == [4, 6]


def test_sample_grids_are_images_of_every_class(finished: Path) -> None:
    grids = sorted(path.name for path in (finished / "samples").iterdir())
    assert grids == ["step-000004.png", "step-000006.png"]
    grid = Image.open(finished / "samples" / grids[-1])
    assert grid.mode == "L" and grid.size == (10 * 58 - 2, 4 * 58 - 2)
    assert np.asarray(grid.crop((0, 0, 56, 56))).std() > 0


def test_the_folder_is_a_pipeline_and_says_how_it_was_trained(finished: Path) -> None:
    pipe = ClassifierFreeGuidancePipeline.from_pretrained(finished)
    assert pipe.class_names == ["bird", "cat"] and pipe.null_label == 2
    record = json.loads((finished / "training.json").read_text())
    assert (record["steps"], record["images"], record["processes"]) == (6, 24, 1)
    assert record["recipe"]["ddpm_num_steps"] == 5 and record["seconds"] > 0
    assert record == json.loads((finished / "checkpoint-6" / "training.json").read_text()) | {
        "seconds": record["seconds"]
    }
    leftovers = [path.name for path in finished.iterdir() if path.name.startswith(".")]
    assert leftovers == []
