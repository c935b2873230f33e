"""The exact denoiser of Fashion-MNIST beside what the shipped networks have learned, at ten noise levels.

    python -m benchmarks.optimal_denoiser

Of the training set, which is 60,000 points, the optimal denoiser is known: a posterior mean
(training/metrics/optimal_denoiser.py). It is computed at x_t = a x_0 + b eps of images of the training and of the test
set, next to x_0 as fashion-ddpm's network predicts it, whose schedule this is, and both again for the class of the
image: over the points of that class, and by fashion-cfg's network, which is told it.

Written for the page: ui/laboratory/data/optimal_denoiser.json with the distances, which are means over `--images` of
either set, and .png with the first `SHOWN` of either: a row for each kind of `KINDS` and image, a column for each t;
optimal_denoiser_images.png has the images themselves.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.recorded import FOLDER, rms, rounded, to_uint8, written
from benchmarks.table import check_at_least, parse, table
from pipelines import NoiseSchedule
from training.data import ImageData, load_images
from training.evaluation.sampling import open_model
from training.metrics.optimal_denoiser import posterior
from training.randomness import seeded
from training.recipes import flag

MODULE = "benchmarks.optimal_denoiser"
TIMESTEPS = tuple(range(50, 1000, 100))
SHOWN = 10  # images of either set
KINDS = ("noisy", "exact", "learned", "exact_of_class", "learned_of_class")
SETS = ("train", "test")
MEASURES = ("apart", "apart_of_class", "error_exact", "error_learned", "points")


@dataclass
class Options:
    """The flags of the command."""

    dataset_name: str = flag("data/fashion", "a Hub id, or a folder of parquet, with the splits train and test")
    model: str = flag("model_cards/fashion-ddpm", "the network that is told no class, and the noise schedule")
    conditional: str = flag("model_cards/fashion-cfg", "the network that is told the class; of the same schedule")
    images: int = flag(100, "images of either split that the distances are means over")
    max_samples: int | None = flag(None, "points: use only this many training images [all]")
    seed: int = flag(0, "the noise of an image depends on the seed and its number alone")
    output_dir: str = flag(str(FOLDER), "folder for the three files")

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot work, naming the flag."""
        check_at_least(self, images=SHOWN, seed=0)
        if self.max_samples is not None:
            check_at_least(self, max_samples=self.images)


Network = Callable[[Tensor, int, Tensor | None], Tensor]


def network(folder: str, schedule: NoiseSchedule) -> Network:
    """x_0 (N, C, H, W) as a model predicts it at (x_t, t), with labels (N,) or without a class.

    Raises:
        ValueError: it has another noise schedule.
    """
    pipe = open_model(folder, torch.float32).pipe
    own = NoiseSchedule.from_scheduler(pipe.scheduler)
    if len(own) != len(schedule) or not torch.allclose(own.alphas_cumprod, schedule.alphas_cumprod):
        raise ValueError(f"conditional must be of the noise schedule of model, {folder} has another one")

    @torch.no_grad()
    def predict(x_t: Tensor, t: int, labels: Tensor | None) -> Tensor:
        told, _ = pipe.resolve_labels(None if labels is None else labels.tolist(), len(x_t))
        output = pipe.network(x_t.float(), t, **({} if told is None else {"class_labels": told}))
        kind = pipe.scheduler.config.prediction_type
        return schedule.predict_x0(output[:, : x_t.shape[1]], x_t.float(), t, kind).clamp(-1, 1).double()

    return predict


def chosen(data: ImageData, count: int) -> np.ndarray:
    """Which images: the classes in turn, so that the first ten are one of each."""
    order = np.argsort(data.labels, kind="stable")
    ranks = np.empty(len(order), dtype=np.int64)
    starts = np.searchsorted(data.labels[order], data.labels[order])
    ranks[order] = np.arange(len(order)) - starts  # the how many-th of its class an image is
    return np.lexsort((data.labels, ranks))[:count]


def as_input(pixels: np.ndarray) -> Tensor:
    """uint8 images in [-1, 1], float64."""
    return torch.from_numpy(np.array(pixels)).double() / 127.5 - 1


def compared(options: Options) -> Iterator[tuple[str, ImageData, np.ndarray]]:
    """Each set, with the numbers of its images that are looked at."""
    for split in SETS:
        samples = options.max_samples if split == "train" else None
        data = load_images(dataset_name=options.dataset_name, split=split, max_samples=samples)
        yield split, data, chosen(data, options.images)


