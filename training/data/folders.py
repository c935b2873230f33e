"""A folder of image files as a source of images: class folders, a flat folder, or one with metadata.csv or .jsonl."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

from training.data.labels import labels_of
from training.data.sources import Columns, Rows, Source, caption_of, column, evenly_spaced, visible_files

logger = logging.getLogger(__name__)

EXTENSIONS = frozenset(
    ".png .apng .jpg .jpeg .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif .tga .ico".split()
)
SPLITS = frozenset("train training test testing validation valid val dev eval".split())
METADATA = ("metadata.jsonl", "metadata.csv")


def folder_source(root: Path, split: str, columns: Columns) -> Source:
    """The source of a folder: class folders, a flat folder or one with metadata.csv / .jsonl, or a folder of such
    folders named train, test and so on.

    Raises ValueError if the folder does not exist or holds no images, and if it has no such split.
    """
    root = root.expanduser()
    if not root.is_dir():
        raise ValueError(f"train_data_dir={str(root)!r}: there is no such folder")
    splits = split_folders(root)
    if split not in splits:
        raise ValueError(f"split={split!r}: {root} has {', '.join(splits)}")
    folder = splits[split]
    files = image_files(folder)
    metadata = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if not files and metadata is None:
        kinds = " ".join(sorted(EXTENSIONS))
        raise ValueError(f"train_data_dir={str(folder)!r} holds no images (looked for {kinds})")
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for name in files:
        status = (folder / name).stat()
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    if metadata is None:
        classes = sorted({name.split("/")[0] for f in splits.values() for name in image_files(f) if "/" in name})
        digest.update(json.dumps(classes).encode())
        return Source(str(folder), digest.hexdigest(), lambda most: class_folder_rows(folder, files, classes, most))
    digest.update(metadata.read_bytes())
    return Source(str(folder), digest.hexdigest(), lambda most: metadata_rows(metadata, files, columns, most))


def split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split: the subfolders if all have names of splits, else root itself as "train"."""
    visible = [entry for entry in root.iterdir() if not entry.name.startswith(".")]
    folders = {entry.name: entry for entry in sorted(visible) if entry.is_dir()}
    loose = any(entry.name in METADATA or entry.suffix.lower() in EXTENSIONS for entry in visible if entry.is_file())
    if folders and not loose and SPLITS.issuperset(name.lower() for name in folders):
        return folders
    return {"train": root}


def image_files(folder: Path) -> list[str]:
    """The image files below a folder, as sorted paths relative to it with forward slashes; hidden ones left out."""
    return [name for name in visible_files(folder) if os.path.splitext(name)[1].lower() in EXTENSIONS]


def class_folder_rows(folder: Path, files: list[str], classes: list[str], max_samples: int | None) -> Rows:
    """The rows of class folders: the first folder in an image's path is its class.

    If any image lies outside the class folders, no image gets a class. `classes` are those of all splits, so that a
    class has the same number in each.
    """
    loose = sum("/" not in name for name in files)
    if classes and loose:
        logger.warning("%s: %d images lie outside the class folders, so that no image gets a class", folder, loose)
    files = [files[i] for i in evenly_spaced(len(files), max_samples)]
    items = [(name, folder / name) for name in files]
    if loose or not classes:
        return Rows(items, len(items), None, None, None)
    number = {name: i for i, name in enumerate(classes)}
    return Rows(items, len(items), [number[name.split("/")[0]] for name in files], classes, None)


def metadata_rows(metadata: Path, files: list[str], columns: Columns, max_samples: int | None) -> Rows:
    """The rows of metadata.csv or metadata.jsonl: images by file_name, with their labels and captions."""
    table = read_metadata(metadata)
    if not table:
        raise ValueError(f"{metadata} lists no images")
    available = list(dict.fromkeys(name for row in table for name in row))
    file_name = column({"file": "file_name"}, "file", available, str(metadata))
    label = column(columns, "label", available, str(metadata))
    text = column(columns, "text", available, str(metadata))
    listed = {row.get(file_name) for row in table}
    unlisted = [name for name in files if name not in listed]
    if unlisted:
        logger.warning(
            "%s does not list %d images (%s): they are left out", metadata, len(unlisted), ", ".join(unlisted[:3])
        )
    # classes are numbered over the whole table, so that max_samples does not renumber them
    labels, class_names = labels_of([row.get(label) for row in table], str(metadata)) if label else (None, None)
    chosen = evenly_spaced(len(table), max_samples)
    items = [(str(name), metadata.parent / str(name)) for name in (table[i].get(file_name) for i in chosen)]
    captions = [caption_of(table[i].get(text)) for i in chosen] if text else None
    return Rows(items, len(items), labels and [labels[i] for i in chosen], class_names, captions)


def read_metadata(path: Path) -> list[dict[str, Any]]:
    """The rows of a .csv or .jsonl file. Raises ValueError that names a line that is not JSON."""
    text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte-order mark
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline=""), restkey="(surplus)"))
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not a JSON object ({error})") from error
    return rows
