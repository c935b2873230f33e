"""Bits/dim of pipelines by their ODE, and of a flow by the bound, where the network is exact and so are the bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, ScoreSdeVeScheduler
from torch import Tensor
from toys import tiny_unet
from training_runs import noise

from pipelines import DDIMPipeline, FlowMatchingPipeline, GaussianMixture, NoiseSchedule, ScoreSDEPipeline
from pipelines.flow_matching import find_path
from training.metrics.bits_per_dim import bits_per_dim
from training.metrics.likelihood import variational_bound
from training.metrics.ode_bits_per_dim import ode_bits_per_dim, ode_of
from training.randomness import seeded

SHAPE, STD = (1, 2, 2), 0.5
# one Gaussian of independent pixels: Rademacher probes then give the divergence itself
DATA = GaussianMixture(
    torch.linspace(-0.3, 0.3, 4, dtype=torch.float64).reshape(1, *SHAPE), torch.tensor([STD], dtype=torch.float64)
)


class ExactDDIM(DDIMPipeline):
    """v at fractional steps, between which the log of the signal-to-noise ratio is linear."""

    def network(self, x_t: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        alphas = NoiseSchedule.from_scheduler(self.scheduler).alphas_cumprod.logit()
        low = t.floor().long().clamp(max=len(alphas) - 2)
        alpha = torch.lerp(alphas[low], alphas[low + 1], t.double() - low).sigmoid()
        return DATA.velocity(x_t, alpha.sqrt(), (1 - alpha).sqrt()).to(x_t.dtype)


class ExactFlow(FlowMatchingPipeline):
    def network(self, x_t: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        return DATA.denoiser(find_path(self.config.path), "flow_prediction")(x_t, t / 1000)


class ExactVE(ScoreSDEPipeline):
    def network(self, x_t: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        return DATA.score(x_t, 1.0, t).to(x_t.dtype)


def exact(kind: str) -> DDIMPipeline | FlowMatchingPipeline | ScoreSDEPipeline:
    unet = tiny_unet(size=2)
    if kind == "ve":
        return ExactVE(unet, ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0))
    if kind in ("linear", "variance_preserving"):
        return ExactFlow(unet, FlowMatchEulerDiscreteScheduler(), path=kind)
    return ExactDDIM(unet, DDIMScheduler(beta_schedule=kind, prediction_type="v_prediction"))


def spread(images: np.ndarray, seed: int) -> Tensor:
    """The images, each level moved uniformly within its width."""
    shift = torch.stack([torch.rand(SHAPE, generator=seeded(seed, i, "ode")) - 0.5 for i in range(len(images))])
    return ((torch.from_numpy(images).float() + shift) / 127.5 - 1).double()


@pytest.mark.parametrize("kind", ["squaredcos_cap_v2", "scaled_linear", "linear", "variance_preserving", "ve"])
def test_the_ode_of_an_exact_network_gives_the_density_of_spread_levels(kind: str) -> None:
    images = noise(5, *SHAPE, seed=3)
    pipe = exact(kind)
    _, process, end = ode_of(pipe)
    a, b = process.marginal(end)
    expected = -DATA.log_prob(spread(images, 7), a, b) / (4 * math.log(2)) + math.log2(127.5)
    found = ode_bits_per_dim(pipe, images, tolerance=1e-6, seed=7, batch_size=2)
    left = 1e-2 if kind == "ve" else 2e-3  # of the mean at t = 1, that the prior lacks: m x / 50^2 in nats under VE
    assert found.total == pytest.approx(float(expected.mean()), abs=left)
    assert found.standard_error == pytest.approx(float(expected.std()) / math.sqrt(5), rel=0.02)
    assert found.nfe > 20 and float(b) < 0.02


def test_bits_are_above_those_of_the_levels_by_little() -> None:
    """-log2 of the mass of each level, by the error function, is what the density's mean bounds from above."""
    images = noise(200, *SHAPE, seed=4)
    level = torch.from_numpy(images).double() / 127.5 - 1
    normal = torch.distributions.Normal(DATA.means.reshape(SHAPE), STD)
    mass = normal.cdf(level + 0.5 / 127.5) - normal.cdf(level - 0.5 / 127.5)
    bits = float(-mass.log2().mean())
    found = ode_bits_per_dim(exact("linear"), images, tolerance=1e-5).total
    assert bits < found + 0.01 and abs(found - bits) < 0.02


def test_neither_the_batch_nor_a_neighbour_changes_an_image() -> None:
    images = noise(6, *SHAPE, seed=5)
    whole, parts = (ode_bits_per_dim(exact("linear"), images, batch_size=size).total for size in (6, 4))
    assert whole == pytest.approx(parts, abs=1e-6)


@pytest.mark.parametrize("path", ["linear", "variance_preserving"])
def test_a_flow_has_the_bound_of_its_x0_on_the_cosine_schedule(path: str) -> None:
    images, steps = noise(3, *SHAPE, seed=6), 25
    full = NoiseSchedule.cosine(1000)
    schedule = full.respace(full.spaced_timesteps(steps))
    drawn = torch.stack(
        [
            torch.cat([torch.randn((1, *SHAPE), generator=seeded(0, i, t, "noise")) for i in range(3)])
            for t in range(steps)
        ]
    )
    x0 = torch.from_numpy(images).float() / 127.5 - 1

    def denoiser(x: Tensor, t: int) -> Tensor:
        return DATA.predict_x0(x, *full.marginal(t)).float()

    expected = variational_bound(denoiser, x0, schedule, "fixed_small", drawn, True, prediction_type="sample")
    found = bits_per_dim(exact(path), images, num_inference_steps=steps, timesteps_per_image=steps)["fixed_small"]
    assert found.total == pytest.approx(float(expected.total.mean()), rel=1e-4)
    np.testing.assert_allclose(found.terms, expected.vb.mean(0).numpy(), rtol=1e-3, atol=1e-4)


def test_images_of_another_size_and_no_probes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images must be at least 2 of shape \(1, 2, 2\), got \(2, 1, 3, 3\)"):
        ode_bits_per_dim(exact("linear"), noise(2, 1, 3, 3))
    with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
        ode_bits_per_dim(exact("linear"), noise(2, *SHAPE), probes=0)
