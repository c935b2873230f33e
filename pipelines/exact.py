"""The laboratory: mixtures of Gaussians, of which everything a diffusion model learns is known in closed form.

With x_0 of component k drawn from N(m_k, C_k) with probability w_k, and x_t = a x_0 + b eps (a = sqrt(abar_t),
b = sqrt(1 - abar_t), or any other pair), x_t is a mixture too, of N(a m_k, S_k), S_k = a^2 C_k + b^2 I, so that

    log p(x_t)       = log sum_k w_k N(x_t; a m_k, S_k)
    E[x_0 | x_t]     = sum_k p(k | x_t) (m_k + a C_k S_k^-1 (x_t - a m_k))
    grad log p(x_t)  = sum_k p(k | x_t) (-S_k^-1 (x_t - a m_k)),      eps = -b grad log p,      v = a eps - b x_0
    p(y | x_t)       = sum of p(k | x_t) over the components of class y

All of it is computed in float64. `denoiser` and `classifier` give it the shapes of a network: they stand wherever a
denoiser or a classifier does, so that every sampler that ships runs unmodified on ground truth.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .process import Level, Path, Process, check_prediction_type, path_velocity


class GaussianMixture:
    """A mixture of Gaussians over tensors of any shape.

    Args:
        means: (K, *shape)
        stds: standard deviations, a number, (K,) or anything that broadcasts to (K, *shape), at least 0 (0: points)
        covariances: (K, D, D) with D the number of elements of a sample, instead of `stds`
        weights: (K,), positive; normalised here. None: all alike
        labels: (K,) classes of the components, from 0 on. None: each is a class of its own

    Raises:
        ValueError: shapes that do not fit, negative deviations or weights, or a covariance that is none.
    """

    def __init__(
        self,
        means: Any,
        stds: Any = None,
        *,
        covariances: Any = None,
        weights: Any = None,
        labels: Any = None,
    ) -> None:
        means = torch.as_tensor(means, dtype=torch.float64)
        if means.ndim == 0:
            raise ValueError("means must have one entry a component, (K, *shape), got a number")
        self.shape, count = tuple(means.shape[1:]), len(means)
        self.means = means.reshape(count, -1)
        if (stds is None) == (covariances is None):
            raise ValueError("give either stds or covariances")
        self.basis, self.variances = self._diagonal(stds) if covariances is None else self._diagonalised(covariances)
        weights = torch.as_tensor([1.0] * count if weights is None else weights, dtype=torch.float64)
        if tuple(weights.shape) != (count,) or not bool((weights > 0).all()):
            raise ValueError(f"weights must be {count} positive numbers, got {weights.tolist()}")
        self.log_weights = (weights / weights.sum()).log()
        self.labels = torch.arange(count) if labels is None else torch.as_tensor(labels, dtype=torch.int64)
        if tuple(self.labels.shape) != (count,) or int(self.labels.min()) < 0:
            raise ValueError(f"labels must be {count} classes from 0 on, got {self.labels.tolist()}")

    def _diagonal(self, stds: Any) -> tuple[None, Tensor]:
        stds = torch.as_tensor(stds, dtype=torch.float64)
        if stds.ndim == 1:
            stds = stds.reshape(-1, *(1,) * len(self.shape))
        try:
            stds = stds.expand(len(self.means), *self.shape)
        except RuntimeError as error:
            expected = (len(self.means), *self.shape)
            raise ValueError(f"stds must broadcast to {expected}, got shape {tuple(stds.shape)}") from error
        if not bool((stds >= 0).all()):
            raise ValueError(f"stds must be at least 0, got {float(stds.min())}")
        return None, stds.square().reshape(len(self.means), -1)

    def _diagonalised(self, covariances: Any) -> tuple[Tensor, Tensor]:
        """Eigenvectors (K, D, D) and eigenvalues (K, D): noise of one size in every direction keeps the vectors."""
        covariances = torch.as_tensor(covariances, dtype=torch.float64)
        count, size = self.means.shape
        if tuple(covariances.shape) != (count, size, size) or not torch.allclose(covariances, covariances.mT):
            raise ValueError(
                f"covariances must be symmetric, ({count}, {size}, {size}), got {tuple(covariances.shape)}"
            )
        values, vectors = torch.linalg.eigh(covariances)
        if float(values.min()) < -1e-9 * max(float(values.max()), 1.0):
            raise ValueError(f"covariances must have no negative eigenvalue, got {float(values.min())}")
        return vectors, values.clamp(min=0.0)

    @property
    def num_classes(self) -> int:
        """One more than the highest class."""
        return int(self.labels.max()) + 1

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """x_0 (count, *shape), float64, and the class of each (count,)."""
        chosen = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
        z = torch.randn((count, self.means.shape[1]), generator=generator, dtype=torch.float64)
        spread = z * self.variances[chosen].sqrt()
        if self.basis is not None:
            spread = torch.einsum("nij,nj->ni", self.basis[chosen], spread)
        return (self.means[chosen] + spread).reshape(count, *self.shape), self.labels[chosen]

    # ------------------------------------------------------------------- at a noise level: x_t (N, *shape), a, b

    def log_prob(self, x_t: Tensor, a: Level = 1.0, b: Level = 0.0, labels: Tensor | None = None) -> Tensor:
        """log p(x_t), (N,), or log p(x_t | y) for classes `labels` (N,); a and b are numbers or (N,).

        A label one past the last class means "no class".
        """
        log_shares, _, _ = self._components(x_t, a, b)
        if labels is None:
            return log_shares.logsumexp(1)
        allowed = self._allowed(labels)
        prior = self.log_weights.expand_as(log_shares).masked_fill(~allowed, -math.inf).logsumexp(1)
        return log_shares.masked_fill(~allowed, -math.inf).logsumexp(1) - prior

    def score(self, x_t: Tensor, a: Level = 1.0, b: Level = 0.0, labels: Tensor | None = None) -> Tensor:
        """grad log p(x_t), or grad log p(x_t | y), (N, *shape)."""
        log_shares, offset, variance = self._components(x_t, a, b)
        return self._average(log_shares, labels, -offset / variance, x_t)

    def predict_x0(self, x_t: Tensor, a: Level = 1.0, b: Level = 0.0, labels: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t], or E[x_0 | x_t, y], (N, *shape)."""
        log_shares, offset, variance = self._components(x_t, a, b)
        gain = _column(a, x_t)[..., None] * self.variances / variance
        return self._average(log_shares, labels, gain * offset, x_t, self.means)

    def predict_eps(self, x_t: Tensor, a: Level, b: Level, labels: Tensor | None = None) -> Tensor:
        """E[eps | x_t] = -b grad log p(x_t), (N, *shape)."""
        return -_column(b, x_t).reshape(-1, *(1,) * len(self.shape)) * self.score(x_t, a, b, labels)

    def velocity(self, x_t: Tensor, a: Level, b: Level, labels: Tensor | None = None) -> Tensor:
        """E[a eps - b x_0 | x_t], (N, *shape) (Salimans & Ho 2022)."""
        wide = (-1, *(1,) * len(self.shape))
        eps, x0 = self.predict_eps(x_t, a, b, labels), self.predict_x0(x_t, a, b, labels)
        return _column(a, x_t).reshape(wide) * eps - _column(b, x_t).reshape(wide) * x0

    def class_log_probs(self, x_t: Tensor, a: Level = 1.0, b: Level = 0.0) -> Tensor:
        """log p(y | x_t), (N, num_classes): what a perfect classifier of noisy samples answers."""
        log_shares, _, _ = self._components(x_t, a, b)
        log_shares = log_shares - log_shares.logsumexp(1, keepdim=True)
        member = self.labels[None] == torch.arange(self.num_classes)[:, None]
        return log_shares[:, None].masked_fill(~member, -math.inf).logsumexp(2)

    def _components(self, x_t: Tensor, a: Level, b: Level) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k N(x_t; a m_k, S_k), (N, K); x_t - a m_k and S_k in the eigenvectors of C_k, (N, K, D)."""
        x = x_t.to(torch.float64).reshape(len(x_t), 1, -1)
        if x.shape[-1] != self.means.shape[1]:
            raise ValueError(f"x_t must be (N, *{self.shape}), got {tuple(x_t.shape)}")
        a, b = _column(a, x_t)[..., None], _column(b, x_t)[..., None]
        offset = x - a * self.means
        if self.basis is not None:
            offset = torch.einsum("kij,nki->nkj", self.basis, offset)
        variance = (a.square() * self.variances + b.square()).expand_as(offset)
        log_normal = -0.5 * (offset.square() / variance + variance.log() + math.log(2 * math.pi)).sum(-1)
        return self.log_weights + log_normal, offset, variance

    def _average(
        self, log_shares: Tensor, labels: Tensor | None, values: Tensor, x_t: Tensor, start: Tensor | None = None
    ) -> Tensor:
        """sum_k p(k | x_t, y) (start_k + values_k), values (N, K, D) being in the eigenvectors of C_k."""
        if self.basis is not None:
            values = torch.einsum("kij,nkj->nki", self.basis, values)
        values = values if start is None else values + start
        if labels is not None:
            log_shares = log_shares.masked_fill(~self._allowed(labels), -math.inf)
        return (log_shares.softmax(1)[..., None] * values).sum(1).reshape(x_t.shape)

    def _allowed(self, labels: Tensor) -> Tensor:
        """(N, K): the components of the class asked for, all of them for one past the last class."""
        wanted = torch.as_tensor(labels).reshape(-1, 1)
        return (self.labels[None] == wanted) | (wanted == self.num_classes)

    # --------------------------------------------------------------------------------- in the place of a network

    def denoiser(self, process: Process, prediction_type: str = "epsilon") -> Callable[..., Tensor]:
        """A function of (x_t, t) or (x_t, t, class_labels): what a perfect network answers, in the dtype of x_t.

        `t`, a number or (N,), is a time of `process`, a NoiseSchedule or any other; the answer is eps, x_0 ("sample"),
        v or, on a path of a flow, the velocity dx/dt ("flow_prediction").

        Raises:
            ValueError: an unknown `prediction_type`.
        """
        answers = {"epsilon": self.predict_eps, "sample": self.predict_x0, "v_prediction": self.velocity}
        if prediction_type == "flow_prediction":
            return self._flow_denoiser(process)
        check_prediction_type(prediction_type)

        def denoise(x_t: Tensor, t: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
            return answers[prediction_type](x_t, *process.marginal(t), class_labels).to(x_t.dtype)

        return denoise

    def _flow_denoiser(self, path: Path) -> Callable[..., Tensor]:
        def denoise(x_t: Tensor, t: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
            at = (x_t, *path.marginal(t), class_labels)
            return path_velocity(path, self.predict_x0(*at), self.predict_eps(*at), t).to(x_t.dtype)

        return denoise

    def classifier(self, process: Process) -> "ExactClassifier":
        """log p(y | x_t) in the place of a trained classifier."""
        return ExactClassifier(self, process)


class ExactClassifier:
    """The class posterior of a mixture, with the methods of a NoisyClassifier; `timestep` is a time of the process."""

    def __init__(self, mixture: GaussianMixture, process: Process) -> None:
        self.mixture, self.process = mixture, process

    def __call__(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """log p(y | x_t), (N, num_classes), float64, differentiable in `sample` (N, *shape)."""
        return self.mixture.class_log_probs(sample, *self.process.marginal(timestep))

    def log_prob(self, sample: Tensor, timestep: Tensor | float, labels: Tensor) -> Tensor:
        """log p(y | x_t) of the classes `labels`, (N,) or one for all, (N,)."""
        chosen = torch.as_tensor(labels, device=sample.device).expand(len(sample)).clone()  # one that autograd may save
        return self(sample, timestep).gather(1, chosen[:, None]).squeeze(1)


def _column(level: Level, x_t: Tensor) -> Tensor:
    """A number or (N,) as float64 (N or 1, 1), to broadcast over components."""
    return torch.as_tensor(level, dtype=torch.float64, device=x_t.device).reshape(-1, 1)
