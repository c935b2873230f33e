"""Two processes over each other: a discrete sampler, and the equation that it becomes as its steps grow in number.

    DDIM -> the probability-flow ODE of the VP SDE          DDPM -> its reverse SDE, with the same Brownian motion
    DDIM =  Euler's steps of the linear flow, in x / (a + b), at the same levels of noise b / (a + b)
    NCSN -> the reverse SDE of the VE SDE, with the same Brownian motion

All begin with the same noise. The schedule of DDPM and DDIM is the VP SDE seen at even times: the same marginals.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.ddim import ddim_steps
from pipelines.ddpm import ancestral_steps
from pipelines.flow_matching import flow_steps
from pipelines.run import Step
from pipelines.schedule import NoiseSchedule
from pipelines.score_sde import heun_steps, sde_steps
from pipelines.sde import SDE

from . import density, plots
from .density import HALF, TIME
from .guidance import eps_of, score_of, velocity_of
from .lab import Lab
from .plots import Layer, Plot, Range
from .processes import ANNEALED, KINDS, PATH, VP, Kind, Noise

PATHS = 256  # whose distance is measured; some of them are drawn
DRAWN, DRAWN_WITH_NOISE = 12, 3
DOTTED = 41  # states of a path, at most, that are marked
ODE_STEPS, ODE_END = 100, 1e-5  # of the exact paths: Heun's, the finer the closer to the data
FINEST = 256  # steps of the Brownian motion, at least
FEWEST, LARGEST_SHARE = 4, 4  # numbers of steps that are compared: from FEWEST to a quarter of the finest
MOST = 6  # of them
COMPARED_AT = 0.1  # where paths with noise are, or a little before: the last step of a chain leaves its noise out


@dataclass(frozen=True)
class Paths:
    """`times` (S + 1,), from noise down, and positions `x` (S + 1, N), as they are shown."""

    times: Tensor
    x: Tensor


# ------------------------------------------------------------------------------------------------------- the processes


def schedule_of(sde: SDE, steps: int) -> NoiseSchedule:
    """The discrete process of `steps` with the marginals of a variance-preserving SDE at even times."""
    kept = sde.marginal(torch.arange(1, steps + 1, dtype=torch.float64) / steps)[0].square()
    schedule = NoiseSchedule(1 - kept / torch.cat([kept.new_ones(1), kept[:-1]]))
    schedule.alphas_cumprod = kept  # to the last digit
    return schedule


def even_times(steps: int) -> list[float]:
    """From 1 down to 0."""
    return [1 - i / steps for i in range(steps + 1)]


def brownian(lab: Lab, finest: int) -> tuple[Tensor, Callable[[int], Noise]]:
    """Unit noise to begin with, (N, 1), and for a number of steps, which divides `finest`, the motion over each."""
    generator = torch.Generator().manual_seed(lab.seed)
    x = torch.randn(PATHS, 1, generator=generator, dtype=torch.float64)
    motion = torch.randn(finest, PATHS, 1, generator=generator, dtype=torch.float64)

    def noise(steps: int) -> Noise:
        each = iter(motion.reshape(steps, finest // steps, PATHS, 1).sum(1) / math.sqrt(finest // steps))
        return lambda: next(each)

    return x, noise


def ddim(lab: Lab, x: Tensor, steps: int) -> Tensor:
    """States of DDIM (steps + 1, N), at even times."""
    schedule = schedule_of(VP, steps)
    return states(ddim_steps(eps_of(lab, schedule), x, schedule))


def ddpm(lab: Lab, x: Tensor, steps: int, noise: Noise) -> Tensor:
    """States of DDPM with the variance beta, (steps + 1, N), at even times."""
    schedule = schedule_of(VP, steps)
    run = ancestral_steps(eps_of(lab, schedule), x, schedule, noise=noise, variance="fixed_large")
    return states(run)


def sde(lab: Lab, x: Tensor, steps: int, noise: Noise, process: SDE, predictor: str) -> Tensor:
    """States of a reverse SDE (steps + 1, N), at even times."""
    run = sde_steps(score_of(lab, process), process.prior_std * x, process, even_times(steps), noise, predictor)
    return states(run)


def ode_times() -> list[float]:
    """Denser towards the data, where the paths bend."""
    return [ODE_END + (1 - ODE_END) * t * t for t in even_times(ODE_STEPS)]


def ode(lab: Lab, x: Tensor) -> Tensor:
    """States of the probability-flow ODE at `ode_times`, (ODE_STEPS + 1, N)."""
    return states(heun_steps(score_of(lab, VP), x, VP, ode_times()))


def flow(lab: Lab, x: Tensor, times: list[float]) -> Tensor:
    """States of Euler's steps on the linear flow from x at times[0], (times, N)."""
    return states(flow_steps(velocity_of(lab, PATH), x, times, PATH, "euler", 1.0))


