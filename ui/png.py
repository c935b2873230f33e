"""Settings inside a PNG, in the text chunk `stepwise`, so that an image can be drawn again from its file alone."""

import json
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

KEY = "stepwise"


def tag(image: Image.Image, settings: str) -> Image.Image:
    """`image` with the settings, one line of JSON, among what Gradio writes into a PNG as text. In place."""
    image.info.update({KEY: settings, "Software": "Stepwise"})
    return image


def save(image: Image.Image, path: Path, settings: str) -> Path:
    """Write a PNG with the settings inside."""
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
        ValueError: no image, or one without settings of ours.
    """
    try:
        with Image.open(path) as image:
            image.load()  # text may follow the pixels
            settings = json.loads(image.info[KEY])
    except (OSError, UnidentifiedImageError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"image must be a PNG that this page drew: {Path(path).name} holds no settings") from error
    if not isinstance(settings, dict):
        raise ValueError(f"image must be a PNG that this page drew: {Path(path).name} holds no settings")
    return settings
