"""A data set that `datasets.load_dataset` opens as a source of images: a Hub id, or a folder of parquet."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.data.decode import Item
from training.data.labels import Labels, labels_of
from training.data.layout import measured_on
from training.data.sources import Columns, Rows, Source, caption_of, column, evenly_spaced, offer, visible_files

if TYPE_CHECKING:
    from datasets import Dataset

IN_FILES = {  # words in the names of files that make them a split, as `datasets` reads them
    "test": {"test", "testing", "eval", "evaluation"},
    "validation": {"validation", "valid", "val", "dev"},
}


def dataset_source(name: str, config: str | None, split: str, columns: Columns) -> Source:
    """The source of a Hub id or of a folder of parquet.

    A folder is identified by the content of its files, so that `datasets` is not imported when it is in the cache."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        opened = Opened(str(folder), config, split)
        identity = f"{config}:{contents_of(folder)}"
        return Source(name, identity, partial(dataset_rows, opened, columns), partial(split_in_files, folder))
    if not folder.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(f"dataset_name={name!r}: there is no such folder")
    opened = Opened(name, config, split)
    identity = f"{name}:{opened.dataset._fingerprint}"
    return Source(name, identity, partial(dataset_rows, opened, columns), lambda: measured_on(opened.splits()))


def split_in_files(folder: Path) -> str | None:
    """The split that a model is measured on, by the names of the files, which `datasets` goes by, too."""
    words = {word for name in visible_files(folder) for word in re.split(r"[^a-z]+", name.lower())}
    return measured_on(split for split, names in IN_FILES.items() if words & names)


def contents_of(folder: Path, whole_below: int = 256 << 20, tail: int = 1 << 20) -> str:
    """A hash of the files below a folder; of a very large file, of its size, time and tail (a parquet's footer)."""
    digest = hashlib.sha256()
    for name in visible_files(folder):
        if not (folder / name).is_file():
            continue  # a dangling link, or a pipe, which would be read forever
        status = (folder / name).stat()
        digest.update(os.fsencode(f"{name}\0{status.st_size}\n"))
        with open(folder / name, "rb") as file:
            if status.st_size > whole_below:
                digest.update(str(status.st_mtime_ns).encode())
                file.seek(-tail, os.SEEK_END)
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Opened:
    """A split of a data set, opened when it is first asked for."""

    name: str
    config: str | None
    split: str

    @cached_property
    def dataset(self) -> Dataset:
        """The split. All failures of `datasets.load_dataset` become a ValueError of one line."""
        try:
            return self._load(split=self.split)
        except Exception as error:  # it raises nearly every type
            raise ValueError(refusal(self.name, self.config, self.split, error)) from error

    def _load(self, **chosen: str) -> Any:
        """With a cache for each content of a folder: by itself `datasets` reads one that has a card only once."""
        from datasets import config, load_dataset

        folder, usual = Path(self.name), Path(config.HF_DATASETS_CACHE)
        cache = str(usual / f"folder-{contents_of(folder)[:16]}") if folder.is_dir() else None
        return load_dataset(self.name, self.config, cache_dir=cache, **chosen)

    def splits(self) -> list[str]:
        """The names of all splits."""
        return list(self._load())

    def of_all_splits(self, column: str) -> list[Any]:
        """The values of a column in all splits that have it, which number the classes."""
        splits = self._load().values()
        return [value for rows in splits if column in rows.column_names for value in rows.with_format(None)[column][:]]


def refusal(name: str, config: str | None, split: str, error: Exception) -> str:
    """What is wrong with a data set, in a line, with what there is instead."""
    from datasets.exceptions import DatasetsError

    reason = " ".join(str(error).split()) or type(error).__name__
    listed = re.search(r"\[([^\]]+)\]", reason)
    there_is = listed[1][:600] if listed else reason[:300]
    if "Dataset scripts are no longer supported" in reason:
        return (
            f"dataset_name={name!r} is a loading script, which is not run here: choose a data set of parquet or image "
            f"files, or write its images into class folders for --train_data_dir ({reason[:300]})"
        )
    if "Config name is missing" in reason or "BuilderConfig" in reason:
        return f"dataset_config_name={config!r}: {name} has {there_is}; choose one with --dataset_config_name"
    if "Unknown split" in reason:
        return f"split={split!r}: {name} has {there_is}"
    if Path(name).is_dir() or not isinstance(error, (DatasetsError, OSError)):
        return f"dataset_name={name!r}, split={split!r}: {reason[:300]}"
    return (
        f"dataset_name={name!r}: no such folder here (python -m training.data NAME --out FOLDER prepares the "
        f"built-in data sets), and the Hub has no such data set or cannot be reached ({reason[:300]})"
    )


def dataset_rows(opened: Opened, columns: Columns, max_samples: int | None) -> Rows:
    """The rows of a data set, its images still encoded. Raises ValueError for a column that does not exist."""
    from datasets import Image

    dataset, where = opened.dataset, "the data set"
    image = column(columns, "image", dataset.column_names, where)
    label = column(columns, "label", dataset.column_names, where)
    text = column(columns, "text", dataset.column_names, where)
    labels, class_names = labels_of_column(opened, label) if label else (None, None)
    why = f"column {label!r} is empty" if label else offer(columns, "label", dataset.column_names, where)
    chosen = evenly_spaced(len(dataset), max_samples)
    if len(chosen) < len(dataset):
        dataset = dataset.select(chosen)
        labels = labels and [labels[i] for i in chosen]
    try:
        encoded = dataset.select_columns([image]).cast_column(image, Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # arrow raises all three
        raise ValueError(f"column {image!r} holds no images but {dataset.features[image]}") from error
    captions = [caption_of(value) for value in dataset[text]] if text else None
    unasked = offer(columns, "text", opened.dataset.column_names, where)
    return Rows(EncodedRows(encoded, image), len(dataset), labels, class_names, captions, why, unasked)


def labels_of_column(opened: Opened, name: str) -> Labels:
    """Labels and class names of a column; a ClassLabel column has the names, in which its numbers are places."""
    from datasets import ClassLabel

    feature, where = opened.dataset.features[name], f"column {name!r}"
    values = opened.dataset.with_format(None)[name][:]
    if not isinstance(feature, ClassLabel):
        return labels_of(values, where, others=opened.of_all_splits(name))
    labels, _ = labels_of(values, where, others=range(feature.num_classes))
    return labels, None if labels is None else list(feature.names)


@dataclass(frozen=True)
class EncodedRows:
    """(name, bytes or path) of each row, read by arrow batches, which is far quicker than row by row."""

    dataset: Dataset
    image: str

    def __iter__(self) -> Iterator[Item]:
        """From the first row on, each time."""
        row = 0
        for batch in self.dataset.with_format("arrow").iter(batch_size=256):
            for cell in batch[self.image].to_pylist():
                path = (cell or {}).get("path")
                content = (cell or {}).get("bytes")
                name = f"row {row} ({path})" if path else f"row {row}"
                yield name, content if content is not None or not path else Path(path)
                row += 1
