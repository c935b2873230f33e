"""Image files to load, and what the cache made of them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from PIL import Image
from training_runs import noise


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    image.save(path, **options)
    return path


def encoded(tmp_path: Path, image: Image.Image, name: str = "one.png", **options: object) -> bytes:
    return save(tmp_path / name, image, **options).read_bytes()


def class_folders(root: Path, size: int = 6) -> np.ndarray:
    """Three grey images in the folders cat and dog, in the order in which they are loaded: (3, 1, size, size)."""
    images = noise(3, 1, size, size)
    for name, image in zip(("cat/a.png", "cat/b.png", "dog/a.png"), images, strict=True):
        save(root / name, image[0])
    return images


def pixel_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*/pixels.npy"))


def parquet_folder(root: Path, splits: dict[str, np.ndarray], names: tuple[str, ...]) -> Path:
    """A data set in parquet files: grey images (N, H, W) by split, of the named classes in turns, or of none."""
    import datasets

    kinds = {"image": datasets.Image()} | ({"label": datasets.ClassLabel(names=list(names))} if names else {})
    (root / "data").mkdir(parents=True)
    for split, pixels in splits.items():
        rows = {"image": [Image.fromarray(image) for image in pixels]}
        rows |= {"label": [i % len(names) for i in range(len(pixels))]} if names else {}
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
        table.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    return root


def write_idx(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Two of the files that Fashion-MNIST comes in, as its authors name them: `prefix` is train or t10k."""
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        path = folder / f"{prefix}-{kind}-ubyte.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(header + array.tobytes()))
