"""The optimal denoiser of a training set, chunk by chunk, is the posterior mean over its points."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines import GaussianMixture, NoiseSchedule
from training.metrics.optimal_denoiser import posterior

SCHEDULE = NoiseSchedule.cosine(1000)


def images(count: int, seed: int) -> torch.Tensor:
    """8-bit images of 28x28 in [-1, 1], smooth enough to have neighbours."""
    generator = torch.Generator().manual_seed(seed)
    shades = torch.rand(count, 1, 4, 4, generator=generator, dtype=torch.float64)
    large = torch.nn.functional.interpolate(shades, size=(28, 28), mode="bilinear")
    return (large * 255).round() / 127.5 - 1


@pytest.mark.parametrize("t", [0, 100, 400, 700, 900, 999])
@pytest.mark.parametrize("chunk", [64, 500, 7])
def test_it_is_the_brute_force_one_on_500_points(t: int, chunk: int) -> None:
    """Every difference written out, all weights at once, and the mixture of 500 points of the laboratory."""
    points, generator = images(500, 1), torch.Generator().manual_seed(t)
    a, b = (float(level) for level in SCHEDULE.marginal(t))
    x_t = a * images(6, 2) + b * torch.randn(6, 1, 28, 28, generator=generator, dtype=torch.float64)
    found = posterior(points, x_t, a, b, chunk)
    squares = (x_t[:, None] - a * points[None]).square().flatten(2).sum(2)
    shares = (-squares / (2 * b * b)).softmax(1)
    brute = torch.einsum("nm,mchw->nchw", shares, points)
    assert (found.mean - brute).abs().max() < 1e-9
    assert (found.mean - GaussianMixture(points, 0.0).predict_x0(x_t, a, b)).abs().max() < 1e-9
    entropy = -torch.special.xlogy(shares, shares).sum(1)
    assert (found.points / entropy.exp() - 1).abs().max() < 1e-7


def test_at_little_noise_it_is_the_nearest_point_and_at_much_noise_the_mean() -> None:
    points = images(40, 3)
    near = posterior(points, points + 1e-3, 1.0, 1e-3)
    assert (near.mean - points).abs().max() < 1e-9 and (near.points - 1).abs().max() < 1e-9
    far = posterior(points, points, 1.0, 1e4)
    assert (far.mean - points.mean(0)).abs().max() < 1e-4 and (far.points - 40).abs().max() < 1e-3


def test_points_far_below_the_first_ones_and_far_above_change_nothing() -> None:
    """Exponents of thousands: the sums are kept relative to the largest, in whichever chunk it comes."""
    points = torch.tensor([[0.0], [50.0], [100.0], [100.5]], dtype=torch.float64)
    x_t = torch.tensor([[100.25], [0.0]], dtype=torch.float64)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        found = posterior(points[order], x_t, 1.0, 0.5, chunk=1)
        assert found.mean.flatten().tolist() == pytest.approx([100.25, 0.0], abs=1e-12)
        assert found.points.tolist() == pytest.approx([2.0, 1.0], abs=1e-12)


@pytest.mark.parametrize(
    ("points", "b", "said"),
    [
        (torch.zeros(0, 1, 2, 2), 0.5, "points and x_t must be"),
        (torch.zeros(3, 1, 2, 3), 0.5, r"\(3, 1, 2, 3\) and \(1, 1, 2, 2\)"),
        (torch.zeros(3, 1, 2, 2), 0.0, "b must be above 0, got 0.0"),
        (torch.zeros(3, 1, 2, 2), math.nan, "b must be above 0, got nan"),
    ],
)
def test_what_has_no_posterior_is_refused(points: torch.Tensor, b: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        posterior(points, torch.zeros(1, 1, 2, 2), 0.5, b)
