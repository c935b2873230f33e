"""Measure a model, given by folder or Hub id, and write metrics.json.

    python -m training.evaluate model_cards/fashion-cfg --dataset_name data/fashion --guidance_scale 1 1.5 2

Draws images, the same number of each class or one of each test image's caption, and compares them with real images in
the features of a network that no generator was trained with: class accuracy, Frechet, Monge (MIND) and kernel distance
to all test images, precision and recall. Whether images are copied is measured by the distance to the nearest training
image, in pixels and, with a network that has not seen these images, in features. Each metric is shown beside its floor,
the score of as many real images. Several values of a setting make a sweep; each row is written as
soon as it is measured, and is not measured again when the command is repeated. Bits/dim are measured with
--bits_per_dim and --ode_bits_per_dim only.

    python -m training.evaluate runs/mine/checkpoint-*/pipeline --dataset_name data/emoji

measures each checkpoint, and plots the distances to real and to training images over the images seen in training.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.cache import default_cache_dir
from training.evaluation import bits_per_dim, plots
from training.evaluation.batches import BatchCache, depends_on, draw
from training.evaluation.measuring import Measuring
from training.evaluation.options import Options, parse, recorded
from training.evaluation.prepare import Evaluation, prepare, sweep
from training.evaluation.processes import Processes
from training.evaluation.results import (
    Row,
    find_done,
    key_of,
    likelihood_table,
    merge,
    read_rows,
    table,
    write_grid,
)
from training.evaluation.series import images_seen, run_folder, series_table, write_series
from training.evaluation.sheets import write_contact_sheet, write_nearest
from training.machine import is_reporter
from training.metrics.feature_memorization import Neighbours
from training.metrics.sample_quality import measure_names


@dataclass(frozen=True)
class Shown:
    """What the images show of a row: 8-bit samples (N, C, H, W), and the training images nearest to the first ones."""

    pixels: np.ndarray
    neighbours: Neighbours | None


def draw_and_measure(evaluation: Evaluation, row: Row, measuring: Measuring | None) -> Shown | None:
    """Draw with a row's settings, fill in its numbers and write it; returns what images show of it.

    In every process but the first, `measuring` and the result are None.
    """
    options, model, settings = evaluation.options, evaluation.model, row["settings"]
    names = ("num_inference_steps", "guidance_scale", "guidance_interval")
    arguments = {name: settings[name] for name in names if settings[name] is not None} | options.call_arguments
    model.use_scheduler(settings["scheduler"], settings["num_inference_steps"])
    told = {"prompts": model.prompts} if model.prompts else {}
    told |= {} if model.inputs is None else {"inputs": evaluation.test.fingerprint}
    decides = depends_on(model, evaluation.pipeline, options.seed, options.dtype, arguments | told)
    kept = BatchCache(default_cache_dir(), *decides)
    how = {"kept": kept, "processes": evaluation.processes}
    name = key_of(settings)
    drawn = draw(model, options.num_samples, options.batch_size, options.seed, name, **how, **arguments)
    if drawn is None:
        return None
    if drawn.resumed:
        print(f"{drawn.resumed} of {options.num_samples} images were drawn by an earlier run: {name}")
    speed = options.num_samples * evaluation.processes.count / drawn.seconds
    measured = measuring.measure(drawn.pixels, model.num_classes)
    row["measured"] = measured.numbers | {"nfe": drawn.nfe, "images_per_second": round(speed, 2)}
    row["floor"] = measuring.floor
    row |= {"copies": measuring.copies} if measuring.copies else {}
    row["features"]["test_accuracy"] = measuring.test_accuracy
    for key in merge(evaluation.output, row):
        print(f"dropped from {evaluation.output}, because the weights or configs have changed since: {key}")
    kept.remove()
    return Shown(drawn.pixels, measured.neighbours)


def measure_rows(evaluation: Evaluation) -> list[Row]:
    """Every row of the sweep; those that metrics.json already holds are not measured again."""
    options, processes = evaluation.options, evaluation.processes
    wanted, names = sweep(evaluation), measure_names(evaluation.network, bool(options.nearest))
    rows = [None if options.overwrite else find_done(evaluation.output, row, names) for row in wanted]
    processes.wait()  # until all have read the same rows; then the first one may be written
    missing = [index for index, row in enumerate(rows) if row is None]
    if processes.first and len(missing) < len(rows):
        print(f"{len(rows) - len(missing)} of {len(rows)} settings are in {evaluation.output} already")
    measuring = Measuring(evaluation) if processes.first and missing else None
    for index in missing:
        shown = draw_and_measure(evaluation, wanted[index], measuring)
        rows[index] = wanted[index]
        if options.grid and shown is not None and is_shown(rows[index], rows, evaluation):
            write_images(evaluation, key_of(rows[index]["settings"]), shown)
    return rows


def write_images(evaluation: Evaluation, note: str, shown: Shown) -> None:
    """Write samples.png, contact_sheet.png and, where copies are looked for in features, nearest.png."""
    model, folder = evaluation.model, evaluation.output.parent
    write_grid(folder / "samples.png", shown.pixels, model.num_classes or 10, note)
    told = model.told or ("",)
    is_grid, seed = model.num_classes is not None and not model.prompts, evaluation.options.seed
    write_contact_sheet(folder / "contact_sheet.png", shown.pixels, told, is_grid, seed, note)
    if shown.neighbours is not None:
        train = evaluation.train.images
        write_nearest(folder / "nearest.png", shown.pixels, train, shown.neighbours, told, note)


def is_shown(row: Row, rows: list[Row | None], evaluation: Evaluation) -> bool:
    """Whether the images are to show this row: if no other of the sweep has a smaller distance to real images, and,
    once there are images, none that metrics.json holds of these weights, this data and this kind of input either."""
    distance, others = evaluation.network.frechet_name, [other for other in rows if other]
    if (evaluation.output.parent / "contact_sheet.png").is_file():
        others += [other for other in read_rows(evaluation.output).values() if is_alike(row, other)]
    return all(row["measured"][distance] <= other["measured"].get(distance, math.inf) for other in others)


def is_alike(row: Row, other: Row) -> bool:
    """Whether two rows are of the same weights, data, number of samples and kind of input."""
    names = ("model", "num_samples", "dataset", "features", "inputs", "prompts")
    same = all(row["settings"].get(name) == other["settings"].get(name) for name in names)
    return same and row["weights"] == other["weights"]


def run(location: str, options: Options, command: str, processes: Processes) -> list[Row]:
    """Measure every setting, writing metrics.json after each, then write the plots. Returns the rows."""
    with processes.main_process_first():  # the others then find decoded and downloaded data in the caches
        evaluation = prepare(location, options, command, processes)
    try:
        rows = measure_rows(evaluation)
    except (ValueError, OSError) as error:
        if not processes.first:  # the first process reports its own errors in main()
            print(f"error in process {processes.index}: {error}", file=sys.stderr)
        raise
    if processes.first:
        print_summary(evaluation, rows)
    return rows


def run_all(locations: list[str], options: Options, command: str) -> None:
    """Measure one model, or a series of checkpoints, of which checkpoints.png is written into the folder of the run.

    Raises:
        ValueError: several models that are no checkpoints, or would all be written to one file.
    """
    if len(locations) > 1 and options.output:
        raise ValueError(f"output must be left out for several models, got {options.output!r}")
    seen = {location: images_seen(location) for location in locations if len(locations) > 1}
    processes = Processes.launched()
    rows = {location: run(location, options, command, processes) for location in locations}
    if processes.first and seen:
        distance = next(name for name in plots.DISTANCES if name in rows[locations[0]][0]["measured"])
        best = {location: min(some, key=lambda row: row["measured"][distance]) for location, some in rows.items()}
        series = sorted(((seen[location], row) for location, row in best.items()), key=lambda point: point[0])
        folder = run_folder(locations[-1])
        print(series_table(series))
        print(f"written to {write_series(folder / 'checkpoints.png', series, folder.name)}")
    processes.close()


def print_summary(evaluation: Evaluation, rows: list[Row]) -> None:
    """Print the tables and write the plots; measure bits/dim if they are requested."""
    folder, options = evaluation.output.parent, evaluation.options
    count, channels, *_ = evaluation.test.images.shape
    kind, network = "colour" if channels == 3 else "grey", Path(options.features).name
    print(f"measured on {count:,} {kind} images of {options.dataset} ({options.test_split}), in features of {network}")
    print(table(rows))
    if any(row["measured"].get("nearest_train_ratio", 1) < 1 for row in rows):
        print(
            "warning: a ratio below 1: samples are nearer to training images than unseen images are (copies, or smooth)"
        )
    copied = max(row["measured"].get("copied_share", 0) for row in rows)
    if copied > rows[0]["floor"].get("copied_share", 0):
        print(f"warning: up to {copied:.1%} of the samples look like copies of training images: see nearest.png")
    written = plots.write_plots(folder, rows)
    bounds = bits_per_dim.measure_rows(evaluation) if options.bits_per_dim else []
    if bounds:
        written.append(plots.write_likelihood(folder, bounds))
    if options.ode_bits_per_dim:
        bounds.append(bits_per_dim.measure_ode_row(evaluation))
    if bounds:
        print(likelihood_table(bounds))
    print(f"written to {', '.join(map(str, [evaluation.output, *written]))}")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        locations, options = parse(arguments, __doc__.splitlines()[0])
        run_all(locations, options, recorded("python -m training.evaluate", arguments, options.dtype))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}" if is_reporter() else 1)


if __name__ == "__main__":
    main()
