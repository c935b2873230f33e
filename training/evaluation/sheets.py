"""Sheets of images with words below them: the contact sheet, and samples beside the training images nearest to them."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from training.data.sources import evenly_spaced
from training.files import write_whole
from training.metrics.feature_memorization import Neighbours

SHOWN = 64  # entries of a contact sheet
PAIRS = 24  # samples beside training images
SIDE = 96  # pixels of a shown image, at least about so many: small images are enlarged by whole factors
SIZE, LINE, LINES = 12, 15, 3  # of the words below: font, height of a line, and how many lines
GAP = 8


@dataclass(frozen=True)
class Cell:
    """8-bit images (C, H, W) of one size side by side, and the words below them."""

    images: tuple[np.ndarray, ...]
    text: str


@cache
def font() -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: it also has Greek, Cyrillic and Arabic letters."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), SIZE)


def sheet(cells: Sequence[Cell], columns: int, title: str) -> Image.Image:
    """Cells in rows of `columns` on white, below a title; words that do not fit in three lines end in dots."""
    height, width = cells[0].images[0].shape[1:]
    scale, across = max(1, round(SIDE / width)), len(cells[0].images)
    wide = across * (width * scale + 2) - 2
    words = [fitting(cell.text, wide, LINES) for cell in cells]
    high = height * scale + max(map(len, words)) * LINE + 4
    rows = -(-len(cells) // columns)
    size = (columns * (wide + GAP) + GAP, rows * (high + GAP) + GAP + 2 * LINE)
    drawn = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(drawn)
    pen.text((GAP, GAP), fitting(title, size[0] - 2 * GAP, 1)[0], "black", font())
    for number, (cell, below) in enumerate(zip(cells, words, strict=True)):
        row, column = divmod(number, columns)
        x, y = GAP + column * (wide + GAP), GAP + 2 * LINE + row * (high + GAP)
        for place, pixels in enumerate(cell.images):
            drawn.paste(enlarged(pixels, scale), (x + place * (width * scale + 2), y))
        for number_below, line in enumerate(below):
            pen.text((x, y + height * scale + 3 + number_below * LINE), line, "black", font())
    return drawn


def enlarged(pixels: np.ndarray, scale: int) -> Image.Image:
    """An 8-bit image (C, H, W), enlarged without smoothing."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def fitting(text: str, width: int, lines: int) -> list[str]:
    """Text in at most so many lines of `width` pixels; at least one line, which may be empty."""
    for letters in range(max(1, width // 4), 0, -1):  # no letter is narrower than 4 pixels on average
        found = textwrap.wrap(text, letters, max_lines=lines, placeholder="...") if letters > 3 else [text[:letters]]
        if all(font().getlength(line) <= width for line in found):
            return found or [""]
    return [""]


def png_bytes(image: Image.Image, note: str) -> bytes:
    """A PNG with the settings of what it shows (`note`) in its metadata."""
    info = PngImagePlugin.PngInfo()
    info.add_text("settings", note)
    buffer = io.BytesIO()
    image.save(buffer, format="png", pnginfo=info)
    return buffer.getvalue()


def write_contact_sheet(
    path: Path, pixels: np.ndarray, conditions: Sequence[str], is_grid: bool, seed: int, note: str
) -> None:
    """Write up to SHOWN of the samples (N, C, H, W), each with what it was told and its seed.

    Sample k has the seed `seed` + k and the condition of number k modulo theirs. In a grid each row is a condition,
    with the same number of seeds; otherwise the samples are spread over all. The choice depends on these numbers
    alone, so that the sheets of two models can be compared.
    """
    shown, columns = choose(len(pixels), len(conditions), is_grid)
    cells = [Cell((pixels[k],), with_seed(conditions[k % len(conditions)], seed + k)) for k in shown]
    write_whole(path, png_bytes(sheet(cells, columns, note), note))


def with_seed(condition: str, seed: int) -> str:
    """What an image was told, and its seed, in one line where there is room."""
    return f"{condition} (seed\N{NO-BREAK SPACE}{seed})".strip()


def choose(count: int, conditions: int, is_grid: bool) -> tuple[list[int], int]:
    """The numbers of the samples on a contact sheet, and its columns."""
    if not is_grid:
        return evenly_spaced(count, SHOWN), 8
    seeds = max(1, min(SHOWN // conditions, count // conditions))
    rows = [first for first in evenly_spaced(conditions, SHOWN) if first + (seeds - 1) * conditions < count]
    return [first + turn * conditions for first in rows for turn in range(seeds)], seeds if seeds > 1 else 8


def write_nearest(
    path: Path, pixels: np.ndarray, train: np.ndarray, neighbours: Neighbours, texts: Sequence[str], note: str
) -> None:
    """Write samples (N, C, H, W), each with the nearest and the second-nearest of `train` to its right.

    `neighbours` are those of the first samples, `texts` their conditions. Half of those shown are the ones with the
    least ratio, the likeliest copies; the others are spread over the rest.
    """
    order = neighbours.ratio.argsort(kind="stable")
    half = min(PAIRS // 2, len(order))
    rest = order[half:]
    shown = [*order[:half], *(rest[i] for i in evenly_spaced(len(rest), PAIRS - half))]
    cells = [neighbour_cell(k, pixels, train, neighbours, texts[k % len(texts)]) for k in shown]
    title = f"sample | nearest | second-nearest training image; the {half} with the least ratio first. {note}"
    write_whole(path, png_bytes(sheet(cells, 4, title), note))


def neighbour_cell(k: int, pixels: np.ndarray, train: np.ndarray, neighbours: Neighbours, text: str) -> Cell:
    """Sample `k` with its neighbours, and its ratio and its condition below them."""
    images = (pixels[k], *(np.asarray(train[i]) for i in neighbours.index[k]))
    return Cell(images, f"{neighbours.ratio[k]:.2f} {text}".strip())
