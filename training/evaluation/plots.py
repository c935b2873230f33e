"""The plots of an evaluation: guidance scale against fidelity and diversity, steps against distance, the bound over t,
and the accuracy of a noisy classifier.

A dashed line is the floor, the score of as many real images. The colours are those of Okabe and Ito, which colour-blind
people can tell apart.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter, ScalarFormatter
from PIL import Image

from training.evaluation.results import Row
from training.files import write_whole

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
MARKERS = "osD^vPX"
STYLE = {
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.titlesize": 12,
    "font.size": 10,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
}
LABELS = {
    "frechet_distance": "Fréchet distance (lower is better)",
    "fd_effnet_lite0": "FD-EffNet-Lite0 (lower is better)",
    "fid": "FID (lower is better)",
    "class_accuracy": "Class accuracy",
    "precision": "Precision (are they real?)",
    "recall": "Recall (is everything there?)",
    "nearest_to_second_ratio": "Nearest to second-nearest training image (copies: near 0)",
    "nearest_train_ratio": "Distance to the training images over that of test images (copies: near 0)",
    "copied_share": "Copies (the ratio is below a third)",
}
DISTANCES = ("frechet_distance", "fd_effnet_lite0", "fid")
SHARES = ("class_accuracy", "precision", "recall")
VARIANCES = {"fixed_small": "fixed, small", "fixed_large": "fixed, large", "learned_range": "learned"}

Series = dict[str, list[Row]]


def write_plots(folder: Path, rows: list[Row]) -> list[Path]:
    """Write guidance.png if the rows differ in guidance, steps.png if they differ in steps; returns the paths."""
    written = []
    if varies(rows, "guidance_scale"):
        written.append(write_figure(folder / "guidance.png", lambda: guidance_figure(rows)))
    if varies(rows, "num_inference_steps"):
        written.append(write_figure(folder / "steps.png", lambda: steps_figure(rows)))
    return written


def write_likelihood(folder: Path, rows: list[Row]) -> Path:
    """Write likelihood.png, the terms of the bound over t."""
    return write_figure(folder / "likelihood.png", lambda: likelihood_figure(rows))


def write_figure(path: Path, make: Callable[[], Figure]) -> Path:
    """Make a figure in this file's style and write it as a PNG, whole or not at all."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = make()
        FigureCanvasAgg(figure).print_png(buffer)
    write_whole(path, buffer.getvalue())
    return path


def varies(rows: list[Row], name: str) -> bool:
    """Whether the rows have more than one value of a setting."""
    return len({row["settings"][name] for row in rows}) > 1


def series_of(rows: list[Row], along: str, names: dict[str, str]) -> Series:
    """The rows of each line of a plot, sorted by the setting `along` the x axis.

    `names` are the settings that tell lines apart, each with its pattern for the legend. Those that do not vary are
    left out of the legend.
    """
    varying = {name: pattern for name, pattern in names.items() if varies(rows, name)} or dict(
        [next(iter(names.items()))]
    )
    found: Series = {}
    for row in sorted(rows, key=lambda row: row["settings"][along]):
        label = ", ".join(pattern.format(row["settings"][name]) for name, pattern in varying.items())
        found.setdefault(label, []).append(row)
    return found


