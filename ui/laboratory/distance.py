"""How far samplers end from the data, over the evaluations of the network that they take.

The distance is 1-Wasserstein's, in a plane its mean over directions (sliced), to the exact quantiles of the mixture:
seen along a direction, a mixture of Gaussians is one on a line. All noise fills its distribution evenly, and is dealt
out to the points anew in each step (Latin hypercube sampling), so that a sampler shows its own error, not chance's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from pipelines.exact import GaussianMixture

from . import distributions, plots
from .choices import OFF
from .lab import Lab
from .plots import Plot
from .processes import KINDS

EVALUATIONS = (8, 16, 32, 64)
POINTS = {1: 1024, 2: 512}  # by dimension, but
WORK, LEAST_POINTS = 5_000, 64  # fewer where a classic set has many components: points times components
DIRECTIONS = 12
BISECTIONS = 50


@dataclass(frozen=True)
class Row:
    """A sampler: what of the settings it is, network evaluations per step, and its order in theory if it has one."""

    settings: dict[str, Any]
    per_step: int = 1
    order: int | None = None


SAMPLERS = {
    "without noise": {
        "DDIM": Row({"process": "DDIM", "eta": 0.0}, order=1),
        "flow, Euler": Row({"process": "flow", "solver": "euler"}, order=1),
        "flow, midpoint": Row({"process": "flow", "solver": "midpoint"}, 2, order=2),
        "flow, Heun": Row({"process": "flow", "solver": "heun"}, 2, order=2),
        "VP ODE, Heun": Row({"process": "VP ODE"}, 2, order=2),
    },
    "with noise": {
        "DDPM": Row({"process": "DDPM", "variance": "fixed_small"}),
        "DDIM, eta 0.5": Row({"process": "DDIM", "eta": 0.5}),
        "VP SDE": Row({"process": "VP SDE", "predictor": "reverse_diffusion", "corrector_steps": 0}),
        "VP SDE, corrected": Row({"process": "VP SDE", "predictor": "reverse_diffusion", "corrector_steps": 1}, 2),
        "annealed Langevin": Row({"process": "Langevin"}),
    },
}
LOOKS = (("first", False), ("second", False), ("third", False), ("first", True), ("second", True))


# ------------------------------------------------------------------------------------------------------ the mathematics


class CountedMixture:
    """A mixture whose denoisers count how often they are asked."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.plain, self.evaluations = mixture, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def denoiser(self, *arguments: Any) -> Callable[..., Tensor]:
        """As the mixture's."""
        network = self.plain.denoiser(*arguments)

        def asked(*given: Any) -> Tensor:
            self.evaluations += 1
            return network(*given)

        return asked


@dataclass(frozen=True)
class CountedLab(Lab):
    """An experiment that counts."""

    @cached_property
    def mixture(self) -> CountedMixture:
        """The distribution, exactly."""
        return CountedMixture(distributions.mixture_of(self.distribution, self.components))


