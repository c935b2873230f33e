"""Emoji, each drawn in several styles: about 10,600 colour images of 1,600 concepts, 128x128 on white.

The drawings come from npm packages of pinned versions under licences that allow it, their names from emojibase-data.
Skin tones, flags of countries, keycaps and letters are left out. All images of a concept are in the same split: vendors
draw it alike, and the three Fluent sets are one vendor's drawings.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from training.data.captions import caption
from training.data.emoji.card import Count, card
from training.data.emoji.names import FILES, Emoji, Emojibase, read_emojibase
from training.data.emoji.packages import members, package_file
from training.data.emoji.render import is_blank, render
from training.data.emoji.vendors import EMOJIBASE, Vendor, vendors_of
from training.data.parquet_folder import SPLITS, is_complete, parquet_of, png, write_folder

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

HELD_BACK = 0.1  # of the concepts
COLUMNS = ("image", "label", "sublabel", "text", "captions", "name", "tags", "vendor", "hexcode")
CAPTIONS = 8  # of each image, of different parts, of which training draws one each time


@dataclass(frozen=True)
class DrawnEmoji:
    """One row of the data set. `png` is the encoded image."""

    emoji: Emoji
    vendor: str
    png: bytes


def prepare(out: Path, source: Path | None = None, style: str | None = None) -> None:
    """Write `out`/data/{train,test}-00000-of-00001.parquet and a data card, or nothing; return at once if complete.

    `source`: a folder with the .tgz files of the packages. Default: npm fetches them into the cache.
    `style`: the vendor to build. Default: all but Streamline, which a model may learn later as a new style.
    Raises ValueError, in one line, for a package that is missing or is not the expected one, for an unknown style, or
    if `out` holds something else."""
    vendors = vendors_of(style)
    check_styles(out, {vendor.style for vendor in vendors})
    write_folder(out, "emoji data set", COLUMNS, lambda folder: build(folder, vendors, source))


def check_styles(out: Path, styles: set[str]) -> None:
    """Raise ValueError if `out` is an emoji data set of other styles."""
    import pyarrow.parquet as parquet

    if not is_complete(out, COLUMNS):
        return
    found = set(parquet.read_table(parquet_of(out, "train"), columns=["vendor"])["vendor"].to_pylist())
    if found != styles:
        raise ValueError(f"{out} holds the styles {', '.join(sorted(found))}: remove it, or choose another --out")


def build(folder: Path, vendors: tuple[Vendor, ...], source: Path | None) -> None:
    """Write the data set and its card into `folder`. All packages are there before the first image is drawn."""
    packages = [package_file(package, source) for package in (EMOJIBASE, *(vendor.package for vendor in vendors))]
    emojibase = read_emojibase(members(packages[0], FILES))
    rows: dict[str, list[DrawnEmoji]] = {split: [] for split in SPLITS}
    counts = []
    for vendor, package in zip(vendors, packages[1:], strict=True):
        drawn, count = draw(vendor, package, emojibase)
        counts.append(count)
        logger.info("%s", count)
        for row in drawn:
            rows[split_of(row.emoji.hexcode)].append(row)
    for split in SPLITS:
        table(rows[split], emojibase).to_parquet(parquet_of(folder, split))
        concepts = len({row.emoji.hexcode for row in rows[split]})
        logger.info("%s: %d images of %d concepts", split, len(rows[split]), concepts)
    groups = {split: Counter(row.emoji.group for row in rows[split]) for split in SPLITS}
    (folder / "README.md").write_text(card(counts, groups), encoding="utf-8")


def draw(vendor: Vendor, package: Path, emojibase: Emojibase) -> tuple[list[DrawnEmoji], Count]:
    """All images of a vendor, and how many there are and are not. Blank and unreadable drawings are dropped."""
    drawings = vendor.read(package, emojibase)
    drawn: list[DrawnEmoji] = []
    dropped: list[str] = []
    for drawing in tqdm(drawings.wanted, desc=f"Drawing {vendor.style}", unit="img", disable=None):
        try:
            image = render(drawing.content)
        except (ValueError, OSError) as error:  # of resvg, and of Pillow
            logger.warning("%s: %s cannot be drawn: %s", vendor.style, drawing.name, error)
            dropped.append(drawing.name)
            continue
        if is_blank(image):
            dropped.append(drawing.name)
            continue
        drawn.append(DrawnEmoji(emojibase.emoji[drawing.hexcode], vendor.style, png(image)))
    return drawn, Count(vendor, len(drawn), drawings.left_out, tuple(dropped))


def split_of(hexcode: str) -> str:
    """The split of a concept, by a hash of its hexcode: the same in every version and style."""
    number = int.from_bytes(hashlib.sha256(hexcode.encode()).digest()[:8], "big") / 2**64
    return "test" if number < HELD_BACK else "train"


def captions_of(row: DrawnEmoji) -> list[str]:
    """The whole caption of an image, and others that leave out parts of it: the same ones in every build."""
    emoji, seed = row.emoji, f"{row.emoji.hexcode} {row.vendor}"
    parts = (caption(emoji.name, emoji.tags, row.vendor, Random(f"{seed} {i}")) for i in range(1, CAPTIONS))
    return [caption(emoji.name, emoji.tags, row.vendor), *parts]


def table(rows: list[DrawnEmoji], emojibase: Emojibase) -> Dataset:
    """The rows of one split. All groups and subgroups are classes of both splits."""
    from datasets import ClassLabel, Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    columns = {
        "image": [{"bytes": row.png, "path": f"{row.vendor}-{row.emoji.hexcode}.png"} for row in rows],
        "label": [emojibase.groups.index(row.emoji.group) for row in rows],
        "sublabel": [emojibase.subgroups.index(row.emoji.subgroup) for row in rows],
        "text": [caption(row.emoji.name, row.emoji.tags, row.vendor) for row in rows],
        "captions": [captions_of(row) for row in rows],
        "name": [row.emoji.name for row in rows],
        "tags": [list(row.emoji.tags) for row in rows],
        "vendor": [row.vendor for row in rows],
        "hexcode": [row.emoji.hexcode for row in rows],
    }
    text = {name: Value("string") for name in ("text", "name", "vendor", "hexcode")}
    classes = {
        "label": ClassLabel(names=list(emojibase.groups)),
        "sublabel": ClassLabel(names=list(emojibase.subgroups)),
    }
    lists = {name: List(Value("string")) for name in ("captions", "tags")}
    kinds = text | classes | lists | {"image": ImageFeature()}
    return Dataset.from_dict(columns, features=Features({name: kinds[name] for name in COLUMNS}))
