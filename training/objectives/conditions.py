"""The conditions of a network, its inputs besides x_t and t: a dict of tensors, one row per image, each with a null."""

import torch
from torch import Tensor

from pipelines.conditions import Conditions, Nulls, nulls_for
from training.data import ImageData
from training.randomness import BatchRandom


def drop(
    conditions: Conditions, nulls: Nulls, share: float, rng: BatchRandom, stream: str = "label dropout"
) -> Conditions:
    """Replace conditions by their nulls at random, for classifier-free guidance (Ho & Salimans 2022, algorithm 1).

    Args:
        conditions: each (N, ...)
        nulls: the nulls, by the same names; a condition without a null is never dropped
        share: share of images that lose their conditions, all at once, because guidance uses all nulls at once
        rng: chooses the images with the numbers of `stream`; another stream drops other conditions independently
    """
    dropped, without = rng.uniform(stream) < share, nulls_for(conditions, nulls)

    def mixed(value: Tensor, null: Tensor) -> Tensor:
        rows = dropped.to(value.device).view(-1, *[1] * (value.ndim - 1))
        return torch.where(rows, null, value)

    return {name: mixed(value, without[name]) for name, value in conditions.items()}


def class_names_of(data: ImageData) -> tuple[str, ...]:
    """The names of the classes; their numbers if the data have no names."""
    return data.class_names or tuple(str(i) for i in range(int(data.labels.max()) + 1))
