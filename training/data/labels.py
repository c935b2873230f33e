"""Class labels of any kind as whole numbers, and the names of the classes if they have any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Labels = tuple[list[int] | None, list[str] | None]


def labels_of(values: Sequence[Any], where: str, places: Sequence[str] = (), others: Sequence[Any] = ()) -> Labels:
    """Labels and class names from raw values. If all values are missing (None, "" or -1): (None, None).

    The classes are those present in `values` and in `others`, the values of the other splits, so that a class has the
    same number in each. Whole numbers (also as text) that are 0, 1, 2 and so on stay as they are and have no names;
    other numbers are numbered in order and named by themselves; text is numbered in sorted order.

    Raises ValueError if only some are missing, or if they are negative or not whole numbers. It names the first one's
    place in `places`, or else `where`.
    """
    missing = [i for i, value in enumerate(values) if is_missing(value)]
    if len(missing) == len(values):
        return None, None
    if missing:
        raise ValueError(f"{place(places, missing[0], where)}: {len(missing)} of {len(values)} labels are missing")
    values = [trimmed(value) for value in values]
    everything = values + [trimmed(value) for value in others if not is_missing(value)]
    if all(isinstance(value, str) for value in everything) and not all(value.isdecimal() for value in everything):
        return numbered(values, sorted(set(everything)))
    numbers = whole_numbers(values, where, places)
    present = sorted(set(numbers) | set(whole_numbers(everything[len(values) :], where)))
    if present == list(range(len(present))):
        return numbers, None
    labels, _ = numbered(numbers, present)
    return labels, [str(number) for number in present]


def is_missing(value: object) -> bool:
    """Whether a value stands for no label."""
    return trimmed(value) in (None, "", -1)


def trimmed(value: object) -> object:
    """A value without the spaces around it, if it is text."""
    return value.strip() if isinstance(value, str) else value


def numbered(values: Sequence[Any], classes: list[Any]) -> tuple[list[int], list[Any]]:
    """Each value's place among the classes, and the classes."""
    number = {name: i for i, name in enumerate(classes)}
    return [number[value] for value in values], classes


def whole_numbers(values: Sequence[Any], where: str, places: Sequence[str] = ()) -> list[int]:
    """The values as whole numbers of at least 0. Raises ValueError for any other."""
    numbers = []
    for i, value in enumerate(values):
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError) as error:
            wrong = f"labels must be text or whole numbers ({error})"
            raise ValueError(f"{place(places, i, where)}: {wrong}") from error
        if number < 0 or (not isinstance(value, str) and value != number):
            raise ValueError(f"{place(places, i, where)}: the label {value!r} is not a whole number of at least 0")
        numbers.append(number)
    return numbers


def place(places: Sequence[str], index: int, where: str) -> str:
    """Where value `index` stands, for a message."""
    return places[index] if places else where
