"""What a run that goes on takes from its checkpoint, and what it may not change.

Flags that are not given are those that training.json of the checkpoint records. Given ones that change what the network
means are refused by name; what the data and the files of the run decide is compared with the checkpoint's pipeline.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from pipelines.lora import AdapterLoader, check_fits
from training.checkpoints import intact_checkpoint
from training.command_line import values_of
from training.files import read_json_object
from training.model_index import ADAPTER, is_adapter, read_index
from training.networks.guide import GUIDE
from training.objectives.base import Objective
from training.recipes import Recipe

logger = logging.getLogger(__name__)

_OF_THE_DATA = (
    "resolution",
    "latent_channels",
    "validation_share",
)  # None: as the data or the config are, which is compared later
_MEASURED = {"scaling_factor", "shift_factor", "latent_rgb_factors", "latent_rgb_bias"}  # anew at each save
SCHEDULE = {
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "variance_type",
    "rescale_betas_zero_snr",
}  # of a scheduler's config; the rest is about drawing


def checkpoint_of(arguments: list[str]) -> Path | None:
    """The checkpoint from which a command line goes on; None if it starts from scratch.

    Raises:
        ValueError: the checkpoint that it names does not exist or is damaged, or its folder is not named.
    """
    wanted = values_of(arguments, "--resume_from_checkpoint")
    if not wanted:
        return None
    folders = values_of(arguments, "--output_dir")
    folders += [f"runs/{name}" for name in values_of(arguments, "--recipe")[-1:]] * (not folders)
    if not folders and wanted[-1] == "latest":
        raise ValueError("resume_from_checkpoint must be a checkpoint folder without --output_dir, got 'latest'")
    return intact_checkpoint(Path(folders[-1] if folders else "."), wanted[-1])


def saved_settings(checkpoint: Path) -> dict[str, Any]:
    """The flags of the run that wrote a checkpoint, by name, those of its objective included.

    Raises:
        ValueError: its training.json does not hold them.
    """
    record = read_json_object(checkpoint / "training.json")
    missing = [key for key in ("steps", "images", "seconds", "dataset_fingerprint", "recipe") if key not in record]
    if missing:
        raise ValueError(f"{checkpoint / 'training.json'} must record a run, it lacks {', '.join(missing)}")
    settings = {"validation_share": 0.0} | record["recipe"]  # a run that does not say has held nothing back
    return {name: value for name, value in settings.items() if name != "resume_from_checkpoint"}


def check_objective(saved: Mapping[str, Any], given: list[str]) -> None:
    """Raise ValueError if only the checkpoint names an objective of another project: it may come from anyone."""
    name = saved.get("objective", "")
    if ":" in name and not given:
        raise ValueError(
            f"objective must be given to go on with a loss of your own, --objective {name} if you trust it"
        )


def check_unchanged(given: Mapping[str, Any], saved: Mapping[str, Any], fixed: tuple[str, ...], where: Path) -> None:
    """Raise ValueError for flags that were given and that change what the network of the checkpoint `where` means."""
    changed = [
        f"{name} must be {saved[name]}, as in {where}, got {given[name]}"
        for name in fixed
        if name in given and name in saved and given[name] != saved[name]
        if saved[name] is not None or name not in _OF_THE_DATA
    ]
    if changed:
        raise ValueError(f"{'; '.join(changed)}: a run that goes on cannot change it")


def check_steps(recipe: Recipe, checkpoint: Path) -> None:
    """Say so if a checkpoint leaves nothing to train: its model is then written as it is.

    Raises:
        ValueError: the checkpoint is beyond max_train_steps, or beyond a guide_step that is not its own, or whose guide
            is not there.
    """
    record = read_json_object(checkpoint / "training.json")
    steps, kept = record["steps"], record["recipe"].get("guide_step")
    if recipe.guide_step is not None and recipe.guide_step != kept and recipe.guide_step <= steps:
        own = "" if kept is None else f"{kept}, as there, or "
        raise ValueError(f"guide_step must be {own}above {steps}, the updates of {checkpoint}, got {recipe.guide_step}")
    guide = checkpoint.parent / GUIDE
    if recipe.guide_step is not None and recipe.guide_step < steps and not guide.is_dir():
        raise ValueError(
            f"guide_step {recipe.guide_step} needs {guide}, which the run wrote at that update: copy it, too"
        )
    if steps > recipe.max_train_steps:
        raise ValueError(
            f"max_train_steps must be above {steps}, the updates of {checkpoint}, got {recipe.max_train_steps}"
        )
    if steps == recipe.max_train_steps:
        logger.warning(
            "%s has all %d updates of --max_train_steps: nothing is trained, its model is written", checkpoint, steps
        )


def check_same_model(checkpoint: Path, objective: Objective) -> None:
    """Compare the model of a run that goes on with that of its checkpoint: classes, configs, shapes, frozen weights.

    Raises:
        ValueError: they differ; it says in what.
    """
    saved, pipeline = checkpoint / "pipeline", objective.pipeline(objective.network)
    if is_adapter(saved):
        return _check_adapter(saved, objective.network, checkpoint)
    _check_classes(read_index(saved).class_names, list(getattr(pipeline, "class_names", None) or []), checkpoint)
    for name, part in pipeline.components.items():
        _check_config(saved / name, part, checkpoint)
        if any(part is frozen for frozen in objective.frozen.values()):
            _check_weights(saved / name, part, checkpoint)
    _check_shapes(checkpoint / "state" / "model.safetensors", objective.network, checkpoint)


def _check_adapter(saved: Path, network: nn.Module, checkpoint: Path) -> None:
    """The same of an adapter, which tells its base by some of its weights."""
    try:
        state, _, config = AdapterLoader.lora_state_dict(str(saved), weight_name=ADAPTER, return_lora_metadata=True)
        of_part = {key.partition(".")[2]: value for key, value in (config or {}).items()}
        check_fits(network, {key.partition(".")[2]: value for key, value in state.items()}, of_part)
    except ValueError as error:
        told = "pretrained_model_name_or_path must be that of"
        raise ValueError(f"{told} {checkpoint}, and lora_target_modules: {error}") from error


def _check_classes(saved: list[str], names: list[str], checkpoint: Path) -> None:
    if saved != names:
        old, new = (", ".join(classes) or "none" for classes in (saved, names))
        raise ValueError(f"the classes of the data must be those of {checkpoint} ({old}), got {new}")


def _check_config(folder: Path, part: Any, checkpoint: Path) -> None:
    for file, kept in (("config.json", None), ("scheduler_config.json", SCHEDULE)):
        if not isinstance(part, ConfigMixin) or not (folder / file).is_file():
            continue
        old, new = read_json_object(folder / file), json.loads(json.dumps(dict(part.config), default=str))
        for key in sorted((kept or old.keys() - _MEASURED) & old.keys() & new.keys()):
            if not key.startswith("_") and old[key] != new[key]:
                flag = " (--resolution)" if key == "sample_size" else ""
                raise ValueError(
                    f"{folder.name}.{key}{flag} must be {old[key]}, as in {checkpoint}, got {new[key]}: the data, "
                    f"--model_config_name_or_path and --pretrained_model_name_or_path must be those of that run"
                )


def _check_weights(folder: Path, part: nn.Module, checkpoint: Path) -> None:
    weights = part.state_dict()
    for name in ("diffusion_pytorch_model.safetensors", "model.safetensors"):  # of diffusers, and of transformers
        saved = load_file(folder / name) if (folder / name).is_file() else {}
        if not all(key in weights and torch.equal(value, weights[key].cpu()) for key, value in saved.items()):
            raise ValueError(f"the {folder.name} must be that of {checkpoint}: the network was trained with it")


def _check_shapes(file: Path, network: nn.Module, checkpoint: Path) -> None:
    if not file.is_file():
        return
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    with safe_open(file, "pt") as saved:
        for name in saved.keys():
            old, here = saved.get_slice(name).get_shape(), shapes.get(name.removeprefix("module."))  # of 0.1.0
            if here != old:
                raise ValueError(
                    f"the network must be that of {checkpoint}: its {name} is {old} there, and {here or 'absent'} here"
                )
