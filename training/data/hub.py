"""A data set that `datasets.load_dataset` opens as a source of images: a Hub id, or a folder of parquet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from training.data.decode import Item
from training.data.labels import labels_of_feature
from training.data.sources import Columns, Rows, Source, caption_of, column, evenly_spaced, visible_files

if TYPE_CHECKING:
    from datasets import Dataset


def dataset_source(name: str, config: str | None, split: str, columns: Columns) -> Source:
    """The source of a Hub id or of a folder of parquet.

    A folder is identified by the content of its files, so that `datasets` is not imported when it is in the cache."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        place = str(folder)
        identity = f"{config}:{contents_of(folder)}"
        return Source(name, identity, lambda most: dataset_rows(open_dataset(place, config, split), columns, most))
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"dataset_name={name!r}: there is no such folder")
    dataset = open_dataset(name, config, split)
    return Source(name, f"{name}:{dataset._fingerprint}", lambda most: dataset_rows(dataset, columns, most))


def contents_of(folder: Path, whole_below: int = 256 << 20, tail: int = 1 << 20) -> str:
    """A hash of the files below a folder; of a very large file, of its size, time and tail (a parquet's footer)."""
    digest = hashlib.sha256()
    for name in visible_files(folder):
        status = (folder / name).stat()
        digest.update(f"{name}\0{status.st_size}\n".encode())
        with open(folder / name, "rb") as file:
            if status.st_size > whole_below:
                digest.update(str(status.st_mtime_ns).encode())
                file.seek(-tail, os.SEEK_END)
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def open_dataset(name: str, config: str | None, split: str) -> Dataset:
    """`datasets.load_dataset`; its failures become a ValueError of one line."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(name, config, split=split)
    except (DatasetsError, ConnectionError, FileNotFoundError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        if Path(name).is_dir() or isinstance(error, ValueError):  # ValueError: an unknown split or configuration
            raise ValueError(f"dataset_name={name!r}, split={split!r}: {reason}") from error
        raise ValueError(
            f"dataset_name={name!r}: no such folder here (python -m training.data NAME --out FOLDER prepares the "
            f"built-in data sets), and the Hub has no such data set or cannot be reached ({reason})"
        ) from error


def dataset_rows(dataset: Dataset, columns: Columns, max_samples: int | None) -> Rows:
    """The rows of a data set, its images still encoded. Raises ValueError for a column that does not exist."""
    from datasets import Image

    where = "the data set"
    image = column(columns, "image", dataset.column_names, where)
    label = column(columns, "label", dataset.column_names, where)
    text = column(columns, "text", dataset.column_names, where)
    labels, class_names = labels_of_feature(dataset, label) if label else (None, None)
    chosen = evenly_spaced(len(dataset), max_samples)
    if len(chosen) < len(dataset):
        dataset = dataset.select(chosen)
        labels = labels and [labels[i] for i in chosen]
    try:
        encoded = dataset.select_columns([image]).cast_column(image, Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # arrow raises all three
        raise ValueError(f"column {image!r} holds no images but {dataset.features[image]}") from error
    captions = [caption_of(value) for value in dataset[text]] if text else None
    return Rows(encoded_items(encoded, image), len(dataset), labels, class_names, captions)


def encoded_items(dataset: Dataset, image: str) -> Iterator[Item]:
    """(name, bytes or path) of each row, read by arrow batches, which is far quicker than row by row."""
    row = 0
    for batch in dataset.with_format("arrow").iter(batch_size=256):
        for cell in batch[image].to_pylist():
            path = (cell or {}).get("path")
            content = (cell or {}).get("bytes")
            name = f"row {row} ({path})" if path else f"row {row}"
            yield name, content if content is not None or not path else Path(path)
            row += 1
