"""In which number format a run computes: a recipe's bfloat16 is left to machines that do not emulate it."""

import logging
from collections.abc import Mapping
from typing import Any

from training.launch import asked_for_cpu
from training.machine import emulates_bfloat16
from training.recipes import RECIPES, Recipe

logger = logging.getLogger(__name__)


def suited(row: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's row for this machine: in float32 where bfloat16 is emulated."""
    slow = row.get("mixed_precision") == "bf16" and emulates_bfloat16(asked_for_cpu())
    return {**row, "mixed_precision": "no"} if slow else dict(row)


def report_precision(recipe: Recipe) -> None:
    """Log that a run computes in float32 where its recipe has bfloat16, or that it emulates bfloat16."""
    if not emulates_bfloat16(asked_for_cpu()):
        return
    usual = RECIPES[recipe.recipe].get("mixed_precision", Recipe.mixed_precision)
    if recipe.mixed_precision == "bf16":
        logger.warning("mixed_precision is bf16, which this CPU emulates: no is many times faster")
    elif (recipe.mixed_precision, usual) == ("no", "bf16"):
        logger.info("mixed_precision is no and not the recipe's bf16, which this CPU would emulate, many times slower")
