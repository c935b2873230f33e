"""Images that a run leaves out, so that it can be measured on images it has not seen.

Which these are depends on the labels, on the number of images and on which are there twice: training.evaluate finds the
same ones.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from itertools import compress

import numpy as np
from tqdm.auto import tqdm

from training.data.decode import Item
from training.data.sources import Rows, Source, pick

logger = logging.getLogger(__name__)

USUAL = 0.1
FEWEST = 4  # as many as precision and recall need


def held_back(count: int, labels: Sequence[int] | None, share: float) -> list[int]:
    """The indices of a `share` of `count` images, rounded down and spread over the classes; each keeps one image."""
    wanted = int(share * count + 1e-9)  # 0.1 * 30 is less than 3
    order = np.random.default_rng(0).permutation(count)
    classes = np.zeros(count, dtype=int) if labels is None else np.asarray(labels)
    order = order[classes[order].argsort(kind="stable")]
    chosen = {int(order[(2 * i + 1) * count // (2 * wanted)]) for i in range(wanted)}
    for number in np.unique(classes):
        members = order[classes[order] == number].tolist()
        if chosen.issuperset(members):
            chosen.remove(members[0])
    return sorted(chosen)


def part_of(rows: Rows, share: float, is_held_back: bool) -> Rows:
    """The rows that a run trains on, or those that it holds back; all rows of one image are on the same side."""
    first = first_rows(rows)
    images = sorted(set(first))
    out = {images[i] for i in held_back(len(images), pick(rows.labels, images), share)}
    chosen = [(index in out) == is_held_back for index in first]
    kept = list(compress(range(rows.count), chosen))
    return Rows(
        compress(rows.items, chosen),
        len(kept),
        pick(rows.labels, kept),
        rows.class_names,
        pick(rows.captions, kept),
        rows.unlabelled,
        rows.uncaptioned,
    )


def first_rows(rows: Rows) -> list[int]:
    """For each row the first one with the same image: data with a row per caption have several of one image."""
    known: dict[bytes, int] = {}
    bar = tqdm(rows.items, total=rows.count, desc="Comparing images", unit="img", disable=None)
    return [known.setdefault(digest_of(item), index) for index, item in enumerate(bar)]


def digest_of(item: Item) -> bytes:
    """What equal files share; of one that cannot be read, what no other has."""
    name, encoded = item
    try:
        return hashlib.sha256(encoded if isinstance(encoded, bytes) else encoded.read_bytes()).digest()
    except (OSError, AttributeError):  # no file, or an empty cell
        return name.encode()


def share_of(wanted: float | None, source: Source, max_samples: int | None) -> float | None:
    """The share of a source's images that a run holds back; None for nothing, as it usually is for such a source.

    Nothing is held back where there is a split to measure on. Unless a share is `wanted`, it is a tenth, or nothing
    where that is too few to measure with.
    """
    if wanted == 0:
        return wanted
    split = source.measured_on()
    if split is not None:
        told = "" if wanted is None else f", and --validation_share {wanted:g} holds nothing back"
        logger.info("%s: training.evaluate measures on its split %r%s", source.name, split, told)
        return None
    rows = source.read(max_samples)
    share = USUAL if wanted is None else wanted
    count = len(held_back(rows.count, rows.labels, share))
    if wanted is None and count < FEWEST:
        return None
    logger.info("%s: %d of %d images are held back for training.evaluate", source.name, count, rows.count)
    if count < FEWEST:
        logger.warning(
            "training.evaluate needs %d images that were held back; --validation_share sets how many", FEWEST
        )
    return share
