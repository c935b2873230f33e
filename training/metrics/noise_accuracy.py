"""How well a classifier of noisy pictures knows them, by noise level.

    python -m training.metrics.noise_accuracy model_cards/fashion-classifier-guidance --dataset_name data/fashion

prints the accuracy on the test split at a few timesteps and writes noise_accuracy.json and noise_accuracy.png beside
the model. Chance is what the commonest class alone would score.
"""

from __future__ import annotations

import io
import json
import math
import platform
import shlex
import sys
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import diffusers
import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from pipelines import NoiseSchedule, NoisyClassifier
from training.data import ImageData, load_images
from training.files import weights_hash, write_json, write_whole
from training.metrics.drawing import find_folder
from training.metrics.features import to_input
from training.metrics.plots import COLOURS, STYLE
from training.metrics.report import aligned


@dataclass
class Options:
    """What to measure."""

    dataset_name: str = field(metadata={"help": "labelled pictures: a Hub id, or a folder of parquet"})
    test_split: str = field(default="test", metadata={"help": "the split to measure on"})
    timesteps: list[int] | None = field(default=None, metadata={"help": "one or more [0, 100, 250, 500, 750 of 1000]"})
    max_samples: int | None = field(default=None, metadata={"help": "only this many pictures"})
    batch_size: int = field(default=250, metadata={"help": "pictures at a time"})
    seed: int = field(default=0, metadata={"help": "the noise of picture k is drawn from the seed + k"})

    def __post_init__(self) -> None:
        """Raises ValueError for what can be seen to be wrong without opening anything."""
        for name, low in {"batch_size": 1, "max_samples": 1, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} must be at least {low}, got {value}")


def noise_levels(schedule: NoiseSchedule) -> list[int]:
    """Five timesteps from the least noise to three quarters of the process: 0, 100, 250, 500 and 750 of 1,000."""
    return sorted({int(share * len(schedule)) for share in (0.0, 0.1, 0.25, 0.5, 0.75)})


@torch.inference_mode()
def accuracy_by_noise_level(
    classifier: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    schedule: NoiseSchedule,
    timesteps: list[int],
    seed: int = 0,
    batch_size: int = 250,
) -> dict[int, float]:
    """The share in [0, 1] of 8-bit pictures (N, C, H, W) whose class is recognised at each timestep.

    The noise of picture k follows from `seed` + k and is the same at every timestep, whatever the batch. The
    classifier, of (x_t, t) -> logits (N, K), is left in evaluation mode.

    Raises:
        ValueError: labels that are not one a picture, or a timestep outside the schedule.
    """
    if len(images) == 0 or labels.shape != (len(images),):
        raise ValueError(f"labels must be one a picture ({len(images)}), got shape {labels.shape}")
    wrong = [t for t in timesteps if not 0 <= t < len(schedule)]
    if wrong or not timesteps:
        raise ValueError(f"timesteps must be in [0, {len(schedule) - 1}], got {wrong or timesteps}")
    device = next(classifier.eval().parameters()).device
    right = dict.fromkeys(timesteps, 0)
    for start in tqdm(range(0, len(images), batch_size), desc="Accuracy", disable=None, leave=False):
        x0 = to_input(images[start : start + batch_size])
        generators = [torch.Generator().manual_seed(seed + start + k) for k in range(len(x0))]
        noise = torch.stack([torch.randn(x0.shape[1:], generator=generator) for generator in generators])
        expected = torch.from_numpy(labels[start : start + batch_size])
        for t in timesteps:
            logits = classifier(schedule.add_noise(x0, noise, t).to(device), t)
            right[t] += int((logits.argmax(1).cpu() == expected).sum())
    return {t: count / len(images) for t, count in right.items()}


def chance(labels: np.ndarray) -> float:
    """What naming the commonest class every time would score."""
    return float(np.bincount(labels).max() / len(labels))


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


# ------------------------------------------------------------------------------------------------- the command line


def parse(arguments: list[str]) -> tuple[str, Options]:
    """The model and the options of a command line.

    Raises:
        ValueError: an unknown flag, with the nearest that there is, or a value out of its range.
    """
    parser = HfArgumentParser(
        Options, prog="python -m training.metrics.noise_accuracy", description=__doc__.splitlines()[0]
    )
    parser.add_argument("model", help="the folder or the Hub id of a pipeline with a noisy classifier")
    options, rest, unknown = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        near = get_close_matches(unknown[0], flags, n=1)
        raise ValueError(f"unknown argument {unknown[0]!r}" + (f" (did you mean {near[0]}?)" if near else ""))
    return rest.model, options


def open_classifier(folder: Path) -> tuple[NoisyClassifier, NoiseSchedule]:
    """The noisy classifier in a pipeline's folder, and the noise schedule it was trained on.

    Raises:
        ValueError: the pipeline has none.
    """
    index = json.loads((folder / "model_index.json").read_text())
    kind = (index.get("classifier") or [None, None])[1]
    if kind != "NoisyClassifier":
        raise ValueError(f"model must be a pipeline with a NoisyClassifier, {str(folder)!r} has classifier {kind}")
    library, scheduler_class = index["scheduler"]
    if library != "diffusers":
        raise ValueError(f"model must have a scheduler of diffusers, {str(folder)!r} has one of {library}")
    scheduler = getattr(diffusers, scheduler_class).from_pretrained(folder, subfolder="scheduler")
    classifier = NoisyClassifier.from_pretrained(folder, subfolder="classifier", use_safetensors=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return classifier.to(device), NoiseSchedule.from_scheduler(scheduler)


def class_names_in(folder: Path) -> list[str] | None:
    """The names of a pipeline's classes in their order, where it has names."""
    names = json.loads((folder / "model_index.json").read_text()).get("id2label")
    return [names[key] for key in sorted(names, key=int)] if names else None


def load_split(options: Options, classifier: NoisyClassifier, names: list[str] | None) -> ImageData:
    """The labelled pictures, in the size and the channels of the classifier and of its classes, or a ValueError.

    `names` are those of the classes, where the model has them.
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
    """Measure, print and write; what noise_accuracy.json holds."""
    folder = find_folder(location)
    classifier, schedule = open_classifier(folder)
    data = load_split(options, classifier, class_names_in(folder))
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
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "numpy": np.__version__,
        },
    }
    # a Hub id's own folder is a cache
    output = Path(location) if Path(location).is_dir() else Path(location.rpartition("/")[2])
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
    return f"{aligned([['t', 'accuracy', '+-'], *rows, ['chance', f'{by_chance:.1%}', '']])}\non {count:,} pictures"


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
