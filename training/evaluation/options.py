"""The command line of training.evaluate: its options, and the checks that need nothing but their values."""

from __future__ import annotations

import argparse
import json
import math
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser

from training.command_line import did_you_mean, parse_dataclasses, values_of
from training.evaluation.sampling import SCHEDULERS
from training.machine import usual_dtype
from training.metrics.feature_nets import EFFICIENTNET, NAMED
from training.metrics.sample_quality import NEIGHBOURS

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
GREY = "model_cards/fashion-features"  # the classifier of Fashion-MNIST
VARIANCES = ("fixed_small", "fixed_large", "learned_range")
OWN_CODE = "A model's own code is run (trust_remote_code): measure only models that you trust"
RESERVED = {"class_labels", "generator", "output_type", "return_dict", "latents"}  # of a pipeline's call
EXAMPLES = """examples:
  python -m training.evaluate model_cards/fashion-cfg --dataset_name data/fashion
  python -m training.evaluate model_cards/fashion-cfg --dataset_name data/fashion \\
      --guidance_scale 0 1 2 4 --scheduler DDIM UniPC --num_inference_steps 10 20 50
  python -m training.evaluate model_cards/fashion-ddpm --dataset_name data/fashion \\
      --bits_per_dim 500 --variance_type fixed_small fixed_large
  python -m training.evaluate runs/mine/checkpoint-*/pipeline --dataset_name mine
  accelerate launch --multi_gpu --num_processes 4 -m training.evaluate ...

An interrupted run continues when it is started again. Several values of a setting make a sweep, with plots beside
metrics.json: guidance.png and steps.png. Bits/dim are plotted in likelihood.png.
"""


def recorded(program: str, arguments: list[str], dtype: str) -> str:
    """A command line as metrics.json keeps it: with the number format, which the machine would decide otherwise."""
    unsaid = [] if values_of(arguments, "--dtype") else ["--dtype", dtype]
    return shlex.join([*program.split(), *arguments, *unsaid])


def flag(default: Any, text: str) -> Any:
    """A dataclass field with its help text; a list as the default is copied for each instance."""
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"help": text})
    return field(default=default, metadata={"help": text})


def dtype_of(what: str) -> Any:
    """The field of the flag that sets the number format of `what`."""
    return flag(None, f"number format of the {what}: bfloat16 or float32 [float32 on a CPU that is slower in bfloat16]")


def chosen_dtype(dtype: str | None) -> str:
    """The number format that was asked for, or that of this machine; ValueError for one that is not allowed."""
    return usual_dtype() if dtype is None else one_of("dtype", dtype, list(DTYPES))


