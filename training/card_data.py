"""What a card says of a model's data and training, read from its training.json."""

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.outgoing import without_path
from training.recipes import RECIPES, Recipe

# how a run was watched and kept, not what it learned
_SILENT = set(
    "recipe output_dir checkpointing_steps checkpoints_total_limit resume_from_checkpoint validation_steps report_to "
    "push_to_hub hub_model_id hub_private_repo hub_token".split()
)


@dataclass(frozen=True)
class Dataset:
    """A data set as a card names it: its Hub id if it has one, and what its licence asks to be said."""

    name: str
    hub_id: str | None
    attribution: str
    license: str | None = None


FASHION = Dataset(
    "Fashion-MNIST",
    "zalando-datasets/fashion_mnist",
    "[Fashion-MNIST](https://github.com/zalandoresearch/fashion-mnist) (Xiao, Rasul and Vollgraf 2017), 60,000 "
    "training pictures, MIT licence, Copyright (c) 2017 Zalando SE.",
    license="apache-2.0",
)
_KNOWN = {"fashion": FASHION, "fashion_mnist": FASHION}


def dataset_of(record: dict[str, Any] | None) -> Dataset:
    """The data that the last run of a record saw."""
    if record is None:
        return Dataset("unknown", None, "What this model was trained on is not recorded.")
    recipe = record["recipe"]
    name = without_path(recipe.get("train_data_dir") or recipe.get("dataset_name") or "data")
    known = _KNOWN.get(Path(name).name)
    if known and not recipe.get("train_data_dir"):
        return known
    count = f", {record['dataset_images']:,} pictures" if "dataset_images" in record else ""
    hub_id = record.get("dataset_id")
    if hub_id:
        said = f"[{hub_id}](https://huggingface.co/datasets/{hub_id}){count}: its card states its licence."
        return Dataset(hub_id, hub_id, said)
    return Dataset(name, None, f"`{Path(name).name}`{count}, of the model's author, who knows their licence.")


def base_model(record: dict[str, Any] | None) -> str | None:
    """The Hub id of the model that the last run began with, None for a new one or one that has none."""
    return record.get("base_model") if record else None


def training_text(record: dict[str, Any] | None) -> str:
    """Each run: command, size, time, hardware, oldest first."""
    if record is None:
        return "How this model was trained is not recorded."
    lines = []
    while record:
        lines.append(_run(record))
        record = record["continues"]
    steps = [f"{number}. {line}" for number, line in enumerate(reversed(lines), start=1)]
    return "\n".join(steps) + "\n\nEach run continued from the weights of the one before it." * (len(steps) > 1)


def _run(record: dict[str, Any]) -> str:
    recipe = record["recipe"]
    steered = recipe.get("objective") == "noisy_classifier"
    learned = recipe.get("variance_type") == "learned_range"
    what = "cross-entropy on noisy pictures" if steered else recipe["prediction_type"] + ", learned variance" * learned
    started_from = f" (from `{record['base_model']}`)" if record.get("base_model") else ""
    processes = f", {record['processes']} processes" if record["processes"] > 1 else ""
    return (
        f"`{command_of(recipe)}`{started_from}: {record['steps']:,} updates, "
        f"{record['images']:,} images, {record['seconds'] / 60:.0f} minutes on {record['device']}{processes}; "
        f"{what}, AdamW {recipe['learning_rate']:g}, {recipe['lr_scheduler']}, batch "
        f"{recipe['train_batch_size']}, EMA {recipe['ema_decay']:g}, {recipe['mixed_precision']} autocast."
    )


def command_of(recipe: dict[str, Any]) -> str:
    """The command line of a run: the flags that differ from its recipe's. Local paths are cut to their last part."""
    row = asdict(Recipe(**RECIPES.get(recipe["recipe"], {})))
    flags = [
        f"--{name} {shlex.quote(without_path(str(value)))}"
        for name, value in recipe.items()
        if name not in _SILENT and name in row and value is not None and value != row[name]
    ]
    return " ".join(["accelerate launch -m training.train --recipe", recipe["recipe"], *flags])
