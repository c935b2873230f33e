"""The variational bound of a diffusion model in bits per dimension (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021).

    -log2 p(x_0) / D  <=  L_T + sum_{t=1}^{T-1} L_t + L_0
    L_T = KL(q(x_T | x_0) || N(0, I)),   L_t = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)),   L_0 = -log p(x_0 | x_1)

(t counts from 0 here: entry 0 of a table is the decoder's L_0, and entry t the term of the step from t to t - 1.)

The decoder L_0 gives each of the 256 levels the mass of its bin under a distribution around the mean; the two outer
bins reach to infinity (Ho et al., eq. 13). By default its c.d.f. is the tanh approximation to the normal c.d.f. in the
published code, 0.5 (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))), so that the bits compare with published bits.
`cdf="normal"` takes the normal c.d.f. itself. With either, the masses sum to one, so that both are valid bounds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines import NoiseSchedule
from pipelines.ddpm import reverse_log_variance
from pipelines.process import broadcast, up
from training.metrics.ode_likelihood import ode_likelihood as ode_likelihood  # the other likelihood, found here too

CDFS = ("tanh", "normal")
LEAST = 1e-12  # smallest mass of a bin, as in the published code


@dataclass(frozen=True)
class VariationalBound:
    """`vb` (N, T), `prior` (N,) and `total` (N,) in bits/dim, and `mse` (N, T), the mean squared error of eps.

    Column t of `vb` is L_t, `prior` is L_T, and `total` is the sum of both.
    """

    vb: Tensor
    prior: Tensor
    total: Tensor
    mse: Tensor


@torch.no_grad()
def variational_bound(
    denoiser: Callable[[Tensor, int], Tensor],
    x0: Tensor,
    schedule: NoiseSchedule,
    variance: str = "fixed_small",
    noise: Tensor | None = None,
    clip_denoised: bool = False,
    *,
    prediction_type: str = "epsilon",
    cdf: str = "tanh",
) -> VariationalBound:
    """Every term of the bound, each from one draw of x_t.

    Args:
        denoiser: returns the network's output at (x_t, t), (N, C, H, W), or (N, 2C, H, W) with the variance channels of
            "learned_range"; t is that of the original process if `schedule` is respaced
        x0: (N, C, H, W) in [-1, 1], 8-bit levels k / 127.5 - 1
        schedule: the T steps to sum over
        variance: fixed_small, fixed_large or learned_range
        noise: (T, N, C, H, W), the eps of each x_t; drawn if None
        clip_denoised: clip the predicted x_0 to [-1, 1]
        prediction_type: what the network predicts: epsilon, sample or v_prediction
        cdf: c.d.f. of the decoder, tanh or normal

    Raises:
        ValueError: `noise` of another shape, or an unknown `variance`, `prediction_type` or `cdf`.
    """
    expected = (len(schedule), *x0.shape)
    if noise is not None and tuple(noise.shape) != expected:
        raise ValueError(f"noise must be of shape {expected}, got {tuple(noise.shape)}")
    terms, errors = [], []
    for t in range(len(schedule)):
        eps = torch.randn_like(x0) if noise is None else noise[t].to(x0)
        times = torch.full((len(x0),), t)
        x_t = schedule.add_noise(x0, eps, times)
        output = denoiser(x_t, int(schedule.timesteps[t]))
        predicted, log_variance = reverse_step(output, x_t, times, schedule, variance, prediction_type, clip_denoised)
        terms.append(bound_term(predicted, log_variance, x0, x_t, times, schedule, cdf))
        errors.append((schedule.predict_eps(predicted, x_t, times, "sample") - eps).square().flatten(1).mean(1))
    vb, prior = torch.stack(terms, 1), prior_term(x0, schedule)
    return VariationalBound(vb, prior, vb.sum(1) + prior, torch.stack(errors, 1))


def reverse_step(
    output: Tensor,
    x_t: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    variance: str,
    prediction_type: str = "epsilon",
    clip_denoised: bool = False,
) -> tuple[Tensor, Tensor]:
    """The predicted x_0, of the shape of x_t (N, C, ...), and log sigma_t^2, broadcastable to it; t is (N,).

    Raises:
        ValueError: "learned_range" without variance channels in `output`, or an unknown `variance`.
    """
    channels = x_t.shape[1]
    v = output[:, channels:] if output.shape[1] == 2 * channels else None
    if variance == "learned_range" and v is None:
        raise ValueError(
            f"variance must be fixed_small or fixed_large for a network of {channels} outputs, got learned_range"
        )
    x0 = schedule.predict_x0(output[:, :channels], x_t, t, prediction_type)
    x0 = x0.clamp(-1, 1) if clip_denoised else x0
    return x0, reverse_log_variance(schedule, variance, t, x_t, v)


def bound_term(
    predicted_x0: Tensor,
    log_variance: Tensor,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    cdf: str = "tanh",
) -> Tensor:
    """L_t in bits/dim, (N,), of predictions at x_t (N, ...) and t (N,): the decoder's term at t = 0, else a KL."""
    mean = schedule.posterior_mean(predicted_x0, x_t, t)
    log_variance = log_variance.expand_as(mean)
    true_mean = schedule.posterior_mean(x0, x_t, t)
    true_log_variance = schedule.gather(schedule.posterior_log_variance_clipped, t, x_t).expand_as(mean)
    kl = gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    decoder = -decoder_log_likelihood(x0.to(mean.dtype), mean, 0.5 * log_variance, cdf)
    first = (t == 0).to(mean.device).reshape(-1, *(1,) * (mean.ndim - 1))
    return bits_per_dimension(torch.where(first, decoder, kl))


def prior_term(x0: Tensor, schedule: NoiseSchedule) -> Tensor:
    """L_T = KL(q(x_T | x_0) || N(0, I)) in bits/dim, (N,)."""
    a, b = (broadcast(level, x0) for level in schedule.marginal(len(schedule) - 1))
    mean = a * up(x0)
    log_variance = 2 * b.log().expand_as(mean)
    return bits_per_dimension(gaussian_kl(mean, log_variance, torch.zeros_like(mean), torch.zeros_like(mean)))


def gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, e^log_variance) || N(other...)) in nats, elementwise."""
    ratio = log_variance - other_log_variance
    return 0.5 * (ratio.exp() - ratio - 1 + (mean - other_mean).square() * (-other_log_variance).exp())


def decoder_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor, cdf: str = "tanh") -> Tensor:
    """log of the mass of x's bin in nats, elementwise; x has 8-bit levels in [-1, 1] (Ho et al. 2020, eq. 13).

    Raises:
        ValueError: an unknown `cdf`.
    """
    if cdf not in CDFS:
        raise ValueError(f"cdf must be one of {', '.join(CDFS)}, got {cdf!r}")
    below = _tanh_cdf if cdf == "tanh" else torch.special.ndtr
    scale = (-log_std).exp()
    upper, lower = (below((x - mean + side) * scale) for side in (1 / 255, -1 / 255))
    mass = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return mass.clamp(min=LEAST).log()


def _tanh_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def bits_per_dimension(nats: Tensor) -> Tensor:
    """Elementwise nats (N, ...) -> the mean of each image in bits, (N,)."""
    return nats.flatten(1).mean(1) / math.log(2)
