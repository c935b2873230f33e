"""The score, and the velocity of the probability flow, as arrows over the density."""

import torch
from torch import Tensor

from . import density, plots, processes
from .density import HALF, TIME
from .guidance import score_of, velocity_of
from .lab import Lab
from .plots import Plot
from .processes import KINDS, Kind

TIMES, POSITIONS = 24, 17  # of the arrows on a line
SIDE = 14  # arrows of a side in a plane
LEAST = 0.02  # the t of the last arrows, where both fields grow without bound
LENGTH = 0.8  # of the longest arrow, as a share of the distance between two


def score_plots(lab: Lab) -> list[Plot]:
    """Arrows along the score."""
    return _line(lab, score) if lab.dimensions == 1 else _plane(lab, score)


def velocity_plots(lab: Lab) -> list[Plot]:
    """Arrows along the velocity, from noise to data."""
    return _line(lab, velocity) if lab.dimensions == 1 else _plane(lab, velocity)


def score(lab: Lab, kind: Kind, x: Tensor, t: float) -> Tensor:
    """Of the density as it is shown, at x (N, D) as it is shown: the chain rule multiplies by the scale."""
    return score_of(lab, kind.process)(x * kind.scale(t), t) * kind.scale(t)


def velocity(lab: Lab, kind: Kind, x: Tensor, t: float) -> Tensor:
    """-d/dt of where a particle is shown at x (N, D), by the probability flow."""
    c = kind.scale(t)
    rate = velocity_of(lab, kind.path)(x * c, t)
    return -(rate / c - x * kind.scale_rate(t) / c)


def _line(lab: Lab, field: object) -> list[Plot]:
    kind, run = KINDS[lab.process], processes.run(lab)
    times = torch.linspace(1, LEAST, TIMES, dtype=torch.float64)
    x = torch.linspace(-HALF, HALF, POSITIONS + 2, dtype=torch.float64)[1:-1, None]
    slope = torch.stack([field(lab, kind, x, float(t))[:, 0] for t in times])  # (T, P)
    at = torch.stack(torch.broadcast_tensors(times[:, None], x[:, 0]), -1).reshape(-1, 2)
    arrows = _directions(slope).reshape(1, -1, 2) if field is velocity else _upright(slope).reshape(1, -1, 2)
    what = field.__name__
    layers = [density.line_heat(lab.mixture, kind), plots.arrows(at, arrows, "second", what)]
    layers += [density.traces(run, kind), *density.line_handles(lab)]
    text = f"The {what} of the density over time as arrows, from noise at the left to data at the right."
    label = density.position_label(kind)
    title = f"{what.capitalize()} over time"
    return [plots.plot(title, text, (1.0, 0.0), (-HALF, HALF), layers, x_label=TIME, y_label=label, wide=True)]


def _directions(slope: Tensor) -> Tensor:
    """Arrows (T, P, 2) of one length in the plot, whose slope is that of a path (dx over -dt), (T, P)."""
    across, up = LENGTH / TIMES, slope / (2 * HALF)
    size = across / (1 + up.square()).sqrt()
    return torch.stack([-size, size * up * 2 * HALF], -1)


def _upright(slope: Tensor) -> Tensor:
    """Arrows (T, P, 2) along x, the longest of each time as long as there is place."""
    longest = slope.abs().amax(1, keepdim=True).clamp(min=1e-9)
    return torch.stack([torch.zeros_like(slope), slope / longest * LENGTH * 2 * HALF / POSITIONS], -1)


def _plane(lab: Lab, field: object) -> list[Plot]:
    kind, run = KINDS[lab.process], processes.run(lab)
    chosen = density.frames_of(run)
    t = torch.tensor(run.times, dtype=torch.float64)[chosen]
    side = torch.linspace(-HALF, HALF, SIDE + 2, dtype=torch.float64)[1:-1]
    at = torch.cartesian_prod(side, side)
    arrows = torch.stack([field(lab, kind, at, max(each, LEAST)) for each in t.tolist()])
    longest = arrows.norm(dim=-1).amax(1)[:, None, None].clamp(min=1e-9)
    arrows = arrows / longest * LENGTH * 2 * HALF / SIDE
    x = run.states[chosen] / kind.scale(t)[:, None, None]
    what = field.__name__
    layers = [density.plane_heat(lab.mixture, kind, t), plots.arrows(at, arrows, "second", what)]
    layers += [plots.points(x, "first", "particles"), *density.plane_handles(lab)]
    text = (
        f"The {what} at each time as arrows over the density, and {lab.particles} particles that {lab.process} moves."
    )
    return [density.plane_plot(what.capitalize(), text, kind, layers, t)]