@dataclass
class Options:
    """The options of the command."""

    dataset_name: str = field(metadata={"help": "the real images: a folder of image files or of parquet, or a Hub id"})
    num_samples: int = flag(1000, "images to draw for each setting")
    batch_size: int = flag(100, "images per batch")
    guidance_scale: list[float] | None = flag(None, "one or more; default: that of the pipeline")
    num_inference_steps: list[int] = flag([20], "one or more")
    scheduler: list[str] | None = flag(None, f"one or more of {', '.join(SCHEDULERS)}; default: that of the model")
    guidance_interval: list[float] | None = flag(
        None, "LOW HIGH, the part of the noise process that is guided, each in [0, 1]; default: that of the model"
    )
    pipeline_arguments: list[str] | None = flag(
        None, "one or more NAME=VALUE for the pipeline's call, such as sampler=heun shift=3"
    )
    seed: int = flag(0, "image k is drawn with seed + k")
    dtype: str | None = dtype_of("network")
    resolution: int | None = flag(
        None, "side in pixels that the real images are resized to; default: as in training, or as they are"
    )
    test_split: str | None = flag(
        None,
        "the split to measure against; default: test, or validation, or else the images that the run held back, or "
        "else those that it was trained on",
    )
    train_split: str = flag(
        "train",
        "the split of which real images are measured for comparison, and which memorization is measured against",
    )
    features: str | None = flag(
        None,
        f"the network whose features are compared: {', '.join(NAMED)}, or a classifier's folder or Hub id; default: "
        f"{GREY} for the grey images that it was trained on, {EFFICIENTNET} for all others",
    )
    training_prompts: bool = flag(
        False, "draw captions of training images, not of test images: what a model copies, it copies for these first"
    )
    nearest_samples: int = flag(1000, "samples that are compared with the nearest training images; 0 for none")
    bits_per_dim: int = flag(0, "test images whose bits/dim (the variational bound) are measured; 0 for none")
    bits_per_dim_steps: int = flag(1000, "steps in the sum of the bound")
    bits_per_dim_timesteps: int = flag(100, "number of these steps that are evaluated per image, at random")
    variance_type: list[str] | None = flag(
        None, f"one or more of {', '.join(VARIANCES)} for bits/dim; default: that of the model"
    )
    ode_bits_per_dim: int = flag(
        0, "test images whose bits/dim by the probability-flow ODE are measured, in float32; 0 for none"
    )
    real_inputs: bool = flag(
        False,
        "let a cascade enlarge real images, made small, instead of those that it draws; a model that only enlarges "
        "does so without being asked",
    )
    ode_tolerance: float = flag(1e-4, "the ODE solver's rtol and atol")
    output: str | None = flag(None, "the file to write; default: metrics.json in the model's folder")
    grid: bool = flag(
        True,
        "write samples.png, contact_sheet.png and nearest.png beside metrics.json, of its lowest Frechet distance",
    )
    overwrite: bool = flag(False, "measure again what metrics.json already holds")

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is not allowed; normalise the spelling of names."""
        if self.scheduler is not None:
            named = [one_of("scheduler", name, list(SCHEDULERS)) for name in self.scheduler]
            self.scheduler = list(dict.fromkeys(named))
        if self.variance_type is not None:
            self.variance_type = [one_of("variance_type", name, list(VARIANCES)) for name in self.variance_type]
        self.dtype = chosen_dtype(self.dtype)
        self._check_counts()
        check_scales(self.guidance_scale)
        check_interval(self.guidance_interval)
        self.call_arguments = self._named_arguments()

    def _named_arguments(self) -> dict[str, Any]:
        """`pipeline_arguments` by name, numbers as numbers.

        Raises:
            ValueError: one that is not NAME=VALUE, or whose name has a flag of its own.
        """
        found = {}
        for text in self.pipeline_arguments or []:
            name, equals, value = text.partition("=")
            if not (name.isidentifier() and equals and value):
                raise ValueError(f"pipeline_arguments must be NAME=VALUE, got {text!r}")
            if name in {f.name for f in fields(self)} | RESERVED:
                raise ValueError(f"pipeline_arguments must not set {name}, which this command sets itself")
            found[name] = _as_value(value)
        return found

    @property
    def nearest(self) -> int:
        """The number of samples that are compared with the training images."""
        return min(self.nearest_samples, self.num_samples)

    @property
    def dataset(self) -> str:
        """The data set's Hub id, or the name of its folder without the path."""
        return Path(self.dataset_name).name if Path(self.dataset_name).is_dir() else self.dataset_name

    def _check_counts(self) -> None:
        lowest = {"num_samples": NEIGHBOURS + 1, "batch_size": 1, "seed": 0, "nearest_samples": 0}
        lowest |= {"bits_per_dim": 0, "ode_bits_per_dim": 0, "bits_per_dim_steps": 2, "bits_per_dim_timesteps": 2}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for steps in self.num_inference_steps:
            if steps < 1:
                raise ValueError(f"num_inference_steps must be at least 1, got {steps}")
        for name in ("bits_per_dim", "ode_bits_per_dim"):
            if getattr(self, name) == 1:
                raise ValueError(f"{name} must be 0, or at least 2 for a standard error, got 1")
        if not 1e-12 <= self.ode_tolerance < 1:
            raise ValueError(f"ode_tolerance must be in [1e-12, 1), got {self.ode_tolerance:g}")
        self.bits_per_dim_timesteps = min(self.bits_per_dim_timesteps, self.bits_per_dim_steps)
        if self.variance_type and not self.bits_per_dim:
            raise ValueError("variance_type is of use with bits_per_dim only, which is 0")


def _as_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def check_scales(scales: list[float] | None) -> None:
    """Raise ValueError for a guidance scale that is none."""
    for scale in scales or []:
        if not (math.isfinite(scale) and scale >= 0):
            raise ValueError(f"guidance_scale must be a finite number of at least 0, got {scale}")


def check_interval(interval: list[float] | None) -> None:
    """Raise ValueError for a part of the noise process that is none."""
    if interval is not None and not (len(interval) == 2 and 0 <= interval[0] <= interval[1] <= 1):
        raise ValueError(f"guidance_interval must be LOW HIGH with 0 <= LOW <= HIGH <= 1, got {interval}")


def one_of(name: str, value: str, allowed: list[str]) -> str:
    """`value` as it is spelled in `allowed`, in any case. Raises ValueError, with the nearest, if it is none."""
    spelled = {word.lower(): word for word in allowed}
    if value.lower() in spelled:
        return spelled[value.lower()]
    raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}{did_you_mean(value, allowed)}")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help texts with their defaults, except None."""

    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.option_strings and action.default not in (None, argparse.SUPPRESS, argparse.OPTIONAL)
        default = action.default if not isinstance(action.default, list) else " ".join(map(str, action.default))
        return f"{action.help} (default: {default})" if told and not action.required else action.help


def parse(arguments: list[str], description: str) -> tuple[list[str], Options]:
    """The models and the options of a command line.

    Raises:
        ValueError: an unknown flag, with the nearest known one, or a value out of range.
    """
    parser = HfArgumentParser(
        Options,
        prog="python -m training.evaluate",
        description=description,
        epilog=EXAMPLES,
        formatter_class=lambda prog: Formatter(prog, max_help_position=34, width=118),
    )
    parser.add_argument("model", nargs="+", help=f"a pipeline's folder or Hub id, or several checkpoints. {OWN_CODE}")
    for action in parser._actions:  # one spelling per flag, and the type as its placeholder
        action.option_strings = [text for text in action.option_strings if "-" not in text[2:] or text == "-h"]
        if action.option_strings and action.nargs != 0 and action.metavar is None:
            action.metavar = getattr(action.type, "__name__", "value").upper().replace("STRING_TO_BOOL", "YES/NO")
    options, rest = parse_dataclasses(parser, arguments)
    return rest.model, options
