"""A prepared data set as a folder: data/{train,test}-00000-of-00001.parquet, written whole or not at all."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.staging import staged

logger = logging.getLogger(__name__)

SPLITS = ("train", "test")


def parquet_of(folder: Path, split: str) -> Path:
    """The path at which load_dataset looks for a split."""
    return folder / "data" / f"{split}-00000-of-00001.parquet"


def is_complete(folder: Path, columns: tuple[str, ...]) -> bool:
    """Whether both parquet files exist, have a valid footer and rows, and hold these columns in this order."""
    import pyarrow.parquet as parquet

    try:
        files = [parquet.ParquetFile(parquet_of(folder, split)) for split in SPLITS]
    except (OSError, ValueError):  # ArrowInvalid is a ValueError
        return False
    return all(file.metadata.num_rows > 0 and tuple(file.schema_arrow.names) == columns for file in files)


def write_folder(out: Path, name: str, columns: tuple[str, ...], make: Callable[[Path], None]) -> None:
    """`make(folder)` writes the data set `name` into a temporary folder, which then becomes `out`.

    Returns at once if `out` is complete already. Raises ValueError if it holds something else.
    """
    if is_complete(out, columns):
        logger.info("%s is already complete", out)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not a complete {name}: remove it, or choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with staged(out) as made:
        (made / "data").mkdir(parents=True)
        make(made)
        os.replace(made, out)
    logger.info("wrote %s", out)


def png(image: np.ndarray) -> bytes:
    """One uint8 image, grey (H, W) or colour (H, W, 3), as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
