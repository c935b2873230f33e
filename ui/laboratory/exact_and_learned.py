"""The exact denoiser of a training set beside a learned one: what benchmarks/optimal_denoiser.py and
benchmarks/memorization.py have computed, as images, plots and words."""

from functools import cache
from html import escape
from typing import Any

import numpy as np

from . import recorded
from .images import Shown, side_by_side
from .plots import Plot, lines, plot

EXACT, RUN = "optimal_denoiser", "memorization"  # the recorded files
SETS = {"test": "test image", "train": "training image"}
ALONE, TOLD = "no class", "its class"
COLORS = ("first", "second", "third", "truth")

# ------------------------------------------------------------------------------------------- exact beside learned


@cache
def names() -> dict[str, tuple[str, int]]:
    """The images to choose from: a split and its place there, by name."""
    about = recorded.numbers(EXACT)
    return {
        f"{about['class_names'][each['label']]}, {kind}": (split, place)
        for split, kind in SETS.items()
        for place, each in enumerate(about["sets"][split]["images"])
    }


def timesteps() -> list[int]:
    """The noise levels."""
    return recorded.numbers(EXACT)["timesteps"]


def images_of(name: str, t: int, told: str) -> str:
    """An image of `names` at one of the timesteps, as the page shows it."""
    split, place = names()[name]
    level = timesteps().index(t)
    return side_by_side(tiles(name, t, told)) + f"<p>{_words(split, level, place, told, apart(name, t, told))}</p>"


def tiles(name: str, t: int, told: str) -> list[Shown]:
    """An image of `names`, noised, as the exact denoiser sees it there, and as the network does."""
    about, (split, place) = recorded.numbers(EXACT), names()[name]
    level, row = about["timesteps"].index(t), _row(about, split, place)
    noisy, exact, learned = ("noisy", "exact_of_class", "learned_of_class") if told == TOLD else about["kinds"][:3]
    drawn = {kind: recorded.sheet(EXACT)[_line(about, kind, row), level] for kind in (noisy, exact, learned)}
    return [
        (f"x₀, a {SETS[split]}", recorded.sheet(f"{EXACT}_images")[0, row]),
        (f"x_t at t = {t}", drawn[noisy]),
        ("E[x₀ | x_t], exact", drawn[exact]),
        ("x̂₀, learned", drawn[learned]),
    ]


def apart(name: str, t: int, told: str) -> float:
    """Distance of exact and learned there: root mean square, black to white is 1."""
    split, place = names()[name]
    found = recorded.numbers(EXACT)["sets"][split]["apart_of_class" if told == TOLD else "apart"]
    return found["shown"][timesteps().index(t)][place]


def _row(about: dict[str, Any], split: str, place: int) -> int:
    """Which of all images that is: training images come first."""
    return place + (len(about["sets"]["train"]["images"]) if split == "test" else 0)


def _line(about: dict[str, Any], kind: str, row: int) -> int:
    count = sum(len(about["sets"][split]["images"]) for split in SETS)
    return about["kinds"].index(kind) * count + row


def _words(split: str, level: int, place: int, told: str, distance: float) -> str:
    about = recorded.numbers(EXACT)
    points = about["sets"][split]["points"]["shown"][level][place]
    spread = "one training image alone" if points < 1.05 else f"about {_count(points)} training images"
    where = "" if told == TOLD else f"The exact answer is a mean over {spread}. "
    return f"{where}Exact and learned are <b>{distance:.3f}</b> apart (root mean square, black to white is 1)."


def plots_over_t(told: str) -> list[Plot]:
    """How far the two are apart over t, and how far each is from the image, as means over many images."""
    about = recorded.numbers(EXACT)
    t, span = about["timesteps"], (0.0, 1000.0)
    key = "apart_of_class" if told == TOLD else "apart"
    means = {split: about["sets"][split][key]["mean"] for split in SETS}
    layers = [
        lines(_points(t, means["test"]), "first", "test images", 2.0),
        lines(_points(t, means["train"]), "second", "training images", 2.0),
    ]
    high = 1.15 * max(map(max, means.values()))
    said = f"Distance of exact and learned over t, up to {max(means['test']):.3f} on test images"
    found = [plot("Exact to learned", said, span, (0.0, high), layers, x_label="t", y_label="distance")]
    return found if told == TOLD else [*found, _errors(about, t, span)]