def guidance_figure(rows: list[Row]) -> Figure:
    """Distance, class accuracy, precision and recall over the guidance scale, a line for each sampler."""
    names = [name for name in (*DISTANCES, *SHARES) if any(name in row["measured"] for row in rows)]
    scales = sorted({row["settings"]["guidance_scale"] for row in rows})
    columns = 2 if len(names) > 3 else len(names)
    figure = Figure(figsize=(4.6 * columns, 3.3 * -(-len(names) // columns) + 0.6), dpi=144, layout="constrained")
    lines = series_of(rows, "guidance_scale", {"scheduler": "{}", "num_inference_steps": "{} steps"})
    axes = figure.subplots(-(-len(names) // columns), columns, squeeze=False, sharex=True).flat
    for axis, name in zip(axes, names, strict=False):
        draw_lines(axis, lines, "guidance_scale", name, rows)
        axis.set_title(LABELS[name], loc="left")
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("Guidance scale")
        if len(scales) <= 6:  # more would crowd the axis
            axis.set_xticks(scales, [f"{scale:g}" for scale in scales])
    figure.suptitle(title(rows, "guidance_scale"), x=0.01, ha="left")
    legend_below(figure, axes[0])
    return figure


def steps_figure(rows: list[Row]) -> Figure:
    """Distance over the number of steps, a line for each sampler and guidance scale."""
    figure = Figure(figsize=(7, 4.6), dpi=144, layout="constrained")
    axis = figure.subplots()
    (name,) = [name for name in DISTANCES if name in rows[0]["measured"]]
    lines = series_of(rows, "num_inference_steps", {"scheduler": "{}", "guidance_scale": "guidance {:g}"})
    draw_lines(axis, lines, "num_inference_steps", name, rows)
    axis.set_xscale("log")
    axis.set_xticks(sorted({row["settings"]["num_inference_steps"] for row in rows}))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set(xlabel="Sampling steps (log scale)", ylabel=LABELS[name])
    figure.suptitle(title(rows, "num_inference_steps"), x=0.01, ha="left")
    legend_below(figure, axis)
    return figure


def draw_lines(axis: Axes, lines: Series, along: str, name: str, rows: list[Row]) -> None:
    """One measure of each line, and its floor."""
    for index, (label, points) in enumerate(lines.items()):
        shown = [row for row in points if name in row["measured"]]
        x, y = [row["settings"][along] for row in shown], [row["measured"][name] for row in shown]
        style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        axis.plot(x, y, label=label, **style)
    if name in rows[0]["floor"]:
        axis.axhline(rows[0]["floor"][name], color="#777777", linestyle="--", linewidth=1.3, label="real images")
    if name in SHARES:
        axis.set_ylim(-0.02, 1.02)
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    else:
        axis.set_ylim(bottom=0)


def legend_below(figure: Figure, axis: Axes) -> None:
    """Put the legend of `axis` below all axes of the figure."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=min(len(labels), 5))


def title(rows: list[Row], along: str) -> str:
    """The title of a figure: model, number of samples, and the settings that are the same in all rows."""
    settings = rows[0]["settings"]
    parts = [f"{settings['model']}: {settings['num_samples']:,} samples"]
    for name, text in {"scheduler": "{}", "num_inference_steps": "{} steps", "guidance_scale": "guidance {:g}"}.items():
        if name != along and settings[name] is not None and not varies(rows, name):
            parts.append(text.format(settings[name]))
    return ", ".join(parts)


def likelihood_figure(rows: list[Row]) -> Figure:
    """L_t over t, a line for each variance, on logarithmic axes: the first few steps hold most of the bits."""
    figure = Figure(figsize=(7, 4.6), dpi=144, layout="constrained")
    axis = figure.subplots()
    for index, row in enumerate(rows):
        label = "{}: {:.3f} ± {:.3f} bits/dim".format(VARIANCES[row["settings"]["variance"]], *totals(row))
        # a logarithmic axis has no 0: steps count from 1, as in the papers
        times = np.asarray(row["curve"]["timesteps"]) + 1
        axis.plot(times, row["curve"]["bits_per_dim"], color=COLOURS[index % len(COLOURS)], label=label)
    axis.set(xscale="log", yscale="log", xlabel="t (log scale)", ylabel="Term of the bound, bits/dim (log scale)")
    settings = rows[0]["settings"]
    steps = f"{settings['num_inference_steps']:,} steps"
    name = f"{settings['model']}: variational bound, {settings['num_images']:,} test images, {steps}"
    figure.suptitle(name, x=0.01, ha="left")
    axis.legend()
    return figure


def totals(row: Row) -> tuple[Any, Any]:
    """bits/dim and its standard error."""
    return row["measured"]["bits_per_dim"], row["measured"]["standard_error"]


def accuracy_plot(accuracy: dict[int, float], by_chance: float, num_timesteps: int) -> Image.Image:
    """Accuracy against the timestep, with the line of chance; 640 x 400 pixels."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), dpi=100, layout="constrained")
        axes = figure.subplots()
        axes.plot(list(accuracy), list(accuracy.values()), marker="o", color=COLOURS[0])
        axes.axhline(by_chance, linestyle="--", color="grey", label="chance")
        axes.set(xlabel="Timestep t", ylabel="Accuracy", xlim=(0, max(num_timesteps - 1, 1)), ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(loc="upper right")
        canvas = FigureCanvasAgg(figure)  # no display and no global state
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()).copy()).convert("RGB")
