"""What a network is given besides x_t and t: a dict of tensors, one row per image, each with a null for "none"."""

import torch
from torch import Tensor

from pipelines.conditions import Conditions, Nulls, nulls_for
from training.data import ImageData
from training.randomness import BatchRandom


def drop(
    conditions: Conditions, nulls: Nulls, share: float, rng: BatchRandom, stream: str = "label dropout"
) -> Conditions:
    """Conditions that are dropped at random, for classifier-free guidance (Ho & Salimans 2022, algorithm 1).

    Args:
        conditions: each (N, ...)
        nulls: what a network is given instead, by the same names; a condition without a null is never dropped
        share: of the images that lose their conditions, all of them at once, as guidance asks for all nulls at once
        rng: says which images, from the numbers of `stream`; those of another stream drop a part on its own
    """
    dropped, without = rng.uniform(stream) < share, nulls_for(conditions, nulls)

    def mixed(value: Tensor, null: Tensor) -> Tensor:
        rows = dropped.to(value.device).view(-1, *[1] * (value.ndim - 1))
        return torch.where(rows, null, value)

    return {name: mixed(value, without[name]) for name, value in conditions.items()}


def class_names_of(data: ImageData) -> tuple[str, ...]:
    """The names of the classes, or their numbers where the data have none."""
    return data.class_names or tuple(str(i) for i in range(int(data.labels.max()) + 1))
