"""The reverse conditional p(x_s | x_t), s < t, on a line, exactly; with the densities of the forward process.

    p(x_s | x_t) = q(x_t | x_s) p(x_s) / p(x_t)                                              Bayes' rule
    q(x_t | x_s) = N(alpha x_s, sigma^2),    alpha = a_t / a_s,    sigma^2 = b_t^2 - alpha^2 b_s^2

This holds for any process with marginals x_t = a_t x_0 + b_t eps whose noise grows. For a small step it is nearly
Gaussian, since log p(x_s) is nearly a parabola over the width sqrt(t - s) of q: their distance falls as (t - s)^(3/2),
by the third derivative. That is what lets DDPM draw from a Gaussian in each step (Nakkiran et al. 2024, fact 1,
https://arxiv.org/abs/2406.08929).
"""

import math

import torch
from torch import Tensor

from pipelines.exact import GaussianMixture
from pipelines.process import Process

from . import plots
from .density import HALF, position_label
from .lab import Lab
from .plots import Layer, Plot
from .processes import KINDS, Kind

STEPS = 24  # sizes of a step, evenly on a logarithmic axis,
SMALLEST = 1 / 400  # from t down to this share of it
ROWS = 5  # of them are drawn one above the other
TIMES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of the densities of the forward process
POINTS = 160  # of a curve
WIDTHS = 8.0  # standard deviations on either side that an integral goes over, and
SHOWN = 4.0  # that are drawn
INTEGRATED = 4001  # points of an integral
ORDER = 1.5  # of the distance in the step, in theory
BELL = "the Gaussian of the same mean and variance"


# ------------------------------------------------------------------------------------------------------ the mathematics


def forward_step(process: Process, s: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) of q(x_t | x_s), of the shape of `s`, s < t."""
    (a, b), (a_s, b_s) = process.marginal(t), process.marginal(s)
    alpha = a / a_s
    return alpha, (b.square() - alpha.square() * b_s.square()).clamp(min=0).sqrt()


def conditional(mixture: GaussianMixture, process: Process, x_s: Tensor, s: Tensor, x_t: float, t: float) -> Tensor:
    """p(x_s | x_t) at the points x_s (S, P) of the times s (S,), (S, P)."""
    alpha, sigma = forward_step(process, s, t)
    levels = (level.repeat_interleave(x_s.shape[1]) for level in process.marginal(s))
    log_prior = mixture.log_prob(x_s.reshape(-1, 1), *levels).reshape(x_s.shape)
    log_step = -0.5 * ((x_t - alpha[:, None] * x_s) / sigma[:, None]).square() - (sigma * _ROOT).log()[:, None]
    log_evidence = mixture.log_prob(torch.tensor([[x_t]], dtype=torch.float64), *process.marginal(t))
    return (log_step + log_prior - log_evidence).exp()


def moments(mixture: GaussianMixture, process: Process, s: Tensor, x_t: float, t: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of p(x_s | x_t) for the times s (S,), (S,) each.

    Given x_t it is a mixture again: each component N(a_s m, v), v = a_s^2 C + b_s^2, becomes the Gaussian with the mean
    a_s m + k (x_t - a_t m), k = alpha v / (alpha^2 v + sigma^2), and the variance v sigma^2 / (alpha^2 v + sigma^2).
    """
    (a, b), (a_s, b_s) = process.marginal(t), process.marginal(s[:, None])
    means, variances = mixture.means[:, 0], mixture.variances[:, 0]
    alpha, sigma = forward_step(process, s[:, None], t)
    before, total = a_s.square() * variances + b_s.square(), a.square() * variances + b.square()  # (S, K), (K,)
    offset = x_t - a * means
    shares = (mixture.log_weights - 0.5 * (offset.square() / total + total.log())).softmax(0)
    centres, spreads = a_s * means + alpha * before / total * offset, before * sigma.square() / total
    mean = centres @ shares
    return mean, ((spreads + (centres - mean[:, None]).square()) @ shares).sqrt()


def distances(mixture: GaussianMixture, process: Process, s: Tensor, x_t: float, t: float) -> Tensor:
    """Total variation, from 0 to 1, between p(x_s | x_t) and the Gaussian of its mean and variance, (S,)."""
    mean, std = (each[:, None] for each in moments(mixture, process, s, x_t, t))
    z = torch.linspace(-WIDTHS, WIDTHS, INTEGRATED, dtype=torch.float64)
    exact = conditional(mixture, process, mean + std * z, s, x_t, t) * std
    return torch.trapezoid((exact - _bell(z)).abs(), z) / 2


_ROOT = math.sqrt(2 * math.pi)


def _bell(z: Tensor) -> Tensor:
    return (-0.5 * z.square()).exp() / _ROOT


# -------------------------------------------------------------------------------------------------------- what is shown


def show(lab: Lab) -> list[Plot]:
    """The forward process, the reverse conditional for steps of several sizes, and how far it is from a Gaussian."""
    kind, t = KINDS[lab.process], lab.time
    x_t = lab.x_t * float(kind.scale(t))
    steps = t * torch.logspace(0, math.log10(SMALLEST), STEPS, dtype=torch.float64)
    return [
        _forward(lab, kind),
        _in_rows(lab, kind, steps, x_t),
        _morphing(lab, kind, steps, x_t),
        _distance(lab, kind, steps, x_t),
    ]


