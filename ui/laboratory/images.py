"""Small images side by side, each with a caption, as HTML: they keep their pixels, and wrap on a phone."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image

from ..formulas import marked_up

Shown = tuple[str, np.ndarray]  # a caption, in which text after "_" is set below, and (H, W, C) or (H, W) uint8

CSS = """
.lab-images { display: grid; gap: 0.8rem; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); margin: 0; }
.lab-images.lab-small { grid-template-columns: repeat(auto-fill, minmax(4.2rem, 1fr)); gap: 0.5rem; }
.lab-images figure { margin: 0; min-width: 0; }
.lab-images img { display: block; width: 100%; image-rendering: pixelated; border-radius: 4px; }
.lab-images figcaption { margin-top: 0.2rem; font-size: 0.9rem; line-height: 1.3; overflow-wrap: anywhere; }
.lab-images.lab-small figcaption { font-size: 0.8rem; }
.lab-images + .lab-images, .lab-images + p { margin-top: 0.6rem; }
.lab-text h2 { font-size: 1rem; font-weight: 700; margin: 1rem 0 0.3rem; }
.lab-text p { margin: 0 0 0.4rem; }
"""


def side_by_side(images: Sequence[Shown], small: bool = False) -> str:
    """Figures in one grid."""
    kind = "lab-images lab-small" if small else "lab-images"
    return f'<div class="{kind}">{"".join(_figure(caption, pixels) for caption, pixels in images)}</div>'


def _figure(caption: str, pixels: np.ndarray) -> str:
    height, width = pixels.shape[:2]
    said = escape(caption, quote=True)
    image = f'<img src="{_address(pixels)}" alt="{said}" width="{width}" height="{height}">'
    return f"<figure>{image}<figcaption>{marked_up(said)}</figcaption></figure>"


def _address(pixels: np.ndarray) -> str:
    buffer = BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
