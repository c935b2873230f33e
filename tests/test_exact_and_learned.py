"""What the page shows of the exact denoiser: the commands that compute it, the recorded data, and the tab."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from image_files import parquet_folder
from PIL import Image
from toys import ddpm, guided
from training_runs import noise

from benchmarks import memorization, optimal_denoiser
from pipelines import GaussianMixture, NoiseSchedule
from training.randomness import seeded
from ui.laboratory import exact_and_learned, recorded
from ui.laboratory.exact_fields import FIELDS, LABELS, TAB, problems, query
from ui.tabs.exact_and_learned import ExactAndLearnedTab

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny data (8 x 8 grey, three classes) and two models of one schedule."""
    folder = tmp_path_factory.mktemp("tiny")
    pixels = noise(36, 8, 8)
    parquet_folder(folder / "data", {"train": pixels[:24], "test": pixels[24:]}, ("Cat", "Dog", "Fish"))
    ddpm().save_pretrained(folder / "alone")
    guided().save_pretrained(folder / "told")
    return folder


def sheet(path: Path, side: int) -> np.ndarray:
    pixels = np.asarray(Image.open(path))
    rows, columns = (length // side for length in pixels.shape)
    return pixels.reshape(rows, side, columns, side).transpose(0, 2, 1, 3)


def test_the_command_writes_exact_and_learned_as_they_are(place: Path, tmp_path: Path, capsys: Any) -> None:
    flags = f"--dataset_name {place}/data --model {place}/alone --conditional {place}/told --images 12"
    optimal_denoiser.main([*flags.split(), "--output_dir", str(tmp_path)])
    assert "apart_of_class, test" in capsys.readouterr().out
    about = json.loads((tmp_path / "optimal_denoiser.json").read_text())
    assert about["points"] == 24 and about["command"] == f"python -m benchmarks.optimal_denoiser {flags}"
    assert about["versions"]["torch"] == torch.__version__ and about["options"]["output_dir"] is None
    labels = [each["label"] for each in about["sets"]["test"]["images"]]
    assert labels == [0, 1, 2] * 3 + [0], "the classes in turn"
    images = sheet(tmp_path / "optimal_denoiser_images.png", 8)[0]
    tiles = sheet(tmp_path / "optimal_denoiser.png", 8).reshape(5, 20, 10, 8, 8)
    index, level = about["sets"]["test"]["images"][4]["index"], 6
    x0 = torch.from_numpy(images[14]).double() / 127.5 - 1
    a, b = (float(v) for v in NoiseSchedule.from_scheduler(ddpm().scheduler).marginal(about["timesteps"][level]))
    eps = torch.randn(1, 8, 8, generator=seeded(0, "test", index), dtype=torch.float64)
    points = torch.from_numpy(noise(36, 8, 8)[:24]).double() / 127.5 - 1
    x_t = a * x0 + b * eps
    exact = GaussianMixture(points, 0.0).predict_x0(x_t, a, b)[0]
    of_class = GaussianMixture(points[labels[4] :: 3], 0.0).predict_x0(x_t, a, b)[0]
    for kind, expected in ((0, x_t[0]), (1, exact), (3, of_class)):
        assert np.abs(tiles[kind, 14, level] - ((expected.clamp(-1, 1) + 1) * 127.5).numpy()).max() <= 0.51, kind
    error = float((exact - x0).square().mean().sqrt() / 2)
    assert about["sets"]["test"]["error_exact"]["shown"][level][4] == pytest.approx(error, abs=1e-5)


def test_models_of_two_schedules_are_not_compared(place: Path, tmp_path: Path) -> None:
    guided(beta_schedule="linear").save_pretrained(tmp_path / "linear")
    flags = f"--dataset_name {place}/data --model {place}/alone --conditional {tmp_path}/linear --images 12"
    with pytest.raises(SystemExit, match="error: conditional must be of the noise schedule of model"):
        optimal_denoiser.main([*flags.split(), "--output_dir", str(tmp_path)])
    with pytest.raises(SystemExit, match="error: images must be at least 10, got 3"):
        optimal_denoiser.main(["--images", "3"])


def test_the_small_run_is_looked_at_from_its_first_updates_to_its_last(
    place: Path, tmp_path: Path, capsys: Any
) -> None:
    flags = f"--dataset_name {place}/data --images 4 --steps 4 --first 2 --checkpoints 2 --batch_size 2"
    memorization.main([*flags.split(), "--inference_steps", "2", "--output_dir", str(tmp_path)])
    assert "copies" in capsys.readouterr().out
    about = json.loads((tmp_path / "memorization.json").read_text())
    first, last = about["checkpoints"]
    assert (first["step"], last["step"]) == (2, 4) and 0 <= last["copied"] <= 1 and set(last["nearest"]) <= {0, 1, 2, 3}
    drawn, train = sheet(tmp_path / "memorization.png", 8), sheet(tmp_path / "memorization_images.png", 8)[0]
    assert drawn.shape == (2, 16, 8, 8) and len(train) == 4
    gaps = np.sqrt(((drawn[1, :, None] / 255.0 - train[None] / 255.0) ** 2).mean((2, 3)))
    assert gaps.argmin(1).tolist() == last["nearest"]
    assert gaps.min(1) == pytest.approx(last["nearest_distance"], abs=1e-4)
    assert len(last["seen"]["to_exact"]) == len(last["unseen"]["error"]) == len(about["timesteps"])


# -------------------------------------------------------------------------------------------------- the recorded data


def test_the_recorded_data_are_small_and_say_how_they_were_made() -> None:
    assert sum(path.stat().st_size for path in recorded.DATA.iterdir()) < 3_000_000
    for name in ("optimal_denoiser", "memorization"):
        about = recorded.numbers(name)
        assert about["command"].startswith(f"python -m benchmarks.{name}") and "output_dir" not in about["command"]
        assert set(about["versions"]) >= {"torch", "diffusers"}
    assert recorded.numbers("optimal_denoiser")["points"] == 60_000
    assert len(exact_and_learned.timesteps()) == 10 and len(exact_and_learned.names()) == 20


def test_the_recorded_distances_are_those_of_the_recorded_images() -> None:
    about, tiles = recorded.numbers("optimal_denoiser"), recorded.sheet("optimal_denoiser")
    kinds = tiles.reshape(5, 20, 10, 28, 28) / 255.0
    for split, rows in (("train", slice(0, 10)), ("test", slice(10, 20))):
        for name, (one, other) in {"apart": (1, 2), "apart_of_class": (3, 4)}.items():
            found = np.sqrt(((kinds[one, rows] - kinds[other, rows]) ** 2).mean((2, 3))).T
            assert np.abs(found - np.array(about["sets"][split][name]["shown"])).max() < 0.003
    images = recorded.sheet("optimal_denoiser_images")[0] / 255.0
    assert np.abs(kinds[1, :10, 0] - images[:10]).max() == 0, (
        "at little noise a training image is its own posterior mean"
    )


def test_on_test_images_the_network_is_nearer_to_the_image_than_the_exact_denoiser() -> None:
    """What the tab says of it: where they part, the network generalises."""
    sets = recorded.numbers("optimal_denoiser")["sets"]
    exact, learned = (np.array(sets["test"][f"error_{kind}"]["mean"][:5]) for kind in ("exact", "learned"))
    assert (exact > learned).all()
    assert max(sets["train"]["error_exact"]["mean"][:5]) < 0.01
    assert sets["test"]["error_learned"]["mean"] == pytest.approx(sets["train"]["error_learned"]["mean"], rel=0.1)


def test_the_run_generalises_before_it_memorises() -> None:
    about = recorded.numbers("memorization")
    rows = about["checkpoints"]
    unseen = [float(np.mean(row["unseen"]["error"])) for row in rows]
    assert rows[0]["copied"] == 0 and rows[-1]["copied"] >= 0.4
    assert rows[-1]["seen"]["to_exact"] < rows[0]["seen"]["to_exact"]
    assert min(unseen) < unseen[0] and unseen.index(min(unseen)) < len(rows) - 1, "and then it unlearns the others"


# ------------------------------------------------------------------------------------------------------------- the tab


@pytest.fixture(scope="module")
def tab() -> ExactAndLearnedTab:
    with gr.Blocks() as demo:
        made = ExactAndLearnedTab()
        made.open(demo)
    return made


def test_every_setting_shows_something(tab: ExactAndLearnedTab) -> None:
    for name in exact_and_learned.names():
        for t in (50, 550, 950):
            for told in FIELDS["told"].values.options:
                html = exact_and_learned.images_of(name, t, told)
                assert (
                    html.count("<img") == 4
                    and f"x_t at t = {t}" in html
                    and "x<sub>t</sub>" in html
                    and "apart" in html
                )
    for place in range(1, len(exact_and_learned.updates()) + 1):
        html = tab.show(next(iter(exact_and_learned.names())), 50, "no class", place)[2]
        assert html.count("<img") == 16 and f"After {exact_and_learned.updates()[place - 1]:,} updates" in html


def test_links_open_the_tab_as_it_was_and_say_what_they_left_out(tab: ExactAndLearnedTab) -> None:
    values = {"image": "Bag, test image", "t": 850, "told": "its class", "checkpoint": 3}
    assert query(values) == "?tab=exact&image=Bag%2C+test+image&t=850&told=its+class&checkpoint=3"
    asked = {"tab": TAB} | {name: str(value) for name, value in values.items()}
    assert tab.restore(SimpleNamespace(query_params=asked)) == [*values.values(), ""]
    *found, said = tab.restore(SimpleNamespace(query_params=asked | {"t": "7", "image": "Cat"}))
    assert found[1] == FIELDS["t"].default and "t must be a whole number from 50" in said and "Image must be" in said
    assert tab.show_opened(SimpleNamespace(query_params={}), *values.values())[0] == gr.skip()
    assert tab.show_opened(SimpleNamespace(query_params=asked), *values.values())[3] == query(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"t": 77}, "t must be one of 50, 150"),
        ({"checkpoint": 0}, "Checkpoint must be a whole number from 1 to"),
        ({"told": "all"}, "Told must be one of no class, its class; got 'all'"),
    ],
)
def test_a_setting_that_is_not_there_is_refused(tab: ExactAndLearnedTab, values: dict[str, Any], said: str) -> None:
    (problem,) = problems(values, LABELS).values()
    assert problem.startswith(said)
    start = {name: row.default for name, row in FIELDS.items()} | values
    assert said in tab.show(*start.values())[4].replace("&#x27;", "'")
