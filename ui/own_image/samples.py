"""The image that a visitor looks at: one of their own, or one of those that the page brings along."""

from functools import cache

import numpy as np
from PIL import Image, ImageOps

from ..catalogue import ModelInfo
from ..laboratory import recorded
from ..uploads import Upload, start_of

OWN = "your own"
GONE = "The image that was uploaded is no longer there: upload it again, or choose another one."


@cache
def samples() -> dict[str, Image.Image]:
    """Images of Fashion-MNIST by name, one of each class, those that no model was trained on first."""
    about, images = recorded.numbers("optimal_denoiser"), recorded.sheet("optimal_denoiser_images")[0]
    names = [
        f"{about['class_names'][each['label']]}, {kind} image"
        for kind, split in (("training", "train"), ("test", "test"))
        for each in about["sets"][split]["images"]
    ]
    found = dict(zip(names, map(Image.fromarray, images), strict=True))
    return dict(sorted(found.items(), key=lambda item: "training image" in item[0]))


def given(name: str, upload: Upload | None, info: ModelInfo) -> np.ndarray:
    """The image as the model sees it, (H, W, C) uint8 of its size and channels.

    Raises:
        ValueError: an upload that is not there.
    """
    height, width, channels = info.shape
    if name == OWN:
        if upload is None:
            raise ValueError(GONE)
        image = start_of(upload, None, info.shape).image
    else:
        image = ImageOps.fit(samples()[name], (width, height)).convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(height, width, channels)


def note(name: str, upload: Upload | None, info: ModelInfo) -> str:
    """What becomes of the image for this model, in words; "" for nothing."""
    height, width, channels = info.shape
    if name != OWN:
        own = samples()[name].size
        return "" if own == (width, height) else f"scaled from {own[0]}x{own[1]} to {width}x{height} pixels"
    done = upload.note(width, height) if upload else ""
    return ", ".join(part for part in (done, "in grey" if channels == 1 and upload else "") if part)
