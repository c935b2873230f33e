"""The forward process of a discrete-time diffusion model, as float64 tables.

    q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)                            Ho et al. 2020, eq. 2
    q(x_t | x_0)     = N(sqrt(abar_t) x_0, (1 - abar_t) I),  abar_t = prod (1 - beta_s)  Ho et al. 2020, eq. 4

`NoiseSchedule` is the single statement of that process: sampling, losses, likelihoods and plots read it. Its tables
are float64, because float32 is off by 5e-4 at t = 0. Arithmetic is done in float64 on float64 tensors and in float32 on
all others. `add_noise` and `velocity`, which feed a network, come back in the dtype of `x0`; the rest keeps the
precision it was worked out in.

Ho et al. 2020: https://arxiv.org/abs/2006.11239; Nichol & Dhariwal 2021: https://arxiv.org/abs/2102.09672.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .process_713930e3 import broadcast, predict_eps, predict_x0, up, velocity

SPACINGS = ("trailing", "leading", "linspace")


class NoiseSchedule:
    """Tables of the forward process, each float64 of shape (T,), index 0 being the least noisy step.

    Attributes:
        betas: variance of each step, in (0, 1]
        alphas_cumprod: abar_t, the share of the signal's variance that is left after step t
        timesteps: int64, the index of each entry in the process the network was trained on
        final_alpha_cumprod: abar after the last of DDIM's steps, a float: 1, or abar_0 of the whole process where a
            scheduler says `set_alpha_to_one=False`, as that of CompVis' latent diffusion
    """

    def __init__(self, betas: Tensor | Sequence[float], timesteps: Tensor | Sequence[int] | None = None) -> None:
        self.betas = torch.as_tensor(betas, dtype=torch.float64)
        if self.betas.ndim != 1 or len(self.betas) == 0:
            raise ValueError(f"betas must be a vector of at least one step, got shape {tuple(self.betas.shape)}")
        if not bool(((self.betas > 0) & (self.betas <= 1)).all()):
            raise ValueError(f"betas must lie in (0, 1], got {self.betas.min():.6g} to {self.betas.max():.6g}")
        count = len(self.betas)
        self.timesteps = torch.arange(count) if timesteps is None else torch.as_tensor(timesteps, dtype=torch.int64)
        if len(self.timesteps) != count:
            raise ValueError(f"timesteps must have one entry a beta ({count}), got {len(self.timesteps)}")
        self.alphas_cumprod = torch.cumprod(1.0 - self.betas, dim=0)
        self.final_alpha_cumprod = 1.0

    def __len__(self) -> int:
        return len(self.betas)

    # ----------------------------------------------------------------------------------------------- construction

    @classmethod
    def linear(cls, T: int = 1000, beta_start: float = 1e-4, beta_end: float = 2e-2) -> "NoiseSchedule":
        """beta_t rises linearly (Ho et al. 2020, section 4)."""
        return cls(torch.linspace(beta_start, beta_end, T, dtype=torch.float64))

    @classmethod
    def cosine(cls, T: int = 1000, s: float = 0.008) -> "NoiseSchedule":
        """abar_t = f(t)/f(0), f(t) = cos^2((t/T + s)/(1 + s) pi/2), betas at most 0.999 (Nichol & Dhariwal, eq. 17)."""
        return cls(_cosine_betas(T, s))

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> "NoiseSchedule":
        """Rebuild the tables in float64 from the config of a diffusers scheduler.

        Raises:
            ValueError: the config describes no discrete beta schedule that is known here.
        """
        config = scheduler.config
        betas = _betas_from_config(config)
        if config.get("rescale_betas_zero_snr", False):
            betas = _rescale_zero_terminal_snr(betas)
        schedule = cls(betas)
        ancestral = type(scheduler).__name__ == "DDPMScheduler"  # keeps in its config what it was made from
        if not ancestral and not config.get("set_alpha_to_one", True):
            schedule.final_alpha_cumprod = float(schedule.alphas_cumprod[0])
        return schedule

    def respace(self, timesteps: Tensor | Sequence[int]) -> "NoiseSchedule":
        """The same process seen only at `timesteps` (indices into this schedule, in any order, each once).

        abar is kept at these steps and beta_i = 1 - abar_i / abar_{i-1} is recomputed (Nichol & Dhariwal, section 4).
        """
        index = torch.as_tensor(timesteps, dtype=torch.int64).sort().values
        if len(index) == 0 or index[0] < 0 or index[-1] >= len(self) or bool((index.diff() == 0).any()):
            raise ValueError(f"timesteps must be distinct and in [0, {len(self) - 1}], got {index.tolist()}")
        kept = self.alphas_cumprod[index]
        previous = torch.cat([kept.new_ones(1), kept[:-1]])
        spaced = NoiseSchedule(1.0 - kept / previous, timesteps=self.timesteps[index])
        spaced.alphas_cumprod = kept  # to the last digit: a product of (1 - beta) loses some where beta is near 1
        spaced.final_alpha_cumprod = self.final_alpha_cumprod
        return spaced

    def spaced_timesteps(self, num_inference_steps: int, spacing: str = "trailing", steps_offset: int = 0) -> list[int]:
        """Descending indices at which a sampler with `num_inference_steps` steps calls the network.

        "trailing" starts at T - 1, "leading" ends at `steps_offset`, "linspace" does both (Lin et al. 2024, table 2).

        Raises:
            ValueError: `num_inference_steps` outside [1, T], or an unknown spacing.
        """
        T, n = len(self), num_inference_steps
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= T:
            raise ValueError(f"num_inference_steps must be an integer in [1, {T}], got {n!r}")
        if spacing not in SPACINGS:
            raise ValueError(f"timestep_spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")
        if spacing == "trailing":
            return [round(T * (n - i) / n) - 1 for i in range(n)]
        if spacing == "leading":
            offset = min(steps_offset, T - 1 - (n - 1) * (T // n))  # at n = T there is no room for an offset
            return [i * (T // n) + offset for i in reversed(range(n))]
        return [round(i * (T - 1) / max(n - 1, 1)) for i in reversed(range(n))]

    # ------------------------------------------------------------------------------------------------ q(x_t | x_0)

    def marginal(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), float64 on the CPU, of the shape of `t`.

        `t` indexes the schedule and may lie between two of its steps, where solvers of second order ask: log SNR is
        interpolated, as they do.
        """
        kept = self._alphas_cumprod_at(torch.as_tensor(t).cpu())
        return kept.sqrt(), (1.0 - kept).sqrt()

    def _alphas_cumprod_at(self, t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return self.alphas_cumprod[t]
        t, last = t.double(), len(self) - 1
        low = t.floor().long().clamp(0, last)
        high = (low + 1).clamp(max=last)
        exact, log_snr = self.alphas_cumprod[low], torch.logit(self.alphas_cumprod)
        between = torch.lerp(log_snr[low], log_snr[high], t - low).sigmoid()
        return torch.where((low == t) | (low == high), exact, between)

    def time_of(self, a: Tensor, b: Tensor) -> Tensor:
        """The fractional t whose marginal has the signal-to-noise ratio of (a, b), or the nearest in [0, T - 1].

        The inverse of `marginal`, float64, of the shape of `a`.
        """
        wanted = 2 * (torch.as_tensor(a, dtype=torch.float64).log() - torch.as_tensor(b, dtype=torch.float64).log())
        log_snr = torch.logit(self.alphas_cumprod).flip(0)  # rising
        last = len(self) - 1
        high = torch.searchsorted(log_snr, wanted.contiguous()).clamp(1, last)
        low = high - 1
        between = ((wanted - log_snr[low]) / (log_snr[high] - log_snr[low])).clamp(0, 1)
        return last - (low + between)

    def share(self, t: Tensor | float) -> Tensor | float:
        """How far the process has come at `t`, from 0, the least noisy step, to 1, the noisiest."""
        t = t if isinstance(t, Tensor) and t.ndim else float(t)
        return t / max(len(self) - 1, 1)

    def gather(self, table: Tensor, t: Tensor | int, like: Tensor) -> Tensor:
        """Entries `t`, an int or (N,), of a (T,) table, as a tensor that multiplies `like` (N, ...)."""
        return broadcast(table[torch.as_tensor(t, dtype=torch.int64).cpu()], like)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, all (N, ...), t an int or (N,)."""
        a, b = self.marginal(t)
        return (broadcast(a, x0) * up(x0) + broadcast(b, x0) * up(noise)).to(x0.dtype)

    def velocity(self, x0: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans & Ho 2022, section 4), in the dtype of `x0`."""
        return velocity(x0, noise, *self.marginal(t)).to(x0.dtype)

    def predict_x0(self, output: Tensor, x_t: Tensor, t: Tensor | int, prediction_type: str = "epsilon") -> Tensor:
        """x_0 from a network's output (N, ...) that is eps, x_0 ("sample") or v; ValueError for another type."""
        return predict_x0(output, x_t, *self.marginal(t), prediction_type)

    def predict_eps(self, output: Tensor, x_t: Tensor, t: Tensor | int, prediction_type: str = "epsilon") -> Tensor:
        """eps from a network's output (N, ...) that is eps, x_0 ("sample") or v; ValueError for another type."""
        return predict_eps(output, x_t, *self.marginal(t), prediction_type)

    def snr(self, t: Tensor | int) -> Tensor:
        """abar_t / (1 - abar_t), float64, shape of `t`."""
        kept = self.alphas_cumprod[torch.as_tensor(t, dtype=torch.int64).to(self.alphas_cumprod.device)]
        return kept / (1.0 - kept)

    # ----------------------------------------------------------------------------------------- q(x_{t-1} | x_t, x_0)

    @property
    def alphas_cumprod_prev(self) -> Tensor:
        """abar_{t-1}, (T,), 1 at t = 0."""
        return torch.cat([self.alphas_cumprod.new_ones(1), self.alphas_cumprod[:-1]])

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor | int) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 7)."""
        kept, before = self.alphas_cumprod, self.alphas_cumprod_prev
        coefficient_x0 = self.betas * before.sqrt() / (1.0 - kept)
        coefficient_xt = (1.0 - before) * (1.0 - self.betas).sqrt() / (1.0 - kept)
        return self.gather(coefficient_x0, t, x_t) * up(x0) + self.gather(coefficient_xt, t, x_t) * up(x_t)

    @property
    def posterior_variance(self) -> Tensor:
        """beta_tilde_t, variance of q(x_{t-1} | x_t, x_0), (T,); 0 at t = 0 (Ho et al. 2020, eq. 7)."""
        return self.betas * (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @property
    def posterior_log_variance_clipped(self) -> Tensor:
        """log beta_tilde_t, (T,), with the entry at t = 0, which would be -inf, replaced by the one at t = 1."""
        variance = self.posterior_variance
        if len(variance) == 1:
            return self.betas.log()
        return torch.cat([variance[1:2], variance[1:]]).log()


@cache
def _cosine_betas(T: int, s: float) -> tuple[float, ...]:
    """Of `NoiseSchedule.cosine`; every run asks for them anew."""

    def f(t: float) -> float:
        return math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2

    return tuple(min(1 - f(t + 1) / f(t), 0.999) for t in range(T))


def _betas_from_config(config: dict) -> Tensor:
    if config.get("trained_betas") is not None:
        return torch.as_tensor(config["trained_betas"], dtype=torch.float64)
    T, kind = config.get("num_train_timesteps", 1000), config.get("beta_schedule")
    builders: dict[str, Callable[[float, float, int], Tensor]] = {
        "linear": lambda start, end, steps: torch.linspace(start, end, steps, dtype=torch.float64),
        "scaled_linear": lambda start, end, steps: (
            torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        ),
        "squaredcos_cap_v2": lambda start, end, steps: NoiseSchedule.cosine(steps).betas,
        "sigmoid": lambda start, end, steps: (
            torch.sigmoid(torch.linspace(-6, 6, steps, dtype=torch.float64)) * (end - start) + start
        ),
    }
    if kind not in builders:
        raise ValueError(f"beta_schedule must be one of {', '.join(builders)}, got {kind!r}")
    return builders[kind](config.get("beta_start", 1e-4), config.get("beta_end", 2e-2), T)


def _rescale_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Shift and scale sqrt(abar) so that the last step holds no signal (Lin et al. 2024, algorithm 1)."""
    root = torch.cumprod(1.0 - betas, dim=0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    kept = root**2
    return 1.0 - kept / torch.cat([kept.new_ones(1), kept[:-1]])
