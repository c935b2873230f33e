"""Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, https://arxiv.org/abs/1706.08500).

    d^2 = |mu_1 - mu_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)

tr (S_1 S_2)^(1/2) is computed as the sum of the singular values of S_1^(1/2) S_2^(1/2). That is real for any two
covariances, and accurate for singular ones too, where a matrix square root of S_1 S_2 loses half of the digits.

It is called FID only in Inception's features. It falls as the number of samples grows: compare equal numbers only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Statistics:
    """Mean (D,) and covariance (D, D), in float64, and number of a set of features."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int


def statistics(features: np.ndarray) -> Statistics:
    """Statistics of features (N, D).

    Raises:
        ValueError: fewer than two rows, or values that are not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must have the shape (N, D) with N of at least 2, got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features must be finite, got NaN or infinity")
    features = features.astype(np.float64)
    return Statistics(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)), len(features))


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """d^2 between two Gaussians with means (D,) and covariances (D, D), in float64; never negative.

    Raises:
        ValueError: shapes that do not fit.
    """
    mu1, sigma1, mu2, sigma2 = (np.asarray(a, dtype=np.float64) for a in (mu1, sigma1, mu2, sigma2))
    if mu1.ndim != 1 or mu2.shape != mu1.shape or sigma1.shape != 2 * mu1.shape or sigma2.shape != 2 * mu1.shape:
        shapes = ", ".join(str(a.shape) for a in (mu1, sigma1, mu2, sigma2))
        raise ValueError(f"mu1, sigma1, mu2, sigma2 must have the shapes (D,), (D, D), (D,), (D, D), got {shapes}")
    cross = np.linalg.svd(square_root(sigma1) @ square_root(sigma2), compute_uv=False).sum()
    distance = ((mu1 - mu2) ** 2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * cross
    return max(float(distance), 0.0)


def square_root(sigma: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance (D, D); eigenvalues made negative by rounding count as 0."""
    values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
