"""The text on a card about a model's data and training, from its training.json."""

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.objectives import objective_here
from training.recipes import RECIPES, Recipe, fields_in
from training.sharing.local_paths import without_path

_NEEDED = {"steps", "images", "seconds", "processes", "device", "recipe"}  # in the record of a run; and in its recipe:
_NEEDED_OF_RECIPE = set("recipe learning_rate lr_scheduler train_batch_size ema_decay mixed_precision".split())
_SAYS_WHAT = {"prediction_type", "objective"}  # at least one of them: the first records name no objective
# flags that do not change what a run learns
_NOT_SHOWN = set(
    "recipe checkpointing_steps checkpoints_total_limit resume_from_checkpoint validation_steps report_to".split()
)


@dataclass(frozen=True)
class Dataset:
    """A data set as named on a card: its Hub id if it has one, and the attribution that its licence requires."""

    name: str
    hub_id: str | None
    attribution: str
    license: str | None = None


FASHION = Dataset(
    "Fashion-MNIST",
    "zalando-datasets/fashion_mnist",
    "[Fashion-MNIST](https://github.com/zalandoresearch/fashion-mnist) (Xiao, Rasul and Vollgraf 2017), 60,000 "
    "training images, MIT licence, Copyright (c) 2017 Zalando SE.",
    license="apache-2.0",
)
EMOJI = Dataset(
    "Emoji by several hands",
    None,
    "Emoji, in eight styles by five vendors, made into images by `python -m training.data emoji`: "
    "[Noto Emoji](https://github.com/googlefonts/noto-emoji), Copyright Google Inc., Apache-2.0; "
    "[Fluent Emoji](https://github.com/microsoft/fluentui-emoji), Copyright (c) Microsoft Corporation, MIT, its 3D "
    "images as packaged by [LobeHub](https://github.com/lobehub/fluent-emoji), MIT; "
    "[Twemoji](https://github.com/jdecked/twemoji), Copyright 2020 Twitter, Inc and other contributors, CC-BY-4.0; "
    "[FxEmojis](https://github.com/mozilla/fxemoji), Copyright Mozilla Foundation, Apache-2.0; EmojiOne 2.3, provided "
    "free by EmojiOne, kept by [EmojiTwo](https://github.com/EmojiTwo/emojitwo), CC-BY-4.0; names from "
    "[emojibase](https://emojibase.dev), MIT. The images are changed from their sources, and no vendor endorses this "
    "model.",
    license="apache-2.0",
)
STREAMLINE = Dataset(
    "Emoji in streamline style",
    None,
    "[Streamline Emojis](https://streamlinehq.com), Copyright Streamline, "
    "[CC-BY-4.0](https://creativecommons.org/licenses/by/4.0/), made into images by `python -m training.data emoji "
    "--style streamline`; names from [emojibase](https://emojibase.dev), MIT. The images are changed from their "
    "source, and its author does not endorse this model.",
    license="cc-by-4.0",
)
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_KNOWN = {
    "data/emoji": EMOJI,
    "data/emoji-streamline": STREAMLINE,
    "data/fashion": FASHION,
    "zalando-datasets/fashion_mnist": FASHION,
}


