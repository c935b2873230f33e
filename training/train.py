"""Train or fine-tune: `accelerate launch -m training.train --recipe NAME [--flag value ...]`.

The flags are the fields of `training.recipes.Recipe` and of the objective's `Options`; a recipe sets their defaults.
"""

import logging
import sys
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path

from accelerate import PartialState
from transformers import HfArgumentParser

from training import hub, signals
from training.adapter import adapt, check_adapter
from training.checkpoints import intact_checkpoint
from training.command_line import did_you_mean, given_flags, parse_dataclasses, values_of
from training.data import ImageData, load_images
from training.launch import launched_settings, one_message, report_overruled, start_processes
from training.lock import locked
from training.loop import Trainer
from training.machine import is_reporter
from training.model_index import is_adapter
from training.objectives import find_objective
from training.objectives.base import Objective
from training.precision import report_precision, suited
from training.progress import next_commands
from training.recipes import RECIPES, Recipe, fields_in
from training.resume import (
    check_objective,
    check_same_model,
    check_steps,
    check_unchanged,
    checkpoint_of,
    saved_settings,
)
from training.run_folder import check_output_dir, delete_run
from training.stopping import exit_before_training, exit_early

# the user's data replace those of the recipe or of the checkpoint
_OTHER_DATA = {
    "--train_data_dir": ("dataset_name", "dataset_config_name"),
    "--dataset_name": ("train_data_dir", "dataset_config_name"),
}


def parse(arguments: list[str]) -> tuple[Recipe, Objective.Options]:
    """The recipe that the command line selects, with its flags applied, and the options of its objective.

    A flag that is not given is what was given to accelerate instead, or that of the checkpoint from which the run goes
    on, or that of the recipe's row, or the default. A row's bfloat16 is left to machines that are faster with it.

    Raises:
        ValueError: an unknown recipe, objective or flag, with the nearest known one, a value out of range, or one that
            the checkpoint does not allow.
    """
    asks_for_help = {"-h", "--help"} & set(arguments)
    checkpoint = None if asks_for_help else checkpoint_of(arguments)
    saved = {} if checkpoint is None else saved_settings(checkpoint)
    name = _recipe_name(arguments, saved.get("recipe"))
    launched = launched_settings()
    row = (saved or suited(RECIPES[name])) | launched
    for flag, others in _OTHER_DATA.items():
        if values_of(arguments, flag):
            row = {key: value for key, value in row.items() if key not in others}
    if values_of(arguments, "--train_data_dir") and not saved:  # those are of the recipe's own data
        row = {key: value for key, value in row.items() if key not in ("caption_column", "example_prompts")}
    named = values_of(arguments, "--dataset_name")
    if named and not saved and Path(named[-1]).name != Path(row.get("dataset_name") or "").name:
        row.pop("example_prompts", None)
    given = values_of(arguments, "--objective")
    check_objective(saved, given)
    objective = [row.get("objective", Recipe.objective), *given][-1]
    if checkpoint is not None:
        check_unchanged({"recipe": name, "objective": objective}, saved, ("recipe", "objective"), checkpoint)
    kinds = Recipe, _options_of(objective)
    parser = HfArgumentParser(
        kinds,
        prog="accelerate launch -m training.train",
        usage="%(prog)s --recipe NAME [--flag value ...]",
        description=f"The recipes are {', '.join(RECIPES)}. The defaults below are those of --recipe {name}; --recipe "
        "NAME --help shows those of another.",
        allow_abbrev=False,
    )
    parser.set_defaults(recipe=name)
    for kind in kinds:  # a recipe may have flags of its objective that another objective lacks
        parser.set_defaults(**fields_in(row, kind))
    recipe, options = parse_dataclasses(parser, arguments)
    options.check(recipe)
    report_overruled(launched, recipe)
    if checkpoint is not None:
        check_unchanged(given_flags(kinds, arguments), saved, (*Recipe.FIXED, *kinds[1].FIXED), checkpoint)
        check_steps(recipe, checkpoint)
    folder = checkpoint.parent if checkpoint is not None else f"runs/{name}"
    return replace(recipe, recipe=name, output_dir=recipe.output_dir or str(folder)), options