def levels_of(steps: int) -> tuple[Tensor, Tensor]:
    """Of DDIM's steps: a + b, and the time b / (a + b) of the linear flow with the same noise, (steps + 1,) each."""
    a, b = VP.marginal(torch.tensor(even_times(steps), dtype=torch.float64))
    return a + b, b / (a + b)


def states(run: Iterator[Step]) -> Tensor:
    """(steps + 1, N) of a run on a line."""
    steps = list(run)
    return torch.stack([*(step.x_t for step in steps), steps[-1].prev_sample])[..., 0]


# ----------------------------------------------------------------------------------------------------------- the pairs


@dataclass(frozen=True)
class Overlay:
    """What a pair comes to.

    Attributes:
        kind: whose density is behind the paths
        sampler, limit: their paths, in the steps of the experiment
        distances: by what is compared, the mean distance for each number of steps
        drawn: how many of the paths are shown
    """

    kind: Kind
    sampler: Paths
    limit: Paths
    distances: dict[str, dict[int, float]]
    drawn: int = DRAWN


def ddim_and_ode(lab: Lab) -> Overlay:
    """Order 1 in the steps."""
    x, _ = brownian(lab, 1)
    limit = ode(lab, x)
    found = {n: apart(ddim(lab, x, n)[-1] - limit[-1]) for n in counts(_finest(lab))}
    sampler = _even(ddim(lab, x, lab.steps))
    return Overlay(KINDS["VP ODE"], sampler, Paths(_tensor(ode_times()), limit), {"at the end, t = 0": found})


def ddpm_and_sde(lab: Lab) -> Overlay:
    """Order 1 in the steps, path by path."""
    return _with_noise(lab, KINDS["VP SDE"], VP, ddpm)


def ncsn_and_sde(lab: Lab) -> Overlay:
    """Order 1 in the steps, path by path."""

    def ncsn(lab: Lab, x: Tensor, steps: int, noise: Noise) -> Tensor:
        return sde(lab, x, steps, noise, ANNEALED, "reverse_diffusion")

    return _with_noise(lab, KINDS["Langevin"], ANNEALED, ncsn)