def drawn(lab: Lab, row: Row, evaluations: int, unit: Tensor) -> tuple[Tensor, int]:
    """Where a sampler takes unit noise (N, D) in about so many evaluations, (N, D), and how many they were."""
    own = {field.name: getattr(lab, field.name) for field in fields(lab)}
    counted = CountedLab(**own | row.settings | {"guidance": OFF, "steps": max(evaluations // row.per_step, 1)})
    kind, generator = KINDS[counted.process], torch.Generator().manual_seed(lab.seed)

    def noise() -> Tensor:
        return unit[torch.randperm(len(unit), generator=generator)]

    *_, last = kind.draw(counted, kind.prior_std * unit, noise)
    return last.prev_sample.reshape(unit.shape), counted.mixture.evaluations


def unit_points(count: int, dimensions: int) -> Tensor:
    """Points that fill N(0, I) evenly, (count, D): its quantiles on a line, a Sobol sequence in a plane."""
    if dimensions == 1:
        return torch.special.ndtri(_middles(count))[:, None]
    sobol = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=0)
    return torch.special.ndtri(sobol.draw(count, dtype=torch.float64).clamp(1e-6, 1 - 1e-6))


def directions_of(dimensions: int) -> Tensor:
    """Unit vectors that sample all directions evenly, (directions, D)."""
    if dimensions == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    angle = math.pi * (torch.arange(DIRECTIONS, dtype=torch.float64) + 0.5) / DIRECTIONS
    return torch.stack([angle.cos(), angle.sin()], 1)


def quantiles(mixture: GaussianMixture, count: int) -> Tensor:
    """Of the mixture along each direction, (count, directions), by bisection of its distribution function."""
    along = directions_of(mixture.means.shape[1])
    means, stds = mixture.means @ along.T, (mixture.variances @ along.square().T).sqrt()  # (K, directions)
    wanted, weights = _middles(count)[:, None], mixture.log_weights.exp()
    low = (means - 8 * stds).amin(0).expand(count, -1)
    high = (means + 8 * stds).amax(0).expand(count, -1)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = torch.special.ndtr((middle[..., None] - means.T) / stds.T) @ weights < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def wasserstein(x: Tensor, truth: Tensor) -> float:
    """Of points x (N, D) to the exact quantiles (N, directions), in the mean over directions."""
    along = (x @ directions_of(x.shape[1]).T).sort(0).values
    return float((along - truth).abs().mean())


def measured(lab: Lab) -> tuple[dict[str, list[tuple[int, float]]], float]:
    """By sampler, pairs of evaluations and distance; and the distance of as many samples of the data itself."""
    count = max(min(POINTS[lab.dimensions], WORK // len(lab.mixture.means)), LEAST_POINTS)
    unit, truth = unit_points(count, lab.dimensions), _truth(lab.distribution, lab.components, count)
    found = {}
    for name, row in SAMPLERS[lab.compared].items():
        runs = (drawn(lab, row, evaluations, unit) for evaluations in EVALUATIONS)
        found[name] = [(nfe, wasserstein(x, truth)) for x, nfe in runs]
    samples, _ = lab.mixture.sample(count, torch.Generator().manual_seed(lab.seed))
    return found, wasserstein(samples, truth)


@lru_cache(maxsize=32)
def _truth(distribution: str, components: str, count: int) -> Tensor:
    """Quantiles of a distribution, which a change of any other setting leaves as they are."""
    return quantiles(distributions.mixture_of(distribution, components), count)


def _middles(count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


# -------------------------------------------------------------------------------------------------------- what is shown


def show(lab: Lab) -> list[Plot]:
    """A line per sampler, and slopes in theory."""
    found, floor = measured(lab)
    rows = SAMPLERS[lab.compared]
    everywhere = [(EVALUATIONS[0] / 2, floor), (EVALUATIONS[-1] * 2, floor)]
    layers = [plots.lines([everywhere], "muted", "as many samples of the data")]
    for (color, dashed), (name, line) in zip(LOOKS, found.items(), strict=True):
        layers += [
            plots.lines([line], color, name + _orders(lab, rows[name], line), 2.0, dashed=dashed),
            plots.points([line], color, size=3.5),
        ]
    for order in sorted({row.order for row in rows.values() if row.order}):
        first = next(found[name][0] for name, row in rows.items() if row.order == order)
        ends = [(nfe, first[1] * (first[0] / nfe) ** order) for nfe in (first[0], EVALUATIONS[-1])]
        layers.append(plots.lines([ends], "truth", f"slope −{order}", width=1.0, dashed=True))
    every = [floor, *(y for line in found.values() for _, y in line)]
    what = "Wasserstein distance" if lab.dimensions == 1 else "sliced Wasserstein distance"
    return [
        plots.plot(
            "Distance to the data",
            f"The {what} between what samplers {lab.compared} draw and the data, over network evaluations.",
            (EVALUATIONS[0] / 1.3, EVALUATIONS[-1] * 1.3),
            (min(every) / 1.5, max(every) * 1.5),
            layers,
            x_label="network evaluations",
            y_label=what,
            log_x=True,
            log_y=True,
        )
    ]


def _orders(lab: Lab, row: Row, line: list[tuple[int, float]]) -> str:
    """Of a sampler without noise on a line, where nothing but its own error is left."""
    return f": order {slope(line):.1f}, in theory {row.order}" if row.order and lab.dimensions == 1 else ""


def slope(line: list[tuple[int, float]]) -> float:
    """Of the distances over the evaluations, both on logarithmic axes, with the sign of an order."""
    x, y = torch.tensor(line, dtype=torch.float64).log().T
    x, y = x - x.mean(), y - y.mean()
    return -float((x @ y) / (x @ x))
