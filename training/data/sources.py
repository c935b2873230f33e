"""A source of images: an `identity` that changes whenever the data change, and a way to read its rows.

A Source is cheap to make: its rows are read only if they are not in the cache. `folders.py` makes one from a folder of
image files, `hub.py` from anything that `datasets.load_dataset` opens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from training.data.decode import Item

Columns = dict[str, str | None]  # our name ("image", "label", "text") -> the data's name
OPTIONAL = {
    "label": "label",
    "text": "text",
}  # these defaults may be missing from the data: the user did not ask for them


@dataclass(frozen=True)
class Rows:
    """The encoded images in order, and the labels and captions of each."""

    items: Iterable[Item]
    count: int
    labels: list[int] | None
    class_names: list[str] | None
    captions: list[str | list[str]] | None


@dataclass(frozen=True)
class Source:
    """`name` is for messages, `identity` for the cache's key; `read(max_samples)` returns the rows."""

    name: str
    identity: str
    read: Callable[[int | None], Rows]


def evenly_spaced(count: int, max_samples: int | None) -> list[int]:
    """At most `max_samples` indices, evenly spaced over range(count), so that data sorted by class keep every class."""
    if max_samples is None or max_samples >= count:
        return list(range(count))
    return [i * count // max_samples for i in range(max_samples)]


def column(columns: Columns, ours: str, available: Iterable[str], where: str) -> str | None:
    """The data's name for our column; None if it is not wanted, or is a default that the data lack.

    Raises ValueError, with the columns that exist, if the user asked for a column that does not.
    """
    name = columns[ours]
    available = list(available)
    if name is None or name in available:
        return name
    if OPTIONAL.get(ours) == name:
        return None
    raise ValueError(f"{where} has no column {name!r} for the {ours}; it has: {', '.join(available)}")


def caption_of(value: object) -> str | list[str]:
    """A caption as text, "" if there is none; of a list of captions, those that say something, if there are several."""
    several = [str(entry) for entry in value if entry] if isinstance(value, list) else [value]
    if len(several) > 1:
        return several
    return "" if not several or several[0] is None else str(several[0])


def visible_files(folder: Path) -> list[str]:
    """All files below a folder except hidden ones: sorted relative paths with forward slashes; links are followed."""
    found: list[str] = []
    for path, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and not is_link_cycle(path, name)]
        prefix = Path(path).relative_to(folder).as_posix()
        found.extend(n if prefix == "." else f"{prefix}/{n}" for n in names if not n.startswith("."))
    return sorted(found)


def is_link_cycle(path: str, name: str) -> bool:
    """Whether a subfolder is a link to one of its own parents, which would be followed forever."""
    child = Path(path, name)
    return child.is_symlink() and Path(path).resolve().is_relative_to(child.resolve())
