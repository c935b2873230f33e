"""A run that goes on takes its flags from its checkpoint, and refuses by name what would change the model."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from autoencoders import TINY
from training_runs import (
    alone,
    command,
    forget_accelerate,
    image_folder,
    network_file,
    noise_images,
    run_here,
    small_trainer,
    trainer_of,
)

from training.checkpoints import find_checkpoint
from training.files import write_json
from training.objectives.autoencoder import Autoencoding
from training.resume import check_same_model
from training.train import parse


@pytest.fixture(scope="module", autouse=True)
def one_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with alone(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a network, and a finished run of four updates in `run`, with many flags other than the defaults."""
    root = tmp_path_factory.mktemp("place")
    flags = {"train_data_dir": image_folder(root / "images"), "output_dir": root / "run", "resolution": 8}
    flags |= {"model_config_name_or_path": network_file(root / "network.json"), "prediction_type": "epsilon"}
    flags |= {"max_train_steps": 4, "checkpointing_steps": 2, "ema_decay": 0.5, "random_flip": True}
    run_here(command("--recipe conditional", **flags))
    return root


def copied(place: Path, folder: Path, *steps: int) -> Path:
    """The checkpoints of the run in another folder."""
    for step in steps:
        shutil.copytree(place / "run" / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    return folder


def record(folder: Path) -> dict[str, object]:
    return json.loads((folder / "training.json").read_text())


def with_flags(place: Path, folder: Path, settings: dict[str, object]) -> None:
    """A checkpoint of the run, in another folder and with a record of other flags."""
    path = copied(place, folder, 2) / "checkpoint-2" / "training.json"
    write_json(path, json.loads(path.read_text()) | {"recipe": settings})


def going_on(folder: Path, *flags: str) -> list[str]:
    return [f"--output_dir={folder}", "--resume_from_checkpoint=latest", *flags]


# --- flags ---


def test_flags_that_are_not_given_are_those_of_the_checkpoint(place: Path, tmp_path: Path) -> None:
    """Not even the recipe is given. Epsilon weights are not saved as another prediction."""
    folder = copied(place, tmp_path / "run", 2)
    run_here(going_on(folder))
    changing = ("seconds", "device")
    ends = [{k: v for k, v in record(path).items() if k not in changing} for path in (folder, place / "run")]
    assert ends[0]["recipe"].pop("resume_from_checkpoint") == "latest"
    ends[1]["recipe"].pop("resume_from_checkpoint")
    assert ends[0] == ends[1]
    weights = Path("unet", "diffusion_pytorch_model.safetensors")
    for file in ("model_index.json", "scheduler/scheduler_config.json", weights):
        assert (folder / file).read_bytes() == (place / "run" / file).read_bytes()


def test_given_flags_win_and_a_named_checkpoint_says_where(place: Path, tmp_path: Path) -> None:
    folder = copied(place, tmp_path / "run", 2, 4)
    recipe, options = parse([f"--resume_from_checkpoint={folder / 'checkpoint-2'}", "--learning_rate=0.5"])
    assert (recipe.recipe, recipe.output_dir, recipe.learning_rate) == ("conditional", str(folder), 0.5)
    assert (recipe.max_train_steps, recipe.ema_decay, options.prediction_type) == (4, 0.5, "epsilon")
    elsewhere = [f"--resume_from_checkpoint={folder / 'checkpoint-2'}", f"--output_dir={tmp_path / 'other'}"]
    assert parse(elsewhere)[0].output_dir == str(tmp_path / "other")
    others = parse(going_on(folder, "--dataset_name=data/x"))[0]
    assert (others.train_data_dir, others.dataset_name) == (None, "data/x")


@pytest.mark.parametrize(
    ("flag", "saved"),
    [
        ("prediction_type=v_prediction", "epsilon"),
        ("ddpm_num_steps=6", "5"),
        ("ddpm_beta_schedule=linear", "squaredcos_cap_v2"),
        ("variance_type=fixed_large", "fixed_small"),
        ("class_conditional=False", "True"),
        ("objective=flow_matching", "denoising"),
        ("recipe=unconditional", "conditional"),
        ("resolution=16", "8"),
        ("second_ema_decay=0.9", "None"),
    ],
)
def test_what_changes_the_meaning_of_the_network_is_refused_by_name(place: Path, flag: str, saved: str) -> None:
    name, _, value = flag.partition("=")
    with pytest.raises(ValueError, match=rf"^{name} must be {saved}, as in .*checkpoint-4, got {value}: a run that"):
        parse(going_on(place / "run", f"--{flag}"))
    parse(going_on(place / "run", f"--{name}={saved}" if saved != "None" else "--seed=3"))


@pytest.mark.parametrize(
    ("recipe", "flag", "value"),
    [
        ("fashion-ve", "sde", "vp"),
        ("fashion-ve", "sigma_max", "5.0"),
        ("fashion-ve", "ncsn_levels", "9"),
        ("fashion-flow", "path", "variance_preserving"),
        ("fashion-flow", "class_conditional", "False"),
    ],
)
def test_the_flags_of_other_objectives_are_fixed_too(
    recipe: str, flag: str, value: str, place: Path, tmp_path: Path
) -> None:
    kept, options = parse([f"--recipe={recipe}"])
    with_flags(place, tmp_path, kept.settings(options))
    with pytest.raises(ValueError, match=rf"^{flag} must be .*, as in .*checkpoint-2, got {value}"):
        parse(going_on(tmp_path, f"--{flag}={value}"))
    assert parse(going_on(tmp_path, "--seed=3"))[1] == options


def test_flags_with_hyphens_go_on_as_well(place: Path) -> None:
    arguments = [f"--output-dir={place / 'run'}", "--resume-from-checkpoint", "latest"]
    assert parse(arguments)[1].prediction_type == "epsilon"


def test_a_loss_outside_of_this_project_is_imported_only_if_it_is_given(place: Path, tmp_path: Path) -> None:
    """A checkpoint may come from anyone."""
    with_flags(place, tmp_path, {"recipe": "conditional", "objective": "this:Zen"})
    with pytest.raises(ValueError, match="objective must be given to go on with a loss of your own, --objective this"):
        parse(going_on(tmp_path))
    assert "this" not in sys.modules


def test_a_checkpoint_beyond_the_last_update_is_refused_and_one_at_it_is_said(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"max_train_steps must be above 4, the updates of .*checkpoint-4, got 3"):
        parse(going_on(place / "run", "--max_train_steps=3"))
    assert caplog.text == ""
    folder = copied(place, tmp_path / "run", 4)
    run_here(going_on(folder))
    assert "has all 4 updates of --max_train_steps: nothing is trained, its model is written" in caplog.text
    assert (folder / "model_index.json").is_file() and record(folder)["steps"] == 4


def test_a_guide_that_the_run_has_passed_cannot_be_asked_for_any_more(place: Path) -> None:
    with pytest.raises(ValueError, match=r"guide_step must be above 4, the updates of .*checkpoint-4, got 3"):
        parse(going_on(place / "run", "--guide_step=3", "--max_train_steps=9"))
    parse(going_on(place / "run", "--guide_step=5", "--max_train_steps=9"))


def test_a_guide_goes_with_a_run_to_another_folder(place: Path, tmp_path: Path) -> None:
    flags = {"train_data_dir": place / "images", "output_dir": tmp_path / "run", "resolution": 8, "guide_step": 1}
    flags |= {"model_config_name_or_path": network_file(tmp_path / "network.json"), "max_train_steps": 2}
    run_here(command("--recipe conditional", checkpointing_steps=2, **flags))
    assert (tmp_path / "run" / "guide" / "model_index.json").is_file()
    start = f"--resume_from_checkpoint={tmp_path / 'run' / 'checkpoint-2'}"
    run_here([start, f"--output_dir={tmp_path / 'further'}", "--max_train_steps=3"])
    for folder in ("run", "further"):
        assert "guide_unet" in json.loads((tmp_path / folder / "model_index.json").read_text())
    shutil.rmtree(tmp_path / "run" / "guide")
    with pytest.raises(ValueError, match="guide_step 1 needs .*run/guide, which the run wrote at that update"):
        parse([start, f"--output_dir={tmp_path / 'third'}", "--max_train_steps=3"])


def test_a_learning_rate_and_a_decay_that_are_given_are_used(tmp_path: Path) -> None:
    """They stand in the optimizer's and the average's saved state, too."""
    flags = {"lr_scheduler": "constant", "max_train_steps": 2, "checkpointing_steps": 2}
    small_trainer(tmp_path / "run", **flags).train()
    forget_accelerate()
    later = {"learning_rate": 0.25, "adam_weight_decay": 0.125, "ema_decay": 0.5, "resume_from_checkpoint": "latest"}
    trainer = small_trainer(tmp_path / "run", **flags | later)
    trainer._resume()
    (group,) = trainer.optimizer.param_groups
    assert (group["lr"], group["weight_decay"], trainer.averages[0].decay) == (0.25, 0.125, 0.5)
    trainer.update()
    assert trainer.lr_scheduler.get_last_lr() == [0.25]


# --- the data and the files ---


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"data": noise_images(classes=3)},
            r"the classes of the data must be those of .* \(bird, cat\), got bird, cat, dog",
        ),
        ({"data": noise_images(size=16)}, r"unet.sample_size \(--resolution\) must be 8, as in .*, got 16"),
        ({"data": noise_images(channels=3)}, r"unet.in_channels must be 1, as in .*, got 3"),
        ({"augment": 0.5}, r"the network must be that of .*: its class_embedding.weight is \[3, 128\] there"),
    ],
)
def test_data_that_make_another_model_are_refused(
    place: Path, tmp_path: Path, changes: dict[str, object], expected: str
) -> None:
    forget_accelerate()
    flags = {"prediction_type": "epsilon"} | changes
    objective = small_trainer(tmp_path / "run", flags.pop("data", None), **flags).objective
    with pytest.raises(ValueError, match=expected):
        check_same_model(place / "run" / "checkpoint-4", objective)


