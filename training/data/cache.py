"""Decoded images on disk, as `<cache>/images-<key>/pixels.npy` and `about.json`.

An entry is written to a temporary folder beside its final path and then renamed, so that a reader never sees half of
one. If two processes build the same entry, the second rename fails and the second process uses the first one's entry.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from training.data.staging import staged, sweep

logger = logging.getLogger(__name__)

LAYOUT = 2  # part of every key: increase it when decoding or the layout of the files changes


def default_cache_dir() -> Path:
    """$STEPWISE_CACHE, else ~/.cache/stepwise."""
    return Path(os.environ.get("STEPWISE_CACHE") or Path.home() / ".cache" / "stepwise")


def key_of(*parts: object) -> str:
    """A hash of a JSON-serialisable description of the source and the settings."""
    return hashlib.sha256(json.dumps([LAYOUT, *parts], default=str).encode()).hexdigest()[:24]


class PixelWriter:
    """Appends uint8 images (C, H, W) to one .npy file of shape (N, C, H, W), where N is not known until it is closed.

    All images must have the same H and W. After the first image with 3 channels, all images with 1 channel get three
    equal ones, those already written included. It writes plainly and not through a memory map, so that a full disk
    raises OSError instead of SIGBUS.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shape: tuple[int, int, int] | None = None
        self.count = 0
        self._file = open(path, "wb")

    def __enter__(self) -> PixelWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None and self.shape is not None:
            self._header()  # numpy pads the header, so that a larger count fits in place
        self._file.close()

    def append(self, pixels: np.ndarray) -> None:
        """Add one image (C, H, W), C = 1 or 3."""
        if self.shape is None:
            self.shape = pixels.shape
            self._header()
        if pixels.shape[0] > self.shape[0]:
            self._promote()
        self._file.write(np.broadcast_to(pixels, self.shape).tobytes())
        self.count += 1

    def _header(self) -> None:
        self._file.seek(0)
        described = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(self._file, described)

    def _promote(self) -> None:
        """Rewrite the images written so far with three equal channels."""
        self._header()
        self._file.close()
        grey_path = self.path.with_suffix(".grey.npy")
        os.replace(self.path, grey_path)
        grey = np.load(grey_path, mmap_mode="r")
        self.shape = (3, *self.shape[1:])
        self._file = open(self.path, "wb")
        self._header()
        for image in grey:
            self._file.write(np.broadcast_to(image, self.shape).tobytes())
        del grey
        grey_path.unlink()


Entry = tuple[np.ndarray, dict[str, Any]]


def read_entry(place: Path) -> Entry | None:
    """The pixels as a read-only memory map and the content of about.json; None if the entry is absent or damaged."""
    try:
        about = json.loads((place / "about.json").read_text(encoding="utf-8"))
        if about.pop("checksum") != checksum(place / "pixels.npy", about):
            raise ValueError("the checksum is another one")
        return np.load(place / "pixels.npy", mmap_mode="r"), about
    except (OSError, ValueError, KeyError, AttributeError, TypeError, EOFError) as error:
        if place.exists():
            logger.warning("%s is damaged (%s) and is made again", place, " ".join(str(error).split()))
        return None


def checksum(pixels: Path, about: dict[str, Any]) -> int:
    """CRC-32 of a file of pixels and what is said about them: a few seconds for ten gigabytes."""
    found = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    with open(pixels, "rb") as file:
        while block := file.read(1 << 20):
            found = zlib.crc32(block, found)
    return found


def cached(cache_dir: Path, key: str, build: Callable[[Path], dict[str, Any]]) -> Entry:
    """The entry for `key`. If there is none, `build(path)` writes its pixels and returns its about.json."""
    place = cache_dir / f"images-{key}"
    entry = read_entry(place)
    if entry is not None:
        return entry
    cache_dir.mkdir(parents=True, exist_ok=True)
    sweep(cache_dir, r"images-\w+")
    with staged(place) as made:
        made.mkdir()
        about = build(made / "pixels.npy")
        about |= {"checksum": checksum(made / "pixels.npy", about)}
        (made / "about.json").write_text(json.dumps(about), encoding="utf-8")
        _put(made, place)
    entry = read_entry(place)
    if entry is None:
        raise OSError(f"the cache entry {place} cannot be read back")
    return entry


def _put(made: Path, place: Path) -> None:
    """Rename `made` to `place`, unless a valid entry is already there."""
    try:
        os.replace(made, place)
    except OSError:
        if read_entry(place) is not None:
            return  # another process was first
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)  # a damaged entry
        else:
            place.unlink(missing_ok=True)
        os.replace(made, place)
