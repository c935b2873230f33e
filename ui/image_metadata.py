"""Settings inside a PNG, in the text chunk `stepwise`: an image can be drawn again from its file alone."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from .uploads import MOST_PIXELS

KEY = "stepwise"


def tag(image: Image.Image, settings: str) -> Image.Image:
    """Add the settings, one line of JSON, to what Gradio writes into a PNG as text. Changes `image`, and returns it."""
    image.info.update({KEY: settings, "Software": "Stepwise"})
    return image


def save(image: Image.Image, path: Path, settings: str) -> Path:
    """Write a PNG with the settings, one line of JSON, inside."""
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    for key, value in tag(image, settings).info.items():
        if isinstance(value, str):
            text.add_itxt(key, value)
    image.save(path, "PNG", pnginfo=text)
    return path


def read(path: str | Path) -> dict[str, Any]:
    """The settings inside a PNG.

    Raises:
        ValueError: no PNG, one of too many pixels, or one without our settings, by file name.
    """
    name = Path(path).name
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height <= MOST_PIXELS:
                image.load()  # text may follow the pixels
                return dict(json.loads(image.info[KEY]))
            size = f"{image.width}x{image.height}"
    except Image.DecompressionBombError:
        size = "many more"
    except Exception as error:  # damaged files, and text that is too long or too deeply nested, raise a dozen kinds
        raise ValueError(f"image must be a PNG that this page drew: {name} holds no settings") from error
    raise ValueError(f"image must be a PNG that this page drew, of at most {MOST_PIXELS:,} pixels: {name} has {size}")
