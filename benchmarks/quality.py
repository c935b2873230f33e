"""The quality that our recipe and the stock loop reach in the same wall time, one after the other on the same cores.

    python -m benchmarks.quality --minutes 15

Both have the same data, batch size and U-Net (ours has a class embedding if the recipe has classes), and everything
else as its user gets it. The clock starts at the first update, so that compiling counts. Both draw from their averaged
weights in float32: ours with DDIM at trailing timesteps, and guidance if it has classes; the stock loop with the stock
DDIM pipeline.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import DDIMPipeline
from diffusers.optimization import get_scheduler
from PIL import Image
from tqdm.auto import tqdm

from benchmarks.frechet import FEWEST, frechet_of, open_evaluator
from benchmarks.ours import NETWORK_HELP, load_data, new_network, our_recipe, our_trainer
from benchmarks.stock import StockTrainer
from benchmarks.table import Row, check_at_least, command_line, table
from benchmarks.timing import now
from training.data import ImageData
from training.evaluation.measuring import floor_of
from training.loop import Trainer
from training.metrics.sample_quality import SampleEvaluator
from training.recipes import Recipe, flag
from ui.samplers import with_sampler

WARMUP, TIMED = 3, 10  # updates to skip, as they compile, and updates in the first measurement of speed


@dataclass
class Options:
    """The flags of the command."""

    minutes: float = flag(15.0, "wall time in minutes for each side")
    recipe: str = flag("fashion-cfg", "recipe of our trainer")
    network: str = flag("recipe", NETWORK_HELP)
    batch_size: int = flag(64, "images per update")
    dataset_name: str = flag("data/fashion", "a Hub id, or a folder of parquet, with a column named image")
    compile: bool = flag(True, "use torch.compile in ours if the recipe does")
    stock_num_epochs: int = flag(100, "the stock loop's --num_epochs, which its learning rate schedule spans")
    samples: int = flag(1000, "images that each side draws")
    steps: int = flag(25, "DDIM steps of our pipeline")
    guidance_scale: float = flag(1.5, "guidance scale of our pipeline, if it has classes")
    stock_steps: int = flag(50, "DDIM steps of the stock pipeline")
    features: str = flag("model_cards/fashion-features", "the classifier whose features the distance is computed in")
    seed: int = flag(0, "seed of weights, data order, noise and samples")
    json: str | None = flag(None, "write the numbers to this file")

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot work, naming the flag."""
        check_at_least(self, batch_size=1, stock_num_epochs=1, samples=FEWEST, steps=1, stock_steps=1)
        check_at_least(self, guidance_scale=0, seed=0)
        if not 0 < self.minutes < float("inf"):
            raise ValueError(f"minutes must be above 0 and finite, got {self.minutes}")


# ----------------------------------------------------------------------------------------------------------- training


class Budget:
    """A budget of wall time, from its creation on, with a progress bar."""

    def __init__(self, seconds: float, name: str) -> None:
        self.seconds, self.began = seconds, now()
        self.bar = tqdm(
            total=round(seconds, 1),
            desc=name,
            unit="s",
            disable=None,
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s{postfix}",
        )

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return now() - self.began

    def run_if_time_left(self, update: Callable[[], float]) -> bool:
        """Run one update if there is time left; returns whether it did."""
        if self.spent >= self.seconds:
            return False
        loss = update()
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self.bar.update(min(self.spent, self.seconds) - self.bar.n)
        return True


def train_ours(trainer: Trainer, seconds: float) -> Row:
    """Train until the time is over, with a learning rate schedule that ends at the same moment.

    The number of updates that fit is estimated after `WARMUP` + `TIMED` updates, and again after each doubling of them.
    """
    budget = Budget(seconds, "Ours")
    settled, measure_at, total = 0.0, TIMED, math.inf
    while trainer.step < total and budget.run_if_time_left(trainer.update):
        made = trainer.step - WARMUP
        if made == 0:
            settled = budget.spent
        elif made == measure_at:
            each = max((budget.spent - settled) / made, 1e-6)
            total = trainer.step + int(max(seconds - budget.spent, 0) / each)
            set_horizon(trainer, total)
            measure_at *= 2
    budget.bar.close()
    return trained("ours", trainer.step, trainer.step * trainer.images_per_update, budget.spent)


def set_horizon(trainer: Trainer, total: int) -> None:
    """Make the learning rate schedule `total` updates long; the learning rate depends on the step alone."""
    recipe = trainer.recipe
    other = get_scheduler(
        recipe.lr_scheduler,
        torch.optim.SGD([torch.zeros(1)], lr=recipe.learning_rate),
        num_warmup_steps=recipe.lr_warmup_steps,
        num_training_steps=total,
    )
    trainer.lr_scheduler.lr_lambdas = other.lr_lambdas


