"""The prompts that a model's alignment is measured with, made of the captions of real images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.data.captions import caption
from training.data.sources import evenly_spaced
from training.evaluation.results import Row
from training.metrics.alignment import COLOURS

ASPECTS = {"concept": "hexcode", "subgroup": "sublabel", "group": "label", "vendor": "vendor"}
COLUMNS = ("text", "name", "tags", *ASPECTS.values())
KINDS = ("training", "held back", "recombined")


@dataclass(frozen=True)
class Known:
    """All real images, training images first.

    Attributes:
        pixels: uint8 (M, C, H, W)
        features: (M, D)
        about: a dict per image, of COLUMNS
        train: how many of them are training images
    """

    pixels: np.ndarray
    features: np.ndarray
    about: list[Row]
    train: int

    def of(self, aspect: str) -> list[object]:
        """The values of an aspect, one per image."""
        return [row[ASPECTS[aspect]] for row in self.about]


@dataclass(frozen=True)
class Prompt:
    """What to draw. `row` is the real image whose caption it is; None for one that nobody drew."""

    text: str
    about: Row
    row: int | None = None


def prompts_of(known: Known, count: int) -> dict[str, list[Prompt]]:
    """`count` prompts of each of KINDS, or as many as there are."""
    rows = [Prompt(about["text"], about, row) for row, about in enumerate(known.about)]
    mixed = list(recombined(known.about[: known.train]))
    kinds = (rows[: known.train], rows[known.train :], mixed)
    chosen = ([some[i] for i in evenly_spaced(len(some), count)] for some in kinds)
    return dict(zip(KINDS, chosen, strict=True))


def recombined(rows: list[Row]) -> Iterator[Prompt]:
    """Each concept with each vendor that has not drawn it."""
    drawn = {(row["hexcode"], row["vendor"]) for row in rows}
    for row in {row["hexcode"]: row for row in rows}.values():
        for vendor in sorted({row["vendor"] for row in rows}):
            if (row["hexcode"], vendor) not in drawn:
                yield Prompt(caption(row["name"], row["tags"], vendor), row | {"vendor": vendor})


def recoloured(rows: list[Row], count: int) -> list[tuple[str, str]]:
    """(prompt, colour asked for): up to `count`, of names with a colour word, then with each other one in its place."""
    word = re.compile(rf"\b({'|'.join(COLOURS)})\b")
    coloured = [row for row in rows if word.search(row["name"])]
    found = []
    for row in (coloured[i] for i in evenly_spaced(len(coloured), max(1, count // len(COLOURS)))):
        own = word.search(row["name"])[1]
        for colour in (own, *(other for other in COLOURS if other != own)):
            found.append((caption(word.sub(colour, row["name"]), (), row["vendor"]), colour))
    return found
