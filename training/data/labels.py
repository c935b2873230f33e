"""Class labels of any kind as whole numbers, and the names of the classes if they have any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

Labels = tuple[list[int] | None, list[str] | None]


def labels_of(values: Sequence[Any], where: str) -> Labels:
    """Labels and class names from raw values. Whole numbers (also as text) stay as they are and have no names; other
    text is numbered in sorted order. If all values are missing (None, "" or -1): (None, None).

    Raises ValueError if only some are missing, or if they are negative or not whole numbers.
    """
    missing = sum(value in (None, "", -1) for value in values)
    if missing == len(values):
        return None, None
    if missing:
        raise ValueError(f"{where}: {missing} of {len(values)} labels are missing")
    if all(isinstance(value, str) for value in values):
        if not all(value.strip().isdecimal() for value in values):
            names = sorted(set(values))
            number = {name: i for i, name in enumerate(names)}
            return [number[value] for value in values], names
    try:
        labels = [int(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: labels must be text or whole numbers ({error})") from error
    wrong = next((v for v, n in zip(values, labels, strict=True) if n < 0 or (not isinstance(v, str) and v != n)), None)
    if wrong is not None:
        raise ValueError(f"{where}: the label {wrong!r} is not a whole number of at least 0")
    return labels, None


def labels_of_feature(dataset: Dataset, column: str) -> Labels:
    """Labels and class names of a column of a Hub data set; a ClassLabel column has the names."""
    from datasets import ClassLabel

    feature = dataset.features[column]
    labels, names = labels_of(dataset.with_format(None)[column][:], f"column {column!r}")
    if isinstance(feature, ClassLabel) and labels is not None:
        names = list(feature.names)
    return labels, names
