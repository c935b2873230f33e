"""Settings inside a PNG, in the text chunk `stepwise`: an image can be drawn again from its file alone."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

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
        ValueError: not an image, or one without our settings, by file name.
    """
    try:
        with Image.open(path) as image:
            image.load()  # text may follow the pixels
            return dict(json.loads(image.info[KEY]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"image must be a PNG that this page drew: {Path(path).name} holds no settings") from error
