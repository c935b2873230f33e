"""The velocity of a mixture as that of several gases (Nakkiran et al. 2024, section 3).

https://arxiv.org/abs/2406.08929

Each class of the data, alone, is a gas with a velocity field v_y of its own; of a point it blows straight to the point.
Together they are one gas, whose velocity is the mean of theirs by their shares:

    v(x, t) = sum_y p(y | x_t = x) v_y(x, t),     v_y = E[a' x_0 + b' eps | x_t = x, y]
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pipelines.exact import GaussianMixture

from . import density, distributions, plots, processes
from .choices import OFF
from .density import HALF
from .field import LEAST, LENGTH, velocity
from .lab import Lab
from .plots import Layer, Plot
from .processes import KINDS, Kind

COLORS = ("first", "second", "third")  # of gases, in turn
FRAMES = 16
SIDE = 13  # arrows of a side
PARTICLES = 50  # of each gas alone
THIN = 1e-4  # of its greatest density: where a gas is thinner, its velocity is not drawn
STREAMLINES = 30


# ------------------------------------------------------------------------------------------------------ the mathematics


class OfClasses:
    """A mixture as samplers see it where each particle is of a class of its own, `labels` (N,)."""

    def __init__(self, mixture: GaussianMixture, labels: Tensor) -> None:
        self.plain, self.labels = mixture, labels

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def denoiser(self, *arguments: Any) -> Callable[..., Tensor]:
        """As the mixture's, of the classes."""
        network = self.plain.denoiser(*arguments)
        return lambda x_t, t: network(x_t, t, self.labels)


@dataclass(frozen=True)
class Gases(Lab):
    """An experiment of PARTICLES of each class, one class after the other in turn, each as if there were no other."""

    @cached_property
    def mixture(self) -> OfClasses:
        """The distribution, exactly."""
        mixture = distributions.mixture_of(self.distribution, self.components)
        return OfClasses(mixture, classes_of(mixture).repeat(PARTICLES))


def classes_of(mixture: GaussianMixture) -> Tensor:
    """Those that there are, (classes,)."""
    return mixture.labels.unique()


def class_velocities(mixture: GaussianMixture, kind: Kind, x: Tensor, t: Tensor) -> Tensor:
    """-d/dt of where a particle of each class is shown, at the points x (N, D) and times t (T,), (classes, T, N, D)."""
    classes, scale, rate = classes_of(mixture), kind.scale(t), kind.scale_rate(t)
    shape = (len(classes), len(t), len(x))
    c, c_rate, time = (each[:, None].expand(shape).flatten() for each in (scale, rate, t))
    shown, labels = x.expand(*shape, -1).flatten(0, 2), classes[:, None, None].expand(shape).flatten()
    slope = mixture.denoiser(kind.path, "flow_prediction")(shown * c[:, None], time, labels)
    return -((slope - shown * c_rate[:, None]) / c[:, None]).reshape(*shape, -1)


def class_densities(mixture: GaussianMixture, kind: Kind, x: Tensor, t: Tensor) -> Tensor:
    """log p_t(x | y), of each class at the points x (N, D) as they are shown, but for the scale: (classes, T, N)."""
    classes, (a, b) = classes_of(mixture), kind.process.marginal(t)
    shape = (len(classes), len(t), len(x))
    a, b, c = (each[:, None].expand(shape).flatten() for each in (a, b, kind.scale(t)))
    at, labels = x.expand(*shape, -1).flatten(0, 2) * c[:, None], classes[:, None, None].expand(shape).flatten()
    return mixture.log_prob(at, a, b, labels).reshape(shape)


# -------------------------------------------------------------------------------------------------------- what is shown


def show(lab: Lab) -> list[Plot]:
    """Left the gases by themselves, right what they are together."""
    kind, run = KINDS[lab.process], processes.run(lab)
    chosen = torch.linspace(0, len(run.times) - 1, min(len(run.times), FRAMES)).round().long()
    t = torch.tensor(run.times, dtype=torch.float64)[chosen]
    side = torch.linspace(-HALF, HALF, SIDE + 2, dtype=torch.float64)[1:-1]
    at = torch.cartesian_prod(side, side)
    return [_alone(lab, kind, chosen, t, at), _together(lab, kind, run.states[chosen], t, at)]


def _alone(lab: Lab, kind: Kind, chosen: Tensor, t: Tensor, at: Tensor) -> Plot:
    values = {each.name: getattr(lab, each.name) for each in fields(lab)} | {"guidance": OFF}
    gases, times = Gases(**values), t.clamp(min=LEAST)
    log_density = class_densities(lab.mixture, kind, at, times)
    thick = (log_density - log_density.amax(2, keepdim=True)).exp() > THIN
    arrows = _fitted(class_velocities(lab.mixture, kind, at, times) * thick[..., None])
    x = processes.run(gases, len(gases.mixture.labels)).states[chosen] / kind.scale(t)[:, None, None]
    layers: list[Layer] = []
    for index, label in enumerate(classes_of(lab.mixture).tolist()):
        color = COLORS[index % len(COLORS)]
        own = x[:, gases.mixture.labels == label]
        layers += [plots.points(own, color, f"class {label}", size=2.0), plots.arrows(at, arrows[index], color)]
    text = (
        f"The velocity of each class of the data alone, as arrows where it is dense, and {PARTICLES} particles of it."
    )
    return _begun_halfway(density.plane_plot("Each class alone", text, kind, [*layers, *density.plane_handles(lab)], t))


def _together(lab: Lab, kind: Kind, states: Tensor, t: Tensor, at: Tensor) -> Plot:
    arrows = torch.stack([velocity(lab, kind, at, max(each, LEAST)) for each in t.tolist()])
    x = states / kind.scale(t)[:, None, None]
    layers = [
        density.plane_heat(lab.mixture, kind, t),
        plots.arrows(at, _fitted(arrows), "second", "velocity"),
        plots.lines(x[:, :STREAMLINES].transpose(0, 1), "muted", "streamlines", width=1.0, upto_frame=True),
        plots.points(x, "first", "particles"),
    ]
    text = f"The velocity of all classes together over their density, and {lab.particles} particles that flow along it."
    return _begun_halfway(density.plane_plot("Together", text, kind, layers, t))


def _begun_halfway(plot: Plot) -> Plot:
    """At the end there is little left of the field."""
    return plot | {"start": plot["frames"] // 2}


def _fitted(arrows: Tensor) -> Tensor:
    """(..., T, N, D): the longest of each time fits between two points of the grid."""
    longest = arrows.norm(dim=-1).movedim(-2, 0).flatten(1).amax(1).clamp(min=1e-9)
    return arrows / longest[:, None, None] * LENGTH * 2 * HALF / SIDE
