"""`python -m training.compare`: which rows of metrics.json become which points of the plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from training import compare
from training.files import weights_hash

Settings = dict[str, Any]


def row(
    distance: float, nfe: float = 20.0, accuracy: float | None = 0.9, weights: str = "same", **other: Any
) -> Settings:
    settings = {"model": "toy", "scheduler": "DDIM", "num_inference_steps": 20, "guidance_scale": 2.0}
    settings |= {"num_samples": 1000, "seed": 0, "dataset": "fashion"} | other
    measured = {"frechet_distance": distance, "class_accuracy": accuracy, "recall": 0.8, "nfe": nfe}
    if accuracy is None:
        del measured["class_accuracy"]
    floor = {"frechet_distance": 0.2 + 0.1 * settings["seed"], "class_accuracy": 0.95, "recall": 0.9}
    return {
        "settings": settings,
        "measured": measured,
        "floor": floor,
        "features": {"weights": "f"},
        "weights": weights,
    }


def folder(path: Path, *rows: Settings, stale: bool = False) -> Path:
    path.mkdir()
    weights = "older" if stale else weights_hash(path)
    numbered = {str(i): each | {"weights": weights} for i, each in enumerate(rows)}
    (path / "metrics.json").write_text(json.dumps({"results": numbered}))
    return path


def test_rows_that_differ_in_their_seed_are_averaged_and_the_best_guidance_is_shown() -> None:
    rows = [row(0.5), row(0.7, seed=1), row(0.4, guidance_scale=1.0), row(0.9, guidance_scale=1.0, seed=1)]
    rows += [row(0.3, guidance_scale=1.5)]  # of one seed: it may have been lucky
    (points,) = compare.lines_of(rows).values()
    assert points == [{"nfe": 20, "frechet_distance": pytest.approx(0.6), "class_accuracy": 0.9, "recall": 0.8}]
    assert compare.floor_of(rows, "frechet_distance") == pytest.approx(0.25), "each seed's floor counts once"


def test_a_line_is_a_model_and_its_sampler_in_the_order_of_evaluations() -> None:
    heun = {"scheduler": "FlowMatchEulerDiscreteScheduler", "sampler": "heun"}
    euler = {"scheduler": "FlowMatchEulerDiscreteScheduler"}
    rows = [
        row(0.3, 40, num_inference_steps=40),
        row(0.5, 10),
        row(0.2, 17, **heun),
        row(0.4, 12, accuracy=None, **euler),
    ]
    lines = compare.lines_of(rows)
    assert list(lines) == ["toy, DDIM", "toy, Euler", "toy, Heun"]
    assert [point["nfe"] for point in lines["toy, DDIM"]] == [10, 40]
    assert "class_accuracy" not in lines["toy, Euler"][0]


def test_the_command_prints_and_draws_the_rows_of_present_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, old = folder(tmp_path / "new", row(0.25)), folder(tmp_path / "old", row(0.75, model="old"), stale=True)
    compare.main([str(new), str(old), "--output", str(tmp_path / "plot.png")])
    out = capsys.readouterr().out
    assert "| toy, DDIM | 20 | 0.250 | 90.0% | 0.800 |" in out and "0.750" not in out
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > 1500


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dataset": "birds"}, "FOLDER must hold rows of one dataset, got birds, fashion"),
        ({"num_samples": 100}, "FOLDER must hold rows of one num_samples, got 100, 1000"),
    ],
)
def test_rows_that_do_not_compare_are_refused(change: Settings, message: str, tmp_path: Path) -> None:
    places = [folder(tmp_path / "one", row(0.2)), folder(tmp_path / "two", row(0.3, **change))]
    with pytest.raises(SystemExit, match=message):
        compare.main([str(place) for place in places])


def test_a_folder_without_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="none has one"):
        compare.main([str(tmp_path)])
