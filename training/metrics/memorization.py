"""Memorization: how far an image is from the nearest training image, and how far new real images are.

The distance is root-mean-square over the C H W values of two images, as values in [0, 1] (L2 per dimension): 0 for a
copy, and it does not grow with the size. A model that copies draws images that lie nearer to the training set than
images which it has never seen: the medians have a ratio below 1. Images that are smoother than real ones lie
nearer, too, so that a ratio a little below 1 is a reason to look, and no proof.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

CHUNK = 2000  # training images compared at a time


def nearest_distances(pixels: np.ndarray, train: np.ndarray, name: str = "images") -> np.ndarray:
    """Distance of each 8-bit image (N, C, H, W) to the nearest of `train` (M, C, H, W): float64 (N,), in [0, 1].

    Raises:
        ValueError: images of different shapes, or no training images.
    """
    if pixels.shape[1:] != train.shape[1:] or len(train) == 0:
        raise ValueError(f"pixels and train must be images of one shape, got {pixels.shape} and {train.shape}")
    x = flat(pixels)
    best = torch.full((len(x),), torch.inf)
    nearest = torch.zeros(len(x), dtype=torch.int64)
    bar = tqdm(range(0, len(train), CHUNK), desc=f"Training images near {name}", disable=None, leave=False)
    for start in bar:
        y = flat(train[start : start + CHUNK])
        # |x - y|^2 less |x|^2, which is the same for every y
        found = ((y * y).sum(1) - 2 * x @ y.T).min(1)
        nearer = found.values < best
        best = torch.where(nearer, found.values, best)
        nearest = torch.where(nearer, found.indices + start, nearest)
    # The products above are rounded: they choose the neighbour, and the distance to it is taken from the differences.
    return np.array([distance(a, train[i]) for a, i in zip(pixels, nearest.tolist(), strict=True)])


def flat(pixels: np.ndarray) -> Tensor:
    """8-bit images (N, C, H, W) -> float32 (N, C H W) in [0, 1]."""
    return torch.from_numpy(np.array(pixels)).flatten(1).float().div_(255)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root-mean-square difference of two 8-bit images, as values in [0, 1]."""
    difference = (a.astype(np.float64) - b) / 255
    return float(np.sqrt((difference**2).mean()))


class Memorization:
    """The median distance of images to the nearest training image, beside that of held-back test images.

    Args:
        train, test: 8-bit images (N, C, H, W)
        count: how many samples, and how many test images, are compared
        seed: which test images
    """

    def __init__(self, train: np.ndarray, test: np.ndarray, count: int, seed: int) -> None:
        self.train, self.count = train, count
        chosen = np.sort(np.random.default_rng(seed).permutation(len(test))[:count])
        self.held_back = float(np.median(nearest_distances(test[chosen], train, "test images")))

    def floor(self) -> dict[str, float]:
        """Of the test images; their ratio to themselves is 1."""
        return self._compared(self.held_back)

    def measure(self, pixels: np.ndarray) -> dict[str, float]:
        """Of the first `count` of the samples, and its ratio to that of the test images."""
        return self._compared(float(np.median(nearest_distances(pixels[: self.count], self.train, "samples"))))

    def _compared(self, distance: float) -> dict[str, float]:
        """No ratio where the test images are among the training images: nothing was held back to compare with."""
        ratio = {"nearest_train_ratio": distance / self.held_back} if self.held_back else {}
        return {"nearest_train_distance": distance} | ratio
