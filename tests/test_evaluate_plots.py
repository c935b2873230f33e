"""The plots show every number, with its floor; and a card tells the numbers of each feature network apart."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from training.evaluation.plots import LABELS, guidance_figure, likelihood_figure, steps_figure, write_plots
from training.evaluation.results import table
from training.files import weights_hash, write_json
from training.sharing.card_tables import best_rows, bits_table, metrics_table, settings_text, sorted_rows
from training.sharing.card_text import _note

FLOOR = {"num_samples": 1000, "frechet_distance": 0.3, "class_accuracy": 0.95, "precision": 0.92, "recall": 0.9}


def row(
    scale: float | None = 2.0,
    steps: int = 20,
    scheduler: str = "DDIM",
    distance: str = "frechet_distance",
    **more: Any,
) -> dict[str, Any]:
    """A row whose numbers follow from its settings."""
    settings = {"model": "toy", "scheduler": scheduler, "num_inference_steps": steps, "guidance_scale": scale}
    fidelity = {} if scale is None else {"class_accuracy": 0.1 + scale / 10}
    value = 1 + (scale or 0) / 10 + 1 / steps + (scheduler == "DDIM")
    measured = {distance: value, "precision": 0.8, "recall": 0.7, "nfe": float(steps)}
    floor = {distance if name == "frechet_distance" else name: value for name, value in FLOOR.items()}
    features = {"name": "toy-features", "test_accuracy": 0.9}
    rest = {"floor": floor, "features": features, "weights": "a"}
    return {"settings": settings | {"num_samples": 1000} | more, "measured": measured | fidelity, **rest}


def lines(axis: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """What each line of an axis shows, by its label; the floor is dashed, and no such line."""
    drawn = [line for line in axis.get_lines() if line.get_linestyle() == "-"]
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in drawn}


def floor(axis: Axes) -> list[float]:
    """The heights of the dashed lines."""
    return [height for line in axis.get_lines() if line.get_linestyle() == "--" for height in set(line.get_ydata())]


def named_in_the_legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_guidance_is_drawn_against_fidelity_and_diversity() -> None:
    rows = [row(scale, scheduler=name) for scale in (4.0, 1.0, 2.0) for name in ("DDIM", "UniPC")]
    figure = guidance_figure(rows)
    distance, accuracy, precision, recall = figure.axes
    assert lines(distance)["UniPC"][0] == [1.0, 2.0, 4.0]
    assert lines(distance)["DDIM"][1] == pytest.approx([2.15, 2.25, 2.45])
    assert lines(accuracy)["DDIM"][1] == pytest.approx([0.2, 0.3, 0.5])
    assert lines(precision)["DDIM"][1] == [0.8] * 3 and lines(recall)["UniPC"][1] == [0.7] * 3
    assert [floor(axis) for axis in figure.axes] == [[0.3], [0.95], [0.92], [0.9]]
    titles = [LABELS[name] for name in ("frechet_distance", "class_accuracy", "precision", "recall")]
    assert [axis.get_title(loc="left") for axis in figure.axes] == titles
    assert len(named_in_the_legend(figure)) == 3 and set(named_in_the_legend(figure)) > {"DDIM", "UniPC"}
    said = re.findall(r"\w+", figure.get_suptitle())
    assert {"toy", "20"} < set(said) and not {"DDIM", "UniPC"} & set(said), "what all rows share, and nothing else"


def test_steps_are_drawn_on_a_log_axis_a_line_a_sampler() -> None:
    rows = [row(None, steps, name) for name in ("DDIM", "UniPC", "Heun") for steps in (50, 10, 100)]
    figure = steps_figure(rows)
    (axis,) = figure.axes
    assert axis.get_xscale() == "log" and set(lines(axis)) == {"DDIM", "UniPC", "Heun"} and floor(axis) == [0.3]
    assert lines(axis)["Heun"][0] == [10, 50, 100] and lines(axis)["Heun"][1] == pytest.approx([1.1, 1.02, 1.01])
    assert axis.get_ylabel() == LABELS["frechet_distance"]
    assert len(named_in_the_legend(figure)) == 4 and set(named_in_the_legend(figure)) > set(lines(axis))
    said = re.findall(r"\w+", figure.get_suptitle())
    assert "toy" in said and not {"10", "50", "100", "DDIM", "UniPC", "Heun"} & set(said)


def test_two_guidance_scales_are_two_lines_over_the_steps() -> None:
    rows = [row(scale, steps) for scale in (1.0, 2.0) for steps in (10, 20)]
    (axis,) = steps_figure(rows).axes
    heights = {re.search(r"\d+", label)[0]: ys for label, (_, ys) in lines(axis).items()}
    assert [*heights] == ["1", "2"], "each is named by its scale"
    assert heights["1"] == pytest.approx([2.2, 2.15]) and heights["2"] == pytest.approx([2.3, 2.25])


def test_only_what_varies_is_drawn(tmp_path: Path) -> None:
    assert write_plots(tmp_path, [row()]) == []
    assert write_plots(tmp_path, [row(1.0), row(2.0)]) == [tmp_path / "guidance.png"]
    both = [row(scale, steps, distance="fd_effnet_lite0") for scale in (1.0, 2.0) for steps in (5, 10)]
    assert write_plots(tmp_path, both) == [tmp_path / "guidance.png", tmp_path / "steps.png"]
    with Image.open(tmp_path / "steps.png") as image:
        assert image.width == 1008
    assert len(list(tmp_path.iterdir())) == 2


def bits_row(variance: str, total: float) -> dict[str, Any]:
    settings = {"model": "toy", "variance": variance, "num_images": 500, "num_inference_steps": 1000}
    curve = {"timesteps": [0, 9, 99], "bits_per_dim": [total / 2, total / 30, total / 300]}
    return {"settings": settings, "measured": {"bits_per_dim": total, "standard_error": 0.02}, "curve": curve}


def test_the_terms_of_the_bound_are_drawn_over_t() -> None:
    figure = likelihood_figure([bits_row("fixed_small", 3.21), bits_row("learned_range", 3.0)])
    (axis,) = figure.axes
    shown = {re.findall(r"\d\.\d+", label)[0]: points for label, points in lines(axis).items()}
    assert [*shown] == ["3.210", "3.000"], "each is named by its total"
    assert shown["3.210"] == ([1, 10, 100], pytest.approx([1.605, 0.107, 0.0107]))
    assert shown["3.000"] == ([1, 10, 100], pytest.approx([1.5, 0.1, 0.01]))
    assert all("0.020" in label for label in lines(axis)), "and by its error"
    assert axis.get_xscale() == axis.get_yscale() == "log"


# -------------------------------------------------------------------------------------------------------------- cards


def test_a_card_has_a_table_for_each_feature_network() -> None:
    rows = [row(1.0), row(2.0), row(1.0, distance="fd_effnet_lite0"), row(2.0, distance="fd_effnet_lite0")]
    first, second = metrics_table(rows).split("\n\n")
    assert "Fréchet distance" in first and "FD-EffNet-Lite0" not in first
    assert "FD-EffNet-Lite0" in second and "Fréchet" not in second and "FID" not in second
    assert len(first.splitlines()) == len(second.splitlines()) == 5
    assert [best["settings"] for best in best_rows(rows)] == [rows[0]["settings"], rows[2]["settings"]]


def test_the_best_row_is_the_mean_over_seeds_and_no_lucky_one() -> None:
    several = [row(2.0, seed=seed) for seed in (0, 1, 2)]
    for same, distance, real in zip(several, (0.2, 0.5, 0.8), (0.3, 0.4, 0.5), strict=True):
        same["measured"]["frechet_distance"], same["floor"]["frechet_distance"] = distance, real
    lucky = row(1.0)
    lucky["measured"]["frechet_distance"] = 0.1
    (best,) = best_rows([*several, lucky])
    assert best["measured"]["frechet_distance"] == pytest.approx(0.5) and best["seeds"] == [0, 1, 2]
    assert best["floor"]["frechet_distance"] == pytest.approx(0.4)
    assert settings_text(best).endswith(", mean of seeds 0, 1 and 2")
    assert [row["measured"]["frechet_distance"] for row in several] == [0.2, 0.5, 0.8], "they stay as they are"


def test_rows_of_other_data_are_named_and_are_not_the_best(tmp_path: Path) -> None:
    own, other = row(1.0), row(2.0)
    own["settings"]["dataset"], other["settings"]["dataset"] = "mine", "others"
    other["measured"]["frechet_distance"] = own["measured"]["frechet_distance"] / 2
    whole = {"floor": {}, "features": {}, "real": {}, "command": "c", "weights": weights_hash(tmp_path)}
    write_json(tmp_path / "metrics.json", {"results": {"a": own | whole, "b": other | whole}})
    assert [settings_text(each)[-9:] for each in best_rows(sorted_rows(tmp_path))] == [settings_text(other)[-9:]]
    write_json(tmp_path / "training.json", {"recipe": {"train_data_dir": "data/mine"}})
    first, second = sorted_rows(tmp_path)
    assert settings_text(second) == f"{settings_text(other)}, on others" and ", on " not in settings_text(first)
    assert [each["settings"] for each in best_rows([first, second])] == [own["settings"]]


def test_a_measure_that_only_some_rows_have_leaves_the_others_empty() -> None:
    newer = row(2.0)
    newer["measured"]["nearest_train_ratio"] = 0.98
    head, _, older, new, floor = metrics_table([row(1.0), newer]).splitlines()
    assert "distance to the training set" in head
    assert older.split("|")[-3].strip() == "" and new.split("|")[-3].strip() == "0.980"
    assert floor.split("|")[-3].strip() == ""


def test_a_card_shows_copies_beside_images_that_were_not_seen_and_copies_that_were_made() -> None:
    found = row(2.0, distance="fd_effnet_lite0")
    found["measured"] |= {"md_effnet_lite0": 2.5, "nearest_to_second_ratio": 0.75, "copied_share": 0.125}
    found["floor"] |= {"nearest_to_second_ratio": 0.95, "copied_share": 0.0}
    found["copies"] = {"num_samples": 9, "nearest_to_second_ratio": 0.25, "copied_share": 0.8}
    found |= {
        "command": "c",
        "real": {
            "test": {"split": "test", "frechet_images": 9},
            "train": {"split": "train"},
            "neighbours": 3,
            "precision_recall_images": 9,
        },
    }
    heads, _, ours, floor = ([cell.strip() for cell in line.split("|")] for line in metrics_table([found]).splitlines())
    column = {name: heads.index(name) for name in ("MD-EffNet-Lite0", "nearest to second-nearest", "copies")}
    assert [ours[place] for place in column.values()] == ["2.500", "0.750", "12.5%"]
    assert [floor[place] for place in column.values()] == ["", "0.950", "0.0%"]
    assert "score 0.250, and 80.0% of them count as copies." in _note([found], told_prompts=False)
    found["copies"]["copied_share"] = 0.0
    blind = _note([found], told_prompts=True)
    assert "0.0% of them count as copies; the ratio is to be compared with theirs, the share would miss most" in blind
    assert "Each image is drawn for a caption of a test image" in blind
    found["copies"]["copied_share"] = 0.8
    assert table([found]).splitlines()[-1].split() == ["copies", "9", "0.250", "80.0%"]


def test_a_card_shows_bits_per_dim_where_they_were_measured(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"results": {}}))
    assert bits_table(tmp_path) == ""
    for weights, last in (
        (weights_hash(tmp_path), "| the variational bound, fixed small, 1,000 steps | 500 | 3.210 ± 0.020 |"),
        ("of other weights", None),
    ):
        row = bits_row("fixed_small", 3.2104) | {"weights": weights}
        (tmp_path / "metrics.json").write_text(json.dumps({"results": {}, "likelihood": {"x": row}}))
        assert next(reversed(bits_table(tmp_path).splitlines()), None) == last
