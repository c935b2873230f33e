"""Langevin dynamics: sampling from a density through its score alone (Song & Ermon 2019).

https://arxiv.org/abs/1907.05600:

    x <- x + alpha/2 score(x) + sqrt(alpha) z,   z ~ N(0, I)                                                    eq. 4

Annealed (algorithm 1), it runs at one noise level after the other, with alpha in proportion to sigma^2, and ends with
one step that denoises (Jolicoeur-Martineau et al. 2021, https://arxiv.org/abs/2009.05475). As the corrector of a
reverse SDE its step follows from a signal-to-noise ratio (Song et al. 2021, https://arxiv.org/abs/2011.13456,
algorithms 4 and 5):

    x <- x + e score + sqrt(2 e) z,   e = 2 alpha (snr |z| / |score|)^2
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .process import broadcast, up
from .run import Step
from .sde import VESDE, step_at

Score = Callable[..., Tensor]  # (x_t, t) -> grad log p(x_t), (N, ...)
Noise = Callable[[], Tensor]


def langevin_corrector(x: Tensor, score: Tensor, noise: Tensor, snr: float, alpha: Tensor | float = 1.0) -> Tensor:
    """One step of Langevin dynamics at a fixed t (algorithms 4 and 5), its size from the norms of each image.

    `alpha` is 1 for VE, and 1 - beta dt for VP.
    """
    ratio = snr * _norms(noise) / _norms(score)
    size = 2 * broadcast(alpha, x) * ratio.square()
    return up(x) + size * score + (2 * size).sqrt() * noise


def langevin_step(x: Tensor, score: Tensor, noise: Tensor, alpha: Tensor | float) -> Tensor:
    """x + alpha / 2 score + sqrt(alpha) z (Song & Ermon 2019, eq. 4)."""
    alpha = broadcast(alpha, x)
    return up(x) + alpha / 2 * score + alpha.sqrt() * noise


def _norms(value: Tensor) -> Tensor:
    return value.flatten(1).norm(dim=1).reshape(-1, *(1,) * (value.ndim - 1))


@torch.no_grad()
def annealed_langevin_steps(
    score: Score, x_1: Tensor, sde: VESDE, times: list[float], noise: Noise, steps_per_level: int, step_size: float
) -> Iterator[Step]:
    """Langevin dynamics at each of the noise levels of `times`, then one step that denoises; one Step per level.

    alpha at a level is step_size sigma^2 / sigma_min^2 (NCSN's epsilon).
    """
    x = x_1
    for i, t in enumerate(times):
        alpha = step_size * (sde.sigma(t) / sde.sigma(times[-1])).square()
        for _ in range(steps_per_level):
            slope = score(x, t)
            before, x = x, langevin_step(x, slope, noise(), alpha)
        if i + 1 == len(times):
            before, slope = x, score(x, t)
            x = x + broadcast(sde.sigma(t).square(), x) * slope
        step = step_at(sde, before, slope, t, i, len(times), x)
        yield step
        x = step.prev_sample
