"""The folder of a run: no part of its own data, of one run at a time, and never another run's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from training_runs import alone, command, image_folder, network_file, run_here, small_settings

from training.checkpoints import checkpoint_steps
from training.data import load_images
from training.lock import LOCK, locked
from training.run_folder import check_output_dir, delete_run


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWISE_CACHE", str(tmp_path / "cache"))


# --- among the images ---


def test_a_run_inside_its_images_does_not_train_on_its_own_samples(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = image_folder(tmp_path / "mine")
    flags = {"train_data_dir": mine, "output_dir": mine / "out", "max_train_steps": 1, "train_batch_size": 2}
    flags |= {"model_config_name_or_path": network_file(tmp_path / "network.json")}
    with alone(tmp_path / "cache"):
        run_here(command("--recipe conditional", **flags))
        assert (mine / "out" / "samples" / "step-000001.png").is_file()
        run_here(["--resume_from_checkpoint=latest", f"--output_dir={mine / 'out'}", "--max_train_steps=2"])
    assert f"{mine}: left out out, which training runs wrote or are writing" in caplog.text
    assert "trained on other data" not in caplog.text
    assert load_images(train_data_dir=mine).class_names == ("bird", "cat"), "it is left out for whoever reads it next"


@pytest.mark.parametrize("mark", ["training.json", "model_index.json", "checkpoint-5", "samples/step-000500.png"])
@pytest.mark.parametrize("place", ["out", "bird/out", "train/bird/out", "test"])
def test_any_run_among_the_images_is_left_out_at_any_depth(place: str, mark: str, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    image_folder(root / "train" if place.startswith("t") else root)
    image_folder(root / place / "samples", names=())
    (root / place / mark).mkdir() if mark.startswith("checkpoint") else (root / place / mark).write_text("{}")
    data = load_images(train_data_dir=root)
    assert data.class_names == ("bird", "cat") and len(data.images) == 10


@pytest.mark.parametrize("spelling", ["mine/out", "mine/../mine/out/", "linked", "mine/bird/out"])
def test_an_output_dir_that_is_held_is_left_out_however_it_is_spelled(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run holds its folder before it reads its data, and that folder may hold anything."""
    monkeypatch.chdir(tmp_path)
    image_folder(Path("mine"))
    Path("linked").symlink_to("mine/out")
    image_folder(Path("mine/out"), names=())
    assert load_images(train_data_dir="mine").class_names == ("bird", "cat", "out")
    with locked(Path(spelling)):
        expected = ("bird", "cat", "out") if "bird" in spelling else ("bird", "cat")
        assert load_images(train_data_dir="mine").class_names == expected


def test_data_may_lie_in_the_output_dir_but_not_be_it(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "run" / "mine")
    with locked(tmp_path / "run"):
        assert len(load_images(train_data_dir=root).images) == 10
    recipe, _ = small_settings(root, train_data_dir=str(root))
    with pytest.raises(ValueError, match="output_dir must not be train_data_dir itself, got '.*mine' for both"):
        check_output_dir(recipe, None)
    recipe, _ = small_settings(root / "out", dataset_name=str(root))
    with pytest.raises(ValueError, match="output_dir must be outside of the data set '.*mine', got '.*out'"):
        check_output_dir(recipe, None)
    check_output_dir(replace(recipe, dataset_name=None, train_data_dir=str(root)), None)