def _options_of(objective: str) -> type[Objective.Options]:
    kind = find_objective(objective).Options
    shared = sorted({field.name for field in fields(kind)} & {field.name for field in fields(Recipe)})
    if shared:
        raise ValueError(f"objective must have flags of its own, {objective!r} has {', '.join(shared)} of every run")
    return kind


def _recipe_name(arguments: list[str], saved: str | None) -> str:
    """The recipe of a command line; by default that of the checkpoint from which it goes on, if any."""
    known, values = ", ".join(RECIPES), values_of(arguments, "--recipe")
    if {"-h", "--help"} & set(arguments):
        return next((value for value in reversed(values) if value in RECIPES), next(iter(RECIPES)))
    if not values and saved is not None:
        return saved
    if not values:
        raise ValueError(f"--recipe must be one of {known}, and was not given")
    if values[-1] not in RECIPES:
        raise ValueError(f"--recipe must be one of {known}, got {values[-1]!r}{did_you_mean(values[-1], RECIPES)}")
    return values[-1]


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
            resize=recipe.resize,
            channels=channels,
            validation_share=recipe.validation_share,
        )
        return kind.prepare_data(recipe, options, data)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, load the data and train. Bad input exits with a one-line message."""
    logging.basicConfig(level=logging.INFO if is_reporter() else logging.ERROR, format="%(levelname)s %(message)s")
    for chatty in ("httpx2", "accelerate"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    arguments = sys.argv[1:] if arguments is None else arguments
    with signals.raised(), one_message(ValueError, OSError, hub.HubError, FloatingPointError):
        try:
            recipe, options = parse(arguments)
            processes = start_processes()
            with locked(Path(recipe.output_dir)) if processes.is_main_process else nullcontext():
                run(recipe, options, processes, arguments)
        except signals.Interrupted as interrupted:
            exit_before_training(interrupted)


def run(recipe: Recipe, options: Objective.Options, processes: PartialState, arguments: list[str]) -> None:
    """Load the data, train, and push if that was asked for."""
    wanted = recipe.resume_from_checkpoint
    checkpoint = intact_checkpoint(Path(recipe.output_dir), wanted) if wanted else None
    check_output_dir(recipe, checkpoint, options)
    report_precision(recipe)
    if recipe.lora_rank is not None:
        check_adapter(recipe)
    data = load_data(recipe, options)
    recipe = replace(recipe, validation_share=data.loaded["validation_share"])
    objective = find_objective(recipe.objective).build(recipe, options, data)
    if recipe.lora_rank is not None:
        adapt(recipe, objective)
    if checkpoint is not None:
        check_same_model(checkpoint, objective)
    trainer = Trainer(recipe, data, objective)
    repo_id = recipe.hub_model_id or Path(recipe.output_dir).name
    if recipe.push_to_hub and processes.is_main_process:
        hub.prepare(repo_id, recipe.hub_token, recipe.hub_private_repo)
    if recipe.overwrite_output_dir and processes.is_main_process:
        delete_run(Path(recipe.output_dir))
    processes.wait_for_everyone()
    folder = _trained(trainer, arguments)
    if processes.is_main_process:
        what = "adapter" if is_adapter(folder) else "pipeline"
        print(f"The {what} is in {folder}\n{next_commands(folder, pushed=recipe.push_to_hub)}")
        if recipe.push_to_hub:
            push(folder, repo_id, recipe)


def _trained(trainer: Trainer, arguments: list[str]) -> Path:
    """The folder of the pipeline, after training."""
    try:
        return trainer.train()
    except (Exception, signals.Interrupted) as error:
        exit_early(error, trainer.checkpoint, trainer.output_dir, arguments)


def push(folder: Path, repo_id: str, recipe: Recipe) -> None:
    """Push the finished pipeline to the Hub. If that fails, tell the user how to push it without training again."""
    try:
        pushed = hub.push_folder(folder, repo_id, recipe.hub_token, recipe.hub_private_repo)
    except (ValueError, OSError, hub.HubError) as error:
        sys.exit(f"error: {error}. Training is done: `python -m training.hub push {folder} {repo_id}` pushes it")
    print(f"pushed to {pushed.url} at revision {pushed.revision}")


if __name__ == "__main__":
    main()
