"""Images per second in training: our trainer against the loop of diffusers' train_unconditional.py, on the same U-Net.

    python -m benchmarks.training --repeats 5 --steps 10 [--network stock]

Both have the same U-Net, batch size and data, and everything else as its user gets it. The contestants take turns in
one process. A compiled contestant compiles during the warm-up, for about a minute.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from benchmarks.ours import NETWORK_HELP, load_data, new_network, our_recipe, our_trainer
from benchmarks.stock import StockTrainer
from benchmarks.table import Row, check_at_least, command_line, table
from benchmarks.timing import alternate, now
from training.recipes import flag


@dataclass
class Options:
    """The flags of the command."""

    repeats: int = flag(5, "timed turns of each contestant; medians are shown")
    steps: int = flag(10, "updates per turn")
    batch_size: int = flag(64, "images per update")
    recipe: str = flag("fashion-ddpm", "recipe of our trainer")
    network: str = flag("recipe", NETWORK_HELP)
    dataset_name: str = flag("data/fashion", "a Hub id, or a folder of parquet, with a column named image")
    compile: bool = flag(True, "also time our trainer with torch.compile")
    json: str | None = flag(None, "write the numbers to this file")

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot work, naming the flag."""
        check_at_least(self, repeats=1, steps=1, batch_size=1)


def contestants(options: Options) -> dict[str, Callable[[], float]]:
    """The function for one update of each contestant, by name; the first is the peer."""
    recipe, denoising = our_recipe(options.recipe, options.dataset_name, options.batch_size, torch_compile=False)
    data = load_data(recipe, options.network)
    stock_network = new_network(options.network, recipe, data, None)
    stock = StockTrainer(stock_network, options.dataset_name, data.images.shape[-1], options.batch_size)
    precision = {"no": "float32"}.get(recipe.mixed_precision, recipe.mixed_precision)
    found = {"stock loop, float32": stock.update}
    found[f"ours, {precision}"] = our_trainer(recipe, denoising, data, options.network).update
    if options.compile:
        compiled = our_trainer(replace(recipe, torch_compile=True), denoising, data, options.network)
        found[f"ours, {precision}, compiled"] = compiled.update
    return found


def images_per_second(update: Callable[[], float], steps: int, batch_size: int) -> float:
    """Images per second over `steps` updates."""
    began = now()
    for _ in range(steps):
        update()
    return steps * batch_size / (now() - began)


def run(options: Options) -> list[Row]:
    """Time all contestants; the first row is the peer's."""
    return timed(contestants(options), options.repeats, options.steps, options.batch_size)


def timed(updates: dict[str, Callable[[], float]], repeats: int, steps: int, batch_size: int) -> list[Row]:
    """The speeds of functions for one update each, by name; the first is the peer's."""
    runs = {name: partial(images_per_second, update, steps, batch_size) for name, update in updates.items()}
    speeds = alternate(runs, repeats, warmups=1, description="Training")
    peer = median(next(iter(speeds.values())))
    return [
        {"name": name, "images_per_second": median(found), "all": found, "ratio": median(found) / peer}
        for name, found in speeds.items()
    ]


def show(rows: list[Row]) -> str:
    """The rows as a table."""
    lines = [
        [
            row["name"],
            f"{row['images_per_second']:.1f}",
            f"{min(row['all']):.1f} to {max(row['all']):.1f}",
            f"{row['ratio']:.2f}",
        ]
        for row in rows
    ]
    return table(["", "images/s", "range", "times faster"], lines)


def main(arguments: list[str] | None = None) -> list[Row]:
    """The command line; returns the rows of the table."""
    return command_line(Options, run, show, "benchmarks.training", __doc__, arguments)


if __name__ == "__main__":
    main()
