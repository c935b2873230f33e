"""A model as its image is looked at: what its network predicts, what it loses, and what its classifier sees."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pipelines import NoiseSchedule
from pipelines.ddpm import reverse_log_variance
from pipelines.solvers import clipping

from .settings import CLASSIFIER, Settings

LEAST = 1e-12  # of a probability, so that its logarithm is finite


class Bench:
    """A loaded model with its noise schedule, and the class that its network is told, if any."""

    def __init__(self, pipe: Any, settings: Settings, label: str | int | None = None) -> None:
        self.pipe, self.settings, self.label = pipe, settings, label
        self.schedule = NoiseSchedule.from_scheduler(pipe.scheduler)
        self.kind = pipe.scheduler.config.prediction_type
        self.clip = clipping(pipe.scheduler.config) or (lambda x0: x0)

    def network(self, x_t: Tensor, t: int) -> Tensor:
        """Its output at x_t (N, C, H, W), on the CPU in float64."""
        told = None if self.label is None else [self.label] * len(x_t)
        conditions, _ = self.pipe.conditions(told, None if told else len(x_t))
        device = self.pipe._execution_device
        with torch.no_grad():
            output = self.pipe.network(x_t.float().to(device), t, **conditions).double().cpu()
        if not output.isfinite().all():
            raise ValueError(f"model {self.settings.model} predicts nothing here: NaN or infinite at t = {t}")
        return output

    def predict(self, x_t: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """x_0 and eps, (N, C, H, W), as the samplers take them, and the variance channels if there are any."""
        output, channels = self.network(x_t, t), x_t.shape[1]
        x0 = self.clip(self.schedule.predict_x0(output[:, :channels], x_t, t, self.kind))
        v = output[:, channels:]
        return x0, self.schedule.predict_eps(x0, x_t, t, "sample"), v if v.shape[1] else None

    def loss(self, x0: Tensor, x_t: Tensor, t: int, predicted: Tensor, v: Tensor | None) -> Tensor:
        """L_t in bits/dim, (N,), with the variance that the model samples with; L_0 at t = 0, by the normal
        distribution, which training.evaluate approximates by tanh as the published code does."""
        log_variance = reverse_log_variance(self.schedule, self.pipe.variance_type, t, x_t, v)
        if t == 0:
            p = Normal(self.schedule.posterior_mean(predicted, x_t, t), (0.5 * log_variance).exp().expand_as(x_t))
            return bits_per_dim(-log_mass(p, x0))
        true_log_variance = self.schedule.gather(self.schedule.posterior_log_variance_clipped, t, x_t)
        means = (self.schedule.posterior_mean(each, x_t, t) for each in (x0, predicted))
        stds = ((0.5 * each).exp().expand_as(x_t) for each in (true_log_variance, log_variance))
        q, p = (Normal(mean, std) for mean, std in zip(means, stds, strict=True))
        return bits_per_dim(kl_divergence(q, p))

    def prior(self, x0: Tensor) -> float:
        """L_T in bits/dim: how far x_T is from the noise that a run begins with."""
        a, b = (float(level) for level in self.schedule.marginal(len(self.schedule) - 1))
        q = Normal(a * x0, torch.full_like(x0, b))
        return float(bits_per_dim(kl_divergence(q, Normal(torch.zeros_like(x0), torch.ones_like(x0)))))

    def opinion(self, x_t: Tensor, t: int) -> Tensor | None:
        """p(y | x_t), (N, classes), of the model's classifier; None without one."""
        classifier = self.pipe.components.get(CLASSIFIER)
        if classifier is None:
            return None
        with torch.no_grad():
            return classifier(x_t.float().to(self.pipe._execution_device), t).double().softmax(1).cpu()


def to_input(pixels: np.ndarray) -> Tensor:
    """(H, W, C) uint8 -> (1, C, H, W) in [-1, 1], float64."""
    return torch.from_numpy(np.array(pixels)).movedim(-1, 0)[None].double() / 127.5 - 1


def to_pixels(x: Tensor) -> np.ndarray:
    """The first of (N, C, H, W) as (H, W, C) uint8, clipped to [-1, 1]."""
    return ((x[0].movedim(0, -1).clamp(-1, 1) + 1) * 127.5).round().byte().numpy()


def unit_noise(seed: int, count: int, shape: tuple[int, ...]) -> Tensor:
    """(count, *shape) of unit noise, each from a seed of its own, from `seed` on."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    return torch.stack([torch.randn(shape, generator=generator).double() for generator in generators])


def log_mass(p: Normal, x: Tensor) -> Tensor:
    """log of the probability of the 8-bit values x in [-1, 1]: of 1/255 to each side, and of all beyond -1 and 1."""
    above, below = p.cdf(x + 1 / 255), p.cdf(x - 1 / 255)
    mass = torch.where(x > 0.999, 1.0, above) - torch.where(x < -0.999, 0.0, below)
    return mass.clamp(min=LEAST).log()


def rms(difference: Tensor) -> float:
    """Root mean square of differences of values in [-1, 1], as of values from 0, black, to 1, white."""
    return float(difference.square().mean().sqrt() / 2)


def bits_per_dim(nats: Tensor) -> Tensor:
    """Of nats of each value (N, ...), the mean per image, (N,)."""
    return nats.flatten(1).mean(1) / math.log(2)
