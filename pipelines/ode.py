"""Ordinary differential equations dx/dt = f(x, t), each row of a batch on its own: an adaptive Runge-Kutta method.

Dormand & Prince 1980 (https://doi.org/10.1016/0771-050X(80)90013-3), of order 5 with an error estimate of order 4. The
control of the step size is scipy's (`scipy.integrate.RK45`): the root mean square of error / (atol + rtol |x|) is at
most 1. Every row has a time, a step size and a count of evaluations of its own, so that what is drawn beside it changes
nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# f(x (M, ...), t (M,) on the CPU, rows (M,)) -> dx/dt of the rows that are asked for
Field = Callable[[Tensor, Tensor, Tensor], Tensor]

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # the result itself
)
ERROR = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)
SAFETY, SMALLEST, LARGEST = 0.9, 0.2, 10.0
ORDER = 5


@dataclass
class Advance:
    """Where each row stands: x (N, ...), its slope, t (N,), size of the next step (N,), evaluations so far (N,).

    All but x and the slope are on the CPU, t and size in float64, which some devices lack.
    """

    x: Tensor
    slope: Tensor
    t: Tensor
    size: Tensor
    evaluations: Tensor
    rejected: Tensor


def dormand_prince(
    f: Field, x: Tensor, start: float, end: float, rtol: float, atol: float, max_evaluations: int
) -> Iterator[Advance]:
    """From x (N, ...) at `start` to `end`, in either direction; yields after each attempt at a step.

    Raises:
        RuntimeError: a row needs more than `max_evaluations`, or steps too small for its precision, or leaves the
            finite numbers.
    """
    rows = torch.arange(len(x))
    t = torch.full((len(x),), start, dtype=torch.float64)
    slope = f(x, t, rows.to(x.device))
    size = _first_size(f, x, slope, t, end, rtol, atol)
    state = Advance(x, slope, t, size, torch.full_like(rows, 2), torch.zeros_like(rows, dtype=torch.bool))
    while True:
        active = (state.t != end).nonzero().flatten()
        if len(active) == 0:
            return
        state = _attempt(f, state, active, end, rtol, atol)
        _check(state, end, max_evaluations)
        yield state


def _attempt(f: Field, state: Advance, rows: Tensor, end: float, rtol: float, atol: float) -> Advance:
    there = rows.to(state.x.device)
    x, t, direction = state.x[there], state.t[rows], 1.0 if end > float(state.t[rows][0]) else -1.0
    h = torch.minimum(state.size[rows], (end - t).abs()) * direction
    slopes = [state.slope[there]]
    for node, weights in zip(NODES[1:], STAGES[1:], strict=True):
        ahead = x + _scaled(h, _combined(weights, slopes), x)
        slopes.append(f(ahead, t + node * h, there))
    error = _norm(_scaled(h, _combined(ERROR, slopes), x), atol + rtol * torch.maximum(x.abs(), ahead.abs()))
    accepted = error < 1
    factor = (SAFETY * error.clamp(min=1e-30) ** (-1 / ORDER)).clamp(max=LARGEST)
    factor = torch.where(accepted, torch.where(state.rejected[rows], factor.clamp(max=1.0), factor), factor)
    factor = torch.where(accepted, factor, factor.clamp(min=SMALLEST))
    arrived = torch.where((t + h - end) * direction >= -1e-15, torch.full_like(t, end), t + h)
    wide = accepted.to(x.device).reshape(-1, *(1,) * (x.ndim - 1))
    return Advance(
        state.x.index_copy(0, there, torch.where(wide, ahead, x)),
        state.slope.index_copy(0, there, torch.where(wide, slopes[-1], slopes[0])),
        state.t.index_copy(0, rows, torch.where(accepted, arrived, t)),
        state.size.index_copy(0, rows, h.abs() * factor),
        state.evaluations.index_add(0, rows, torch.full_like(rows, len(STAGES) - 1)),
        state.rejected.index_copy(0, rows, ~accepted),
    )


def _first_size(f: Field, x: Tensor, slope: Tensor, t: Tensor, end: float, rtol: float, atol: float) -> Tensor:
    """Hairer, Norsett & Wanner 1993, II.4: from the sizes of x, of its slope and of the change of the slope."""
    scale, span = atol + rtol * x.abs(), (end - t).abs()
    d0, d1 = _norm(x, scale), _norm(slope, scale)
    tiny = (d0 < 1e-5) | (d1 < 1e-5)
    h0 = torch.minimum(torch.where(tiny, torch.full_like(d0, 1e-6), 0.01 * d0 / d1), span)
    signed = h0 * (end - t).sign()
    ahead = f(x + _scaled(signed, slope, x), t + signed, torch.arange(len(x), device=x.device))
    d2 = _norm(ahead - slope, scale) / h0
    largest = torch.maximum(d1, d2)
    h1 = torch.where(largest <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), (0.01 / largest) ** (1 / ORDER))
    return torch.minimum(torch.minimum(100 * h0, h1), span)


def _check(state: Advance, end: float, max_evaluations: int) -> None:
    unfinished = state.t != end
    over = unfinished & (state.evaluations >= max_evaluations)
    stuck = unfinished & ((state.size < 1e-12) | ~state.size.isfinite())
    for rows, why in ((over, f"after {max_evaluations} evaluations (max_evaluations)"), (stuck, "with no step left")):
        if bool(rows.any()):
            row = int(rows.nonzero()[0])
            raise RuntimeError(
                f"the adaptive solver stands at t = {float(state.t[row]):.4g}, not at {end:g}, {why}, for image {row}: "
                "rtol or atol must be larger"
            )


def _combined(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    return sum(weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight)


def _scaled(h: Tensor, slope: Tensor, like: Tensor) -> Tensor:
    """h (M,) times slope (M, ...), in the dtype and on the device of `like`."""
    return h.to(like.dtype).to(like.device).reshape(-1, *(1,) * (like.ndim - 1)) * slope


def _norm(value: Tensor, scale: Tensor) -> Tensor:
    """Root mean square of value / scale over each row, float64 (M,), on the CPU."""
    return (value / scale).cpu().double().square().flatten(1).mean(1).sqrt()
