"""The density over time, with particles on it."""

import torch
from torch import Tensor

from pipelines.exact import GaussianMixture

from . import plots, processes
from .choices import OFF
from .lab import Lab
from .plots import Layer, Plot
from .processes import KINDS, Kind, Trajectories

HALF = 3.2  # of the range of positions that is shown
COLUMNS, ROWS = 96, 120  # of the heat map of a line
SIDE = 56  # of the heat map of a plane
MOST_FRAMES = 24
TRACED = 30  # particles whose paths are shown on a line, and
TRAILS = 6  # in a plane
BINS = 40
TIME = "time t, from noise (1) to data (0)"


def show(lab: Lab) -> list[Plot]:
    """Of a line, or of a plane."""
    return _line(lab) if lab.dimensions == 1 else _plane(lab)


def position_label(kind: Kind) -> str:
    """Of an axis of positions."""
    return "x / √(a² + b²)" if kind.spreads else "x"


# --------------------------------------------------------------------------------------------------------------- a line


def _line(lab: Lab) -> list[Plot]:
    kind, run = KINDS[lab.process], processes.run(lab)
    over_time = plots.plot(
        "Density over time",
        f"Heat map of the density over time, from noise at the left to data at the right, with the paths of "
        f"{min(lab.particles, TRACED)} particles that {lab.process} moves in {lab.steps} steps.",
        (1.0, 0.0),
        (-HALF, HALF),
        [line_heat(lab.mixture, kind), traces(run, kind), chosen_trace(lab, run, kind), *line_handles(lab)],
        x_label=TIME,
        y_label=position_label(kind),
        wide=True,
    )
    return [over_time, _arrived(lab, run.states[-1])]


def line_heat(mixture: GaussianMixture, kind: Kind) -> Layer:
    """The density over t from 1 to 0, each column as a share of its peak."""
    t = torch.linspace(1, 0, COLUMNS, dtype=torch.float64)
    x = torch.linspace(-HALF, HALF, ROWS, dtype=torch.float64)
    a, b = (level.repeat(ROWS) for level in kind.process.marginal(t))
    at = (x[:, None] * kind.scale(t)).reshape(-1, 1)
    values = mixture.log_prob(at, a, b).exp().reshape(ROWS, COLUMNS)
    return plots.heat(values / values.amax(0))


def traces(run: Trajectories, kind: Kind) -> Layer:
    """The paths of some particles on a line."""
    t = torch.tensor(run.times, dtype=torch.float64)
    x = run.states[:, :TRACED, 0] / kind.scale(t)[:, None]
    paths = torch.stack([t[:, None].expand_as(x), x], -1).transpose(0, 1)
    return plots.lines(paths, "first", "particles", width=1.0, opacity=0.75)


def chosen_trace(lab: Lab, run: Trajectories, kind: Kind) -> Layer:
    """The path of the particle whose numbers are shown."""
    t = torch.tensor(run.times, dtype=torch.float64)
    number = min(lab.particle, lab.particles)
    x = run.states[:, number - 1, 0] / kind.scale(t)
    return plots.lines([torch.stack([t, x], 1).tolist()], "truth", f"particle {number}", width=2.5)


def line_handles(lab: Lab) -> list[Layer]:
    """The components at t = 0; they move along x."""
    each = lab.movable
    return [plots.handles([(0.0, c.at[0]) for c in each], [c.std for c in each], "components", axis="y")]


