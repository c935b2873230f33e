"""Pictures side by side, enlarged without smoothing: a pixel of a 28-pixel picture is meant to be seen."""

import math

import numpy as np
from PIL import Image

WIDTH = 560  # pixels, about what the page gives to the grid
GAP = 4  # pixels between tiles, transparent: the page's own background shows


def grid(images: np.ndarray) -> Image.Image:
    """Tile (N, H, W, C) uint8 with C of 1 or 3 into a near square, each pixel a whole number of pixels wide."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = max(1, (WIDTH - GAP * (columns - 1)) // (columns * width))
    tiles = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale, width * scale
    sheet = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels + 1), np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[top : top + height, left : left + width, :-1] = tile
        sheet[top : top + height, left : left + width, -1] = 255
    return Image.fromarray(sheet, {1: "LA", 3: "RGBA"}[channels])


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """(N, H, W, C) in [0, 1] -> uint8, rounded as diffusers rounds its pictures."""
    return (pixels * 255).round().astype(np.uint8)
