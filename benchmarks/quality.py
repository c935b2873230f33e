"""What our recipe and the stock loop each learn in the same wall time, one after the other on the same cores.

    python -m benchmarks.quality --minutes 15

Same data, U-Net (ours with its class embedding, if the recipe has classes) and batch size; everything else is each
one's own. The clock runs from the first update: compiling counts. Ours draws with DDIM from trailing timesteps, with
guidance if it has classes, and the stock loop with the stock DDIM pipeline, both from averaged weights in float32.
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

from benchmarks.frechet import FEWEST, distance, open_evaluator
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

SETTLING, TIMED = 3, 10  # updates that compile and are no measure of the speed, and those that are the first measure


@dataclass
class Options:
    """What to compare."""

    minutes: float = flag(15.0, "wall time for each")
    recipe: str = flag("fashion-cfg", "recipe of our trainer")
    network: str = flag("recipe", NETWORK_HELP)
    batch_size: int = flag(64, "images per update")
    dataset_name: str = flag("data/fashion", "a Hub id, or a folder of parquet, with a column named image")
    compile: bool = flag(True, "torch.compile for ours, if the recipe says so")
    stock_num_epochs: int = flag(100, "the stock loop's --num_epochs, over which its learning rate falls")
    samples: int = flag(1000, "images that each draws")
    steps: int = flag(25, "DDIM steps of ours")
    guidance_scale: float = flag(1.5, "of ours, if it has classes")
    stock_steps: int = flag(50, "DDIM steps of the stock pipeline")
    features: str = flag("model_cards/fashion-features", "the classifier in whose features the distance is taken")
    seed: int = flag(0, "of weights, data order, noise and samples")
    json: str | None = flag(None, "write the numbers to this file")

    def __post_init__(self) -> None:
        """Refuse, by name, what cannot work."""
        check_at_least(self, batch_size=1, stock_num_epochs=1, samples=FEWEST, steps=1, stock_steps=1)
        check_at_least(self, guidance_scale=0, seed=0)
        if not 0 < self.minutes < float("inf"):
            raise ValueError(f"minutes must be above 0 and finite, got {self.minutes}")


# ----------------------------------------------------------------------------------------------------------- training


class Budget:
    """Wall time, from now on, with a progress bar over it."""

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
        """Seconds so far."""
        return now() - self.began

    def allows(self, update: Callable[[], float]) -> bool:
        """Make one update if there is time left; whether it did."""
        if self.spent >= self.seconds:
            return False
        loss = update()
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self.bar.update(min(self.spent, self.seconds) - self.bar.n)
        return True


def train_ours(trainer: Trainer, seconds: float) -> Row:
    """Train until the time is over, the learning rate falling to its end by then.

    How many updates fit is measured after `SETTLING` + `TIMED` updates, and again whenever their number has doubled.
    """
    budget = Budget(seconds, "Ours")
    settled, measure_at, total = 0.0, TIMED, math.inf
    while trainer.step < total and budget.allows(trainer.update):
        made = trainer.step - SETTLING
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
    """Lay out the learning rate for `total` updates in all; it is a function of the step alone."""
    recipe = trainer.recipe
    other = get_scheduler(
        recipe.lr_scheduler,
        torch.optim.SGD([torch.zeros(1)], lr=recipe.learning_rate),
        num_warmup_steps=recipe.lr_warmup_steps,
        num_training_steps=total,
    )
    trainer.lr_scheduler.lr_lambdas = other.lr_lambdas


def train_stock(trainer: StockTrainer, seconds: float) -> Row:
    """Train until the time is over."""
    budget, updates = Budget(seconds, "Stock loop"), 0
    while budget.allows(trainer.update):
        updates += 1
    budget.bar.close()
    return trained("stock loop", updates, trainer.images, budget.spent)


def trained(name: str, updates: int, images: int, seconds: float) -> Row:
    """What is known of a run before its images are judged."""
    return {
        "name": name,
        "updates": updates,
        "images": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
    }


# ------------------------------------------------------------------------------------------------------------ judging


def from_ours(options: Options, pipe: Any, count: int, seed: int, label: int | None) -> list[Image.Image]:
    """Images of our pipeline."""
    generator = torch.Generator().manual_seed(options.seed + seed)
    chosen: dict[str, Any] = {"batch_size": count}
    if label is not None:
        chosen |= {"class_labels": label, "guidance_scale": options.guidance_scale}
    return pipe(**chosen, num_inference_steps=options.steps, generator=generator).images


def from_stock(options: Options, pipe: DDIMPipeline, count: int, seed: int, label: int | None) -> list[Image.Image]:
    """Images of the stock pipeline."""
    generator = torch.Generator().manual_seed(options.seed + seed)
    return pipe(batch_size=count, num_inference_steps=options.stock_steps, generator=generator).images


def run(options: Options) -> list[Row]:
    """Train both, judge both; the first row is the peer's, the last what real training images score."""
    changes = {} if options.compile else {"torch_compile": False}
    recipe, denoising = our_recipe(
        options.recipe, options.dataset_name, options.batch_size, seed=options.seed, **changes
    )
    data = load_data(recipe, options.network)
    judge = open_evaluator(options.features, options.dataset_name, options.samples)
    check_sizes(options, data, judge)
    # both are ready before the first is trained: what is wrong shows now, not after the first's time
    ours, stock = our_trainer(recipe, denoising, data, options.network), new_stock(options, recipe, data)
    our_row = train_ours(ours, options.minutes * 60)
    torch.manual_seed(options.seed)  # the stock loop draws from the global generator
    stock_row = train_stock(stock, options.minutes * 60)
    pipe, stock_pipe = with_sampler(ours.pipeline(), "DDIM"), stock.pipeline()
    for one in (pipe, stock_pipe):
        one.set_progress_bar_config(disable=True)
    classes = len(pipe.class_names or ())
    our_row["frechet_distance"] = distance(judge, partial(from_ours, options, pipe), classes, options.samples, "ours")
    draw = partial(from_stock, options, stock_pipe)
    stock_row["frechet_distance"] = distance(judge, draw, 0, options.samples, "stock")
    for row in (stock_row, our_row):
        row["ratio"] = stock_row["frechet_distance"] / max(row["frechet_distance"], 1e-9)
    floor = floor_of(judge, data, options.samples, options.seed)
    real = {"name": "real training images", "frechet_distance": floor["frechet_distance"]}
    return [stock_row, our_row, real]


def new_stock(options: Options, recipe: Recipe, data: ImageData) -> StockTrainer:
    """The stock loop over the same U-Net without classes."""
    network = new_network(options.network, recipe, data, None)
    epochs = options.stock_num_epochs
    return StockTrainer(network, options.dataset_name, data.images.shape[-1], options.batch_size, epochs)


def check_sizes(options: Options, data: ImageData, evaluator: SampleEvaluator) -> None:
    """Raise ValueError unless the judge takes images like those that are trained on."""
    config = evaluator.network.config
    judged = (config.in_channels, config.sample_size, config.sample_size)
    if data.images.shape[1:] != judged:
        size = np.array(data.images.shape[1:]).tolist()
        raise ValueError(
            f"network must draw images that features takes, {list(judged)}; {options.network} draws {size}"
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