def _arrived(lab: Lab, x: Tensor) -> Plot:
    """A histogram of where the particles are at the end, and the density of the data."""
    at = torch.linspace(-HALF, HALF, 400, dtype=torch.float64)
    truth = lab.mixture.log_prob(at[:, None]).exp()
    counts = torch.histc(x[:, 0], BINS, -HALF, HALF)
    density = counts / len(x) * BINS / (2 * HALF)
    edges = torch.linspace(-HALF, HALF, BINS + 1, dtype=torch.float64).repeat_interleave(2)[1:-1]
    layers = [
        plots.lines([torch.stack([edges, density.repeat_interleave(2)], 1).tolist()], "first", "particles"),
        plots.lines([torch.stack([at, truth], 1).tolist()], "truth", "data", width=2.0),
    ]
    if lab.guidance != OFF:
        of_class = lab.mixture.log_prob(at[:, None], labels=torch.tensor([lab.class_number])).exp()
        layers.append(plots.lines([torch.stack([at, of_class], 1).tolist()], "second", "the class", dashed=True))
    top = 1.1 * max(float(truth.max()), float(density.max()))
    return plots.plot(
        "Where the particles arrive",
        f"Histogram of {len(x)} particles at the end, beside the density of the data.",
        (-HALF, HALF),
        (0.0, top),
        layers,
        x_label="x",
        y_label="density",
        wide=True,
        aspect=0.34,
    )


# -------------------------------------------------------------------------------------------------------------- a plane


def _plane(lab: Lab) -> list[Plot]:
    kind, run = KINDS[lab.process], processes.run(lab)
    chosen, number = frames_of(run), min(lab.particle, lab.particles)
    t = torch.tensor(run.times, dtype=torch.float64)[chosen]
    x = run.states[chosen] / kind.scale(t)[:, None, None]
    layers = [
        plane_heat(lab.mixture, kind, t),
        plots.lines(x[:, :TRAILS].transpose(0, 1), "muted", width=1.0, upto_frame=True, opacity=0.6),
        plots.points(x, "first", "particles"),
        plots.points(x[:, [number - 1]], "truth", f"particle {number}", size=5.0),
        *plane_handles(lab),
    ]
    text = (
        f"{lab.particles} particles that {lab.process} moves from noise to data in {lab.steps} steps, "
        "over the exact density at each time."
    )
    return [plane_plot("Particles over the density", text, kind, layers, t)]


def plane_plot(title: str, text: str, kind: Kind, layers: list[Layer], t: Tensor) -> Plot:
    """A square plot with a frame for each of the times."""
    label = position_label(kind)
    return plots.plot(
        title,
        text,
        (-HALF, HALF),
        (-HALF, HALF),
        layers,
        x_label=label.replace("x", "x₁"),
        y_label=label.replace("x", "x₂"),
        frame_labels=[f"t = {each:.3f}" for each in t.tolist()],
        square=True,
    )


def frames_of(run: Trajectories) -> Tensor:
    """Which states are shown: all, or so many of them, evenly."""
    count = len(run.times)
    return torch.linspace(0, count - 1, min(count, MOST_FRAMES)).round().long()


def plane_heat(mixture: GaussianMixture, kind: Kind, t: Tensor) -> Layer:
    """The density at the times t (F,), each frame as a share of its peak."""
    x = torch.linspace(-HALF, HALF, SIDE, dtype=torch.float64)
    density = plane_density(mixture, kind, t, x)
    return plots.heat(density / density.amax((1, 2), keepdim=True))


def plane_density(mixture: GaussianMixture, kind: Kind, t: Tensor, x: Tensor) -> Tensor:
    """p_t at the points (x_j, x_i) of a grid as it is shown, (F, rows i, columns j).

    With one deviation in every direction each Gaussian is a product of two, so that the grid is a product of matrices:
    a hundred times as fast as point by point.
    """
    a, b = (level[:, None, None] for level in kind.process.marginal(t))
    variance = a.square() * mixture.variances.mT + b.square()  # (F, 2, K)
    offset = x[:, None, None, None] * kind.scale(t)[:, None, None] - a * mixture.means.mT  # (S, F, 2, K)
    log_each = -0.5 * (offset.square() / variance + variance.log() + torch.log(torch.tensor(2 * torch.pi)))
    across, up = log_each.exp().unbind(2)  # (S, F, K)
    weighted = up * mixture.log_weights.exp()
    area = kind.scale(t).square()[:, None, None]
    return torch.einsum("ifk,jfk->fij", weighted, across) * area


def plane_handles(lab: Lab) -> list[Layer]:
    """The components of the data."""
    each = lab.movable
    return [plots.handles([c.at for c in each], [c.std for c in each], "components")] if each else []
