"""The accuracy of a classifier of noisy images, by noise level.

    python -m training.metrics.noise_accuracy model_cards/fashion-classifier-guidance --dataset_name data/fashion

prints the accuracy on the test split at a few timesteps and writes noise_accuracy.json and noise_accuracy.png beside
the model.
"""

from __future__ import annotations

import io
import math
import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import HfArgumentParser

from pipelines import NoiseSchedule, NoisyClassifier
from training.command_line import parse_dataclasses
from training.data import ImageData, load_images
from training.evaluation.plots import accuracy_plot
from training.evaluation.prepare import default_output
from training.evaluation.results import aligned
from training.evaluation.sampling import find_folder
from training.files import weights_hash, write_json, write_whole
from training.machine import versions
from training.metrics.noise_accuracy import accuracy_by_noise_level, chance, noise_levels
from training.model_index import read_index


@dataclass
class Options:
    """The options of the command."""

    dataset_name: str = field(metadata={"help": "labelled images: a Hub id, or a folder of parquet"})
    test_split: str = field(default="test", metadata={"help": "the split to measure on"})
    timesteps: list[int] | None = field(
        default=None, metadata={"help": "one or more timesteps [0, 100, 250, 500, 750 of 1000]"}
    )
    max_samples: int | None = field(default=None, metadata={"help": "use only this many images"})
    batch_size: int = field(default=250, metadata={"help": "images per batch"})
    seed: int = field(default=0, metadata={"help": "the noise of image k is drawn with seed + k"})

    def __post_init__(self) -> None:
        """Raise ValueError for a value out of range."""
        for name, low in {"batch_size": 1, "max_samples": 1, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} must be at least {low}, got {value}")


def parse(arguments: list[str]) -> tuple[str, Options]:
    """The model and the options of a command line.

    Raises:
        ValueError: an unknown flag, with the nearest known one, or a value out of range.
    """
    parser = HfArgumentParser(
        Options, prog="python -m training.metrics.noise_accuracy", description=__doc__.splitlines()[0]
    )
    parser.add_argument("model", help="the folder or the Hub id of a pipeline with a noisy classifier")
    options, rest = parse_dataclasses(parser, arguments)
    return rest.model, options


def open_classifier(folder: Path, components: dict[str, tuple[str, str]]) -> tuple[NoisyClassifier, NoiseSchedule]:
    """The noisy classifier in a pipeline's folder, and the noise schedule that it was trained with.

    `components` are those of its model_index.json.

    Raises:
        ValueError: the pipeline has no noisy classifier.
    """
    _, kind = components.get("classifier", (None, None))
    if kind != "NoisyClassifier":
        raise ValueError(f"model must be a pipeline with a NoisyClassifier, {str(folder)!r} has classifier {kind}")
    library, scheduler_class = components["scheduler"]
    if library != "diffusers":
        raise ValueError(f"model must have a scheduler of diffusers, {str(folder)!r} has one of {library}")
    scheduler = getattr(diffusers, scheduler_class).from_pretrained(folder, subfolder="scheduler")
    classifier = NoisyClassifier.from_pretrained(folder, subfolder="classifier", use_safetensors=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return classifier.to(device), NoiseSchedule.from_scheduler(scheduler)


def load_split(options: Options, classifier: NoisyClassifier, names: list[str]) -> ImageData:
    """Load the labelled images in the size and the channels of the classifier.

    `names` are the names of its classes, empty if it has none.

    Raises:
        ValueError: the data have no labels, or other classes.
    """
    config = classifier.config
    size = config.sample_size
    data = load_images(
        dataset_name=options.dataset_name,
        split=options.test_split,
        channels=config.in_channels,
        resolution=size if isinstance(size, int) else None,
        max_samples=options.max_samples,
    )
    if data.labels is None:
        raise ValueError(f"dataset_name must have labels, {options.dataset_name!r} has none")
    if data.labels.max() >= config.num_classes:
        raise ValueError(
            f"dataset_name must have labels in [0, {config.num_classes - 1}], as the classifier has, "
            f"got {int(data.labels.max())} in {options.dataset_name!r}"
        )
    if names and data.class_names and [n.lower() for n in names] != [n.lower() for n in data.class_names]:
        raise ValueError(
            f"dataset_name must have the classifier's classes, {', '.join(names)}; {options.dataset_name!r} has "
            f"{', '.join(data.class_names)}"
        )
    return data


def run(location: str, options: Options, command: str) -> dict[str, Any]:
    """Measure, print and write; returns the content of noise_accuracy.json."""
    folder = find_folder(location)
    index = read_index(folder)
    classifier, schedule = open_classifier(folder, index.components)
    data = load_split(options, classifier, index.class_names)
    levels = options.timesteps or noise_levels(schedule)
    accuracy = accuracy_by_noise_level(
        classifier, data.images, data.labels, schedule, levels, options.seed, options.batch_size
    )
    by_chance, count = chance(data.labels), len(data.labels)
    errors = {t: math.sqrt(share * (1 - share) / count) for t, share in accuracy.items()}
    about = {
        "accuracy": {str(t): share for t, share in accuracy.items()},
        "standard_error": {str(t): error for t, error in errors.items()},
        "chance": by_chance,
        "num_images": count,
        "settings": asdict(options) | {"dataset_name": Path(options.dataset_name).name, "timesteps": levels},
        "fingerprint": data.fingerprint,
        "weights": weights_hash(folder / "classifier"),
        "command": command,
        "versions": versions(),
    }
    output = default_output(location).parent
    buffer = io.BytesIO()
    accuracy_plot(accuracy, by_chance, len(schedule)).save(buffer, format="png")
    write_whole(output / "noise_accuracy.png", buffer.getvalue())
    write_json(output / "noise_accuracy.json", about)
    print(table(accuracy, errors, by_chance, count))
    print(f"written to {output / 'noise_accuracy.json'}")
    return about


def table(accuracy: dict[int, float], errors: dict[int, float], by_chance: float, count: int) -> str:
    """Accuracy by timestep as aligned text."""
    rows = [[str(t), f"{share:.1%}", f"{errors[t]:.1%}"] for t, share in accuracy.items()]
    return f"{aligned([['t', 'accuracy', '+-'], *rows, ['chance', f'{by_chance:.1%}', '']])}\non {count:,} images"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        location, options = parse(arguments)
        run(location, options, shlex.join(["python", "-m", "training.metrics.noise_accuracy", *arguments]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
