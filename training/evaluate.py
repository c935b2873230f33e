"""Measure a model: a folder or a Hub id -> metrics.json.

    python -m training.evaluate model_cards/fashion-cfg --dataset_name data/fashion --guidance_scale 1 1.5 2

Draws pictures, the same number of each class, and measures them in the features of a classifier that trains no
generator: class accuracy, Frechet distance to all test pictures, precision and recall. Beside each stands the floor,
what as many real training pictures score. Several values of a setting make a sweep; a row is written as soon as it is
measured, over an older row of the same settings.
"""

from __future__ import annotations

import itertools
import platform
import shlex
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch

from training.data import ImageData, load_images
from training.data.cache import default_cache_dir
from training.metrics.drawing import Model, draw, find_folder, open_model, weights_hash
from training.metrics.features import FeatureClassifier, classifier_hash
from training.metrics.judge import NEIGHBOURS, Judge
from training.metrics.options import DTYPES, Options, parse
from training.metrics.report import Row, key_of, merge, read_rows, table, write_grid


def open_classifier(features: str) -> FeatureClassifier:
    """The classifier in a folder or of a Hub id; ValueError if there is none."""
    try:
        return FeatureClassifier.from_pretrained(features).eval()
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"features must be a classifier from python -m training.feature_classifier, got {features!r}: {reason}"
        ) from error


def load_split(options: Options, classifier: FeatureClassifier, split: str) -> ImageData:
    """A split of the real pictures, in the shape that the classifier takes, or a ValueError."""
    data = load_images(dataset_name=options.dataset_name, split=split, resolution=options.resolution)
    size = classifier.config.sample_size
    expected = (classifier.config.in_channels, size, size)
    if data.images.shape[1:] != expected:
        raise ValueError(
            f"features must have been trained on pictures like those of dataset_name: {options.features} takes "
            f"{dimensions(expected)}, {options.dataset_name} has {dimensions(data.images.shape[1:])}"
        )
    return data


def dimensions(shape: tuple[int, ...]) -> str:
    """(C, H, W) in words."""
    return f"{shape[0]} channel(s) of {shape[2]}x{shape[1]}"


def check_fit(model: Model, options: Options, classifier: FeatureClassifier, test: ImageData) -> None:
    """Raise ValueError unless model, data and classifier can be compared, and the model takes the settings."""
    if model.shape != test.images.shape[1:]:
        raise ValueError(
            f"model and dataset_name must agree in size: {model.name} draws {dimensions(model.shape)}, "
            f"{options.dataset_name} has {dimensions(test.images.shape[1:])}"
        )
    for name in ("guidance_scale", "guidance_interval"):
        if getattr(options, name) is not None and name not in model.arguments:
            raise ValueError(f"{name} must be left out: {type(model.pipe).__name__} does not take it")
    if model.num_classes is None:
        return
    if test.labels is None:
        raise ValueError(
            f"dataset_name must have labels: {model.name} is class-conditional, and its accuracy needs them"
        )
    theirs, ours = model.class_names, classifier.config.class_names
    differ = theirs and ours and [name.lower() for name in theirs] != [name.lower() for name in ours]
    if model.num_classes != classifier.config.num_classes or differ:
        raise ValueError(
            f"model and features must know the same classes: {model.name} has {model.num_classes} "
            f"({', '.join(theirs or ['no names'])}), {options.features} has {classifier.config.num_classes} "
            f"({', '.join(ours or ['no names'])})"
        )


def sweep(options: Options, model: Model) -> list[Row]:
    """The settings of each row."""
    scales = options.guidance_scale or [2.0] if "guidance_scale" in model.arguments else [None]
    return [
        {
            "model": model.name,
            "scheduler": model.scheduler,
            "num_inference_steps": steps,
            "guidance_scale": scale,
            "guidance_interval": options.guidance_interval,
            "num_samples": options.num_samples,
            "seed": options.seed,
            "dtype": options.dtype,
            "dataset": Path(options.dataset_name).name if Path(options.dataset_name).is_dir() else options.dataset_name,
        }
        for steps, scale in itertools.product(options.num_inference_steps, scales)
    ]


def measure(model: Model, judge: Judge, options: Options, settings: Row) -> tuple[Row, np.ndarray]:
    """What one row's settings give, and its pictures, 8-bit (N, C, H, W)."""
    names = ("num_inference_steps", "guidance_scale", "guidance_interval")
    arguments = {name: settings[name] for name in names if settings[name] is not None}
    drawn = draw(model, options.num_samples, options.batch_size, options.seed, key_of(settings), **arguments)
    classes = model.num_classes
    asked = None if classes is None else np.arange(options.num_samples) % classes
    measured = judge.measure(drawn.pixels, asked, "samples")
    speed = {"nfe": drawn.nfe, "images_per_second": round(options.num_samples / drawn.seconds, 2)}
    return measured | speed, drawn.pixels


def run(location: str, options: Options, command: str) -> list[Row]:
    """Measure every setting; writes metrics.json after each. Returns the rows."""
    folder = find_folder(location)
    output = Path(options.output) if options.output else default_output(location)
    read_rows(output)  # complain about another kind of file now, not after the work
    classifier = open_classifier(options.features)
    test = load_split(options, classifier, options.test_split)
    train = load_split(options, classifier, options.train_split)
    model = open_model(location, DTYPES[options.dtype], options.scheduler)
    check_fit(model, options, classifier, test)
    classifier.to(model.pipe.device)
    judge = Judge(classifier, test, options.num_samples, default_cache_dir())
    floor = judge.floor(train, options.num_samples, options.seed)
    about = {
        "floor": floor,
        "features": {
            "name": Path(options.features).name,
            "weights": classifier_hash(classifier),
            "test_accuracy": judge.test_accuracy,
        },
        "real": {
            "test": {"split": options.test_split, "fingerprint": test.fingerprint, "frechet_images": len(test.images)},
            "train": {"split": options.train_split, "fingerprint": train.fingerprint},
            "precision_recall_images": len(judge.subset),
            "neighbours": NEIGHBOURS,
        },
        "weights": weights_hash(folder),
        "batch_size": options.batch_size,
        "device": model.pipe.device.type,
        "command": command,
        "versions": versions(),
    }
    rows = []
    for settings in sweep(options, model):
        measured, pixels = measure(model, judge, options, settings)
        rows.append({"settings": settings, "measured": measured, **about})
        for key in merge(output, rows[-1]):
            print(f"dropped from {output}, because the weights have changed since: {key}")
        if options.grid and len(rows) == 1:
            write_grid(output.with_name("samples.png"), pixels, model.num_classes or 10, key_of(settings))
    print(table(rows))
    print(f"written to {output}")
    return rows


def default_output(location: str) -> Path:
    """Beside the model; a Hub id gets a folder of its name here, since its own is a cache."""
    return (Path(location) if Path(location).is_dir() else Path(location.rpartition("/")[2])) / "metrics.json"


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "numpy": np.__version__,
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        location, options = parse(arguments, __doc__.splitlines()[0])
        run(location, options, shlex.join(["python", "-m", "training.evaluate", *arguments]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
