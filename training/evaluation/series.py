"""A series of checkpoints of a run: distances to real images and to training images, over the images seen.

Where copying begins, the distance to the training images falls away from that of images that were held back, while the
distance to real images goes on falling: the checkpoint to ship is chosen with both in view.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from training.evaluation.plots import COLOURS, DISTANCES, LABELS, write_figure
from training.evaluation.real_images import record_of
from training.evaluation.results import HEADS, Row, aligned, cell

SHOWN = (*DISTANCES, "nearest_to_second_ratio", "nearest_train_ratio", "copied_share")
SHARES = {"copied_share"}
Series = list[tuple[int, Row]]  # images seen in training, and the row of that checkpoint


def images_seen(model: str) -> int:
    """The images that a model of a run was trained on, as its training.json says, with those of the runs that it
    continues.

    Raises:
        ValueError: it has none, or one that does not say.
    """
    record, seen = record_of(Path(model)), 0
    while isinstance(record, dict) and isinstance(record.get("images"), int):
        seen, record = seen + record["images"], record.get("continues")
    if not seen:
        raise ValueError(
            f"model must be several checkpoints of a run, checkpoint-N/pipeline, or one model: {model!r} has no "
            "training.json that says how many images it has seen"
        )
    return seen


def run_folder(model: str) -> Path:
    """The folder of the run that a checkpoint's pipeline is of; that of the model itself if it is no checkpoint."""
    folder = Path(model).resolve()
    return folder.parent.parent if folder.name == "pipeline" else folder


def names_in(series: Series) -> list[str]:
    """The measures of SHOWN that a series has, in features rather than in pixels."""
    found = [name for name in SHOWN if any(name in row["measured"] for _, row in series)]
    return [name for name in found if name != "nearest_train_ratio" or "nearest_to_second_ratio" not in found]


def series_table(series: Series) -> str:
    """A line for each checkpoint, and the floor of the last one."""
    names = names_in(series)
    lines = [["images seen", *(HEADS.get(name, name) for name in names)]]
    lines += [[f"{seen:,}", *(cell(row["measured"], name) for name in names)] for seen, row in series]
    lines.append(["real images", *(cell(series[-1][1]["floor"], name) for name in names)])
    return aligned(lines)


def write_series(path: Path, series: Series, name: str) -> Path:
    """Write the measures over the images seen as a PNG; `name` is that of the run."""
    return write_figure(path, lambda: series_figure(series, name))


def series_figure(series: Series, name: str) -> Figure:
    """An axis for each measure, with its floor as a dashed line."""
    names, settings = names_in(series), series[-1][1]["settings"]
    figure = Figure(figsize=(7, 0.8 + 2.4 * len(names)), dpi=144, layout="constrained")
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for number, (axis, measure) in enumerate(zip(axes, names, strict=True)):
        points = [(seen, row["measured"][measure]) for seen, row in series if measure in row["measured"]]
        axis.plot(*zip(*points, strict=True), color=COLOURS[number], marker="o", label=name)
        floor = series[-1][1]["floor"].get(measure)
        if floor is not None:
            held_back = "training images" if measure in DISTANCES else "images that were held back"
            axis.axhline(floor, color="#777777", linestyle="--", linewidth=1.3, label=held_back)
        axis.set_title(LABELS[measure], loc="left")
        axis.set_ylim(bottom=0)
        axis.legend(loc="best")
        if measure in SHARES:
            axis.yaxis.set_major_formatter(PercentFormatter(1))
    axes[-1].set_xlabel("Images seen in training")
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.suptitle(f"{name}: {settings['num_samples']:,} samples of each checkpoint", x=0.01, ha="left")
    return figure
