"""A series of checkpoints: their numbers over the images seen, and sheets of images with words below them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training_runs import noise

from training import evaluate
from training.evaluation.series import series_figure, series_table
from training.evaluation.sheets import (
    LINES,
    Cell,
    choose,
    fitting,
    font,
    sheet,
    write_contact_sheet,
    write_nearest,
)
from training.metrics.feature_memorization import Neighbours

FLOOR = {"num_samples": 100, "fd_effnet_lite0": 5.0, "nearest_to_second_ratio": 0.95, "copied_share": 0.0}


def row(distance: float, ratio: float) -> dict[str, Any]:
    measured = {"fd_effnet_lite0": distance, "nearest_to_second_ratio": ratio, "copied_share": 1 - ratio}
    return {"settings": {"model": "pipeline", "num_samples": 100}, "measured": measured, "floor": FLOOR}


def checkpoint(run: Path, step: int) -> str:
    """One whose run went on from another, of 1,000 images."""
    (run / f"checkpoint-{step}" / "pipeline").mkdir(parents=True)
    record = {"images": step * 64, "continues": {"images": 1000, "continues": None}}
    (run / f"checkpoint-{step}" / "training.json").write_text(json.dumps(record))
    return str(run / f"checkpoint-{step}" / "pipeline")


def test_checkpoints_are_measured_each_and_drawn_over_the_images_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [checkpoint(tmp_path / "mine", step) for step in (1000, 200)]  # as the shell sorts them
    found = {places[0]: [row(9.0, 0.5), row(8.0, 0.4)], places[1]: [row(20.0, 0.9)]}
    monkeypatch.setattr(evaluate, "run", lambda location, *rest: found[location])
    evaluate.main([*places, "--dataset_name", "images"])
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[1:3]] == ["13,800", "65,000"], "sorted"
    assert "8.000" in said and "9.000" not in said, "the best setting of each"
    with Image.open(tmp_path / "mine" / "checkpoints.png") as image:
        assert np.asarray(image.convert("L")).std() > 10


def test_the_plot_of_a_series_shows_distance_ratio_and_copies_with_their_floors() -> None:
    series = [(100, row(20.0, 0.9)), (200, row(8.0, 0.4))]
    axes = series_figure(series, "mine").axes
    lines = [{line.get_linestyle(): list(line.get_ydata()) for line in axis.get_lines()} for axis in axes]
    assert [found["-"] for found in lines] == [[20.0, 8.0], [0.9, 0.4], pytest.approx([0.1, 0.6])]
    assert [found["--"][0] for found in lines] == [5.0, 0.95, 0.0]
    assert list(axes[0].get_lines()[0].get_xdata()) == [100, 200]
    assert series_table(series).splitlines()[-1].split()[2:] == ["5.000", "0.950", "0.0%"]


def test_several_models_must_be_checkpoints_and_have_a_file_each(tmp_path: Path) -> None:
    places = [checkpoint(tmp_path / "mine", step) for step in (1, 2)]
    with pytest.raises(SystemExit, match="output must be left out for several models, got 'x.json'"):
        evaluate.main([*places, "--dataset_name", "images", "--output", "x.json"])
    with pytest.raises(SystemExit, match="'nowhere' has no training.json that says how many images it has seen"):
        evaluate.main([*places, "nowhere", "--dataset_name", "images"])


# ------------------------------------------------------------------------------------------------------------- sheets


def test_words_below_an_image_are_no_wider_than_it_and_end_in_dots_where_they_must() -> None:
    long = "a very long prompt of many words, some of them unpronounceablyinterminable, " * 4
    for text, width in [
        ("a fox", 200),
        (long, 96),
        ("unbreakable" * 9, 60),
        ("", 50),
        ("яблоко 🍎 " * 9, 40),
        ("x", 3),
    ]:
        lines = fitting(text, width, LINES)
        assert 1 <= len(lines) <= LINES and all(font().getlength(line) <= max(width, 3) for line in lines)
    assert fitting("a red apple", 200, LINES) == ["a red apple"] and fitting(long, 96, LINES)[-1].endswith("...")


def test_a_sheet_shows_every_image_as_it_is_and_words_below() -> None:
    pixels = noise(5, 3, 48, 48)
    drawn = np.asarray(sheet([Cell((image,), "words") for image in pixels], 3, "title"))
    tiles = [image.transpose(1, 2, 0).repeat(2, 0).repeat(2, 1) for image in pixels]
    step, first = 96 + 8, (8 + 2 * 15, 8)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, 3)
        y, x = first[0] + row * (96 + 15 + 4 + 8), first[1] + column * step
        assert np.array_equal(drawn[y : y + 96, x : x + 96], tile)
        assert drawn[y + 96 : y + 96 + 18, x : x + 60].min() < 100, "words"
    assert drawn[8:22].min() < 100, "a title"


def test_a_contact_sheet_has_the_same_seeds_of_each_class_or_prompts_from_all_over() -> None:
    assert choose(1000, 10, True) == ([first + 10 * k for first in range(10) for k in range(6)], 6)
    assert choose(12, 3, True) == ([0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11], 4)
    shown, columns = choose(1000, 100, True)
    assert len(shown) == 64 and len(set(shown)) == 64 and max(shown) < 100 and columns == 8
    assert choose(4, 10, True)[0] == [0, 1, 2, 3]
    shown, columns = choose(1000, 1000, False)
    assert len(shown) == 64 and shown[-1] > 900 and columns == 8 and choose(5, 1, False)[0] == [0, 1, 2, 3, 4]


def test_the_sheets_hold_their_settings(tmp_path: Path) -> None:
    pixels, train = noise(30, 1, 8, 8), noise(9, 1, 8, 8, seed=1)
    write_contact_sheet(tmp_path / "contact_sheet.png", pixels, ("cat", "dog"), True, 7, "m seed=7")
    distance = np.stack([np.linspace(0, 1, 20), np.ones(20)], axis=1)
    neighbours = Neighbours(np.tile([[3, 4]], (20, 1)), distance)
    write_nearest(tmp_path / "nearest.png", pixels, train, neighbours, ("",), "m seed=7")
    for name in ("contact_sheet.png", "nearest.png"):
        with Image.open(tmp_path / name) as image:
            assert image.text["settings"] == "m seed=7" and image.mode == "RGB"
