"""Whether conditioning augmentation pays: the quality of a cascade with a stage trained with it, and with one without.

    python -m benchmarks.augmentation --base BASE --told WITH --untold WITHOUT --output docs/augmentation.png

BASE draws small images; WITH and WITHOUT enlarge them, and differ in --max_augmentation alone. Each enlarges the same
images at each level of noise put on them: those that BASE draws of captions (or of classes), and real test images made
small. A point is the Frechet distance of --num_samples enlarged images, the same number with each of --seeds, to all
test images; its bar is the standard deviation of those of the seeds alone, which have fewer images each, so that their
mean lies higher. WITHOUT is not told the level, and a pipeline would refuse it: here it is drawn all the same.
Beside the points stands the distance of as many real training images. Ho et al. 2022, section 4.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.table import Row, check_at_least, command_line, table
from training.data import load_images
from training.data.cache import default_cache_dir
from training.evaluation.cached_features import extract_cached
from training.evaluation.checks import prompts_for
from training.evaluation.measuring import floor_of
from training.evaluation.options import DTYPES, chosen_dtype, dtype_of
from training.evaluation.options import Options as Evaluating
from training.evaluation.prepare import features_for
from training.evaluation.sampling import Model, draw_batch, open_model
from training.evaluation.small_images import inputs_for
from training.metrics.feature_nets import open_features
from training.metrics.sample_quality import NEIGHBOURS, SampleEvaluator
from training.recipes import flag

INPUTS = ("generated", "real")


@dataclass
class Options:
    """The flags of the command."""

    base: str = flag("runs/emoji-base-32", "the folder of the stage that draws small images")
    told: str = flag("runs/emoji-sr-128", "the folder of a stage trained with augmentation")
    untold: str = flag("runs/emoji-sr-128-plain", "the folder of one trained with --max_augmentation 0 --blur 0")
    dataset_name: str = flag("data/emoji", "the real images: a folder of parquet, or a Hub id")
    levels: list[float] = field(
        default_factory=lambda: [0.0, 0.1, 0.2, 0.3, 0.4], metadata={"help": "levels of augmentation in sampling"}
    )
    num_samples: int = flag(500, "images a point, all seeds together")
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "sampling seeds"})
    num_inference_steps: int = flag(20, "steps of the stage that enlarges")
    base_steps: int = flag(20, "steps of the stage that draws small images")
    guidance_scale: float = flag(1.0, "of the stage that enlarges; more changes little, and takes twice as long")
    base_guidance_scale: float = flag(2.0, "of the stage that draws small images")
    batch_size: int = flag(20, "images per batch")
    dtype: str | None = dtype_of("stages")
    features: str | None = flag(None, "network whose features are compared [as training.evaluate chooses it]")
    output: str = flag("augmentation.png", "the plot to write")
    json: str | None = flag(None, "write the numbers to this file")

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot work, naming the flag."""
        self.dtype = chosen_dtype(self.dtype)
        check_at_least(self, num_inference_steps=1, base_steps=1, batch_size=1)
        check_at_least(self, guidance_scale=0, base_guidance_scale=0)
        check_at_least(self, num_samples=(NEIGHBOURS + 1) * len(self.seeds))
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {self.seeds}")
        for level in self.levels:
            if not 0 <= level < 1:
                raise ValueError(f"levels must be in [0, 1), got {level:g}")


@dataclass(frozen=True)
class Open:
    """The stages, the real images, and what measures.

    Attributes:
        inputs: real small images (M, C, h, w) in [0, 1]
    """

    base: Model
    stages: dict[str, Model]
    evaluator: SampleEvaluator
    floor: Row
    inputs: torch.Tensor


def prepare(options: Options) -> Open:
    """Open everything and check that it fits.

    Raises:
        ValueError: stages or images that do not fit one another.
    """
    test, train = (load_images(dataset_name=options.dataset_name, split=split) for split in ("test", "train"))
    base, *others = (open_model(place, DTYPES[options.dtype]) for place in (options.base, options.told, options.untold))
    stages = dict(zip(("with augmentation", "without"), others, strict=True))
    asked = Evaluating(options.dataset_name, num_samples=options.num_samples)
    for name, stage in {"told": others[0], "untold": others[1]}.items():
        expected, got = base.shape[1:], getattr(stage.pipe, "sizes", [()])
        if getattr(stage.pipe, "unet_2", None) is None or stage.pipe.unet is not None or got[0] != expected:
            raise ValueError(f"{name} must only enlarge images of {expected[1]}x{expected[0]}, got {stage.name}")
        if stage.shape != test.images.shape[1:]:
            raise ValueError(f"{name} must draw images of the size of dataset_name, {test.images.shape[1:]}")
        highest = max(options.levels)
        if name == "told" and stage.pipe.config.max_augmentations[0] < highest:
            most = stage.pipe.config.max_augmentations[0]
            raise ValueError(f"levels must be at most {most:g}, the highest of told in training, got {highest:g}")
        if name == "untold":
            stage.pipe.register_to_config(max_augmentations=[highest])  # it is not told, and draws all the same
    for model in (base, *others):
        model.prompts = prompts_for(model, asked, test)
    network = open_features(options.features or features_for(test))
    found, _ = extract_cached(network, test.images, test.fingerprint, default_cache_dir(), "test images")
    evaluator = SampleEvaluator(network, found, options.num_samples)
    floor = floor_of(evaluator, train, options.num_samples, 0)
    return Open(base, stages, evaluator, floor, inputs_for(others[0], asked, test))


