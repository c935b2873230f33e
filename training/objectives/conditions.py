"""What a network is given besides x_t and t: a dict of tensors, one row an example, each with a null for "none"."""

import torch
from torch import Tensor

from training.data import ImageData
from training.randomness import BatchRandom


def drop(
    conditions: dict[str, Tensor],
    nulls: dict[str, Tensor],
    share: float,
    rng: BatchRandom,
    stream: str = "label dropout",
) -> dict[str, Tensor]:
    """Conditions that are dropped at random, for classifier-free guidance (Ho & Salimans 2022, algorithm 1).

    Args:
        conditions: each (N, ...)
        nulls: by the same names, what stands for "none": the shape of one row, or one that broadcasts to it
        share: of the examples that lose their conditions, all of them at once, as a network without them has none
        rng: says which examples, from the numbers of `stream`; others than these drop another part on its own
    """
    dropped = rng.uniform(stream) < share

    def replaced(value: Tensor, null: Tensor) -> Tensor:
        rows = dropped.to(value.device).view(-1, *[1] * (value.ndim - 1))
        return torch.where(rows, null.to(value), value)

    return {name: replaced(value, nulls[name]) for name, value in conditions.items()}


def class_names_of(data: ImageData) -> tuple[str, ...]:
    """The names of the classes, or their numbers where the data have none."""
    return data.class_names or tuple(str(i) for i in range(int(data.labels.max()) + 1))