def test_another_network_in_the_same_file_is_refused_before_anything_is_written(place: Path, tmp_path: Path) -> None:
    folder = copied(place, tmp_path / "run", 2)
    other = network_file(tmp_path / "network.json", layers_per_block=2)
    with pytest.raises(SystemExit, match=r"error: unet.layers_per_block must be 1, as in .*checkpoint-2, got 2"):
        run_here(going_on(folder, f"--model_config_name_or_path={other}"))
    assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]


def test_the_frozen_parts_are_those_of_the_checkpoint(place: Path, tmp_path: Path) -> None:
    """An objective's own network is another thing: what is measured at each save may change."""
    network = {"_class_name": "PatchedAutoencoderKL", **TINY}
    trainer = trainer_of(Autoencoding, tmp_path / "vae", network=network, max_train_steps=1)
    trainer.train()
    check_same_model(tmp_path / "vae" / "checkpoint-1", trainer.objective)
    forget_accelerate()
    trainer = small_trainer(tmp_path / "run", prediction_type="epsilon")
    trainer.objective.frozen = {"unet": trainer.network}
    with pytest.raises(ValueError, match="the unet must be that of .*checkpoint-4: the network was trained with it"):
        check_same_model(place / "run" / "checkpoint-4", trainer.objective)


# --- which checkpoint, and how many images ---


