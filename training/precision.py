"""In which number format a run computes: a recipe's bfloat16 is left to machines that do not emulate it."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from training.launch import asked_for_cpu
from training.machine import emulates_bfloat16
from training.recipes import RECIPES, Recipe

logger = logging.getLogger(__name__)


def suited(row: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's row for this machine: in float32 where bfloat16 is emulated."""
    slow = row.get("mixed_precision") == "bf16" and _emulated()
    return {**row, "mixed_precision": "no"} if slow else dict(row)


def _emulated() -> bool:
    """Whether accelerate computes on a CPU that emulates bfloat16."""
    return emulates_bfloat16(on_cpu=asked_for_cpu() or not torch.accelerator.is_available())


def report_precision(recipe: Recipe) -> None:
    """Log that a run computes in float32 where its recipe has bfloat16, or that it emulates bfloat16."""
    if not _emulated():
        return
    usual = RECIPES.get(recipe.recipe, {}).get("mixed_precision")
    if recipe.mixed_precision == "bf16":
        logger.warning("mixed_precision is bf16, which this CPU seems to emulate: no is then many times faster")
    elif (recipe.mixed_precision, usual) == ("no", "bf16"):
        logger.info("computing in float32: this CPU seems to emulate bfloat16 (--mixed_precision bf16 asks for it)")