# --- another run ---


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """What a finished run leaves behind, and a note of the user's."""
    folder = tmp_path / "run"
    for name in ("checkpoint-2", "checkpoint-40", "samples", "stepwise", "guide", "ema-0.9", "unet", "mine"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("")
    (folder / "ema-0.9" / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    (folder / "model_index.json").write_text('{"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}')
    for name in ("training.json", "metrics.json", "samples.png", "nearest.png", "steps.png", "latest", "note.txt"):
        (folder / name).write_text("{}")
    return folder


def without(folder: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def refusal(folder: Path, checkpoint: Path | None = None, **flags: object) -> str:
    with pytest.raises(ValueError) as refused:
        check_output_dir(small_settings(folder, **flags)[0], checkpoint)
    return str(refused.value)


def test_another_run_is_not_written_over_finished_or_not(other: Path) -> None:
    assert "got '" + str(other) + "' with a finished model: --resume_from_checkpoint latest goes on" in refusal(other)
    without(other, "model_index.json", "training.json")
    assert "with checkpoints up to update 40: --resume_from_checkpoint latest goes on from it" in refusal(other)
    without(other, "checkpoint-2", "checkpoint-40")
    text = refusal(other)
    assert "with the samples or logs of a run without checkpoints: --overwrite_output_dir deletes it" in text
    check_output_dir(small_settings(other, resume_from_checkpoint="latest")[0], None)  # stopped before its first one
    without(other, "samples", "stepwise", "guide")
    check_output_dir(small_settings(other)[0], None)


@pytest.mark.parametrize("part", ["pretrained_model_name_or_path", "vae", "text_encoder"])
def test_what_a_run_starts_from_is_not_overwritten_by_it(part: str, other: Path) -> None:
    base = other / "checkpoint-2" / "pipeline"
    base.mkdir()
    recipe, options = small_settings(other, overwrite_output_dir=True)
    for given in (other, base):
        start = str(given)
        if part == "pretrained_model_name_or_path":
            changed, own = replace(recipe, **{part: start}), options
        else:
            changed, own = recipe, SimpleNamespace(**{part: start})
        with pytest.raises(ValueError, match=f"output_dir must be another folder than that of {part}, .*would delete"):
            check_output_dir(changed, None, own)
    check_output_dir(replace(recipe, pretrained_model_name_or_path="someone/model"), None, options)
    assert (other / "unet" / "file").is_file()


def test_a_run_goes_on_in_its_own_folder_alone(other: Path, tmp_path: Path) -> None:
    own = other / "checkpoint-2"
    check_output_dir(small_settings(other, resume_from_checkpoint="checkpoint-2")[0], own)
    foreign = tmp_path / "elsewhere" / "checkpoint-2"
    assert "must hold no other run" in refusal(other, foreign, resume_from_checkpoint=str(foreign))
    assert "overwrite_output_dir must be False" in refusal(other, own, overwrite_output_dir=True)
    check_output_dir(small_settings(other, overwrite_output_dir=True)[0], None)
    without(other, "checkpoint-2", "checkpoint-40")
    assert "with a finished model" in refusal(other, resume_from_checkpoint="latest")


def test_overwriting_deletes_the_run_and_nothing_else(other: Path) -> None:
    delete_run(other)
    assert sorted(path.name for path in other.iterdir()) == ["mine", "note.txt"]
    delete_run(other)


def test_the_command_refuses_and_overwrites(tmp_path: Path) -> None:
    flags = {"train_data_dir": image_folder(tmp_path / "images"), "output_dir": tmp_path / "run", "train_batch_size": 2}
    flags |= {"model_config_name_or_path": network_file(tmp_path / "network.json"), "checkpointing_steps": 1}
    with alone(tmp_path / "cache"):
        run_here(command("--recipe conditional", max_train_steps=2, **flags))
        with pytest.raises(SystemExit, match="error: output_dir must hold no other run"):
            run_here(command("--recipe conditional", max_train_steps=1, **flags))
        assert checkpoint_steps(tmp_path / "run") == [1, 2]
        run_here(command("--recipe conditional --overwrite_output_dir", max_train_steps=1, **flags))
    assert checkpoint_steps(tmp_path / "run") == [1]


# --- one at a time ---

HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from training.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen]]:
    """A folder that another process holds."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), str(ROOT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield tmp_path / "run", process
        process.kill()


def test_a_second_run_is_refused_until_the_first_one_dies(held: tuple[Path, subprocess.Popen]) -> None:
    folder, first = held
    told = rf"output_dir must be a folder that no other run writes to, got '{folder}', in use by process {first.pid} on"
    with pytest.raises(SystemExit, match=f"error: {told}"):
        run_here(command("--recipe conditional", output_dir=folder, train_data_dir="nowhere"))
    first.kill()
    first.wait()
    assert (folder / LOCK).is_file(), "it had no time to remove it"
    with locked(folder):
        assert (folder / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert not (folder / LOCK).exists()


def test_what_was_made_for_the_lock_goes_with_it_if_nothing_was_written(tmp_path: Path) -> None:
    with locked(tmp_path / "runs" / "new"):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "runs" / "new"):
        (tmp_path / "runs" / "new" / "model").write_text("")
    assert [path.name for path in (tmp_path / "runs" / "new").iterdir()] == ["model"]


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_an_output_dir_that_is_no_folder_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=rf"output_dir must be a folder that can be written, got '.*{place}': "):
        with locked(tmp_path / place):
            raise AssertionError("it was locked")
