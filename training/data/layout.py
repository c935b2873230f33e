"""How a folder of images is laid out: the folders of its splits, and folders that only wrap the data."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from training.data.metadata import metadata_of
from training.data.runs import is_run
from training.data.sources import visible_entries, visible_files, walk_visible

logger = logging.getLogger(__name__)

EXTENSIONS = frozenset(
    ".png .apng .jpg .jpeg .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif .tga .ico".split()
)
SPLITS = {  # the names of a split's folder, in any case
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
}
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}


def measured_on(splits: Iterable[str]) -> str | None:
    """The split that a model is measured on: one for testing, or else for validation; None if there is neither."""
    named = {SPLIT_OF[name.lower()]: name for name in splits if name.lower() in SPLIT_OF}
    return named.get("test") or named.get("validation")


def is_image(name: str) -> bool:
    """Whether a file has the extension of a format that is read here; Pillow may have been built without AVIF."""
    extension = os.path.splitext(name)[1].lower()
    return extension in EXTENSIONS and extension in Image.registered_extensions()


def image_files(folder: Path) -> list[str]:
    """The image files below a folder, as sorted paths relative to it with forward slashes.

    Hidden files, and what training runs wrote, are left out.
    """
    return [name for name in visible_files(folder, is_run) if is_image(name)]


def unwrapped(root: Path) -> Path:
    """The folder that holds the data: `root`, or what it wraps, as an unpacked archive does with its class folders."""
    while (inner := wrapped_folder(root)) is not None:
        logger.info("%s only wraps %s, which is taken for the data", root, inner.name)
        root = inner
    return root


def split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split: the subfolders with images if all have names of splits, else root itself as "train"."""
    folders = folders_with_data(root)
    if not folders or holds_loose_data(root) or not all(name.lower() in SPLIT_OF for name in folders):
        return {"train": root}
    if all(wrapped_folder(folder) for folder in folders.values()):
        return {name: unwrapped(folder) for name, folder in folders.items()}
    return folders


def find_split(splits: dict[str, Path], split: str, root: Path) -> Path:
    """The folder of a split: of this very name, or else of another name for it, such as Train, training or valid.

    Raises ValueError, with the splits that there are, if there is none or more than one.
    """
    if split in splits:
        return splits[split]
    wanted = SPLIT_OF.get(split.lower())
    alike = [name for name in splits if wanted is not None and SPLIT_OF.get(name.lower()) == wanted]
    if len(alike) != 1:
        raise ValueError(f"split={split!r}: {root} has {', '.join(alike or splits)}{': keep one' if alike else ''}")
    return splits[alike[0]]


def wrapped_folder(folder: Path) -> Path | None:
    """The only subfolder with images, if it holds class folders, splits or metadata and is no class or split itself."""
    inside = folders_with_data(folder)
    if len(inside) != 1 or holds_loose_data(folder):
        return None
    name, inner = next(iter(inside.items()))
    if name.lower() in SPLIT_OF:
        return None
    wraps = metadata_of(inner) is not None or not holds_loose_data(inner)
    return inner if wraps else None


def folders_with_data(folder: Path) -> dict[str, Path]:
    """The visible subfolders that hold images, at any depth, or metadata, and no training run; sorted by name."""
    entries = visible_entries(folder)
    return {entry.name: entry for entry in entries if entry.is_dir() and not is_run(entry) and holds_data(entry)}


def holds_data(folder: Path) -> bool:
    """Whether a folder holds images, at any depth, or metadata."""
    return metadata_of(folder) is not None or any(is_image(name) for name in walk_visible(folder, is_run))


def holds_loose_data(folder: Path) -> bool:
    """Whether images or metadata lie in a folder itself."""
    images = (entry for entry in visible_entries(folder) if is_image(entry.name))
    return metadata_of(folder) is not None or any(not entry.is_dir() for entry in images)