def test_latest_is_the_one_that_was_written_last(tmp_path: Path) -> None:
    """A run that goes back to an earlier checkpoint leaves later ones behind."""
    flags = {"max_train_steps": 4, "checkpointing_steps": 2, "checkpoints_total_limit": 9}
    small_trainer(tmp_path / "run", **flags).train()
    assert find_checkpoint(tmp_path / "run", "latest").name == "checkpoint-4"
    forget_accelerate()
    back = flags | {"max_train_steps": 3, "resume_from_checkpoint": "checkpoint-2"}
    small_trainer(tmp_path / "run", **back).train()
    assert find_checkpoint(tmp_path / "run", "latest").name == "checkpoint-3"
    shutil.rmtree(tmp_path / "run" / "checkpoint-3")  # as if it had been killed while it wrote it
    assert find_checkpoint(tmp_path / "run", "latest").name == "checkpoint-2"
    (tmp_path / "run" / "latest").unlink()
    assert find_checkpoint(tmp_path / "run", "latest").name == "checkpoint-4"


def test_images_are_counted_and_their_order_goes_on_from_the_count(tmp_path: Path) -> None:
    """4 updates of 4 images, then 4 of 16, are 80 images."""
    images = noise_images(100)
    flags = {"lr_scheduler": "constant", "resume_from_checkpoint": "latest", "train_batch_size": 4}
    small_trainer(tmp_path / "run", images, max_train_steps=4, **flags).train()
    forget_accelerate()
    trainer = small_trainer(tmp_path / "run", images, max_train_steps=8, **flags | {"train_batch_size": 16})
    trainer._resume()
    expected = images.images[trainer.order.indices(16, 16).numpy()] / 127.5 - 1
    torch.testing.assert_close(trainer.batch(0)[0]["images"].double(), torch.from_numpy(expected), rtol=0, atol=1e-6)
    for _ in range(4):
        trainer.update()
    assert trainer.images_seen == 80 and record(tmp_path / "run")["images"] == 16
