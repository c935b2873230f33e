"""Diffusion as a stochastic differential equation (Song et al. 2021, https://arxiv.org/abs/2011.13456).

    dx = f(t) x dt + g(t) dw,    t from 0 to 1        x_t = a(t) x_0 + b(t) z,  z ~ N(0, I)
    VP       f = -beta/2         g^2 = beta                          b^2 = 1 - a^2       eq. 11, 33: DDPM
    sub-VP   f = -beta/2         g^2 = beta (1 - a^4)                b   = 1 - a^2       eq. 28, 29
    VE       f = 0               g^2 = d sigma^2 / dt                b   = sigma         eq. 9, 30: NCSN

with beta(t) = beta_min + t (beta_max - beta_min), a = exp(-1/2 int_0^t beta), and sigma(t) = sigma_min (sigma_max /
sigma_min)^t. What runs backwards needs only the score grad log p(x_t), and what has the same marginals without noise is

    dx / dt = f x - 1/2 g^2 score                                   the probability-flow ODE, eq. 13

Each class below is such a process: numbers and tensors t, (N,) or (), in (0, 1], and ValueError outside [0, 1];
coefficients are float64.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from .process import broadcast, unit_time, up
from .run import Step

Time = Tensor | float


class SDE(Protocol):
    """A forward SDE whose drift is linear in x."""

    prior_std: float  # of x_1, which a run begins with

    def marginal(self, t: Time) -> tuple[Tensor, Tensor]:
        """(a, b), of the shape of `t`."""

    def drift_rate(self, t: Time) -> Tensor:
        """f(t), of the shape of `t`."""

    def diffusion(self, t: Time) -> Tensor:
        """g(t), of the shape of `t`."""

    def reverse_step_coefficients(self, t: Time, dt: float) -> tuple[Tensor, Tensor]:
        """What a step of the discrete process from t - dt to t multiplies x by, and the std of what it adds."""


class LinearDrift:
    """What follows from f and g."""

    prior_std = 1.0

    def drift(self, x: Tensor, t: Time) -> Tensor:
        """f(t) x, (N, ...)."""
        return broadcast(self.drift_rate(t), x) * up(x)

    def probability_flow_drift(self, x: Tensor, score: Tensor, t: Time) -> Tensor:
        """dx/dt = f x - g^2 score / 2, all (N, ...)."""
        return self.drift(x, t) - broadcast(self.diffusion(t).square() / 2, x) * up(score)

    def marginal_rate(self, t: Time) -> tuple[Tensor, Tensor]:
        """(a', b'): a' = f a, and b^2' = 2 f b^2 + g^2."""
        a, b = self.marginal(t)
        rate = self.drift_rate(t)
        return rate * a, rate * b + self.diffusion(t).square() / (2 * b)

    def reverse_step_coefficients(self, t: Time, dt: float) -> tuple[Tensor, Tensor]:
        """(1 + f dt, g sqrt(dt)): Euler's steps."""
        return 1 + self.drift_rate(t) * dt, self.diffusion(t) * math.sqrt(dt)


class VPSDE(LinearDrift):
    """The variance-preserving SDE, the limit of DDPM: beta_min = 0.1 and beta_max = 20 are its linear schedule."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min <= beta_max < math.inf:
            raise ValueError(f"beta_min, beta_max must be 0 < beta_min <= beta_max, got {beta_min}, {beta_max}")
        self.beta_min, self.beta_max = beta_min, beta_max

    def beta(self, t: Time) -> Tensor:
        """beta(t), float64."""
        t = unit_time(t)
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def log_mean(self, t: Time) -> Tensor:
        """log a(t) = -1/2 of the integral of beta from 0 to t."""
        t = unit_time(t)
        return -0.25 * t.square() * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def marginal(self, t: Time) -> tuple[Tensor, Tensor]:
        """(a, sqrt(1 - a^2))."""
        log_mean = self.log_mean(t)
        return log_mean.exp(), (-torch.expm1(2 * log_mean)).sqrt()

    def drift_rate(self, t: Time) -> Tensor:
        """-beta / 2."""
        return -0.5 * self.beta(t)

    def diffusion(self, t: Time) -> Tensor:
        """sqrt(beta)."""
        return self.beta(t).sqrt()

    def reverse_step_coefficients(self, t: Time, dt: float) -> tuple[Tensor, Tensor]:
        """(sqrt(1 - beta dt), sqrt(beta dt)): DDPM's steps."""
        beta = (self.beta(t) * dt).clamp(max=1.0)
        return (1 - beta).sqrt(), beta.sqrt()


class SubVPSDE(VPSDE):
    """The sub-VP SDE, whose variance stays below that of the VP SDE with the same drift."""

    def marginal(self, t: Time) -> tuple[Tensor, Tensor]:
        """(a, 1 - a^2)."""
        log_mean = self.log_mean(t)
        return log_mean.exp(), -torch.expm1(2 * log_mean)

    def diffusion(self, t: Time) -> Tensor:
        """sqrt(beta (1 - a^4))."""
        return (self.beta(t) * -torch.expm1(4 * self.log_mean(t))).sqrt()

    def time_of(self, a: Tensor, b: Tensor) -> Tensor:
        """The t whose marginal has the signal-to-noise ratio of (a, b), or the nearest in [0, 1]; float64."""
        a, b = (torch.as_tensor(level, dtype=torch.float64) for level in (a, b))
        integral = 2 * torch.asinh(b / (2 * a))  # of beta from 0 to t, as b / a = 1 / a - a = 2 sinh(integral / 2)
        rise = self.beta_max - self.beta_min
        return (2 * integral / (self.beta_min + (self.beta_min**2 + 2 * rise * integral).sqrt())).clamp(max=1.0)

    def reverse_step_coefficients(self, t: Time, dt: float) -> tuple[Tensor, Tensor]:
        """Euler's steps: there is no discrete process that this one came from."""
        return LinearDrift.reverse_step_coefficients(self, t, dt)


class VESDE(LinearDrift):
    """The variance-exploding SDE, the limit of NCSN."""

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"sigma_min, sigma_max must be 0 < sigma_min < sigma_max, got {sigma_min}, {sigma_max}")
        self.sigma_min, self.sigma_max, self.prior_std = sigma_min, sigma_max, sigma_max

    def sigma(self, t: Time) -> Tensor:
        """sigma(t), float64."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** unit_time(t)

    def marginal(self, t: Time) -> tuple[Tensor, Tensor]:
        """(1, sigma)."""
        sigma = self.sigma(t)
        return torch.ones_like(sigma), sigma

    def drift_rate(self, t: Time) -> Tensor:
        """0."""
        return torch.zeros_like(unit_time(t))

    def diffusion(self, t: Time) -> Tensor:
        """sigma sqrt(2 log(sigma_max / sigma_min))."""
        return self.sigma(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))

    def reverse_step_coefficients(self, t: Time, dt: float) -> tuple[Tensor, Tensor]:
        """(1, sqrt(sigma(t)^2 - sigma(t - dt)^2)): NCSN's steps."""
        sigma, before = self.sigma(t), self.sigma(unit_time(t) - dt)
        return torch.ones_like(sigma), (sigma.square() - before.square()).sqrt()


def step_at(sde: SDE, x: Tensor, score: Tensor, t: Time, index: int, num_steps: int, after: Tensor) -> Step:
    """A Step with what the score says of x_0 and eps; t in (0, 1], a number or (N,)."""
    a, b = (broadcast(level, x) for level in sde.marginal(t))
    eps = -b * score
    now = float(torch.as_tensor(t).max())
    return Step(index, num_steps, now, x, (up(x) - b * eps) / a, eps, after)
