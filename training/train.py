"""Train or fine-tune: `accelerate launch -m training.train --recipe NAME [--flag value ...]`.

The flags are the fields of `training.recipes.Recipe` and of the objective's `Options`; a recipe sets their defaults.
"""

import logging
import os
import sys
from dataclasses import fields, replace
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from transformers import HfArgumentParser

from pipelines.allocator import keep_freed_memory
from training import hub
from training.checkpoints import find_checkpoint
from training.command_line import did_you_mean, parse_dataclasses
from training.data import ImageData, load_images
from training.loop import Trainer
from training.machine import share_cores
from training.objectives import find_objective
from training.objectives.base import Objective
from training.recipes import RECIPES, Recipe, fields_in

logger = logging.getLogger(__name__)


def parse(arguments: list[str]) -> tuple[Recipe, Objective.Options]:
    """The recipe that the command line selects, with its flags applied, and the options of its objective.

    Raises:
        ValueError: an unknown recipe, objective or flag, with the nearest known one, or a value out of range.
    """
    name = _recipe_name(arguments)
    row = dict(RECIPES[name])
    if _values(arguments, "--train_data_dir"):
        row.pop("dataset_name", None)  # the user's images replace the recipe's data set
    objective = [row.get("objective", Recipe.objective), *_values(arguments, "--objective")][-1]
    kinds = Recipe, _options_of(objective)
    parser = HfArgumentParser(
        kinds,
        prog="accelerate launch -m training.train",
        description=f"The defaults are those of --recipe {name}; --recipe NAME --help shows those of another.",
        allow_abbrev=False,
    )
    for kind in kinds:  # a recipe may have flags of its objective that another objective lacks
        parser.set_defaults(**fields_in(row, kind))
    recipe, options = parse_dataclasses(parser, arguments)
    options.check(recipe)
    return replace(recipe, output_dir=recipe.output_dir or f"runs/{name}"), options


def _options_of(objective: str) -> type[Objective.Options]:
    kind = find_objective(objective).Options
    shared = sorted({field.name for field in fields(kind)} & {field.name for field in fields(Recipe)})
    if shared:
        raise ValueError(f"objective must have flags of its own, {objective!r} has {', '.join(shared)} of every run")
    return kind


def _recipe_name(arguments: list[str]) -> str:
    known, values = ", ".join(RECIPES), _values(arguments, "--recipe")
    if {"-h", "--help"} & set(arguments):
        return next((value for value in reversed(values) if value in RECIPES), next(iter(RECIPES)))
    if not values:
        raise ValueError(f"--recipe must be one of {known}, and was not given")
    if values[-1] not in RECIPES:
        raise ValueError(f"--recipe must be one of {known}, got {values[-1]!r}{did_you_mean(values[-1], RECIPES)}")
    return values[-1]


def _values(arguments: list[str], flag: str) -> list[str]:
    """The values of a flag in order, given as `--flag value` or `--flag=value`."""
    pairs = zip(arguments, [*arguments[1:], None], strict=False)
    values = [a.partition("=")[2] if "=" in a else b for a, b in pairs if a.partition("=")[0] == flag]
    return [value for value in values if value is not None]


def start_processes() -> PartialState:
    """Join the launch's other processes; on a CPU, keep freed memory and take this process's share of the cores."""
    processes = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if processes.device.type == "cpu":
        keep_freed_memory()
        launched = "ACCELERATE_MIXED_PRECISION" in os.environ
        if launched and os.environ.get("OMP_NUM_THREADS") == "1":  # set by accelerate launch, or by the user
            share_cores(processes.num_processes)
    if "MASTER_PORT" in os.environ and processes.num_processes == 1:
        logger.warning(
            "one process runs, though several were asked for: with --cpu, accelerate launch needs mpirun to start "
            "several. For N processes: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N -m ..."
        )
    return processes


def load_data(recipe: Recipe, options: Objective.Options) -> ImageData:
    """Load the data of a run as its objective wants them."""
    kind = find_objective(recipe.objective)
    channels, own_size = kind.image_format(recipe, options)
    with PartialState().main_process_first():  # the others then find the decoded images in the cache
        data = load_images(
            dataset_name=recipe.dataset_name,
            dataset_config_name=recipe.dataset_config_name,
            train_data_dir=recipe.train_data_dir,
            image_column=recipe.image_column,
            label_column=recipe.label_column,
            caption_column=recipe.caption_column,
            max_samples=recipe.max_train_samples,
            resolution=recipe.resolution or own_size,
            channels=channels,
        )
        return kind.prepare_data(recipe, options, data)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, load the data and train. Bad input exits with a one-line message."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    for chatty in ("httpx2", "accelerate"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        recipe, options = parse(sys.argv[1:] if arguments is None else arguments)
        processes = start_processes()
        if recipe.resume_from_checkpoint:
            find_checkpoint(Path(recipe.output_dir), recipe.resume_from_checkpoint)  # raises now, before any work
        data = load_data(recipe, options)
        objective = find_objective(recipe.objective).build(recipe, options, data)
        trainer = Trainer(recipe, data, objective)
        repo_id = recipe.hub_model_id or Path(recipe.output_dir).name
        if recipe.push_to_hub and processes.is_main_process:
            hub.prepare(repo_id, recipe.hub_token, recipe.hub_private_repo)
        processes.wait_for_everyone()
    except (ValueError, OSError, hub.HubError) as error:
        sys.exit(f"error: {error}")
    try:
        folder = trainer.train()
    except FloatingPointError as error:
        sys.exit(f"error: {error}")
    trainer.accelerator.print(f"The pipeline is in {folder}")
    if recipe.push_to_hub and processes.is_main_process:
        push(folder, repo_id, recipe)


def push(folder: Path, repo_id: str, recipe: Recipe) -> None:
    """Push the finished pipeline to the Hub. If that fails, tell the user how to push it without training again."""
    try:
        pushed = hub.push_folder(folder, repo_id, recipe.hub_token, recipe.hub_private_repo)
    except (ValueError, OSError, hub.HubError) as error:
        sys.exit(f"error: {error}. Training is done: `python -m training.hub push {folder} {repo_id}` pushes it")
    print(f"pushed to {pushed.url} at revision {pushed.revision}")


if __name__ == "__main__":
    main()