def _errors(about: dict[str, Any], t: list[int], span: tuple[float, float]) -> Plot:
    kinds = [(split, kind) for split in SETS for kind in ("exact", "learned")]
    values = {each: about["sets"][each[0]][f"error_{each[1]}"]["mean"] for each in kinds}
    layers = [
        lines(_points(t, found), color, f"{kind}, {SETS[split]}s", 2.0, dashed=split == "train")
        for color, ((split, kind), found) in zip(COLORS, values.items(), strict=True)
    ]
    high = 1.1 * max(map(max, values.values()))
    said = "Error of x0 over t: the exact denoiser is better on training images, and worse on test images"
    return plot("Error of each", said, span, (0.0, high), layers, x_label="t", y_label="distance to x₀")


# ------------------------------------------------------------------------------------ one small run, its checkpoints


def updates() -> list[int]:
    """The checkpoints of the run."""
    return [row["step"] for row in recorded.numbers(RUN)["checkpoints"]]


def drawn_at(update: int) -> str:
    """What a checkpoint draws, each image beside the training image nearest to it."""
    about, copied = recorded.numbers(RUN), f"{checkpoint(update)['copied']:.0%}"
    said = (
        f"<p><b>After {update:,} updates, {copied} of {about['options']['drawn']} images are copies</b> of one of the "
        f"{about['options']['images']} training images (less than a third as far from the nearest as from the second "
        f"nearest). Left of each pair what the network draws, always from the same noise; right of it the nearest "
        f"training image, and the distance of the two.</p>"
    )
    return said + side_by_side(pairs_at(update))


def checkpoint(update: int) -> dict[str, Any]:
    """What was measured after `update` updates."""
    return recorded.numbers(RUN)["checkpoints"][updates().index(update)]


def pairs_at(update: int) -> list[Shown]:
    """What a checkpoint draws, each image with the training image nearest to it on its right."""
    row, train = checkpoint(update), recorded.sheet(f"{RUN}_images")[0]
    below = recorded.numbers(RUN)["copied_below"]
    images = recorded.sheet(RUN)[updates().index(update)]
    pairs = zip(images, row["nearest"], row["nearest_distance"], row["nearest_to_second"], strict=True)
    return [
        (_pair_caption(distance, ratio < below), _beside(image, train[nearest]))
        for image, nearest, distance, ratio in pairs
    ]


def _beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    gap = np.full((len(left), 1), 128, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def _pair_caption(distance: float, copied: bool) -> str:
    return f"{distance:.3f}{', a copy' if copied else ''}"


def plots_of_run() -> list[Plot]:
    """Copies, and the distance of the network's x_0 to the exact one and to the image, over the run."""
    about = recorded.numbers(RUN)
    rows, steps = about["checkpoints"], updates()
    span, middle = (steps[0], steps[-1]), len(about["timesteps"]) // 2
    t = about["timesteps"][middle]
    first, last = (f"{rows[place]['copied']:.0%}" for place in (0, -1))
    copies = plot(
        "Copies",
        f"Share of drawn images that are copies, over updates: {first} at first, {last} at the end",
        span,
        (0.0, 1.0),
        [lines(_points(steps, [row["copied"] for row in rows]), "first", "share of drawn images", 2.0)],
        x_label="updates",
        y_label="share",
        log_x=True,
    )
    series = {
        "to the exact denoiser, seen images": [row["seen"]["to_exact"][middle] for row in rows],
        "to the exact denoiser, unseen images": [row["unseen"]["to_exact"][middle] for row in rows],
        "to x₀, seen images": [row["seen"]["error"][middle] for row in rows],
        "to x₀, unseen images": [row["unseen"]["error"][middle] for row in rows],
    }
    layers = [
        lines(_points(steps, values), color, label, 2.0, dashed=label.startswith("to x₀"))
        for color, (label, values) in zip(COLORS, series.items(), strict=True)
    ]
    high = 1.1 * max(map(max, series.values()))
    said = f"Distances of the network's x0 at t = {t} over updates"
    more = {"x_label": "updates", "y_label": "distance of x̂₀", "log_x": True}
    return [copies, plot(f"x̂₀ at t = {t}", said, span, (0.0, high), layers, **more)]


# ------------------------------------------------------------------------------------------------------------ words


def sources() -> str:
    """The commands that computed what is shown."""
    found = [recorded.numbers(name) for name in (EXACT, RUN)]
    said = "; ".join(
        f"<code>{escape(each['command'])}</code> (torch {escape(each['versions']['torch'])})" for each in found
    )
    return f"<p>Computed ahead by {said}.</p>"


def _points(x: list[int], y: list[float]) -> list[list[list[float]]]:
    return [[[a, b] for a, b in zip(x, y, strict=True)]]


def _count(points: float) -> str:
    return f"{points:,.0f}" if points >= 10 else f"{points:.1f}"
