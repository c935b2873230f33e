"""Likelihood by the probability-flow ODE against exact densities, for SDEs and flows."""

import math

import pytest
import torch
from torch import Tensor
from toys import seeded

from pipelines import VESDE, VPSDE, GaussianMixture, LinearPath, NoiseSchedule, SubVPSDE, VariancePreservingPath
from training.metrics.likelihood import ode_likelihood, variational_bound

# of mean 0, so that x_1 is a Gaussian of the prior's std almost exactly: 0.7 % of a mean would be left under VP
MEANS = torch.tensor([[-0.5, 0.2, 0.1], [0.5, -0.2, -0.1]], dtype=torch.float64).reshape(2, 3, 1, 1)
MIXTURE = GaussianMixture(MEANS, torch.tensor([0.25, 0.25], dtype=torch.float64))
END = 1e-3


def sde_velocity(sde: VPSDE | SubVPSDE | VESDE) -> object:
    return lambda x, t: sde.probability_flow_drift(x, MIXTURE.score(x, *sde.marginal(t)), t)


PROCESSES = {
    "vp": (VPSDE(), sde_velocity(VPSDE())),
    "subvp": (SubVPSDE(), sde_velocity(SubVPSDE())),
    "ve": (VESDE(), sde_velocity(VESDE())),
    "linear": (LinearPath(), MIXTURE.denoiser(LinearPath(), "flow_prediction")),
    "variance_preserving": (VariancePreservingPath(), MIXTURE.denoiser(VariancePreservingPath(), "flow_prediction")),
}


def noised(process: object, count: int = 6) -> tuple[Tensor, Tensor]:
    """Points of the process at t = END, and the exact bits/dim of their density there."""
    a, b = process.marginal(END)
    x0, _ = MIXTURE.sample(count, seeded(1))
    x = a * x0 + b * torch.randn(x0.shape, generator=seeded(2), dtype=torch.float64)
    return x, -MIXTURE.log_prob(x, a, b) / (3 * math.log(2))


@pytest.mark.parametrize("name", PROCESSES)
def test_the_likelihood_of_an_exact_model_is_the_density_at_the_end(name: str) -> None:
    process, velocity = PROCESSES[name]
    x, exact = noised(process)
    found = ode_likelihood(velocity, x, process, divergence="exact", end=END, rtol=1e-7, atol=1e-7)
    print(name, (found.bits_per_dim - exact).tolist(), found.nfe.tolist())
    torch.testing.assert_close(found.bits_per_dim, exact, rtol=0, atol=2e-4)
    assert float(found.standard_error.abs().max()) == 0 and int(found.nfe.min()) > 20


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_probes_estimate_the_divergence_within_their_standard_error(kind: str) -> None:
    process, velocity = PROCESSES["linear"]
    x, exact = noised(process, 4)
    options = dict(end=END, rtol=1e-5, atol=1e-5)
    found = ode_likelihood(velocity, x, process, probes=200, divergence=kind, generator=seeded(3), **options)
    assert bool((found.standard_error > 1e-4).all()), "the Jacobian is not diagonal: there is something to estimate"
    assert bool(((found.bits_per_dim - exact).abs() < 4 * found.standard_error).all())
    few = ode_likelihood(velocity, x, process, probes=20, divergence=kind, generator=seeded(4), **options)
    ratio = float((few.standard_error / found.standard_error).mean())
    assert 2.0 < ratio < 5.0, "it falls with the root of the number of probes"


def test_an_image_s_likelihood_does_not_depend_on_those_beside_it() -> None:
    process, velocity = PROCESSES["vp"]
    x, _ = noised(process, 4)
    together = ode_likelihood(velocity, x, process, divergence="exact", end=END)
    alone = ode_likelihood(velocity, x[2:3], process, divergence="exact", end=END)
    assert alone.nfe[0] == together.nfe[2]
    torch.testing.assert_close(alone.bits_per_dim[0], together.bits_per_dim[2], rtol=0, atol=1e-12)


def test_the_bound_lies_above_the_exact_likelihood() -> None:
    """Of discretised data with an exact denoiser: the ELBO is at least the entropy's bits, the ODE's are its own."""
    schedule = NoiseSchedule.linear(1000)
    mixture = GaussianMixture([-0.5, 0.5], [0.15, 0.2])
    x0, _ = mixture.sample(400, seeded(1))
    levels = ((x0.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    x0 = levels.reshape(-1, 1, 1, 1)
    shaped = GaussianMixture(torch.tensor([-0.5, 0.5], dtype=torch.float64).reshape(2, 1, 1, 1), [0.15, 0.2])
    noise = torch.randn((1000, 400, 1, 1, 1), generator=seeded(2), dtype=torch.float64)
    bound = variational_bound(shaped.denoiser(schedule), x0, schedule, noise=noise).total
    exact = -shaped.log_prob(x0) / math.log(2) + math.log2(127.5)
    print("ELBO", float(bound.mean()), "exact", float(exact.mean()))
    standard_error = float((bound - exact).std()) / 20
    assert float((bound - exact).mean()) > -3 * standard_error
    assert float((bound - exact).mean()) < 1.0, "and not far above"


@pytest.mark.parametrize(
    ("said", "options"),
    [("divergence must be one of", {"divergence": "trace"}), ("probes must be at least 1, got 0", {"probes": 0})],
)
def test_bad_options_are_named(said: str, options: dict) -> None:
    process, velocity = PROCESSES["linear"]
    with pytest.raises(ValueError, match=said):
        ode_likelihood(velocity, torch.zeros(1, 3, 1, 1), process, **options)


def test_a_solver_that_does_not_arrive_says_so() -> None:
    process, velocity = PROCESSES["linear"]
    with pytest.raises(RuntimeError, match=r"after 30 evaluations \(max_evaluations\)"):
        ode_likelihood(velocity, noised(process)[0], process, rtol=1e-9, atol=1e-9, end=END, max_evaluations=30)