def _forward(lab: Lab, kind: Kind) -> Plot:
    t = torch.tensor(TIMES, dtype=torch.float64)
    x = torch.linspace(-HALF, HALF, POINTS, dtype=torch.float64)
    a, b = (level.repeat_interleave(POINTS) for level in kind.process.marginal(t))
    at = (x * kind.scale(t)[:, None]).reshape(-1, 1)
    density = lab.mixture.log_prob(at, a, b).exp().reshape(len(t), -1)
    rows = t[:, None] + 0.14 * density / density.amax(1, keepdim=True)
    return plots.plot(
        "Forward process",
        "The density of the data at the bottom, and of x_t above it at several times: it becomes one Gaussian.",
        (-HALF, HALF),
        (-0.03, 1.18),
        [_curves(x.expand_as(rows), rows, "third", "density of x_t")],
        x_label=position_label(kind),
        y_label="time t",
    )


def _in_rows(lab: Lab, kind: Kind, steps: Tensor, x_t: float) -> Plot:
    """In each row, whose base is the size of the step, the curves stand to the scale of their peaks."""
    chosen = steps[torch.linspace(0, STEPS - 1, ROWS).round().long()]
    s = lab.time - chosen
    mean, std = (each[:, None] for each in moments(lab.mixture, kind.process, s, x_t, lab.time))
    even = torch.linspace(-HALF, HALF, POINTS, dtype=torch.float64) * kind.scale(s)[:, None]
    near = mean + std * torch.linspace(-SHOWN, SHOWN, POINTS, dtype=torch.float64)
    x = torch.cat([even, near], 1).sort(1).values
    exact, bell = conditional(lab.mixture, kind.process, x, s, x_t, lab.time), _bell((x - mean) / std) / std
    height = 0.75 * math.log10(chosen[0] / chosen[1])
    highest = torch.maximum(exact.amax(1), bell.amax(1))[:, None]
    shown_x = x / kind.scale(s)[:, None]
    exact, bell = (chosen[:, None] * 10 ** (height * each / highest) for each in (exact, bell))
    low, high = float(chosen[-1]) * 0.8, float(chosen[0]) * 10 ** (height * 1.15)
    return plots.plot(
        "Reverse conditionals",
        f"p(x_s | x_t = {lab.x_t:g}) for steps t - s from {float(chosen[0]):.3g}, at the top, down to "
        f"{float(chosen[-1]):.2g}, each beside {BELL}.",
        (-HALF, HALF),
        (low, high),
        [
            plots.lines([[(lab.x_t, low), (lab.x_t, high)]], "muted", "x_t", width=1.0),
            _curves(shown_x, exact, "first", "p(x_s | x_t)"),
            _curves(shown_x, bell, "truth", BELL, dashed=True),
        ],
        x_label=position_label(kind),
        y_label="step t − s",
        log_y=True,
    )


def _morphing(lab: Lab, kind: Kind, steps: Tensor, x_t: float) -> Plot:
    """In standard deviations, so that the Gaussian stands still."""
    s = lab.time - steps
    mean, std = moments(lab.mixture, kind.process, s, x_t, lab.time)
    z = torch.linspace(-SHOWN, SHOWN, POINTS, dtype=torch.float64)
    exact = conditional(lab.mixture, kind.process, mean[:, None] + std[:, None] * z, s, x_t, lab.time) * std[:, None]
    curves = torch.stack([z.expand_as(exact), exact], -1)[:, None]  # (frames, 1, points, 2)
    bell = torch.stack([z, _bell(z)], -1)[None]
    return plots.plot(
        "As the step shrinks",
        f"p(x_s | x_t), which becomes {BELL} as the step goes from {float(steps[0]):.3g} to {float(steps[-1]):.2g}.",
        (-SHOWN, SHOWN),
        (0.0, 1.1 * max(float(exact.amax()), 0.4)),
        [plots.lines(bell, "truth", BELL, dashed=True), plots.moving_lines(curves, "first", "p(x_s | x_t)", width=2.5)],
        x_label="standard deviations from the mean",
        y_label="density",
        frame_labels=[f"step {step:.2g}" for step in steps.tolist()],
        start=0,
    )


def _distance(lab: Lab, kind: Kind, steps: Tensor, x_t: float) -> Plot:
    found = distances(lab.mixture, kind.process, lab.time - steps, x_t, lab.time).clamp(min=1e-9)
    theory = found[-1] * (steps / steps[-1]) ** ORDER
    found, theory = (torch.stack([steps, each], 1).tolist() for each in (found, theory))
    values = [y for _, y in found]
    return plots.plot(
        "Distance to the Gaussian",
        f"Total variation between p(x_s | x_t) and {BELL}, over the size of the step, beside a line of slope 3/2.",
        (float(steps[-1]), float(steps[0])),
        (min(values) / 2, max(max(values), 2 * min(values)) * 2),
        [
            plots.lines([theory], "muted", "slope 3/2, the theory for small steps", dashed=True),
            plots.lines([found], "first", "total variation", width=2.0),
            plots.points([[pair] for pair in found], "truth", size=5.0),
        ],
        x_label="step t − s",
        y_label="total variation",
        log_x=True,
        log_y=True,
        frame_labels=[f"step {step:.2g}" for step in steps.tolist()],
        start=0,
    )


def _curves(x: Tensor, y: Tensor, color: str, label: str, **more: bool) -> Layer:
    """Curves of x and y, (curves, points) each."""
    return plots.lines(torch.stack([x, y], -1), color, label, **more)
