"""A drawing as a square RGB image on white, and whether anything is to be seen on it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from training.data.decode import flatten

SIZE = 128
SUPERSAMPLED = 2 * SIZE  # SVGs are rendered at this width or height, and then shrunk


def render(content: bytes) -> np.ndarray:
    """An SVG, or an encoded raster image, as uint8 (SIZE, SIZE, 3): padded to a square, and shrunk with LANCZOS.

    Transparency is composited on white before the resize, which equals a resize in premultiplied alpha
    (training/data/decode.py). Raises ValueError for an SVG that cannot be read, Pillow's errors for a raster image."""
    if content.lstrip().startswith(b"<"):
        content = rasterized(content)
    with Image.open(io.BytesIO(content)) as opened:
        image = flatten(opened).convert("RGB")
    side = max(image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def rasterized(svg: bytes) -> bytes:
    """An SVG as a transparent PNG that is SUPERSAMPLED wide. No fonts are loaded: the drawings hold no text."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise ValueError("resvg-py draws the emoji: pip install -r requirements-dev.txt") from error
    return bytes(svg_to_bytes(svg_string=svg.decode(), width=SUPERSAMPLED, skip_system_fonts=True))


def is_blank(image: np.ndarray) -> bool:
    """Whether an image (H, W, 3) has no more to show than one colour."""
    return bool(image.std(axis=(0, 1)).max() < 1)
