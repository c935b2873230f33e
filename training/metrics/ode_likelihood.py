"""The likelihood of a model whose samples follow an ordinary differential equation (Chen et al. 2018).

    log p(x_end) = log N(x_1; 0, prior_std^2 I) + int_end^1 div velocity(x_t, t) dt

with the divergence estimated by e . J e over random probes e (Hutchinson; Song et al. 2021, eq. 39 and 40,
https://arxiv.org/abs/2011.13456). It holds for the probability flow of an SDE and for flow matching alike.
Chen et al. 2018: https://arxiv.org/abs/1806.07366.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.ode import dormand_prince
from pipelines.process import Path, up
from pipelines.sde import SDE

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x (N, ...), t (N,)) -> dx/dt
DIVERGENCES = ("rademacher", "gaussian", "exact")


@dataclass(frozen=True)
class ODELikelihood:
    """Of each image: bits/dim (N,) of its density, their standard error over the probes (N,), evaluations (N,)."""

    bits_per_dim: Tensor
    standard_error: Tensor
    nfe: Tensor


def ode_likelihood(
    velocity: Velocity,
    x0: Tensor,
    process: SDE | Path,
    *,
    probes: int = 1,
    divergence: str = "rademacher",
    end: float = 1e-5,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_evaluations: int = 2000,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> ODELikelihood:
    """The density of a model whose samples follow dx/dt = velocity(x, t).

    Args:
        velocity: dx/dt at x (N, ...) and times t (N,), noise at t = 1; differentiable in x
        x0: (N, ...), what stands at t = `end`. Images of 8-bit levels are points, whose density says nothing: add
            uniform noise over a level's width first, and log2 of the levels per unit to the bits (127.5 for [-1, 1])
        process: an SDE, whose prior_std is that of x_1, or a path, which ends in N(0, I)
        probes: vectors e that estimate the divergence as e . J e, of the same images and times (Hutchinson)
        divergence: rademacher or gaussian probes, or exact: the trace, for few dimensions
        end: where the integration begins; t = 0 itself is singular for most models
        rtol, atol: error allowed per step
        max_evaluations: per image
        generator: of the probes; a list has one per image, so that an image's probes do not depend on the batch

    Returns:
        `ODELikelihood`; its standard error is 0 for the exact divergence, and NaN for one probe

    Raises:
        ValueError: an unknown `divergence`, or no probes.
        RuntimeError: the solver did not arrive within `max_evaluations`.
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence must be one of {', '.join(DIVERGENCES)}, got {divergence!r}")
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes}")
    count, size = len(x0), x0[0].numel()
    vectors = _probes(x0, probes, divergence, generator)

    def field(state: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        x = state[:, :size].reshape(-1, *x0.shape[1:])
        slope, traces = _slope_and_traces(velocity, x, t.to(x.device), vectors[:, rows])
        if divergence == "exact":
            traces = traces.sum(1, keepdim=True)
        return torch.cat([slope.flatten(1), traces], dim=1)

    columns = 1 if divergence == "exact" else probes
    state = torch.cat([up(x0).flatten(1), up(x0).new_zeros(count, columns)], dim=1)
    *_, last = dormand_prince(field, state, end, 1.0, rtol, atol, max_evaluations)
    std = getattr(process, "prior_std", 1.0)
    x_1, integrals = last.x[:, :size].double() / std, last.x[:, size:].double()
    prior = -0.5 * x_1.square().sum(1) - size * (0.5 * math.log(2 * math.pi) + math.log(std))
    bits = -(prior[:, None] + integrals) / (size * math.log(2))
    error = bits.new_zeros(count) if divergence == "exact" else _standard_error(bits)
    return ODELikelihood(bits.mean(1), error, last.evaluations)


def _standard_error(bits: Tensor) -> Tensor:
    """Of the mean over the probes, (N,), from `bits` (N, K); NaN for one probe."""
    probes = bits.shape[1]
    return bits.std(1) / math.sqrt(probes) if probes > 1 else bits.new_full((len(bits),), math.nan)


def _probes(
    x0: Tensor, probes: int, divergence: str, generator: torch.Generator | list[torch.Generator] | None
) -> Tensor:
    """(K, N, ...) vectors."""
    if divergence == "exact":
        units = torch.eye(x0[0].numel(), dtype=up(x0).dtype, device=x0.device)
        return units.reshape(-1, 1, *x0.shape[1:]).expand(-1, len(x0), *x0.shape[1:])
    if isinstance(generator, list):
        shape = (probes, *x0.shape[1:])
        drawn = torch.stack([torch.randn(shape, generator=each, dtype=up(x0).dtype) for each in generator], 1)
    else:
        drawn = torch.randn((probes, *x0.shape), generator=generator, dtype=up(x0).dtype)
    drawn = drawn.to(x0.device)
    return drawn if divergence == "gaussian" else torch.where(drawn >= 0, 1.0, -1.0).to(drawn)


def _slope_and_traces(velocity: Velocity, x: Tensor, t: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """velocity(x, t) and e . J e of each probe, (N, K)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        slope = up(velocity(x, t))
        last = len(vectors) - 1
        products = [torch.autograd.grad(slope, x, e, retain_graph=k < last)[0] for k, e in enumerate(vectors)]
    traces = [(product * e).flatten(1).sum(1) for product, e in zip(products, vectors, strict=True)]
    return slope.detach(), torch.stack(traces, 1)
