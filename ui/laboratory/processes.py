"""The processes of the laboratory: samplers of pipelines/, as they ship, on what a perfect network answers.

Time runs from 1, noise, to 0, data, in all of them: a discrete process of T steps is at t = (index + 1) / T.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.ddim import ddim_steps
from pipelines.ddpm import ancestral_steps
from pipelines.flow_matching import LinearPath, flow_steps, shifted_times
from pipelines.langevin import annealed_langevin_steps
from pipelines.process import Path, Process
from pipelines.run import Step
from pipelines.schedule import NoiseSchedule
from pipelines.score_sde import heun_steps, sde_steps
from pipelines.sde import SDE, VESDE, VPSDE, SubVPSDE

from .choices import MOST_PARTICLES
from .guidance import eps_of, score_of, unguided_eps_and_shift, velocity_of
from .lab import Lab

SCHEDULE = NoiseSchedule.linear()
END = 1e-3  # where SDEs and their ODEs end: the score has no limit at t = 0
LEVELS = 10  # of noise in annealed Langevin dynamics, which share its steps
EXPLODING, ANNEALED = VESDE(0.01, 20.0), VESDE(0.05, 5.0)

Noise = Callable[[], Tensor]
Draw = Callable[[Lab, Tensor, Noise], Iterator[Step]]


class UnitTime:
    """The discrete schedule as a process in t from 0 to 1."""

    def marginal(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(a, b), of the shape of `t`; (1, 0) at t = 0."""
        index = torch.as_tensor(t, dtype=torch.float64) * len(SCHEDULE) - 1
        before_first = SCHEDULE.betas[0] * (index + 1)
        b_squared = torch.where(index < 0, before_first, SCHEDULE.marginal(index.clamp(min=0))[1].square())
        return (1 - b_squared).sqrt(), b_squared.clamp(min=0).sqrt()


@dataclass(frozen=True)
class Kind:
    """A process: its marginals for t from 0 to 1, its sampler, and how it is shown.

    Attributes:
        path: the same, or its limit, whose marginals can be differentiated
        prior_std: of x_1, which a run begins with
        spreads: x_t is shown divided by sqrt(a^2 + b^2), since it grows out of any plot
    """

    process: Process
    draw: Draw
    path: Path
    prior_std: float = 1.0
    spreads: bool = False

    def scale(self, t: Tensor | float) -> Tensor:
        """What x_t is divided by in plots, of the shape of `t`."""
        a, b = self.process.marginal(t)
        return (a.square() + b.square()).sqrt() if self.spreads else torch.ones_like(a)

    def scale_rate(self, t: Tensor | float) -> Tensor:
        """The derivative of the scale by t."""
        (a, b), (rate_a, rate_b) = self.path.marginal(t), self.path.marginal_rate(t)
        return (a * rate_a + b * rate_b) / self.scale(t) if self.spreads else torch.zeros_like(a)


@dataclass(frozen=True)
class Trajectories:
    """A run: `times` (S + 1,) from 1 down, and where the particles are at each, `states` (S + 1, N, D), float64."""

    times: list[float]
    states: Tensor


def run(lab: Lab, count: int | None = None) -> Trajectories:
    """Draw so many particles, or those that the settings ask for. Particle i is the same whatever their number."""
    count = lab.particles if count is None else count
    times, states = [], []
    for step in steps(lab, count):
        times.append(float(step.timestep))
        states.append(step.x_t)
    states = [state.reshape(count, lab.dimensions) for state in [*states, step.prev_sample]]
    return Trajectories([*unit_times(lab.process, times), 0.0], torch.stack(states))


def steps(lab: Lab, count: int) -> Iterator[Step]:
    """The steps of the sampler, for so many particles, whose tensors are (N, D) or, of an SDE, (1, N, D)."""
    kind, generator = KINDS[lab.process], torch.Generator().manual_seed(lab.seed)

    def noise() -> Tensor:
        shape = (MOST_PARTICLES, lab.dimensions)
        return torch.randn(shape, generator=generator, dtype=torch.float64)[:count]

    return kind.draw(lab, kind.prior_std * noise(), noise)


def unit_times(process: str, times: list[float]) -> list[float]:
    """Times of steps as t from 0 to 1."""
    return [(t + 1) / len(SCHEDULE) for t in times] if process in ("DDPM", "DDIM") else times


def _spaced(lab: Lab) -> NoiseSchedule:
    return SCHEDULE.respace(SCHEDULE.spaced_timesteps(lab.steps))


def _ddpm(lab: Lab, x: Tensor, noise: Noise) -> Iterator[Step]:
    eps, shift = unguided_eps_and_shift(lab, SCHEDULE)
    return ancestral_steps(eps, x, _spaced(lab), noise=noise, variance=lab.variance, shift=shift)


def _ddim(lab: Lab, x: Tensor, noise: Noise) -> Iterator[Step]:
    return ddim_steps(eps_of(lab, SCHEDULE), x, _spaced(lab), eta=lab.eta, noise=noise)


def _flow(lab: Lab, x: Tensor, noise: Noise) -> Iterator[Step]:
    return flow_steps(velocity_of(lab, PATH), x, shifted_times(lab.steps), PATH, lab.solver, time_scale=1.0)


def _times(steps: int) -> list[float]:
    return [1 + (END - 1) * i / steps for i in range(steps + 1)]


def _sde(sde: SDE) -> Draw:
    """All particles are one image of N rows: the corrector's step follows from the norm of the scores of an image,
    which says nothing where an image is one or two numbers."""

    def draw(lab: Lab, x: Tensor, noise: Noise) -> Iterator[Step]:
        score = score_of(lab, sde)
        options = (lab.predictor, lab.corrector_steps, lab.snr)
        return sde_steps(
            lambda cloud, t: score(cloud[0], t)[None], x[None], sde, _times(lab.steps), lambda: noise()[None], *options
        )

    return draw


def _ode(sde: SDE) -> Draw:
    return lambda lab, x, noise: heun_steps(score_of(lab, sde), x, sde, _times(lab.steps))


def _langevin(lab: Lab, x: Tensor, noise: Noise) -> Iterator[Step]:
    """`step_size` is a share of the variance of the noise, at each level."""
    levels = max(min(lab.steps, LEVELS), 2)
    times, size = [1 - i / (levels - 1) for i in range(levels)], lab.step_size * ANNEALED.sigma_min**2
    return annealed_langevin_steps(
        score_of(lab, ANNEALED), x, ANNEALED, times, noise, max(lab.steps // levels, 1), size
    )


def _over(sde: SDE, draw: Draw) -> Kind:
    return Kind(sde, draw, sde, sde.prior_std, spreads=isinstance(sde, VESDE))


VP, SUB_VP, PATH = VPSDE(), SubVPSDE(), LinearPath()
KINDS = {
    "DDPM": Kind(UnitTime(), _ddpm, VP),
    "DDIM": Kind(UnitTime(), _ddim, VP),
    "VP SDE": _over(VP, _sde(VP)),
    "sub-VP SDE": _over(SUB_VP, _sde(SUB_VP)),
    "VE SDE": _over(EXPLODING, _sde(EXPLODING)),
    "VP ODE": _over(VP, _ode(VP)),
    "sub-VP ODE": _over(SUB_VP, _ode(SUB_VP)),
    "VE ODE": _over(EXPLODING, _ode(EXPLODING)),
    "Langevin": _over(ANNEALED, _langevin),
    "flow": Kind(PATH, _flow, PATH),
}
