"""Images side by side, enlarged without smoothing: a pixel of a 28-pixel image is meant to be seen."""

import math

import numpy as np
from PIL import Image

WIDTH = 560  # pixels, about what the page gives to the grid
LIVE_WIDTH = (
    280  # while it denoises: a quarter of the pixels to compress at each step, and the page enlarges them alike
)


def grid(images: np.ndarray, width: int = WIDTH) -> Image.Image:
    """Tile (N, H, W, C) uint8, C of 1 or 3, into a near square of about `width`.

    A pixel becomes a whole number of pixels, at least 1. Between tiles lies one of them, transparent: the page's own
    background shows.
    """
    count, height, across, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = max(1, width // (columns * (across + 1) - 1))
    sheet = np.zeros((rows, height + 1, columns, across + 1, channels + 1), np.uint8)
    for i, image in enumerate(images):
        sheet[i // columns, :height, i % columns, :across, :-1] = image
        sheet[i // columns, :height, i % columns, :across, -1] = 255
    flat = sheet.reshape(rows * (height + 1), columns * (across + 1), channels + 1)[:-1, :-1]
    return Image.fromarray(flat.repeat(scale, axis=0).repeat(scale, axis=1), {1: "LA", 3: "RGBA"}[channels])


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """(N, H, W, C) in [0, 1] -> uint8, rounded as diffusers rounds its images."""
    return (pixels * 255).round().astype(np.uint8)
