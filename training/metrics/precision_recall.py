"""Improved precision and recall (Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991).

The manifold of a set is the union of balls around its points; the radius of a ball is the distance to its point's k-th
nearest neighbour. Precision is the share of samples inside the manifold of the real images (are they real?), recall the
share of real images inside the manifold of the samples (is everything there?). Both depend on the number of points in
the manifold: compare equal numbers only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CHUNK = 500  # rows of distances in memory at a time: 500 x 10,000 doubles are 40 MB


def precision_recall(real: np.ndarray, samples: np.ndarray, k: int = 3) -> tuple[float, float]:
    """(precision, recall), each in [0, 1], of features real (N, D) and samples (M, D).

    Raises:
        ValueError: widths that differ, values that are not finite, or `k` not in 1 to min(N, M) - 1.
    """
    if real.ndim != 2 or samples.ndim != 2 or real.shape[1] != samples.shape[1]:
        raise ValueError(f"real and samples must be (N, D) and (M, D), got {real.shape} and {samples.shape}")
    fewest = min(len(real), len(samples))
    if not 1 <= k < fewest:
        raise ValueError(f"k must be from 1 to {fewest - 1}, one less than the smaller set, got {k!r}")
    if not (np.isfinite(real).all() and np.isfinite(samples).all()):
        raise ValueError("real and samples must be finite, got NaN or infinity")
    a, b = torch.from_numpy(real).double(), torch.from_numpy(samples).double()
    return share_inside(b, a, radii(a, k)), share_inside(a, b, radii(b, k))


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (N, M), not by |a|^2 + |b|^2 - 2ab: its rounding would move points off a ball's surface."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point (N, D) to its k-th nearest neighbour other than itself, (N,)."""
    return torch.cat([distances(chunk, points).kthvalue(k + 1).values for chunk in points.split(CHUNK)])


def share_inside(points: Tensor, centres: Tensor, radius: Tensor) -> float:
    """Share of points (N, D) that lie in at least one ball around centres (M, D) of radius (M,)."""
    inside = [(distances(chunk, centres) <= radius).any(1) for chunk in points.split(CHUNK)]
    return torch.cat(inside).double().mean().item()
