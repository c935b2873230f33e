"""Images per second in text-to-image training: our trainer against the loop of diffusers' train_text_to_image.py.

    python -m benchmarks.text_training --repeats 3 --steps 5

Both train the same U-Net with the same autoencoder, text encoder, batch size and data. Ours takes latents and caption
embeddings from the disk, where the first run puts them; the time for that is not counted. The contestants take turns in
one process. A compiled contestant compiles during the warm-up, for about two minutes.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.stock import reset_accelerate
from benchmarks.stock_text import StockTextTrainer
from benchmarks.table import Row, check_at_least, command_line
from benchmarks.training import show, timed
from training.data import load_images
from training.loop import Trainer
from training.objectives import find_objective
from training.recipes import Recipe, flag
from training.train import load_data, parse


@dataclass
class Options:
    """The flags of the command."""

    repeats: int = flag(3, "timed turns of each contestant; medians are shown")
    steps: int = flag(5, "updates per turn")
    batch_size: int = flag(64, "images per update")
    recipe: str = flag("emoji-latent", "recipe of our trainer, with a text encoder")
    dataset_name: str = flag("data/emoji", "a Hub id, or a folder of parquet, with the recipe's column of captions")
    vae: str = flag("model_cards/emoji-autoencoder", "folder or Hub id of the autoencoder")
    text_encoder: str | None = flag(None, "folder or Hub id of the text encoder [the recipe's]")
    compile: bool = flag(True, "also time our trainer with torch.compile")
    json: str | None = flag(None, "write the numbers to this file")

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot work, naming the flag."""
        check_at_least(self, repeats=1, steps=1, batch_size=1)


def contestants(options: Options) -> dict[str, Callable[[], float]]:
    """The function for one update of each contestant, by name; the first is the peer."""
    given = ["--recipe", options.recipe, "--dataset_name", options.dataset_name, "--vae", options.vae]
    if options.text_encoder is not None:
        given += ["--text_encoder", options.text_encoder]
    recipe, of_objective = parse([*given, "--report_to", "none"])
    recipe = replace(recipe, train_batch_size=options.batch_size, torch_compile=False)
    data = load_data(recipe, of_objective)
    objective = find_objective(recipe.objective).build(recipe, of_objective, data)
    if getattr(objective, "captions", None) is None:
        raise ValueError(f"recipe must have a text encoder, {options.recipe} has none")
    captions, network = copy.deepcopy(objective.captions), copy.deepcopy(objective.network)
    stock = StockTextTrainer(
        copy.deepcopy(network),
        copy.deepcopy(objective.vae),
        captions.text_encoder,
        captions.tokenizer,
        options.dataset_name,
        recipe.caption_column,
        load_images(dataset_name=options.dataset_name).images.shape[-1],
        options.batch_size,
    )
    precision = {"no": "float32"}.get(recipe.mixed_precision, recipe.mixed_precision)

    def ours(run: Recipe) -> Callable[[], float]:
        reset_accelerate()
        return Trainer(run, data, type(objective).build(run, of_objective, data)).update

    found = {"stock loop, float32": stock.update, f"ours, {precision}": ours(recipe)}
    if options.compile:
        found[f"ours, {precision}, compiled"] = ours(replace(recipe, torch_compile=True))
    return found


def run(options: Options) -> list[Row]:
    """Time all contestants; the first row is the peer's."""
    return timed(contestants(options), options.repeats, options.steps, options.batch_size)


def main(arguments: list[str] | None = None) -> list[Row]:
    """The command line; returns the rows of the table."""
    return command_line(Options, run, show, "benchmarks.text_training", __doc__, arguments)


if __name__ == "__main__":
    main()