def drawn(model: Model, options: Options, seed: int, inputs: torch.Tensor | None = None, **more: Any) -> np.ndarray:
    """The images of one seed, 8-bit (N, C, H, W); with `inputs`, what the model makes of them."""
    count = options.num_samples // len(options.seeds)
    first = count * options.seeds.index(seed)  # each seed has captions and real images of its own
    model.inputs = inputs
    settings = {"num_inference_steps": options.num_inference_steps, "guidance_scale": options.guidance_scale} | more
    settings = {name: value for name, value in settings.items() if name in model.arguments}
    starts = range(first, first + count, options.batch_size)
    batches = [range(start, min(start + options.batch_size, first + count)) for start in starts]
    return np.concatenate([draw_batch(model, some, 1_000_000 * seed, **settings).pixels for some in batches])


def measure(options: Options) -> list[Row]:
    """A row for each stage, kind of small images and level."""
    opened, rows = prepare(options), []
    small = {"real": {seed: opened.inputs for seed in options.seeds}}
    settings = {"num_inference_steps": options.base_steps, "guidance_scale": options.base_guidance_scale}
    made = {seed: drawn(opened.base, options, seed, **settings) for seed in options.seeds}
    small["generated"] = {seed: torch.from_numpy(pixels).float() / 255 for seed, pixels in made.items()}
    for name, stage in opened.stages.items():
        for kind in INPUTS:
            for level in options.levels:
                each = [
                    drawn(stage, options, seed, small[kind][seed], conditioning_augmentation=level)
                    for seed in options.seeds
                ]
                row = {"stage": name, "inputs": kind, "level": level, **distances(opened.evaluator, each)}
                rows.append(row | {"floor": opened.floor[opened.evaluator.network.frechet_name]})
                print(f"{name}, {kind}, level {level:g}: {row['distance']:.3f}", flush=True)
    draw_plot(Path(options.output), rows)
    return rows


def distances(evaluator: SampleEvaluator, each: list[np.ndarray]) -> Row:
    """The Frechet distance of the images of all seeds, and the standard deviation of those of the seeds alone."""
    features = [evaluator.extract(pixels, "samples") for pixels in each]
    name = evaluator.network.frechet_name
    alone = [evaluator.compare(found, None, None)[name] for found, _ in features]
    whole = evaluator.compare(np.concatenate([found for found, _ in features]), None, None)[name]
    return {"distance": whole, "of_seeds": alone, "spread": float(np.std(alone, ddof=min(1, len(alone) - 1)))}


def draw_plot(path: Path, rows: list[Row]) -> None:
    """Distance over level: a panel for each kind of small images, a line for each stage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    for panel, kind in zip(panels, INPUTS, strict=True):
        for name, colour in zip(dict.fromkeys(row["stage"] for row in rows), ("#d95f02", "#1b6ca8"), strict=True):
            some = [row for row in rows if (row["stage"], row["inputs"]) == (name, kind)]
            values = ([row[key] for row in some] for key in ("level", "distance", "spread"))
            at, distance, spread = values
            label = f"trained {name}" + (" augmentation" if name == "without" else "")
            panel.errorbar(at, distance, spread, marker="o", capsize=3, color=colour, label=label)
        panel.axhline(rows[0]["floor"], color="grey", linestyle=":", label="as many real images")
        panel.set_title(f"{kind} small images")
        panel.set_xlabel("level of augmentation in sampling")
    panels[0].set_ylabel("Fréchet distance")
    panels[0].set_ylim(bottom=0)
    panels[1].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def show(rows: list[Row]) -> str:
    """The table."""
    heads = ["trained", "small images", "level", "Fréchet distance", "± of a seed", "as many real images"]
    lines = [
        [row["stage"], row["inputs"], *(f"{row[key]:.3g}" for key in ("level", "distance", "spread", "floor"))]
        for row in rows
    ]
    return table(heads, lines)


def main(arguments: list[str] | None = None) -> list[Row]:
    """The command line."""
    return command_line(Options, measure, show, "benchmarks.augmentation", __doc__, arguments)


if __name__ == "__main__":
    main()
