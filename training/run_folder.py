"""Whether a run may write to its `output_dir`: not over its data, and not over another run unless it is told to."""

import shutil
from pathlib import Path

from training.checkpoints import checkpoint_steps
from training.model_index import ADAPTER, FILE, is_adapter, is_pipeline, read_index
from training.recipes import Recipe
from training.sharing import uploads

RECORDS = ("pushed.json", "latest", "error.log", ADAPTER, *uploads.RECORDS, *uploads.IMAGES)
FOLDERS = ("samples", "stepwise", "guide")


def check_output_dir(recipe: Recipe, checkpoint: Path | None, options: object = None) -> None:
    """Raise ValueError if `output_dir` is where the data lie, or holds a run other than that of `checkpoint`, or is to
    be overwritten with what this run starts from in it.

    `options` are those of the objective. `checkpoint` is that from which this run goes on; None if it starts from
    scratch.
    """
    folder = Path(recipe.output_dir)
    _check_apart(folder, recipe)
    if recipe.overwrite_output_dir:
        _check_keeps_parts(folder, recipe, options)
    own = checkpoint is not None and checkpoint.resolve().parent == folder.resolve()
    if own and recipe.overwrite_output_dir:
        raise ValueError(f"overwrite_output_dir must be False to go on from {checkpoint}, which it would delete")
    found = _run_in(folder)
    if own or recipe.overwrite_output_dir or not found:
        return
    if checkpoint is None and recipe.resume_from_checkpoint and not is_pipeline(folder):
        return  # "latest" of a run that was stopped before its first checkpoint
    go_on = "--resume_from_checkpoint latest goes on from it, " if checkpoint_steps(folder) else ""
    raise ValueError(
        f"output_dir must hold no other run, got {str(folder)!r} with {found}: {go_on}--overwrite_output_dir deletes "
        "it and starts afresh, and another --output_dir keeps both"
    )


def _check_apart(folder: Path, recipe: Recipe) -> None:
    output = folder.resolve()
    images = recipe.train_data_dir and Path(recipe.train_data_dir).expanduser().resolve()
    if images == output:
        raise ValueError(f"output_dir must not be train_data_dir itself, got {str(folder)!r} for both")
    data = recipe.dataset_name and Path(recipe.dataset_name).expanduser().resolve()
    if data and data.is_dir() and output.is_relative_to(data):
        raise ValueError(f"output_dir must be outside of the data set {recipe.dataset_name!r}, got {str(folder)!r}")


def _check_keeps_parts(folder: Path, recipe: Recipe, options: object) -> None:
    for name in ("pretrained_model_name_or_path", "vae", "text_encoder"):
        given = getattr(recipe, name, None) or getattr(options, name, None)
        if given and Path(given).exists() and Path(given).resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"output_dir must be another folder than that of {name}, got {str(folder)!r}: --overwrite_output_dir "
                f"would delete {given}, which this run starts from"
            )


def _run_in(folder: Path) -> str:
    """What of a run a folder holds, in words; empty if nothing."""
    steps = checkpoint_steps(folder)
    if is_pipeline(folder) or (folder / "training.json").is_file():
        return "a finished model"
    if steps:
        return f"checkpoints up to update {steps[-1]}"
    drawn = any((folder / name).is_dir() and any((folder / name).iterdir()) for name in FOLDERS)
    return "the samples or logs of a run without checkpoints" if drawn else ""


def delete_run(folder: Path) -> None:
    """Delete what a run wrote to `folder`, its model included, and what was measured of that; other files stay."""
    parts = read_index(folder).components if is_pipeline(folder) else {}
    (folder / FILE).unlink(missing_ok=True)  # first: half a model must not look like one
    for step in checkpoint_steps(folder):
        shutil.rmtree(folder / f"checkpoint-{step}")
    kept = [path for path in folder.glob("ema-*") if is_pipeline(path) or is_adapter(path)]
    names = [name for name in (*FOLDERS, *parts) if name == Path(name).name]
    for path in [*kept, *(folder / name for name in names), *folder.glob(".checkpoint-*.part")]:
        if path.is_dir():
            shutil.rmtree(path)
    for name in RECORDS:
        (folder / name).unlink(missing_ok=True)