def train_stock(trainer: StockTrainer, seconds: float) -> Row:
    """Train the stock loop until the time is over."""
    budget, updates = Budget(seconds, "Stock loop"), 0
    while budget.run_if_time_left(trainer.update):
        updates += 1
    budget.bar.close()
    return trained("stock loop", updates, trainer.images, budget.spent)


def trained(name: str, updates: int, images: int, seconds: float) -> Row:
    """The row of a run, as far as it is known before its images are measured."""
    return {
        "name": name,
        "updates": updates,
        "images": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
    }


# ---------------------------------------------------------------------------------------------------------- measuring


def from_ours(options: Options, pipe: Any, count: int, seed: int, label: int | None) -> list[Image.Image]:
    """Draw with our pipeline."""
    generator = torch.Generator().manual_seed(options.seed + seed)
    chosen: dict[str, Any] = {"batch_size": count}
    if label is not None:
        chosen |= {"class_labels": label, "guidance_scale": options.guidance_scale}
    return pipe(**chosen, num_inference_steps=options.steps, generator=generator).images


def from_stock(options: Options, pipe: DDIMPipeline, count: int, seed: int, label: int | None) -> list[Image.Image]:
    """Draw with the stock pipeline."""
    generator = torch.Generator().manual_seed(options.seed + seed)
    return pipe(batch_size=count, num_inference_steps=options.stock_steps, generator=generator).images


def run(options: Options) -> list[Row]:
    """Train and measure both. The first row is the stock loop's; the last is the score of real training images."""
    changes = {} if options.compile else {"torch_compile": False}
    recipe, denoising = our_recipe(
        options.recipe, options.dataset_name, options.batch_size, seed=options.seed, **changes
    )
    data = load_data(recipe, options.network)
    evaluator = open_evaluator(options.features, options.dataset_name, options.samples)
    check_sizes(options, data, evaluator)
    # set up both before training the first, so that errors show at once
    ours, stock = our_trainer(recipe, denoising, data, options.network), new_stock(options, recipe, data)
    our_row = train_ours(ours, options.minutes * 60)
    torch.manual_seed(options.seed)  # the stock loop draws from the global generator
    stock_row = train_stock(stock, options.minutes * 60)
    pipe, stock_pipe = with_sampler(ours.pipeline(), "DDIM"), stock.pipeline()
    for one in (pipe, stock_pipe):
        one.set_progress_bar_config(disable=True)
    classes = len(pipe.class_names or ())
    our_row["frechet_distance"] = frechet_of(
        evaluator, partial(from_ours, options, pipe), classes, options.samples, "ours"
    )
    draw = partial(from_stock, options, stock_pipe)
    stock_row["frechet_distance"] = frechet_of(evaluator, draw, 0, options.samples, "stock")
    for row in (stock_row, our_row):
        row["ratio"] = stock_row["frechet_distance"] / max(row["frechet_distance"], 1e-9)
    floor = floor_of(evaluator, data, options.samples, options.seed)
    real = {"name": "real training images", "frechet_distance": floor["frechet_distance"]}
    return [stock_row, our_row, real]


def new_stock(options: Options, recipe: Recipe, data: ImageData) -> StockTrainer:
    """The stock loop with the same U-Net, without classes."""
    network = new_network(options.network, recipe, data, None)
    epochs = options.stock_num_epochs
    return StockTrainer(network, options.dataset_name, data.images.shape[-1], options.batch_size, epochs)


def check_sizes(options: Options, data: ImageData, evaluator: SampleEvaluator) -> None:
    """Raise ValueError unless the evaluator's network takes images like the training images."""
    config = evaluator.network.config
    accepted = (config.in_channels, config.sample_size, config.sample_size)
    if data.images.shape[1:] != accepted:
        size = np.array(data.images.shape[1:]).tolist()
        raise ValueError(
            f"network must draw images that features takes, {list(accepted)}; {options.network} draws {size}"
        )


def show(rows: list[Row]) -> str:
    """The rows as a table."""
    heads = ["", "updates", "images", "images/s", "Frechet distance", "times lower"]
    formats = {
        "updates": "{:,}",
        "images": "{:,}",
        "images_per_second": "{:.1f}",
        "frechet_distance": "{:.2f}",
        "ratio": "{:.1f}",
    }
    lines = [
        [row["name"], *(shape.format(row[name]) if name in row else "" for name, shape in formats.items())]
        for row in rows
    ]
    return table(heads, lines)


def main(arguments: list[str] | None = None) -> list[Row]:
    """The command line; returns the rows of the table."""
    return command_line(Options, run, show, "benchmarks.quality", __doc__, arguments)


if __name__ == "__main__":
    main()
