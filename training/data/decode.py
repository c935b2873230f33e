"""Decodes an encoded image of any size and mode to a uint8 array of the requested size and channels.

The centre square is cropped and resized to `resolution` with LANCZOS (which low-pass filters when it shrinks) or by
area, to means of pixels, as the smaller images of a cascade are made. The result is that of "resize the shorter side,
then crop the centre". Images are never padded. Transparent images are composited on white *before* they are resized:
compositing is linear in premultiplied colours, so that this equals a premultiplied resize, and the colours of
transparent pixels cannot bleed in.
"""

from __future__ import annotations

import contextlib
import io
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

Encoded = bytes | Path | None
Item = tuple[str, Encoded]  # the name in messages, and the encoded image: its bytes, or its path
CHUNK = 16  # images per task: enough to hide the pool's overhead, few enough for large photographs
WORKERS = 8  # threads


class Decoded(NamedTuple):
    """A decoded image, and whether it was grey before any conversion."""

    pixels: np.ndarray  # uint8 (C, H, W)
    grey: bool


Answer = tuple[str, Decoded | Exception]  # the name, and the image or the error


def to_8_bit(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey (modes I;16*, and I from a PGM) to L, rounded to 256 levels; other modes are unchanged."""
    if not image.mode.startswith("I"):
        return image
    levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def flatten(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to L or RGB, with transparency on white. Raises ValueError for float images."""
    if image.mode == "F":
        raise ValueError("float images have no fixed range; save them as 8 or 16 bits")
    image = to_8_bit(image)
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    plain = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if not image.has_transparency_data:
        return image.convert(plain)
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert(plain)


RESIZES = {"lanczos": Image.Resampling.LANCZOS, "area": Image.Resampling.BOX}


def decode(encoded: Encoded, resolution: int | None, channels: int | None, resize: str = "lanczos") -> Decoded:
    """Decode one image. `resolution=None` keeps its size; `channels=None` gives 1 channel for a grey image (by its
    mode, or R = G = B) and 3 for any other; `resize` is a key of RESIZES. Raises
    Pillow's errors for a broken file, ValueError for a missing one."""
    if encoded is None:
        raise ValueError("no image in this row")
    if not isinstance(encoded, bytes):
        encoded = read_file(encoded)
    if not encoded:
        raise ValueError("the file is empty")
    with Image.open(io.BytesIO(encoded)) as opened:
        opened.load()
        turn_upright(opened)
        image = flatten(opened)
        if resolution is not None and image.size != (resolution, resolution):
            image = ImageOps.fit(image, (resolution, resolution), RESIZES[resize])
        pixels = np.array(image)
    grey = pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())
    wanted = channels or (1 if grey else 3)
    if pixels.ndim == 3 and wanted == 1:
        pixels = np.array(image.convert("L"))  # exact where the channels are equal
    if pixels.ndim == 2:
        return Decoded(np.broadcast_to(pixels, (wanted, *pixels.shape)), grey)
    return Decoded(np.ascontiguousarray(pixels.transpose(2, 0, 1)), grey)


def read_file(path: Path) -> bytes:
    """The content of a regular file. Raises ValueError for anything else: reading from a pipe would never end."""
    if path.is_file():
        return path.read_bytes()
    if path.is_symlink() and not path.exists():
        raise ValueError("a link to a file that is not there")
    raise ValueError("a pipe, a socket, a device or a folder, not a file" if path.exists() else "there is no such file")


def turn_upright(image: Image.Image) -> None:
    """Turn a loaded image as its EXIF data say. Where they are malformed it stays as it is."""
    with contextlib.suppress(Exception):  # Pillow raises nearly every type on malformed EXIF data
        ImageOps.exif_transpose(image, in_place=True)


def decode_chunk(items: list[Item], *how: Any) -> list[Answer]:
    """Decode some images as `decode` is told; for a broken one the answer is its exception."""
    answers: list[Answer] = []
    for name, encoded in items:
        try:
            answers.append((name, decode(encoded, *how)))
        except Exception as error:  # Pillow's plugins raise nearly every type on a corrupt file
            answers.append((name, error))
    return answers


def decode_all(items: Iterable[Item], *how: Any) -> Iterator[Answer]:
    """Decode in a pool of threads (Pillow releases the GIL), in order, with few images in memory at a time."""
    Image.init()  # before the threads start: loading Pillow's plugins is not thread-safe
    iterator = iter(items)
    pending: deque[Future[list[Answer]]] = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        while chunk := list(islice(iterator, CHUNK)):
            pending.append(pool.submit(decode_chunk, chunk, *how))
            if len(pending) > 2 * WORKERS:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