def runs_of(record: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The runs in a training.json, oldest first. Runs before an incomplete record are left out: it may not be ours."""
    found = []
    while _is_whole(record):
        found.insert(0, record)
        record = record.get("continues")
    return found


def _is_whole(record: object) -> bool:
    if not (isinstance(record, dict) and _NEEDED <= set(record)):
        return False
    recipe = set(record["recipe"])
    return _NEEDED_OF_RECIPE <= recipe and bool(_SAYS_WHAT & recipe)


def datasets_of(runs: list[dict[str, Any]]) -> list[Dataset]:
    """The data sets of the runs, without duplicates."""
    return list(dict.fromkeys(map(_dataset, runs)))


def _dataset(run: dict[str, Any]) -> Dataset:
    recipe = run["recipe"]
    given = recipe.get("train_data_dir") or recipe.get("dataset_name") or "data"
    if given in _KNOWN and not recipe.get("max_train_samples"):
        return _KNOWN[given]
    count = f", {run['dataset_images']:,} images" if "dataset_images" in run else ""
    hub_id = run.get("dataset_id")
    if hub_id:
        said = f"[{hub_id}](https://huggingface.co/datasets/{hub_id}){count}: its card states its licence."
        return Dataset(hub_id, hub_id, said)
    name = Path(without_path(given)).name
    return Dataset(name, None, f"`{name}`{count}, of the model's author, who knows their licence.")


def text_encoder_credit(runs: list[dict[str, Any]]) -> list[str]:
    """What a card says of the text encoder that the runs name, whose weights are in the folder; [] without one."""
    name = next((run["recipe"]["text_encoder"] for run in runs[::-1] if run["recipe"].get("text_encoder")), None)
    if name is None:
        return []
    known = f"[{name}](https://huggingface.co/{name}), Apache-2.0" if name == MINILM else f"`{without_path(name)}`"
    return [f"Prompts are read by {known}, whose weights are in text_encoder/; they were not trained further."]


def base_model(runs: list[dict[str, Any]]) -> str | None:
    """The Hub id of the model that the last run started from; None if it was new or has no Hub id."""
    return runs[-1].get("base_model") if runs else None


def training_text(runs: list[dict[str, Any]]) -> str:
    """A numbered list of the runs, oldest first: command, size, time and hardware."""
    if not runs:
        return "How this model was trained is not recorded."
    text = "\n".join(f"{number}. {_run(run)}" for number, run in enumerate(runs, start=1))
    denoising = [run for run in runs if not _trains_a_classifier(run)]
    if len(denoising) > 1:
        what = "autoencoder" if denoising[-1]["recipe"].get("objective") == "autoencoder" else "denoiser"
        anew = [number for number, run in enumerate(denoising[1:], start=2) if not _continues(run)]
        but = f", but for run {' and '.join(map(str, anew))}, which began with new ones" if anew else ""
        text += f"\n\nEach run of the {what} continued from the weights of the one before it{but}."
    if len(denoising) < len(runs):
        text += (
            "\n\nThe last run trained the classifier alone, from scratch; the denoiser that it steers did not change."
        )
    return text


def _continues(run: dict[str, Any]) -> bool:
    """Whether a run that has one before it began with its weights; older records do not say so, and did."""
    return run["recipe"].get("pretrained_model_name_or_path", "") is not None


def _trains_a_classifier(run: dict[str, Any]) -> bool:
    return run["recipe"].get("objective") == "noisy_classifier"


def _run(record: dict[str, Any]) -> str:
    recipe = record["recipe"]
    started_from = f" (from `{record['base_model']}`)" if record.get("base_model") else ""
    processes = f", {record['processes']} processes" if record["processes"] > 1 else ""
    return (
        f"`{command_of(recipe)}`{started_from}: {record['steps']:,} updates, "
        f"{record['images']:,} images, {record['seconds'] / 60:.0f} minutes on {record['device']}{processes}; "
        f"{_what(record)}, AdamW {recipe['learning_rate']:g}, {recipe['lr_scheduler']}, batch "
        f"{recipe['train_batch_size']}, EMA {record.get('ema_decay', recipe['ema_decay']):g}, "
        f"{recipe['mixed_precision']} autocast."
    )


def _what(record: dict[str, Any]) -> str:
    recipe = record["recipe"]
    if _trains_a_classifier(record):
        return "cross-entropy on noisy images"
    if "prediction_type" in recipe:
        return recipe["prediction_type"] + ", learned variance" * (recipe.get("variance_type") == "learned_range")
    return f"objective `{recipe['objective']}`"


def command_of(recipe: dict[str, Any]) -> str:
    """The command line of a run, with the flags that differ from its recipe. Local paths are cut to their last part.

    Settings for which the objective has no flag are left out. An objective outside this project is not imported,
    because the record may come from anyone: all its flags are shown.
    """
    row, usual = RECIPES.get(recipe["recipe"], {}), {}
    objective = objective_here(recipe.get("objective", Recipe.objective))
    for kind in [Recipe] if objective is None else [Recipe, objective.Options]:
        usual |= asdict(kind(**fields_in(row, kind)))
    flags = [
        f"--{name} {shlex.quote(without_path(str(value)))}"
        for name, value in recipe.items()
        if name not in _NOT_SHOWN and (name in usual or objective is None) and value not in (None, usual.get(name))
    ]
    return " ".join(["accelerate launch -m training.train --recipe", recipe["recipe"], *flags])
