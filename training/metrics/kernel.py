"""Kernel distance between two sets of features (Binkowski et al. 2018, https://arxiv.org/abs/1801.01401).

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
    k(x, y) = (x.y / D + 1)^3

The estimate is unbiased, unlike that of the Frechet distance: its mean does not depend on the number of images, and it
can be slightly below 0 if the sets agree. It is taken over all pairs, where torchmetrics' KernelInceptionDistance
averages over random subsets: the mean is the same, without the noise of the subsets. It is called KID only in
Inception's features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CHUNK = 1000  # rows of the kernel in memory at a time: 1,000 x 10,000 doubles are 80 MB


def kernel_distance(real: np.ndarray, samples: np.ndarray, within_real: float | None = None) -> float:
    """The unbiased estimate of MMD^2 for features real (N, D) and samples (M, D), in float64.

    `within_real` is `mean_within(real)`, if it is known already.

    Raises:
        ValueError: widths that differ, fewer than two rows, or values that are not finite.
    """
    if real.ndim != 2 or samples.ndim != 2 or real.shape[1] != samples.shape[1]:
        raise ValueError(f"real and samples must be (N, D) and (M, D), got {real.shape} and {samples.shape}")
    if min(len(real), len(samples)) < 2:
        raise ValueError(f"real and samples must have at least 2 rows, got {len(real)} and {len(samples)}")
    if not (np.isfinite(real).all() and np.isfinite(samples).all()):
        raise ValueError("real and samples must be finite, got NaN or infinity")
    across = sum_of_kernel(real, samples) / (len(real) * len(samples))
    return (mean_within(real) if within_real is None else within_real) + mean_within(samples) - 2 * across


def mean_within(features: np.ndarray) -> float:
    """Mean of the kernel over all pairs of different rows of (N, D)."""
    x = torch.from_numpy(features).double()
    diagonal = kernel((x * x).sum(1), x.shape[1]).sum().item()
    return (sum_of_kernel(features, features) - diagonal) / (len(x) * (len(x) - 1))


def sum_of_kernel(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of the kernel over all pairs of rows of (N, D) and (M, D)."""
    x, y = torch.from_numpy(a).double(), torch.from_numpy(b).double()
    return sum(kernel(chunk @ y.T, x.shape[1]).sum().item() for chunk in x.split(CHUNK))


def kernel(products: Tensor, width: int) -> Tensor:
    """(x.y / D + 1)^3 from the inner products x.y."""
    return (products / width + 1) ** 3
