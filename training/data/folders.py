"""A folder of image files as a source of images: class folders, a flat folder, or one with metadata.csv or .jsonl."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import unicodedata
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from training.data.labels import Labels, labels_of
from training.data.layout import EXTENSIONS, find_split, image_files, is_image, measured_on, split_folders, unwrapped
from training.data.metadata import Table, metadata_of, read_metadata, unread_metadata
from training.data.runs import is_run, report_runs
from training.data.sources import (
    Columns,
    Rows,
    Source,
    caption_of,
    column,
    evenly_spaced,
    formats,
    offer,
    status_of,
    visible_files,
)

logger = logging.getLogger(__name__)


def folder_source(root: Path, split: str, columns: Columns) -> Source:
    """The source of a folder: class folders, a flat folder or one with metadata.csv / .jsonl, a folder of such folders
    named train, test and so on, or a folder that only wraps one of these. What training runs wrote in it is left out.

    Raises ValueError if the folder does not exist or holds no images, and if it has no such split.
    """
    root = root.expanduser()
    if not root.is_dir():
        what = "it is a file, not a folder" if root.exists() else "there is no such folder"
        raise ValueError(f"train_data_dir={str(root)!r}: {what}")
    report_runs(root)
    root = unwrapped(root)
    splits = split_folders(root)
    folder = find_split(splits, split, root)
    visible, metadata = visible_files(folder, is_run), metadata_of(folder)
    files = [name for name in visible if is_image(name)]
    unread = tuple(n for n in visible if not is_image(n) and (metadata is None or n != metadata.name))
    if not files and metadata is None:
        kinds = f"{' '.join(sorted(EXTENSIONS))}{f'; it has {formats(unread)}' if unread else ''}"
        raise ValueError(f"train_data_dir={str(folder)!r} holds no images (looked for {kinds})")
    digest = hashlib.sha256(os.fsencode(folder.resolve()))
    for name in files:
        digest.update(os.fsencode(f"{name}\0{status_of(folder / name)}\n"))
    others = [other for other in splits.values() if other != folder]
    if metadata is None:
        classes = class_folders([files, *map(image_files, others)])
        digest.update(json.dumps(classes).encode())
        read = partial(folder_rows, folder, files, classes)
        return Source(str(folder), digest.hexdigest(), read, partial(measured_on, splits), unread)
    tables = [metadata, *filter(None, map(metadata_of, others))]
    for path in tables:
        digest.update(path.read_bytes())
    read = partial(metadata_rows, tables, files, columns)
    return Source(str(folder), digest.hexdigest(), read, partial(measured_on, splits), unread)


def class_folders(splits: Iterable[list[str]]) -> list[str]:
    """The first folders in the paths of all images of all splits, sorted."""
    return sorted({name.split("/")[0] for files in splits for name in files if "/" in name})


def folder_rows(folder: Path, files: list[str], classes: list[str], max_samples: int | None) -> Rows:
    """The rows of class folders: the first folder in an image's path is its class.

    If any image lies outside the class folders, no image gets a class. `classes` are those of all splits, so that a
    class has the same number in each.
    """
    loose = sum("/" not in name for name in files)
    if classes and loose:
        logger.warning("%s: %d images lie outside the class folders, so that no image gets a class", folder, loose)
    why = f"{loose} images of {folder} lie in no class folder" if classes else f"{folder} has no class folders"
    untold = f"{folder} has neither metadata.csv nor metadata.jsonl"
    files = [files[i] for i in evenly_spaced(len(files), max_samples)]
    items = [(name, folder / name) for name in files]
    if loose or not classes:
        return Rows(items, len(items), None, None, None, why, untold)
    number = {name: i for i, name in enumerate(classes)}
    return Rows(items, len(items), [number[name.split("/")[0]] for name in files], classes, None, "", untold)


def metadata_rows(paths: list[Path], files: list[str], columns: Columns, max_samples: int | None) -> Rows:
    """The rows of metadata.csv or metadata.jsonl: images by file_name, with their labels and captions.

    `paths` are those of this split and then of the others, whose classes count, too.
    """
    table, others = read_metadata(paths[0]), [read_metadata(path) for path in paths[1:]]
    folder, where = table.path.parent, str(table.path)
    for name in unread_metadata(folder):
        logger.warning("%s is not read: %s is", folder / name, table.path.name)
    label = column(columns, "label", table.columns, where)
    text = column(columns, "text", table.columns, where)
    names = file_names(table, files)
    unlisted = sorted(set(files).difference(names))
    if unlisted:
        logger.warning(
            "%s does not list %d images (%s): they are left out", where, len(unlisted), ", ".join(unlisted[:3])
        )
    (labels, class_names), why = metadata_labels(table, others, label, columns)
    captions = [caption_of(row.get(text)) for row in table.rows] if text else None
    names, labels, captions = one_row_per_image(names, labels, captions)
    chosen = evenly_spaced(len(names), max_samples)
    items = [(names[i], folder / names[i]) for i in chosen]
    captions = captions and [captions[i] for i in chosen]
    untold = offer(columns, "text", table.columns, where)
    return Rows(items, len(items), labels and [labels[i] for i in chosen], class_names, captions, why, untold)


def one_row_per_image(
    names: list[str], labels: list[int] | None, captions: list[str | list[str]] | None
) -> tuple[list[str], list[int] | None, list[str | list[str]] | None]:
    """The same rows, of which those of one image and label are one, with all their captions.

    Otherwise a run that holds images back would train on them in their other rows.
    """
    rows: dict[tuple[str, int | None], list[str]] = {}
    for i, name in enumerate(names):
        said = rows.setdefault((name, labels and labels[i]), [])
        said += [] if captions is None else [captions[i]] if isinstance(captions[i], str) else captions[i]
    merged = [caption_of(list(dict.fromkeys(said))) for said in rows.values()]
    return (
        [name for name, _ in rows],
        labels and [label for _, label in rows],
        None if captions is None else merged,
    )


def metadata_labels(table: Table, others: list[Table], label: str | None, columns: Columns) -> tuple[Labels, str]:
    """The labels in column `label` and the names of their classes, and why there are none if so.

    Classes are numbered over all splits, whose tables `others` are: neither a split nor max_samples renumbers them.
    """
    if label is None:
        return (None, None), offer(columns, "label", table.columns, str(table.path))
    elsewhere = [row.get(label) for other in others for row in other.rows]
    labels = labels_of([row.get(label) for row in table.rows], str(table.path), table.places, elsewhere)
    return labels, f"column {label!r} of {table.path} is empty"


def file_names(table: Table, files: list[str]) -> list[str]:
    """The path of each row's image in the folder of the metadata: one of `files`, or what is given if there is none.

    A name may be written with the separators of Windows, or with accents composed in another way than on this disk.
    Raises ValueError for a row without a name, and for a name that leads out of the folder.
    """
    spelled = next((name for name in table.columns if re.sub(r"[\s_-]", "", name).lower() == "filename"), "file_name")
    column({"file": spelled}, "file", table.columns, f"{table.path}, line 1:")
    known, alike = set(files), {plain(name): name for name in files}
    found = []
    for place, row in zip(table.places, table.rows, strict=True):
        name = row.get(spelled)
        if not isinstance(name, str) or not name:
            raise ValueError(f"{place}: file_name must be the name of an image, got {name!r}")
        if name not in known:
            inside = within(table.path.parent, name)
            if inside is None:
                raise ValueError(f"{place}: file_name must lie in the folder of the file, got {name!r}")
            name = alike.get(plain(inside), inside)
        found.append(name)
    return found


def plain(name: str) -> str:
    """A name with composed accents, as most systems write them; macOS takes them apart."""
    return unicodedata.normalize("NFC", name)


def within(folder: Path, name: str) -> str | None:
    """The path `name`, relative or absolute, of any system, relative to `folder`; None if it lies elsewhere."""
    name = name.replace("\\", "/")
    if re.match(r"[A-Za-z]:", name):
        return None  # a drive of Windows
    for root in (os.path.abspath(folder), os.path.realpath(folder)):
        path = os.path.normpath(os.path.join(root, name))
        if Path(path).is_relative_to(root):
            return os.path.relpath(path, root)
    return None
