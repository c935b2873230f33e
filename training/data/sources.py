"""A source of images: an `identity` that changes whenever the data change, and a way to read its rows.

A Source is cheap to make: its rows are read only if they are not in the cache. `folders.py` makes one from a folder of
image files, `hub.py` from anything that `datasets.load_dataset` opens.
"""

from __future__ import annotations

import logging
import os
import shlex
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.decode import Item

logger = logging.getLogger(__name__)

Columns = dict[str, str | None]  # our name ("image", "label", "text") -> the data's name
OPTIONAL = {
    "label": "label",
    "text": "text",
}  # these defaults may be missing from the data: the user did not ask for them
FLAGS = {"label": "--label_column", "text": "--caption_column"}
ALIKE = {  # words in the names of columns that may well be meant
    "label": ("label", "class", "category", "categories", "target"),
    "text": ("text", "caption", "prompt", "description"),
}


@dataclass(frozen=True)
class Rows:
    """The encoded images in order, and the labels and captions of each."""

    items: Iterable[Item]
    count: int
    labels: list[int] | None
    class_names: list[str] | None
    captions: list[str | list[str]] | None
    unlabelled: str = ""  # why there are no labels
    uncaptioned: str = ""  # why there are no captions


@dataclass(frozen=True)
class Source:
    """`name` is for messages, `identity` for the cache's key; `read(max_samples)` returns the rows.

    `unread` are the files that lie beside the images and are of no format that is read. `measured_on` gives the name of
    the split that a model is measured on, None if there is only one to train on.
    """

    name: str
    identity: str
    read: Callable[[int | None], Rows]
    measured_on: Callable[[], str | None]
    unread: tuple[str, ...] = ()


def pick(values: list[Any] | None, kept: list[int]) -> list[Any] | None:
    """The values at the indices `kept`."""
    return None if values is None else [values[i] for i in kept]


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


def offer(columns: Columns, ours: str, available: Iterable[str], where: str) -> str:
    """Why the data have no labels or captions: the columns that they have, and the flag for the likeliest of them."""
    available = list(available)
    if columns[ours] is None:
        return f"{FLAGS[ours]} was turned off"
    likely = next((name for word in ALIKE[ours] for name in available if word in name.lower()), None)
    flag = "" if likely is None else f"; {FLAGS[ours]} {shlex.quote(likely)}?"
    return f"{where} has no column {columns[ours]!r}; columns: {', '.join(available)}{flag}"


def caption_of(value: object) -> str | list[str]:
    """A caption as text, "" if there is none; of a list of captions, those that say something, if there are several."""
    several = [str(entry) for entry in value if entry] if isinstance(value, list) else [value]
    if len(several) > 1:
        return several
    return "" if not several or several[0] is None else str(several[0])


def visible_files(folder: Path, left_out: Callable[[Path], bool] | None = None) -> list[str]:
    """All files below a folder except hidden ones: sorted relative paths with forward slashes; links are followed.

    A folder that cannot be read is named and left out, and so are folders for which `left_out` is true."""

    def unreadable(error: OSError) -> None:
        logger.warning("skipped %s: %s", error.filename, error.strerror)

    return sorted(walk_visible(folder, left_out, unreadable))


def walk_visible(
    folder: Path,
    left_out: Callable[[Path], bool] | None = None,
    unreadable: Callable[[OSError], None] | None = None,
) -> Iterator[str]:
    """The same one by one, in any order; `unreadable` is called for a folder that cannot be read."""
    for path, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".") and not is_link_cycle(path, name)]
        folders[:] = [name for name in folders if left_out is None or not left_out(Path(path, name))]
        prefix = Path(path).relative_to(folder).as_posix()
        yield from (n if prefix == "." else f"{prefix}/{n}" for n in names if not n.startswith("."))


def visible_entries(folder: Path) -> list[Path]:
    """Files and folders in a folder itself except hidden ones, sorted; none if it cannot be read."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return []


def is_link_cycle(path: str, name: str) -> bool:
    """Whether a subfolder is a link to one of the folders on the way to it, which would be followed forever."""
    child = Path(path, name)
    if not child.is_symlink():
        return False
    target = child.resolve()
    return any(folder.resolve().is_relative_to(target) for folder in (Path(path), *Path(path).parents))


def status_of(path: Path) -> str:
    """A line that changes when a file does: its size and time. Of what is no regular file, that it is none."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size}\0{status.st_mtime_ns}" if stat.S_ISREG(status.st_mode) else "not a file"


def formats(names: Iterable[str]) -> str:
    """Files counted by their extensions, the most frequent first: "12 .heic, 1 .txt"."""
    counts = Counter(os.path.splitext(name)[1].lower() or "without extension" for name in names)
    return ", ".join(f"{count} {extension}" for extension, count in counts.most_common())
