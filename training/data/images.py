"""Loads folders of images and Hub data sets as arrays; they are decoded and resized once, then cached.

data = load_images(dataset_name="data/fashion")               # a folder of parquet, or a Hub id
data = load_images(train_data_dir="my_photos", resolution=64)  # class folders, flat, or with a metadata file
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from training.data import cache
from training.data.decode import RESIZES, Answer, Decoded, decode_all
from training.data.folders import folder_source
from training.data.held_back import part_of, share_of
from training.data.hub import dataset_source
from training.data.sources import Columns, Rows, Source, formats, pick

logger = logging.getLogger(__name__)
CLASSES_TOLD = 20


@dataclass(frozen=True)
class ImageData:
    """Images and what is known of them: row i of every field belongs to image i."""

    images: np.ndarray  # uint8 (N, C, H, W), a read-only memory map of the cache
    labels: np.ndarray | None  # int64 (N,)
    class_names: tuple[str, ...] | None  # None beside labels: the classes are the numbers 0 to labels.max()
    captions: tuple[str | tuple[str, ...], ...] | None  # of an image that has several, all of them
    skipped: int  # images that could not be decoded
    fingerprint: str  # hash of the decoded content and the decode settings
    unlabelled: str = ""  # why there are no labels, where more is known than that there are none
    uncaptioned: str = ""  # and no captions
    loaded: dict[str, Any] | None = (
        None  # how: size, channels, the share that is left out, and the fingerprint of the pixels
    )

    @property
    def unit(self) -> int:
        """How many pixels of a side one value of `images` stands for."""
        return 1

    def captions_of(self, index: np.ndarray, share: Tensor) -> list[str]:
        """A caption of each of the images `index` (N,); `share` (N,) in [0, 1) chooses among several."""
        several = [((c,) if isinstance(c, str) else c) for c in (self.captions[i] for i in index)]
        return [some[int(u * len(some))] for some, u in zip(several, share.tolist(), strict=True)]

    def take(self, index: np.ndarray, flipped: Tensor | None, like: Tensor) -> Tensor:
        """The images `index` for a network, (N, C, H, W) in [-1, 1], mirrored where `flipped` (N,) says so.

        On the device and in the dtype of `like`.
        """
        images = torch.from_numpy(self.images[index]).to(like.device).to(like.dtype) / 127.5 - 1
        if flipped is None:
            return images
        return torch.where(flipped.to(like.device)[:, None, None, None], images.flip(3), images)


@dataclass(frozen=True)
class Settings:
    """Everything but the source that decides the decoded pixels."""

    resolution: int | None
    channels: int | None
    max_samples: int | None
    resize: str = "lanczos"

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise ValueError(f"resize must be one of {', '.join(RESIZES)}, got {self.resize!r}")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels={self.channels!r}: allowed are 1 (grey), 3 (colour) and None (as in the data)")
        for name in ("resolution", "max_samples"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}={value!r}: must be a whole number of at least 1, or None")

    @property
    def told(self) -> dict[str, Any]:
        """By name, without the usual `resize`, of which data that were loaded before there was another say nothing."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("resize", "lanczos")}


def load_images(
    *,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    train_data_dir: str | Path | None = None,
    split: str = "train",
    resolution: int | None = None,
    resize: str = "lanczos",
    channels: int | None = None,
    image_column: str = "image",
    label_column: str | None = "label",
    caption_column: str | None = "text",
    cache_dir: str | Path | None = None,
    max_samples: int | None = None,
    validation_share: float | None = 0.0,
    is_held_back: bool = False,
) -> ImageData:
    """Load one split of `dataset_name` (a Hub id, or a folder of parquet) or of `train_data_dir` (a folder of images).

    `resolution`: the centre square of each image is resized to this. None keeps the size, which must be the same for
    all images.
    `resize`: how, "lanczos" or "area", to means of pixels.
    `channels`: 1 or 3 converts; None gives 1 if every image is grey, else 3.
    `label_column`, `caption_column`: None leaves them out. A default column may be missing from the data.
    `max_samples`: load only this many images, evenly spaced through the data, so that data sorted by class keep all.
    `validation_share`: leave out this share of the images, or with None the usual one, unless there is a split to
    measure on; with `is_held_back`, load these and no others.
    `cache_dir`: default $STEPWISE_CACHE, else ~/.cache/stepwise.

    Images that cannot be decoded are skipped, counted, and named in warnings. Raises ValueError, with what is allowed,
    for a source, split, column or setting that does not exist, and if no image can be decoded.
    """
    settings = Settings(resolution, channels, max_samples, resize)
    columns = {"image": image_column, "label": label_column, "text": caption_column}
    source = open_source(dataset_name, dataset_config_name, train_data_dir, split, columns)
    source = replace(source, read=functools.cache(source.read))  # what is wrong with it is told once
    share = share_of(validation_share, source, max_samples)

    def build(path: Path) -> dict[str, Any]:
        rows = source.read(settings.max_samples)
        rows = part_of(rows, share, is_held_back) if share else rows
        if not rows.count and is_held_back:
            raise ValueError(f"validation_share must hold back an image of {source.name}, {share:g} holds back none")
        return decode_into(path, source.name, rows, settings)

    part = [share, is_held_back, "by image"] if share else []
    key = cache.key_of(source.identity, settings.told, columns, split, *part)
    place = Path(cache_dir) if cache_dir is not None else cache.default_cache_dir()
    pixels, about = cache.cached(place, key, build)
    report(source, pixels, about)
    return ImageData(
        images=pixels,
        labels=None if about["labels"] is None else np.asarray(about["labels"], dtype=np.int64),
        class_names=None if about["class_names"] is None else tuple(about["class_names"]),
        captions=None if about["captions"] is None else tuple(map(_frozen, about["captions"])),
        skipped=len(about["skipped"]),
        fingerprint=about["fingerprint"],
        unlabelled=about["unlabelled"],
        uncaptioned=about["uncaptioned"],
        loaded=settings.told | {"validation_share": share, "fingerprint": about["fingerprint"]},
    )