class Denoisers:
    """The four of `KINDS` after the first, of one training set and two networks."""

    def __init__(self, options: Options, train: ImageData) -> None:
        self.points, self.labels = as_input(train.images), torch.from_numpy(train.labels)
        self.schedule = NoiseSchedule.from_scheduler(open_model(options.model, torch.float32).pipe.scheduler)
        self.alone = network(options.model, self.schedule)
        self.told = network(options.conditional, self.schedule)

    def __call__(self, x_t: Tensor, t: int, classes: Tensor) -> tuple[list[Tensor], Tensor]:
        """x_0 (N, C, H, W) of each, and over how many points the first is spread, (N,)."""
        a, b = (float(level) for level in self.schedule.marginal(t))
        found, of_class = posterior(self.points, x_t, a, b), torch.empty_like(x_t)
        for label in classes.unique():
            here = classes == label
            of_class[here] = posterior(self.points[self.labels == label], x_t[here], a, b).mean
        return [found.mean, self.alone(x_t, t, None), of_class, self.told(x_t, t, classes)], found.points


def run(options: Options) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The numbers; the sheet, (kinds x images, timesteps, H, W); and the images (1, images, H, W)."""
    sets = list(compared(options))
    train = sets[0][1]
    denoisers = Denoisers(options, train)
    found = {split: of_set(split, data, index, denoisers, options.seed) for split, data, index in sets}
    sheet = np.concatenate([tiles for _, tiles in found.values()], 1)  # (kinds, images, timesteps, H, W)
    levels = [[float(level) for level in denoisers.schedule.marginal(t)] for t in TIMESTEPS]
    about = {
        "timesteps": list(TIMESTEPS),
        "levels": rounded(levels),
        "kinds": list(KINDS),
        "points": len(train.images),
        "class_names": train.class_names,
        "dataset": train.fingerprint,
        "options": asdict(options) | {"output_dir": None},
        "sets": {split: numbers for split, (numbers, _) in found.items()},
    }
    images = np.concatenate([data.images[index[:SHOWN], 0] for _, data, index in sets])
    return about, sheet.reshape(-1, *sheet.shape[2:]), images[None]


def of_set(
    split: str, data: ImageData, index: np.ndarray, denoisers: Denoisers, seed: int
) -> tuple[dict[str, Any], np.ndarray]:
    """The numbers of one set, and (kinds, images, timesteps, H, W) of those that are shown."""
    x0, classes = as_input(data.images[index]), torch.from_numpy(data.labels[index])
    generators = [seeded(seed, split, int(i)) for i in index]
    noise = torch.stack([torch.randn(x0.shape[1:], generator=each, dtype=torch.float64) for each in generators])
    rows, tiles = [], []
    for t in TIMESTEPS:
        x_t = denoisers.schedule.add_noise(x0, noise, t)
        predicted, points = denoisers(x_t, t, classes)
        rows.append([*distances(x0, *predicted), points])
        tiles.append(np.stack([to_uint8(each[:SHOWN, 0]) for each in (x_t, *predicted)]))
    shown = [{"index": int(i), "label": int(data.labels[i])} for i in index[:SHOWN]]
    return summary(rows) | {"images": shown}, np.stack(tiles, 2)


def distances(x0: Tensor, exact: Tensor, learned: Tensor, exact_of_class: Tensor, learned_of_class: Tensor) -> Any:
    """The first four of `MEASURES` per image, (N,) each: between the two denoisers, and of either from x_0."""
    return rms(exact - learned), rms(exact_of_class - learned_of_class), rms(exact - x0), rms(learned - x0)


def summary(rows: list[list[Tensor]]) -> dict[str, Any]:
    """Of each measure, by t: its mean over all images, and its values for those that are shown."""
    found = {}
    for name, column in zip(MEASURES, zip(*rows, strict=True), strict=True):
        found[name] = {
            "mean": rounded([float(values.mean()) for values in column]),
            "shown": rounded([values[:SHOWN].tolist() for values in column]),
        }
    return found


def show(numbers: dict[str, Any]) -> str:
    """The means as a table."""
    heads = ["t", *(f"{name}, {split}" for split in SETS for name in MEASURES)]
    lines = [
        [str(t), *(f"{numbers['sets'][split][name]['mean'][i]:.3f}" for split in SETS for name in MEASURES)]
        for i, t in enumerate(numbers["timesteps"])
    ]
    return table(heads, lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parse(Options, arguments, MODULE, __doc__)
        folder = Path(options.output_dir)
        numbers = written(folder / "optimal_denoiser", MODULE, arguments, run(options))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{show(numbers)}\nwritten to {folder}")


if __name__ == "__main__":
    main()
