"""Training runs small enough for a test: a U-Net of 60 thousand weights, a dozen images of noise, one thread."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from training import train
from training.data import ImageData
from training.loop import Trainer
from training.objectives.base import Objective
from training.objectives.denoising import Denoising
from training.recipes import Recipe, fields_in
from training.run_state import read_parts

NETWORK = {
    "_class_name": "UNet2DModel",
    "block_out_channels": [32, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
SMALL = {
    "train_batch_size": 4,
    "max_train_steps": 6,
    "lr_warmup_steps": 2,
    "validation_steps": 1000,
    "report_to": "none",
    "ddpm_num_steps": 5,  # a grid of samples then takes as few
    "class_conditional": True,
}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def noise_images(count: int = 10, size: int = 8, channels: int = 1, classes: int | None = 2) -> ImageData:
    """Noise in memory, of classes that take turns: the bird, the cat, the dog."""
    labels = None if classes is None else np.arange(count) % classes
    names = None if classes is None else ("bird", "cat", "dog")[:classes]
    return ImageData(noise(count, channels, size, size), labels, names, None, 0, "noise")


def image_folder(root: Path, count: int = 10, size: int = 8, names: tuple[str, ...] = ("bird", "cat")) -> Path:
    """Grey images of noise in class folders, or loose without names."""
    for i in range(count):
        folder = root / names[i % len(names)] if names else root
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(size, size, seed=i)).save(folder / f"{i:02d}.png")
    return root


def network_file(path: Path, network: dict[str, object] = NETWORK, **changes: object) -> str:
    """A config for --model_config_name_or_path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")  # two processes may write it: neither reads half a file
    part.write_text(json.dumps(network | changes))
    os.replace(part, path)
    return str(path)


def settings_of(objective: type[Objective], flags: dict[str, object]) -> tuple[Recipe, Objective.Options]:
    """Flags as the command line parts them: those of the run, and those of an objective."""
    ours, theirs = (fields_in(flags, kind) for kind in (Recipe, objective.Options))
    assert {*ours, *theirs} == set(flags)
    return Recipe(**ours), objective.Options(**theirs)


def small_settings(folder: Path, **changes: object) -> tuple[Recipe, Denoising.Options]:
    """A denoising run that writes to `folder`; `dropout` is the network's."""
    config = network_file(folder.parent / "network.json", dropout=changes.pop("dropout", 0.0))
    return settings_of(Denoising, SMALL | {"output_dir": str(folder), "model_config_name_or_path": config} | changes)


def forget_accelerate() -> None:
    """accelerate keeps one state a process; a new run in the same process needs its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Runs start accelerate anew here, on one thread of a CPU, and so do the processes that they start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    forget_accelerate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("STEPWISE_CACHE", str(cache))
        yield
    forget_accelerate()
    torch.set_num_threads(threads)


def small_trainer(folder: Path, data: ImageData | None = None, double: bool = False, **changes: object) -> Trainer:
    """A trainer, in this process, ready for `update()` or `train()`."""
    (recipe, options), data = small_settings(folder, **changes), data or noise_images()
    objective = Denoising.build(recipe, options, data)
    if double:
        objective.network.double()
    return Trainer(recipe, data, objective)


def trainer_of(kind: type[Objective], folder: Path, double: bool = False, **changes: object) -> Trainer:
    """A trainer of any objective over the images of `noise_images`; `network` is its whole config."""
    network = changes.pop("network", NETWORK | {"dropout": 0.0})
    config = network_file(folder.parent / f"{folder.name}.json", network)
    known = {field.name for form in (Recipe, kind.Options) for field in fields(form)}
    flags = {name: value for name, value in SMALL.items() if name in known and name != "ddpm_num_steps"}
    flags |= {"output_dir": str(folder), "model_config_name_or_path": config} | changes
    recipe, options = settings_of(kind, flags)
    objective = kind.build(recipe, options, noise_images())
    if double:
        objective.network.double()
    return Trainer(recipe, noise_images(), objective)


def command(arguments: str, **flags: object) -> list[str]:
    """A command line: `arguments`, then the flags of small runs, then those given."""
    merged = {k: v for k, v in SMALL.items() if k != "class_conditional"} | {"model_config_name_or_path": None} | flags
    return arguments.split() + [f"--{name}={value}" for name, value in merged.items() if value is not None]


def run_here(arguments: list[str]) -> None:
    """`python -m training.train ARGUMENTS` without a new process."""
    forget_accelerate()
    torch.manual_seed(torch.seed() % 2**32)  # a run may not depend on what its process did before
    train.main(arguments)


def checkpoint_state(checkpoint: Path) -> dict[str, object]:
    """What a checkpoint restores, by the part."""
    return read_parts(checkpoint / "state") | {"weights": load_file(checkpoint / "state" / "model.safetensors")}


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.network.state_dict().items()}


def flat(value: object, prefix: str = "") -> dict[str, object]:
    """Nested dicts and lists as one dict of path -> leaf, to compare saved states."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {prefix: value}
    return {key: leaf for name, part in items for key, leaf in flat(part, f"{prefix}/{name}").items()}


def assert_same(one: object, other: object) -> None:
    """Equal to the last bit, tensors and all else."""
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, Tensor):
            assert value.dtype == other[key].dtype and torch.equal(value, other[key]), key
        else:
            assert value == other[key], key
