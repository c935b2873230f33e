"""In which number format a run computes: a recipe's bfloat16 is left to machines that are faster with it."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from training.launch import asked_for_cpu
from training.machine import slow_in_bfloat16
from training.recipes import RECIPES, Recipe

logger = logging.getLogger(__name__)


def suited(row: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's row for this machine: in float32 where bfloat16 is slower."""
    slow = row.get("mixed_precision") == "bf16" and _slow()
    return {**row, "mixed_precision": "no"} if slow else dict(row)


def _slow() -> bool:
    """Whether accelerate computes on a CPU that is slower in bfloat16 than in float32."""
    return slow_in_bfloat16(on_cpu=asked_for_cpu() or not torch.accelerator.is_available())


def report_precision(recipe: Recipe) -> None:
    """Log that a run computes in float32 where its recipe has bfloat16, or in a bfloat16 that is slower."""
    if not _slow():
        return
    usual = RECIPES.get(recipe.recipe, {}).get("mixed_precision")
    if recipe.mixed_precision == "bf16":
        logger.warning("mixed_precision is bf16, in which this CPU is slower than in float32 (--mixed_precision no)")
    elif (recipe.mixed_precision, usual) == ("no", "bf16"):
        logger.info("computing in float32: this CPU is slower in bfloat16 (--mixed_precision bf16 asks for it)")
