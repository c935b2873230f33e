"""What a network is conditioned on: a dict of tensors with one row per image, named as the network's arguments.

    {"class_labels": (N,)}, {"encoder_hidden_states": (N, tokens, width)}, {"low_resolution": (N, C, H, W)}, ...

Each condition that is dropped in training has a null, what the network is given in its place: for class labels one more
label, for an embedding that of the empty prompt. Guidance asks for both.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor

Labels = int | str | list[int | str] | np.ndarray | Tensor | None
Conditions = dict[str, Tensor]
Nulls = Mapping[str, Tensor | int]  # a label, or a tensor that expands to the condition's shape


def nulls_for(conditions: Conditions, nulls: Nulls) -> Conditions:
    """`conditions` (N, ...) with each one that has a null replaced by it."""
    return {name: _filled(value, nulls[name]) if name in nulls else value for name, value in conditions.items()}


def joined(first: Conditions, second: Conditions) -> Conditions:
    """The rows of both, (N + M, ...)."""
    return {name: torch.cat([value, second[name]]) for name, value in first.items()}


def rows_of(conditions: Conditions, rows: Tensor) -> Conditions:
    """The chosen rows, on the device of `rows`."""
    return {name: value.to(rows.device)[rows] for name, value in conditions.items()}


def _filled(value: Tensor, null: Tensor | int) -> Tensor:
    return torch.as_tensor(null).to(value).expand_as(value)


@dataclass(frozen=True)
class Classes:
    """The classes that a network knows.

    Attributes:
        count: how many can be asked for; None for an unconditional network
        names: by index; None without names
        null: the label that stands for "no class"; None for a network that has none
        required: whether the network cannot go without a label
    """

    count: int | None
    names: list[str] | None
    null: int | None
    required: bool

    def __post_init__(self) -> None:
        """Raise ValueError for names of other classes than the network knows."""
        if self.names and self.count is not None and len(self.names) != self.count:
            raise ValueError(f"id2label must name {self.count} classes, got {len(self.names)}")

    def resolve(self, class_labels: Labels | Tensor, batch_size: int | None) -> tuple[Tensor | None, int]:
        """Class indices (N,) or None, and N.

        A single label is drawn `batch_size` times; a list, an array or a tensor gives one label per image, and so does
        a column of them, [[1], [2]].

        Raises:
            ValueError: an unknown name or index, a list that contradicts `batch_size`, labels for a network that
                takes none, or none for a network that cannot go without.
        """
        if class_labels is None:
            return self._without_labels(batch_size or 1)
        if self.count is None:
            raise ValueError(f"class_labels must be None for an unconditional network, got {class_labels!r}")
        class_labels = _listed(class_labels)
        many = class_labels if isinstance(class_labels, (list, tuple)) else [class_labels] * (batch_size or 1)
        if len(many) == 0 or (batch_size or len(many)) != len(many):
            raise ValueError(f"class_labels must have one entry per image, got {len(many)} for batch_size {batch_size}")
        return torch.tensor([self.index(label) for label in many]), len(many)

    def _without_labels(self, count: int) -> tuple[Tensor | None, int]:
        if self.required:
            raise ValueError(
                f"class_labels is required: the network was trained on {self.count} classes without dropout"
            )
        return (None if self.null is None else torch.full((count,), self.null)), count

    def index(self, label: int | str) -> int:
        """The index of a class by its index or its name.

        Raises:
            ValueError: no such class, or a name that several have.
        """
        if isinstance(label, str) and self.names:
            found = _classes_called(label, self.names)
            if len(found) > 1:
                raise ValueError(
                    f"class_labels must name one class, got {label!r}, which is the name of each of {found}"
                )
            if found:
                return found[0]
        elif isinstance(label, (int, np.integer)) and not isinstance(label, bool) and 0 <= label < self.count:
            return int(label)
        told = f" or one of {_few_names(str(label), self.names)}" if self.names else " (the model has no class names)"
        raise ValueError(f"class_labels must be 0 to {self.count - 1}{told}, got {label!r}")


def _classes_called(label: str, names: list[str]) -> list[int]:
    """Indices of the classes of that name, or else with that synonym; commas separate synonyms, as in ImageNet."""
    for spelled in (_normal, lambda name: _normal(name).casefold()):  # an exact match wins
        wanted, known = spelled(label.strip()), [spelled(name) for name in names]
        whole = [index for index, name in enumerate(known) if name == wanted]
        found = whole or [i for i, name in enumerate(known) if wanted in (part.strip() for part in name.split(","))]
        if found:
            return found
    return []


def _normal(name: str) -> str:
    """One spelling for letters with accents, which are one character or two."""
    return unicodedata.normalize("NFC", name)


def _listed(labels: Any) -> Any:
    """Labels in arrays, tensors or columns as Python's numbers, or a list of them."""
    if isinstance(labels, (Tensor, np.ndarray, np.generic)):
        labels = labels.tolist()
    if not isinstance(labels, (list, tuple)):
        return labels
    rows = [_listed(label) for label in labels]
    wide = [row for row in rows if isinstance(row, (list, tuple)) and len(row) != 1]
    if wide:
        raise ValueError(f"class_labels must have one entry per image, got {wide[0]} for one")
    return [row[0] if isinstance(row, (list, tuple)) else row for row in rows]


def _few_names(label: str, names: list[str]) -> str:
    """The names to choose from; of many, those that look like `label`."""
    if len(names) <= 20:
        return ", ".join(names)
    synonyms = [part.strip() for name in names for part in name.split(",")]
    return ", ".join([*(get_close_matches(label, synonyms) or synonyms[:3]), "..."])
