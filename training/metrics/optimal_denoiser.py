"""The denoiser that a training set allows and no network can beat on it: the posterior mean over its points.

With x_0 one of M points y_i, all alike, and x_t = a x_0 + b eps, the minimum of E ||x_0 - f(x_t)||^2 is

    E[x_0 | x_t] = sum_i p_i y_i,      p_i = exp(-||x_t - a y_i||^2 / 2 b^2) / sum_j exp(-||x_t - a y_j||^2 / 2 b^2)

A sampler that runs on it draws nothing but training images: where a network draws others, it has to be another function
(Kadkhodaie et al. 2024, https://arxiv.org/abs/2310.02557). It is GaussianMixture(points, 0) of pipelines/exact.py for
sets that are too large for one array of all differences: chunk by chunk, in float64, the sums kept relative to the
largest exponent so far.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 5000  # points compared at once: 31 MB of 28x28 grey images


@dataclass(frozen=True)
class Posterior:
    """What x_t (N, *shape) says of the point that it came from.

    Attributes:
        mean: E[x_0 | x_t], (N, *shape), float64
        points: over how many points it is spread, exp of the entropy of p, (N,), from 1 to M
    """

    mean: Tensor
    points: Tensor


def posterior(points: Tensor, x_t: Tensor, a: float, b: float, chunk: int = CHUNK) -> Posterior:
    """The posterior over `points` (M, *shape) of each of `x_t` (N, *shape), b above 0.

    Raises:
        ValueError: no points, points of another shape than x_t's, or b of 0 or less.
    """
    if points.shape[1:] != x_t.shape[1:] or len(points) == 0:
        shapes = f"{tuple(points.shape)} and {tuple(x_t.shape)}"
        raise ValueError(f"points and x_t must be (M, *shape) and (N, *shape) with M of at least 1, got {shapes}")
    if not b > 0:
        raise ValueError(f"b must be above 0, got {b}")
    x = x_t.flatten(1).double()
    largest = torch.full((len(x), 1), -torch.inf, dtype=torch.float64)
    mass, weighted = torch.zeros_like(largest), torch.zeros_like(largest)
    total = torch.zeros_like(x)
    for part in points.split(chunk):
        y = part.flatten(1).double()
        # of -||x_t - a y||^2 / 2 b^2, without the part that is the same for every point
        exponents = (a * (x @ y.T) - 0.5 * a * a * y.square().sum(1)) / b**2
        before, largest = largest, torch.maximum(largest, exponents.amax(1, keepdim=True))
        kept = (before - largest).exp()
        shares = (exponents - largest).exp()
        # the mean of the exponents gives the entropy; relative to `largest`, which moves, they stay small
        shift = torch.where(kept > 0, before - largest, 0.0)
        weighted = kept * (weighted + mass * shift) + (shares * (exponents - largest)).sum(1, keepdim=True)
        mass = kept * mass + shares.sum(1, keepdim=True)
        total = kept * total + shares @ y
    entropy = mass.log() - weighted / mass
    return Posterior((total / mass).reshape(x_t.shape), entropy.squeeze(1).exp())
