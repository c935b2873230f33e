"""What the commands of benchmarks/ have computed for the page, in data/: sheets of images and numbers beside them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DATA = Path(__file__).with_name("data")
SIDE = 28  # of the images, in pixels


@cache
def sheet(name: str) -> np.ndarray:
    """The images of a sheet, uint8 (rows, columns, SIDE, SIDE)."""
    with Image.open(DATA / f"{name}.png") as image:
        pixels = np.asarray(image.convert("L"))
    rows, columns = (length // SIDE for length in pixels.shape)
    return pixels.reshape(rows, SIDE, columns, SIDE).transpose(0, 2, 1, 3)


@cache
def numbers(name: str) -> dict[str, Any]:
    """The numbers that belong to a sheet."""
    return json.loads((DATA / f"{name}.json").read_text())
