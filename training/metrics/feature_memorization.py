"""Memorization in features: how near samples come to the training image nearest to them, and to the second nearest.

    ratio = |f(x) - f(y_1)| / |f(x) - f(y_2)|, with y_1 and y_2 the nearest and second-nearest training images

A new image is about as far from both, and the ratio is near 1; that of a copy is near 0. Below a third, an image counts
as a copy (Yoon et al. 2023, https://openreview.net/forum?id=shciCbSk9h; Bonnaire et al. 2025,
https://arxiv.org/abs/2505.17638). Where the training set holds an image twice, or nearly so, a copy of it has two near
neighbours and its ratio may stay high: compare the distance, too, and both with those of images that were held back.

The features are those of a network that has not seen the training images; one that has knows them apart from others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

CHUNK = 2000  # training images compared at once
COPIED_BELOW = 1 / 3  # the ratio of a copy
MEASURES = ("nearest_feature_distance", "nearest_to_second_ratio", "copied_share")


@dataclass(frozen=True)
class Neighbours:
    """The two training images nearest to each of N images: `index` int64 (N, 2), `distance` float64 (N, 2)."""

    index: np.ndarray
    distance: np.ndarray

    @property
    def ratio(self) -> np.ndarray:
        """The nearest distance over the second nearest, (N,) in [0, 1]; 0 for an exact copy, of however many images."""
        nearest, second = self.distance.T
        return np.divide(nearest, second, out=np.zeros_like(nearest), where=nearest > 0)


def two_nearest(features: np.ndarray, train: np.ndarray) -> Neighbours:
    """The rows of `train` (M, D) nearest to each of `features` (N, D), by Euclidean distance.

    Raises:
        ValueError: widths that differ, fewer than two training images, or values that are not finite.
    """
    if features.ndim != 2 or features.shape[1:] != train.shape[1:] or len(train) < 2:
        shapes = f"{features.shape} and {train.shape}"
        raise ValueError(f"features and train must be (N, D) and (M, D) with M of at least 2, got {shapes}")
    if not (np.isfinite(features).all() and np.isfinite(train).all()):
        raise ValueError("features and train must be finite, got NaN or infinity")
    x = torch.from_numpy(np.array(features, dtype=np.float64))
    best, index = torch.empty(len(x), 0, dtype=torch.float64), torch.empty(len(x), 0, dtype=torch.int64)
    for start in range(0, len(train), CHUNK):
        y = torch.from_numpy(np.array(train[start : start + CHUNK], dtype=np.float64))
        found = (y * y).sum(1) - 2 * x @ y.T  # and |x|^2, which is the same for every y
        here = torch.arange(start, start + len(y)).expand(len(x), -1)
        best, index = torch.cat([best, found], 1), torch.cat([index, here], 1)
        best, kept = best.topk(2, largest=False)
        index = index.gather(1, kept)
    chosen = index.numpy()
    # those sums are rounded, and choose the neighbours only: their distances are computed from the differences
    difference = features[:, None].astype(np.float64) - train[chosen]
    distance = np.sqrt((difference**2).sum(-1))
    order = distance.argsort(1, kind="stable")
    return Neighbours(np.take_along_axis(chosen, order, 1), np.take_along_axis(distance, order, 1))


def memorization(neighbours: Neighbours) -> dict[str, float]:
    """MEASURES: the median distance to the nearest training image, the median ratio, and the share of copies."""
    ratio = neighbours.ratio
    values = (np.median(neighbours.distance[:, 0]), np.median(ratio), np.mean(ratio < COPIED_BELOW))
    return dict(zip(MEASURES, map(float, values), strict=True))