def _with_noise(lab: Lab, kind: Kind, process: SDE, chain: Callable[..., Tensor]) -> Overlay:
    finest = _finest(lab)
    x, noise = brownian(lab, finest)
    fine = sde(lab, x, finest, noise(finest), process, "euler_maruyama")

    def distance(n: int) -> float:
        taken = math.floor((1 - COMPARED_AT) * n)
        difference = chain(lab, x, n, noise(n))[taken] - fine[taken * (finest // n)]
        return apart(difference / kind.scale(1 - taken / n))

    found = {n: distance(n) for n in counts(finest)}
    shown = [_even(path, kind) for path in (chain(lab, x, lab.steps, noise(lab.steps)), fine)]
    return Overlay(kind, *shown, {f"near t = {COMPARED_AT:g}": found}, DRAWN_WITH_NOISE)


def ddim_and_flow(lab: Lab) -> Overlay:
    """None at the same levels of noise; order 1 between even steps of each."""
    x, _ = brownian(lab, 1)

    def pair(n: int) -> tuple[Tensor, Tensor, Tensor]:
        size, times = levels_of(n)
        return times, ddim(lab, x, n) / size[:, None], flow(lab, x / size[0], times.tolist())

    alike, even = {}, {}
    for n in counts(_finest(lab)):
        times, theirs, ours = pair(n)
        evenly = flow(lab, theirs[0][:, None], [float(times[0]) * t for t in even_times(n)])
        alike[n], even[n] = apart(theirs - ours), apart(theirs[-1] - evenly[-1])
    times, theirs, ours = pair(lab.steps)
    distances = {"at the same levels of noise": alike, "the flow in even steps": even}
    return Overlay(KINDS["flow"], Paths(times, theirs), Paths(times, ours), distances)


@dataclass(frozen=True)
class Pair:
    """A choice of the setting: what it computes, and the names of the two."""

    overlay: Callable[[Lab], Overlay]
    sampler: str
    limit: str


PAIRS = {
    "DDIM, probability-flow ODE": Pair(ddim_and_ode, "DDIM", "probability-flow ODE"),
    "DDPM, reverse SDE": Pair(ddpm_and_sde, "DDPM", "reverse VP SDE"),
    "DDIM, linear flow": Pair(ddim_and_flow, "DDIM", "linear flow, Euler"),
    "NCSN, reverse SDE": Pair(ncsn_and_sde, "NCSN", "reverse VE SDE"),
}


def counts(finest: int) -> list[int]:
    """Numbers of steps to compare, which divide the finest: a few, evenly on a logarithmic axis."""
    able = [n for n in range(FEWEST, finest // LARGEST_SHARE + 1) if finest % n == 0]
    wanted = torch.logspace(math.log10(able[0]), math.log10(able[-1]), MOST).tolist()
    return sorted({min(able, key=lambda n: abs(math.log(n / each))) for each in wanted})


def _finest(lab: Lab) -> int:
    """The least product of the steps and a power of two that is fine enough."""
    finest = lab.steps
    while finest < max(FINEST, 2 * lab.steps):
        finest *= 2
    return finest


def apart(difference: Tensor) -> float:
    """Mean distance: a root mean square would tell of the few paths that end in different modes."""
    return float(difference.abs().mean())


def _tensor(times: list[float]) -> Tensor:
    return torch.tensor(times, dtype=torch.float64)


def _even(x: Tensor, kind: Kind = KINDS["VP ODE"]) -> Paths:
    times = _tensor(even_times(len(x) - 1))
    return Paths(times, x / kind.scale(times)[:, None])


# -------------------------------------------------------------------------------------------------------- what is shown


def show(lab: Lab) -> list[Plot]:
    """Their paths over each other, and how far they are apart for each number of steps."""
    pair = PAIRS[lab.pair]
    found = pair.overlay(lab)
    paths = plots.plot(
        "Paths over each other",
        f"Paths of {pair.sampler} in {lab.steps} steps and of the {pair.limit}, from the same noise, over the density.",
        (1.0, 0.0),
        (-HALF, HALF),
        [
            density.line_heat(lab.mixture, found.kind),
            plots.lines(_drawn(found.limit, found.drawn), "second", pair.limit, width=2.5),
            plots.lines(_drawn(found.sampler, found.drawn), "first", f"{pair.sampler}, {lab.steps} steps", width=1.5),
            *_dots(found.sampler, found.drawn),
            *density.line_handles(lab),
        ],
        x_label=TIME,
        y_label=density.position_label(found.kind),
    )
    return [paths, _distances(pair, found.distances)]


def _drawn(paths: Paths, count: int) -> Tensor:
    """(lines, points, 2)."""
    x = paths.x[:, :count]
    return torch.stack([paths.times[:, None].expand_as(x), x], -1).transpose(0, 1)


def _dots(paths: Paths, count: int) -> list[Layer]:
    """Where the sampler asks the network, unless that is everywhere."""
    return (
        [plots.points(_drawn(paths, count).reshape(1, -1, 2), "first", size=2.5)] if len(paths.times) <= DOTTED else []
    )


def _distances(pair: Pair, distances: dict[str, dict[int, float]]) -> Plot:
    every = [max(value, 1e-17) for values in distances.values() for value in values.values()]
    numbers = [n for values in distances.values() for n in values]
    last = next(reversed(distances.values()))
    (first, at_first), *_ = last.items()
    theory = [[(n, at_first * first / n) for n in sorted({*numbers})]]
    layers = [plots.lines(theory, "muted", "slope −1, first order", dashed=True)]
    for color, (name, values) in zip(("first", "second"), reversed(distances.items()), strict=False):
        line = [(n, max(value, 1e-17)) for n, value in values.items()]
        layers += [plots.lines([line], color, name, width=2.0), plots.points([line], color, size=4.0)]
    return plots.plot(
        "Distance between them",
        f"Mean distance between {pair.sampler} and the {pair.limit} over the number of steps.",
        _range(numbers, 1.15),
        _range(every + [y for _, y in theory[0]], 2.0),
        layers,
        x_label="steps",
        y_label="distance",
        log_x=True,
        log_y=True,
    )


def _range(values: list[float], margin: float) -> Range:
    return min(values) / margin, max(values) * margin
