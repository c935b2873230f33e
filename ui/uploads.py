"""Images that a visitor or a program gives to begin with: read, fitted to the model, and the mask that goes with them.

An image is turned as its EXIF data say, put on white where it is transparent, cropped to the middle in the model's
proportions, and scaled. A mask is treated alike, and where it touches a pixel it counts for all of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MOST_PIXELS = 80_000_000
KEPT = 1024  # longest side, in pixels, of what is kept of an upload: about 3 MB
OPAQUE = 128  # of 255: from here on a stroke counts, and a grey is white
BLACK = "mask_image must be white where the image is to be drawn anew, got one that is black there all over"


@dataclass(frozen=True)
class Upload:
    """An image as it was given.

    Attributes:
        image: "RGB", upright, on white, at most `KEPT` pixels long
        size: (width, height) of the file's, upright
        frames: how many the file has, of which this is the first
    """

    image: Image.Image
    size: tuple[int, int]
    frames: int = 1

    def note(self, width: int, height: int) -> str:
        """What becomes of it for a model of this size."""
        across, down = self.size
        side = min(across / width, down / height)
        middle = (round(side * width), round(side * height))
        parts = [f"the first of {self.frames} frames"] if self.frames > 1 else []
        parts += [f"the middle {middle[0]}x{middle[1]} of {across}x{down} pixels"] if middle != self.size else []
        parts += [f"scaled to {width}x{height}"] if middle != (width, height) else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Start:
    """What a run begins with, of the model's size: an image, and a mask, white where it is to be drawn anew."""

    image: Image.Image
    mask: Image.Image | None = None

    @property
    def kind(self) -> str:
        """The value of the setting `start`."""
        return "image" if self.mask is None else "mask"

    def arguments(self) -> dict[str, Any]:
        """Of the pipeline's `stream`."""
        return {"image": self.image} | ({} if self.mask is None else {"mask_image": self.mask})

    def save(self, folder: Path) -> list[str]:
        """Write image.png and mask.png, which the code on the page reads; the paths of what was written."""
        images = {folder / "image.png": self.image, folder / "mask.png": self.mask}
        written = {path: image for path, image in images.items() if image is not None}
        for path, image in written.items():
            image.save(path)
        return [str(path) for path in written]


def start_of(upload: Upload, mask: Image.Image | None, shape: tuple[int, int, int]) -> Start:
    """An upload and a mask, "L" of 0 and 255, for a model that draws `shape`, (height, width, channels).

    Raises:
        ValueError: a mask that is black all over in the part that the model draws.
    """
    height, width, channels = shape
    image = ImageOps.fit(upload.image, (width, height)).convert("L" if channels == 1 else "RGB")
    if mask is None:
        return Start(image)
    shares = ImageOps.fit(mask.convert("F"), (width, height), Image.Resampling.BOX)  # of 8 bits, small ones would be 0
    touched = np.asarray(shares) > 0
    if not touched.any():
        raise ValueError(BLACK)
    return Start(image, Image.fromarray(touched.astype(np.uint8) * 255))


def read(path: str, name: str = "image") -> Upload:
    """An image file of any size and kind, the first frame of an animation; `name` is that of the parameter.

    Raises:
        ValueError: no image that can be read, or one of too many pixels or bits, by file name and by what it is.
    """
    image, frames = _decoded(path, name)
    size = image.size
    image.thumbnail((KEPT, KEPT), Image.Resampling.BICUBIC)
    return Upload(image, size, frames)


def read_mask(path: str, upload: Upload, shape: tuple[int, int, int]) -> Image.Image:
    """A mask file as "L", 255 from a grey of a half upwards, else 0. `shape` is the model's (height, width, channels).

    Raises:
        ValueError: as `read`, or a mask that has neither the size of the upload nor that of the model.
    """
    image, _ = _decoded(path, "mask_image")
    (across, down), (height, width, _) = upload.size, shape
    if image.size not in (upload.size, (width, height)):
        sizes = f"{across}x{down}, as the image, or {width}x{height}, as the model draws"
        raise ValueError(f"mask_image must be of {sizes}, got {image.size[0]}x{image.size[1]}")
    return image.convert("L").point(lambda value: 255 * (value >= OPAQUE))


def painted(layers: list[Image.Image]) -> Image.Image | None:
    """What strokes on transparent layers, "RGBA" of one size, cover: "L", 255 there; None where nothing is painted."""
    covered = [np.asarray(layer.getchannel("A")) >= OPAQUE for layer in layers]
    if not covered or not np.any(covered):
        return None
    return Image.fromarray(np.any(covered, axis=0).astype(np.uint8) * 255)


def _decoded(path: str, name: str) -> tuple[Image.Image, int]:
    """The first image of a file, upright and "RGB" on white, and how many there are."""
    file, kinds = Path(path).name, ", ".join(FORMATS)
    try:
        with Image.open(path, formats=FORMATS) as image:
            size, animated = image.size, image.format in ("GIF", "PNG", "WEBP", "AVIF")
            upright = None
            if size[0] * size[1] <= MOST_PIXELS:
                frames = getattr(image, "n_frames", 1) if animated else 1
                image.seek(0)
                upright = ImageOps.exif_transpose(image)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} must have at most {MOST_PIXELS:,} pixels, got more in {file}") from error
    except Exception as error:  # a damaged file makes Pillow raise a dozen kinds
        raise ValueError(f"{name} must be an image that can be read ({kinds}), got {file}") from error
    if upright is None:
        raise ValueError(f"{name} must have at most {MOST_PIXELS:,} pixels, got {size[0]}x{size[1]} in {file}")
    if upright.mode in ("I", "F"):
        raise ValueError(f"{name} must have 8 or 16 bits per channel, got 32 in {file}")
    return _flat(upright), frames


def _flat(image: Image.Image) -> Image.Image:
    """Any mode as "RGB": of 16 bits the upper 8, and transparent parts on white."""
    if image.mode.startswith("I;16"):  # `convert` would cut off all above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
