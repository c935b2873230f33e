"""The command line of training.evaluate: what can be asked for, and what can be seen to be wrong before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
from transformers import HfArgumentParser

from training.metrics.drawing import SCHEDULERS
from training.metrics.judge import NEIGHBOURS

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass
class Options:
    """What to measure."""

    dataset_name: str = field(metadata={"help": "the real pictures: a Hub id, or a folder of parquet"})
    num_samples: int = field(default=1000, metadata={"help": "pictures to draw"})
    batch_size: int = field(default=100, metadata={"help": "pictures drawn at a time"})
    guidance_scale: list[float] | None = field(default=None, metadata={"help": "one or more; default 2, if it has one"})
    num_inference_steps: list[int] = field(default_factory=lambda: [20], metadata={"help": "one or more"})
    scheduler: str | None = field(default=None, metadata={"help": f"{', '.join(SCHEDULERS)}; default: the model's own"})
    guidance_interval: list[float] | None = field(
        default=None, metadata={"help": "LOW HIGH, shares of the noise process"}
    )
    seed: int = field(default=0, metadata={"help": "picture k is drawn from the seed + k"})
    dtype: str = field(default="bfloat16", metadata={"help": "of the network: bfloat16 or float32"})
    resolution: int | None = field(default=None, metadata={"help": "side of the real pictures; default: as they are"})
    test_split: str = field(default="test", metadata={"help": "the split to measure against"})
    train_split: str = field(default="train", metadata={"help": "the split that gives the floor"})
    features: str = field(default="model_cards/fashion-features", metadata={"help": "the classifier to measure with"})
    output: str | None = field(default=None, metadata={"help": "default: metrics.json in the model's folder"})
    grid: bool = field(default=True, metadata={"help": "write samples.png of the first setting beside metrics.json"})

    def __post_init__(self) -> None:
        """Raises ValueError for what can be seen to be wrong without opening anything."""
        if self.scheduler is not None:
            self.scheduler = one_of("scheduler", self.scheduler, list(SCHEDULERS))
        self.dtype = one_of("dtype", self.dtype, list(DTYPES))
        lowest = {"num_samples": NEIGHBOURS + 1, "batch_size": 1, "seed": 0}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for steps in self.num_inference_steps:
            if steps < 1:
                raise ValueError(f"num_inference_steps must be at least 1, got {steps}")
        for scale in self.guidance_scale or []:
            if not (math.isfinite(scale) and scale >= 0):
                raise ValueError(f"guidance_scale must be a finite number of at least 0, got {scale}")
        interval = self.guidance_interval
        if interval is not None and not (len(interval) == 2 and 0 <= interval[0] <= interval[1] <= 1):
            raise ValueError(f"guidance_interval must be LOW HIGH with 0 <= LOW <= HIGH <= 1, got {interval}")


def one_of(name: str, value: str, allowed: list[str]) -> str:
    """`value` as it is spelled in `allowed`, in any case; else a ValueError with the nearest."""
    spelled = {word.lower(): word for word in allowed}
    if value.lower() in spelled:
        return spelled[value.lower()]
    near = get_close_matches(value.lower(), spelled, n=1, cutoff=0.4)
    hint = f" (did you mean {spelled[near[0]]}?)" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}{hint}")


def parse(arguments: list[str], description: str) -> tuple[str, Options]:
    """The model and the options of a command line.

    Raises:
        ValueError: an unknown flag, with the nearest that there is, or a value out of its range.
    """
    parser = HfArgumentParser(Options, prog="python -m training.evaluate", description=description)
    parser.add_argument("model", help="a pipeline's folder, or a Hub id")
    options, rest, unknown = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        near = get_close_matches(unknown[0], flags, n=1)
        raise ValueError(f"unknown argument {unknown[0]!r}" + (f" (did you mean {near[0]}?)" if near else ""))
    return rest.model, options
