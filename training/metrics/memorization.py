"""Memorization: the distance of samples to the nearest training image, compared with that of unseen real images.

The distance is the root-mean-square difference of two images over their C H W values in [0, 1]: 0 for a copy, and
independent of the size. The samples of a model that copies lie nearer to the training set than unseen images do, so
that the ratio of the two medians is below 1. Samples that are smoother than real images lie nearer as well: a ratio a
little below 1 is a reason to look, not a proof.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

CHUNK = 2000  # training images compared at once


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
        # |x - y|^2 without |x|^2, which is the same for every y
        found = ((y * y).sum(1) - 2 * x @ y.T).min(1)
        nearer = found.values < best
        best = torch.where(nearer, found.values, best)
        nearest = torch.where(nearer, found.indices + start, nearest)
    # The products above are rounded: they only choose the neighbour. Its distance is computed from the differences.
    return np.array([distance(a, train[i]) for a, i in zip(pixels, nearest.tolist(), strict=True)])


def flat(pixels: np.ndarray) -> Tensor:
    """8-bit images (N, C, H, W) -> float32 (N, C H W) in [0, 1]."""
    return torch.from_numpy(np.array(pixels)).flatten(1).float().div_(255)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root-mean-square difference of two 8-bit images, as values in [0, 1]."""
    difference = (a.astype(np.float64) - b) / 255
    return float(np.sqrt((difference**2).mean()))


class Memorization:
    """Compares the median distance of samples to the nearest training image with that of unseen test images.

    Args:
        train, test: 8-bit images (N, C, H, W)
        count: number of samples, and of test images, that are compared
        seed: chooses the test images
    """

    def __init__(self, train: np.ndarray, test: np.ndarray, count: int, seed: int) -> None:
        self.train, self.count = train, count
        chosen = np.sort(np.random.default_rng(seed).permutation(len(test))[:count])
        self.test_distance = float(np.median(nearest_distances(test[chosen], train, "test images")))

    def floor(self) -> dict[str, float]:
        """The numbers of the test images themselves: their ratio is 1."""
        return self._with_ratio(self.test_distance)

    def measure(self, pixels: np.ndarray) -> dict[str, float]:
        """The median distance of the first `count` samples, and its ratio to that of the test images."""
        return self._with_ratio(float(np.median(nearest_distances(pixels[: self.count], self.train, "samples"))))

    def _with_ratio(self, distance: float) -> dict[str, float]:
        """There is no ratio if the test images are training images too: their distance is 0."""
        ratio = {"nearest_train_ratio": distance / self.test_distance} if self.test_distance else {}
        return {"nearest_train_distance": distance} | ratio
