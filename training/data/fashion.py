"""Fashion-MNIST: 60,000 + 10,000 garments in 10 classes, 28x28 grey, MIT (Xiao, Rasul, Vollgraf 2017).

The idx files of the Debian package `dataset-fashion-mnist`, or else the data set on the Hub, become a folder of parquet
that `datasets.load_dataset(folder)` reads. The images are not padded to 32x32: a U-Net can halve 28 to 14 and 7, and
bits per dimension would count the empty border.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from training.data.parquet_folder import parquet_of, png, write_folder

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HUB = "zalando-datasets/fashion_mnist"
FILES = {"train": "train", "test": "t10k"}  # split -> prefix of its two files
GARMENTS = {  # class name -> its name in captions, in the order of the labels
    "T-shirt/top": "a t-shirt",
    "Trouser": "a pair of trousers",
    "Pullover": "a pullover",
    "Dress": "a dress",
    "Coat": "a coat",
    "Sandal": "a sandal",
    "Shirt": "a shirt",
    "Sneaker": "a sneaker",
    "Bag": "a bag",
    "Ankle boot": "an ankle boot",
}
CAPTIONS = [f"a photo of {garment}, greyscale" for garment in GARMENTS.values()]
Split = tuple[np.ndarray, np.ndarray]  # images uint8 (N, H, W), labels uint8 (N,)


def prepare(out: Path, source: Path | None = None) -> None:
    """Write `out`/data/{train,test}-00000-of-00001.parquet, both or neither; return at once if they exist already.

    `source`: a folder with the four idx files. Default: the Debian package's folder, or else the Hub. Raises
    ValueError, in one line, if there is no source, if a file in it is damaged, or if `out` holds something else.
    """

    def make(folder: Path) -> None:
        for split, images, labels in read_splits(source):
            table(images, labels, split).to_parquet(parquet_of(folder, split))
            logger.info("%s: %d images", split, len(labels))

    write_folder(out, "Fashion-MNIST", ("image", "label", "text"), make)


def read_splits(source: Path | None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(split, images uint8 (N, 28, 28), labels (N,)) from `source`, the Debian package or the Hub."""
    if source is None and not DEBIAN.is_dir():
        yield from read_hub()
        return
    for split, prefix in FILES.items():
        yield split, *read_idx_pair(source or DEBIAN, prefix)


def read_hub() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The same from the Hub. Raises ValueError if the Hub cannot be reached."""
    from datasets import load_dataset

    for split in FILES:
        try:
            rows = load_dataset(HUB, split=split)
        except Exception as error:  # offline, refused or gone: the user can do the same about each
            raise ValueError(
                f"no Fashion-MNIST: install the Debian package dataset-fashion-mnist (no {DEBIAN} here), or go online "
                f"for the Hub data set {HUB} (unreachable), or give --source DIR with the four idx files"
            ) from error
        images = np.stack([np.asarray(image.convert("L")) for image in tqdm(rows["image"], disable=None)])
        yield split, images, np.asarray(rows["label"])


def read_idx_pair(folder: Path, prefix: str) -> Split:
    """Images (N, H, W) and labels (N,) of one split. Raises ValueError if they do not fit each other."""
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
    if len(images) != len(labels):
        raise ValueError(f"{folder}: {len(images)} {prefix} images but {len(labels)} labels")
    if labels.size and labels.max() >= len(GARMENTS):
        raise ValueError(f"{folder}: a {prefix} label is {labels.max()}, but the classes are 0 to {len(GARMENTS) - 1}")
    return images, labels


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes: two zeros, type 8, the rank, big-endian sizes, then the bytes."""
    if not path.is_file():
        raise ValueError(f"no {path}: --source must be a folder with the four Fashion-MNIST idx files")
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start], ">u4").tolist()
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != start + int(np.prod(shape)):
        raise ValueError(f"{path} is not an idx file of {dimensions} dimension(s)")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def table(images: np.ndarray, labels: np.ndarray, split: str) -> Dataset:
    """Images uint8 (N, H, W) and labels (N,) as a data set with the columns image, label and text."""
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    bar = tqdm(images, desc=f"Writing {split}", unit="img", disable=None)
    columns = {
        "image": [{"bytes": png(image), "path": f"{split}-{i:05d}.png"} for i, image in enumerate(bar)],
        "label": [int(label) for label in labels],
        "text": [CAPTIONS[label] for label in labels],
    }
    features = Features(image=ImageFeature(), label=ClassLabel(names=list(GARMENTS)), text=Value("string"))
    return Dataset.from_dict(columns, features=features)
