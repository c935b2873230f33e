"""The grid of a comparison as one image: cells that are filled one by one, with the values above and beside them."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .comparison import Comparison

TEXT, LINE = 26, 32  # pixels of the letters and of a line: on a phone the sheet is shown at less than half of its size
ACROSS = 6  # columns side by side; more go below
SIDES = (112, 224)  # of a cell, where the image is not larger
WIDTH = 560  # of all cells side by side, as far as `SIDES` let them
GAP, MARGIN = 8, 16
PAPER, INK, EMPTY = (255, 255, 255), (30, 34, 48), (236, 238, 243)
LONGEST = {"above": 3, "beside": 4, "below": 4}  # lines
BESIDE = 170  # pixels, at most, for the values of Y


class Sheet:
    """Cells of one size, blank in the beginning. Black on white, also on a dark page: it is saved as it is seen."""

    def __init__(self, comparison: Comparison, side: int, shared: str) -> None:
        """`side`: the longest of any image, in pixels; `shared`: the settings that stay, to be written below."""
        columns, rows = comparison.columns(), comparison.rows()
        blocks = -(-len(columns) // ACROSS)
        self.across = -(-len(columns) // blocks)
        self.side = max(side, min(max(WIDTH // self.across, SIDES[0]), SIDES[1]))
        self.rows = len(rows)
        beside = min(BESIDE, max(_width(row) for row in rows)) + GAP if comparison.y else 0
        self.left = MARGIN + beside
        self.titles = [f"{comparison.x.label} →"] + ([f"{comparison.y.label} ↓"] if comparison.y else [])
        above = [_lines(column, self.side, LONGEST["above"]) for column in columns]
        self.head = LINE * max(map(len, above)) + GAP
        self.block = self.head + self.rows * (self.side + GAP) + GAP
        self.top = MARGIN + LINE + GAP
        width = (
            max(self.left + self.across * (self.side + GAP) - GAP, MARGIN + _width("   ".join(self.titles))) + MARGIN
        )
        below = _lines(shared, width - 2 * MARGIN, LONGEST["below"])
        height = self.top + blocks * self.block + LINE * len(below) + MARGIN
        self.image = Image.new("RGB", (width, height), PAPER)
        self._pen = ImageDraw.Draw(self.image)
        self._write(["   ".join(self.titles)], MARGIN, MARGIN)
        self._write(below, MARGIN, self.top + blocks * self.block)
        for column, lines in enumerate(above):
            x, y = self._corner(0, column)
            self._write(lines, x, y - self.head, self.side)
        for (row, column), settings in comparison.cells.items():
            self._blank(row, column, "" if settings else "–")
        for row, label in enumerate(rows):
            lines = _lines(label, BESIDE, LONGEST["beside"])
            for block in range(blocks):
                _, y = self._corner(row, block * self.across)
                self._write(lines, MARGIN, y + (self.side - LINE * len(lines)) // 2)

    def place(self, row: int, column: int, pixels: np.ndarray) -> None:
        """Fill a cell with an image, (H, W, C) uint8, C of 1 or 3: each pixel becomes a square of a whole number."""
        scale = max(1, self.side // max(pixels.shape[:2]))
        flat = pixels.repeat(3 // pixels.shape[2], axis=2).repeat(scale, axis=0).repeat(scale, axis=1)
        x, y = self._corner(row, column)
        self.image.paste(PAPER, (x, y, x + self.side, y + self.side))
        height, width = flat.shape[:2]
        self.image.paste(Image.fromarray(flat), (x + (self.side - width) // 2, y + (self.side - height) // 2))

    def _corner(self, row: int, column: int) -> tuple[int, int]:
        block, place = divmod(column, self.across)
        y = self.top + block * self.block + self.head + row * (self.side + GAP)
        return self.left + place * (self.side + GAP), y

    def _blank(self, row: int, column: int, text: str) -> None:
        x, y = self._corner(row, column)
        self._pen.rectangle((x, y, x + self.side - 1, y + self.side - 1), fill=EMPTY)
        self._write([text], x, y + (self.side - LINE) // 2, self.side)

    def _write(self, lines: Sequence[str], x: int, y: int, centred_in: int = 0) -> None:
        for i, line in enumerate(lines):
            indent = (centred_in - _width(line)) // 2 if centred_in else 0
            self._pen.text((x + indent, y + i * LINE), line, INK, _font())


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The page's own, which comes with Gradio, or Pillow's where its FreeType does not read web fonts."""
    fonts = Path(gr.__file__).parent / "templates" / "frontend" / "static" / "fonts" / "IBMPlexSans"
    try:
        return ImageFont.truetype(str(fonts / "IBMPlexSans-Regular.woff2"), TEXT)
    except OSError:
        return ImageFont.load_default(TEXT)


def _width(text: str) -> int:
    return int(_font().getlength(text)) + 1


def _lines(text: str, width: int, most: int) -> list[str]:
    """`text` in at most `most` lines of `width` pixels; what does not fit ends in an ellipsis."""
    lines = [""]
    for word in text.replace("\n", " ").split(" "):
        joined = f"{lines[-1]} {word}".strip()
        if _width(joined) <= width or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(word)
    cut = len(lines) > most
    kept = lines[:most]
    kept[-1] += "…" * cut
    return [_shortened(line, width) for line in kept]


def _shortened(line: str, width: int) -> str:
    if _width(line) <= width:
        return line
    most = next(n for n in range(len(line), 0, -1) if n == 1 or _width(f"{line[:n]}…") <= width)
    return f"{line[:most]}…"