def open_source(
    dataset_name: str | None,
    dataset_config_name: str | None,
    train_data_dir: str | Path | None,
    split: str,
    columns: Columns,
) -> Source:
    """The source of a split. Raises ValueError unless one of `dataset_name` and `train_data_dir` is given."""
    if (dataset_name is None) == (train_data_dir is None):
        raise ValueError("give one of dataset_name (a Hub id or a folder of parquet) and train_data_dir (of images)")
    if train_data_dir is not None:
        return folder_source(Path(train_data_dir), split, columns)
    return dataset_source(str(dataset_name), dataset_config_name, split, columns)


def decode_into(path: Path, source: str, rows: Rows, settings: Settings) -> dict[str, Any]:
    """Decode the rows of the source of this name into the .npy file `path`; returns the content of about.json."""
    kept: list[int] = []
    skipped: list[str] = []
    grey = 0
    digest = hashlib.sha256()
    answers = decode_all(rows.items, settings.resolution, settings.channels, settings.resize)
    bar = tqdm(answers, total=rows.count, desc=f"Decoding {source}", unit="img", disable=None)
    with cache.PixelWriter(path) as writer:
        for index, (name, answer) in enumerate(bar):
            if isinstance(answer, Exception):
                logger.warning("skipped %s: %s", name, " ".join(str(answer).split()) or type(answer).__name__)
                skipped.append(name)
                continue
            if writer.shape is not None and answer.pixels.shape[1:] != writer.shape[1:]:
                raise different_sizes(source, writer.shape, answer, bar)
            writer.append(answer.pixels)
            digest.update(answer.pixels.tobytes())
            kept.append(index)
            grey += answer.grey
    if not kept:
        raise ValueError(f"{source} holds no image that can be decoded ({len(skipped)} failed)")
    about = {
        "labels": pick(rows.labels, kept),
        "class_names": rows.class_names,
        "captions": pick(rows.captions, kept),
        "unlabelled": rows.unlabelled if rows.labels is None else "",
        "uncaptioned": rows.uncaptioned if rows.captions is None else "",
        "skipped": skipped,
        "grey": grey,
    }
    digest.update(json.dumps([settings.told, writer.shape, about["labels"], rows.class_names]).encode())
    digest.update(json.dumps(about["captions"]).encode())
    return about | {"fingerprint": digest.hexdigest()}


def _frozen(caption: str | list[str]) -> str | tuple[str, ...]:
    return caption if isinstance(caption, str) else tuple(caption)


def different_sizes(source: str, first: tuple[int, ...], second: Decoded, rest: Iterable[Answer]) -> ValueError:
    """The error for images that differ in size. It names a few of the sizes, found in the next hundred images."""
    following = [answer for _, answer in islice(rest, 100) if isinstance(answer, Decoded)]
    shapes = dict.fromkeys([tuple(first[1:]), *(answer.pixels.shape[1:] for answer in (second, *following))])
    few = ", ".join(f"{width}x{height}" for height, width in islice(shapes, 4))
    smallest = min(min(shape) for shape in shapes)
    return ValueError(
        f"the images of {source} differ in size ({few}{', ...' if len(shapes) > 4 else ''}): "
        f"choose one size for all with --resolution, such as --resolution {smallest}"
    )


def report(source: Source, pixels: np.ndarray, about: dict[str, Any]) -> None:
    """Log what was loaded and its classes, what was converted, and how many images and other files were left out."""
    count, channels, height, width = pixels.shape
    logger.info("%s: %d images, %d channel(s), %dx%d", source.name, count, channels, width, height)
    if about["labels"] is not None:
        logger.info("%s: %s", source.name, classes_text(about["labels"], about["class_names"]))
    elif about["unlabelled"]:
        logger.info("%s: no class labels: %s", source.name, about["unlabelled"])
    colour = count - about["grey"]
    if channels == 1 and colour:
        logger.warning("%s: %d colour images were converted to grey", source.name, colour)
    if channels == 3 and about["grey"]:
        logger.info("%s: %d grey images were given three equal channels", source.name, about["grey"])
    if about["skipped"]:
        first = ", ".join(about["skipped"][:5])
        logger.warning("%s: %d images skipped (%s)", source.name, len(about["skipped"]), first)
    if source.unread:
        first = f"{', '.join(source.unread[:3])}{', ...' if len(source.unread) > 3 else ''}"
        logger.warning("%s: files of formats that are not read: %s (%s)", source.name, formats(source.unread), first)


def classes_text(labels: list[int], names: list[str] | None) -> str:
    """ "2 classes: cat (8), dog (8)": how many images each class has; of many classes the first twenty."""
    counts = Counter(labels)
    known = names or [str(number) for number in range(max(labels) + 1)]
    told = [f"{name} ({counts[i]})" for i, name in enumerate(known[:CLASSES_TOLD])]
    more = [f"and {len(known) - CLASSES_TOLD} more"] if len(known) > CLASSES_TOLD else []
    return f"{len(known)} class{'' if len(known) == 1 else 'es'}: {', '.join(told + more)}"
