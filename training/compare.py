"""`python -m training.compare [FOLDER ...] --output PNG`: models' quality against network evaluations, in one plot.

The numbers are those that `training.evaluate` wrote to the folders' metrics.json for their present weights. A line is a
model and a sampler. Rows that differ in their seed alone are averaged. Of settings with equally many evaluations per
image, such as those of a sweep over guidance scales, one is shown: that with the most seeds and, of these, the least
Frechet distance.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from training.card import shipped_folders
from training.evaluation.plots import COLOURS, LABELS, MARKERS, SHARES, legend_below, write_figure
from training.evaluation.results import Row, key_of, read_rows
from training.files import weights_hash

SHOWN = ("frechet_distance", "class_accuracy", "recall")
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
Point = dict[str, float]  # nfe, and those of SHOWN that were measured


def rows_of(folders: Iterable[Path]) -> list[Row]:
    """The rows of the folders' present weights that have a Frechet distance.

    Raises:
        ValueError: there are none, or rows that are not comparable: of other data, features or numbers of samples.
    """
    found = []
    for folder in folders:
        weights = weights_hash(folder)
        rows = read_rows(folder / "metrics.json").values()
        found += [row for row in rows if row["weights"] == weights and SHOWN[0] in row["measured"]]
    if not found:
        raise ValueError("FOLDER must be that of a model with a Frechet distance in its metrics.json: none has one")
    for what, values in {
        "dataset": {row["settings"]["dataset"] for row in found},
        "features": {row["features"]["weights"] for row in found},
        "num_samples": {row["settings"]["num_samples"] for row in found},
    }.items():
        if len(values) > 1:
            raise ValueError(f"FOLDER must hold rows of one {what}, got {', '.join(sorted(map(str, values)))}")
    return found


def lines_of(rows: list[Row]) -> dict[str, list[Point]]:
    """The points of each line by its name, in the order of their evaluations."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        alike.setdefault(key_of(row["settings"] | {"seed": None}), []).append(row)
    lines: dict[str, dict[float, Point]] = {}
    points = [(name_of(same[0]["settings"]), len(same), averaged(same)) for same in alike.values()]
    for name, _, point in sorted(points, key=lambda found: (found[1], -found[2][SHOWN[0]])):  # the best one comes last
        lines.setdefault(name, {})[point["nfe"]] = point
    return {name: [line[nfe] for nfe in sorted(line)] for name, line in sorted(lines.items())}


def averaged(rows: list[Row]) -> Point:
    """The mean of each measure over rows that differ in their seed."""
    names = ("nfe", *(name for name in SHOWN if name in rows[0]["measured"]))
    return {name: mean(row["measured"][name] for row in rows) for name in names}


def name_of(settings: Row) -> str:
    """Model and sampler, such as "fashion-flow, Heun"."""
    scheduler = settings["scheduler"].removeprefix("FlowMatch").removesuffix("Scheduler").removesuffix("Discrete")
    sampler = settings.get("sampler")
    return f"{settings['model']}, {sampler.replace('_', ' ').capitalize() if sampler else scheduler}"


def floor_of(rows: list[Row], name: str) -> float | None:
    """What as many real images score, the mean over the seeds that chose them; None if no row says."""
    by_seed = {row["settings"]["seed"]: row["floor"][name] for row in rows if name in row["floor"]}
    return mean(by_seed.values()) if by_seed else None


def figure(rows: list[Row]) -> Figure:
    """A panel for each of SHOWN."""
    lines = lines_of(rows)
    made = Figure(figsize=(12.6, 4.9), dpi=144, layout="constrained")
    axes = made.subplots(1, len(SHOWN))
    for axis, name in zip(axes, SHOWN, strict=True):
        _draw(axis, lines, name, floor_of(rows, name))
    count = rows[0]["settings"]["num_samples"]
    made.suptitle(f"Quality against network evaluations, {count:,} samples", x=0.01, ha="left")
    legend_below(made, axes[0])
    return made


def _draw(axis: Axes, lines: dict[str, list[Point]], name: str, floor: float | None) -> None:
    for index, (label, points) in enumerate(lines.items()):
        shown = [point for point in points if name in point]
        style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        axis.plot([point["nfe"] for point in shown], [point[name] for point in shown], label=label, **style)
    if floor is not None:
        axis.axhline(floor, color="#777777", linestyle="--", linewidth=1.3, label="real images")
    axis.set(xscale="log", xlabel="Network evaluations per image (log scale)")
    axis.set_title(LABELS[name], loc="left")
    least, most = axis.get_xlim()
    ticks = [tick for tick in TICKS if least <= tick <= most]
    axis.set_xticks(ticks, map(str, ticks))
    axis.xaxis.set_minor_formatter(NullFormatter())
    if name in SHARES:
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    else:
        axis.set_ylim(bottom=0)


def table(rows: list[Row]) -> str:
    """The points as Markdown."""
    lines = ["| model, sampler | network evaluations | Fréchet distance | class accuracy | recall |"]
    lines.append("|" + " --- |" * 5)
    for name, points in lines_of(rows).items():
        for point in points:
            accuracy = f"{point['class_accuracy']:.1%}" if "class_accuracy" in point else ""
            lines.append(
                f"| {name} | {point['nfe']:g} | {point['frechet_distance']:.3f} | {accuracy} | {point['recall']:.3f} |"
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m training.compare", description=__doc__.partition(": ")[2])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="a model's folder [all shipped ones]")
    parser.add_argument("--output", type=Path, help="write the plot to this PNG")
    options = parser.parse_args(arguments)
    try:
        rows = rows_of(options.folders or shipped_folders())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(table(rows))
    if options.output is not None:
        print(f"written to {write_figure(options.output, lambda: figure(rows))}")


if __name__ == "__main__":
    main()
