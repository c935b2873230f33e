"""Runs of samplers on an exact network: ours, and diffusers' schedulers as its pipelines drive them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from benchmarks.convergence import DATA, score, times
from pipelines import VESDE, VPSDE, LinearPath, SubVPSDE
from pipelines.ddim import ddim_steps
from pipelines.ddpm import ancestral_steps
from pipelines.flow_matching import flow_steps, shifted_times
from pipelines.langevin import annealed_langevin_steps
from pipelines.run import Step
from pipelines.score_sde import adaptive_steps, heun_steps, sde_steps
from pipelines.solvers import TAKEN, Solver

# of a network that predicts the velocity of a linear path
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
FLOWS += ("LTXEulerAncestralRFScheduler",)
# of a network that is preconditioned as Karras et al. 2022 do
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
OTHERS = ("CogVideoXDDIMScheduler", "IPNDMScheduler", "UnCLIPScheduler")
INVERSE = ("DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler")
END = 1e-3


class Counted:
    """Counts the evaluations of a run's network; noise comes from one generator."""

    def __init__(self, seed: int = 0) -> None:
        self.nfe, self.generator = 0, torch.Generator().manual_seed(seed)

    def of(self, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`network`, counted."""

        def asked(*arguments: Any) -> Tensor:
            self.nfe += 1
            return network(*arguments)

        return asked

    def noise_like(self, x: Tensor) -> Callable[[], Tensor]:
        """Unit noise in the shape of x."""
        return lambda: torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


Draw = Callable[[Tensor, int, Counted], Tensor]


@dataclass(frozen=True)
class Sampler:
    """One row: what takes unit noise (N, 1) in a number of steps to samples.

    Attributes:
        family: whose it is and how it is driven
        noisy: whether it adds noise on its way
        theory: its order in the literature; None where there is none to state
    """

    name: str
    family: str
    draw: Draw
    noisy: bool = False
    theory: int | None = None


def stated() -> DDIMScheduler:
    """What our pipelines are told of the process, whose betas are the default ones of diffusers."""
    return DDIMScheduler(timestep_spacing="trailing", clip_sample=False)


def at_any_time(alphas_cumprod: Tensor) -> Callable[[Tensor, Tensor | float], Tensor]:
    """The exact eps at timesteps between two entries of a schedule, too: its log SNR is a line between them."""
    abar = alphas_cumprod.double()

    def eps(x: Tensor, t: Tensor | float) -> Tensor:
        t = min(max(float(t), 0.0), len(abar) - 1.0)
        low = min(int(t), len(abar) - 2)
        log_snr = torch.lerp(*torch.logit(abar[[low, low + 1]]), t - low)
        return DATA.predict_eps(x.double(), log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt())

    return eps


# ----------------------------------------------------------------------------------------------------------------- ours


def ours() -> list[Sampler]:
    """The samplers of pipelines/."""
    return [
        Sampler("DDIM", "ours", _ddim(0.0), theory=1),
        Sampler("DDIM, eta 1", "ours", _ddim(1.0), noisy=True),
        Sampler("DDPM, fixed_small", "ours", _ddpm("fixed_small"), noisy=True),
        Sampler("DDPM, fixed_large", "ours", _ddpm("fixed_large"), noisy=True),
        *(Sampler(f"flow, {kind}", "ours", _flow(kind), theory=p) for kind, p in _FLOW_ORDERS.items()),
        *(Sampler(f"{name} ODE, Heun", "ours", _ode(sde), theory=2) for name, sde in _PROCESSES.items()),
        Sampler("VP ODE, Dormand-Prince", "ours", _adaptive, theory=None),
        *(
            Sampler(f"{name} SDE, {kind.replace('_', ' ')}", "ours", _sde(sde, kind), noisy=True)
            for name, sde in _PROCESSES.items()
            for kind in ("euler_maruyama", "reverse_diffusion")
        ),
        Sampler("annealed Langevin", "ours", _langevin, noisy=True),
    ]


_FLOW_ORDERS = {"euler": 1, "midpoint": 2, "heun": 2}
_PROCESSES = {"VP": VPSDE(), "sub-VP": SubVPSDE(), "VE": VESDE(0.01, 50.0)}


def _ddim(eta: float) -> Draw:
    def draw(x: Tensor, steps: int, counted: Counted) -> Tensor:
        solver = Solver(stated(), steps)
        network = counted.of(at_any_time(solver.process.alphas_cumprod))
        return last(ddim_steps(network, x, solver.schedule, eta=eta, noise=counted.noise_like(x)))

    return draw


def _ddpm(variance: str) -> Draw:
    def draw(x: Tensor, steps: int, counted: Counted) -> Tensor:
        solver = Solver(stated(), steps)
        network = counted.of(at_any_time(solver.process.alphas_cumprod))
        return last(ancestral_steps(network, x, solver.schedule, noise=counted.noise_like(x), variance=variance))

    return draw


def _flow(sampler: str) -> Draw:
    def draw(x: Tensor, steps: int, counted: Counted) -> Tensor:
        velocity = counted.of(DATA.denoiser(LinearPath(), "flow_prediction"))
        return last(flow_steps(velocity, x, shifted_times(steps), LinearPath(), sampler))

    return draw


def _ode(sde: Any) -> Draw:
    def draw(x: Tensor, steps: int, counted: Counted) -> Tensor:
        return last(heun_steps(counted.of(score(sde)), sde.prior_std * x, sde, times(steps, END)))

    return draw


def _adaptive(x: Tensor, steps: int, counted: Counted) -> Tensor:
    """Tolerances as loose as the steps are few."""
    sde, asked = VPSDE(), counted.of(score(VPSDE()))
    tolerance = (4 / steps) ** 4
    return last(adaptive_steps(lambda x, t, rows: asked(x, t), x, sde, END, tolerance, tolerance, 100_000))


def _sde(sde: Any, predictor: str) -> Draw:
    def draw(x: Tensor, steps: int, counted: Counted) -> Tensor:
        at, noise = times(steps, END), counted.noise_like(x)
        return last(sde_steps(counted.of(score(sde)), sde.prior_std * x, sde, at, noise, predictor))

    return draw


def _langevin(x: Tensor, steps: int, counted: Counted) -> Tensor:
    """Ten noise levels, or as many as there are steps, which they share."""
    sde, levels = VESDE(0.05, 5.0), min(steps, 10)
    at = [1 - i / (levels - 1) for i in range(levels)]
    network, each = counted.of(score(sde)), steps // levels
    return last(annealed_langevin_steps(network, sde.prior_std * x, sde, at, counted.noise_like(x), each, 5e-4))


def last(run: Iterator[Step]) -> Tensor:
    """Where a run ends."""
    *_, step = run
    return step.prev_sample


# ------------------------------------------------------------------------------------------------------------ diffusers


def stock_names() -> list[str]:
    """Every scheduler that diffusers exports."""
    return sorted(name for name in dir(diffusers) if name.endswith("Scheduler") and name != "SchedulerMixin")


def driven_as_stock(kind: type, **options: Any) -> Draw:
    """A scheduler of diffusers in the loop that its pipelines have.

    Raises:
        ValueError: one that does not sample from a network of this kind
        ImportError, TypeError: one that lacks a package, or has arguments without a default
    """
    name = kind.__name__
    kind(**options)
    if name in INVERSE:
        raise ValueError("goes from images to noise")
    if name not in (*TAKEN, *FLOWS, *EDM, *OTHERS):
        raise ValueError("is of a network of its own")

    def draw(x: Tensor, steps: int, counted: Counted) -> Tensor:
        run = kind(**options)
        run.set_timesteps(steps)
        network = counted.of(_network_of(run))
        takes = inspect.signature(run.step).parameters
        extra = {"generator": counted.generator} if "generator" in takes else {}
        x = x * getattr(run, "init_noise_sigma", 1.0)
        for t in run.timesteps:
            x_in = run.scale_model_input(x, t) if hasattr(run, "scale_model_input") else x
            x = run.step(network(x_in, t).to(x.dtype), t, x, **extra).prev_sample
        return x

    return draw


def _network_of(scheduler: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """What a perfect network answers to the input and the timestep that a scheduler gives it."""
    name = type(scheduler).__name__
    if name in FLOWS:
        velocity = DATA.denoiser(LinearPath(), "flow_prediction")
        return lambda x, t: velocity(x.double(), float(t) / scheduler.config.num_train_timesteps)
    if name in EDM:
        return lambda x, t: _preconditioned(scheduler, x.double())
    if name == "IPNDMScheduler":
        return lambda x, t: DATA.velocity(
            x.double(), (t.double() * math.pi / 2).cos(), (t.double() * math.pi / 2).sin()
        )
    return at_any_time(scheduler.alphas_cumprod)


def _preconditioned(scheduler: Any, x_in: Tensor) -> Tensor:
    """F = (D - c_skip x) / c_out (Karras et al. 2022, eq. 7), of x = x_in / c_in."""
    sigma, data = scheduler.sigmas[scheduler.step_index or 0].double(), scheduler.config.sigma_data
    total = (sigma**2 + data**2).sqrt()
    x = x_in * total
    return (DATA.predict_x0(x, 1.0, sigma) - data**2 / total**2 * x) / (sigma * data / total)


def driven_as_ours(kind: type) -> Draw:
    """The same scheduler as our pipelines take it: made from the config of what they are told of the process."""
    scheduler = kind.from_config(stated().config)

    def draw(x: Tensor, steps: int, counted: Counted) -> Tensor:
        solver = Solver(scheduler, steps)
        noise = counted.noise_like(x)
        noise.generators = [counted.generator]
        own = ancestral_steps if isinstance(scheduler, DDPMScheduler) else ddim_steps
        return last(solver.steps(own, counted.of(at_any_time(solver.process.alphas_cumprod)), x, noise))

    return draw
