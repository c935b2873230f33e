"""What is known of a noising process from its marginals alone: x_t = a x_0 + b eps, eps ~ N(0, I).

A process is anything with `marginal(t) -> (a, b)`: the discrete `NoiseSchedule`, an SDE, a flow's path. A network may
predict any of three quantities, and each gives the others:

    v   = a eps - b x_0                                                          Salimans & Ho 2022, section 4
    x_0 = (x_t - b eps) / a = (a x_t - b v) / (a^2 + b^2)
    eps = (x_t - a x_0) / b = (b x_t + a v) / (a^2 + b^2)

a and b are numbers or float64 tensors, () or (N,). Arithmetic is done in float64 on float64 samples and in float32 on
all others. Salimans & Ho 2022: https://arxiv.org/abs/2202.00512.
"""

from typing import Protocol

import torch
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
Level = Tensor | float


class Process(Protocol):
    """x_t = a x_0 + b eps at every t."""

    def marginal(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(a, b), float64, of the shape of `t`."""


class Clock(Protocol):
    """What says how far a process has come."""

    def share(self, t: Tensor | float) -> Tensor | float:
        """From 0, where there is no noise or the least, to 1 at the noisiest t."""


class Path(Process, Protocol):
    """A process in continuous time, whose marginals can be differentiated."""

    def marginal_rate(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(a', b'), the derivatives of (a, b) by t, float64, of the shape of `t`."""


def working_dtype(x: Tensor) -> torch.dtype:
    """float64 stays float64, everything else is worked on in float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def up(x: Tensor) -> Tensor:
    """`x` in its working precision."""
    return x.to(working_dtype(x))


def unit_time(t: Tensor | float) -> Tensor:
    """`t`, a number or (N,), as float64.

    Raises:
        ValueError: outside [0, 1], beyond what rounding explains.
    """
    t = torch.as_tensor(t, dtype=torch.float64)
    if not bool(((t >= -1e-9) & (t <= 1 + 1e-9)).all()):
        worst = t.flatten()[(t - 0.5).abs().nan_to_num(torch.inf).argmax()]
        raise ValueError(f"t must be in [0, 1], got {float(worst):g}")
    return t


def on(like: Tensor, level: Tensor) -> Tensor:
    """A tensor of numbers in the working precision of `like`, on its device."""
    return level.to(working_dtype(like)).to(like.device)  # in this order: some devices have no float64


def broadcast(level: Level, like: Tensor) -> Tensor:
    """A number or (N,) tensor as a tensor that multiplies `like` (N, ...), in its working precision, on its device."""
    level = level if isinstance(level, Tensor) else torch.tensor(level, dtype=torch.float64)
    level = on(like, level)
    return level.reshape(level.shape + (1,) * (like.ndim - level.ndim)) if level.ndim else level


def velocity(x0: Tensor, eps: Tensor, a: Level, b: Level) -> Tensor:
    """v = a eps - b x_0, all (N, ...)."""
    return broadcast(a, x0) * up(eps) - broadcast(b, x0) * up(x0)


def predict_x0(output: Tensor, x_t: Tensor, a: Level, b: Level, prediction_type: str = "epsilon") -> Tensor:
    """x_0 from a network's output (N, ...) that is eps, x_0 ("sample") or v.

    Raises:
        ValueError: an unknown `prediction_type`.
    """
    check_prediction_type(prediction_type)
    output, x_t, a, b, square = _working(output, x_t, a, b)
    if prediction_type == "epsilon":
        return (x_t - b * output) / a
    if prediction_type == "v_prediction":
        return (a * x_t - b * output) / square
    return output


def predict_eps(output: Tensor, x_t: Tensor, a: Level, b: Level, prediction_type: str = "epsilon") -> Tensor:
    """eps from a network's output (N, ...) that is eps, x_0 ("sample") or v.

    Raises:
        ValueError: an unknown `prediction_type`.
    """
    check_prediction_type(prediction_type)
    output, x_t, a, b, square = _working(output, x_t, a, b)
    if prediction_type == "sample":
        return (x_t - a * output) / b
    if prediction_type == "v_prediction":
        return (b * x_t + a * output) / square
    return output


def _working(output: Tensor, x_t: Tensor, a: Level, b: Level) -> tuple[Tensor, ...]:
    """All of them, and a^2 + b^2, ready to be multiplied; the square is taken before precision is lost."""
    levels = (broadcast(level, x_t) for level in (a, b, a * a + b * b))
    return up(output), up(x_t), *levels


def path_velocity(path: Path, x0: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
    """dx/dt = a' x_0 + b' eps of the line that x_0 and eps are the ends of; all (N, ...), t a number or (N,)."""
    rate_a, rate_b = path.marginal_rate(t)
    return broadcast(rate_a, x0) * up(x0) + broadcast(rate_b, x0) * up(eps)


def from_velocity(path: Path, velocity: Tensor, x_t: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
    """x_0 and eps (N, ...) from dx/dt at x_t: two equations, x_t = a x_0 + b eps and dx/dt = a' x_0 + b' eps."""
    (a, b), (rate_a, rate_b) = path.marginal(t), path.marginal_rate(t)
    x, u, det = up(x_t), up(velocity), a * rate_b - rate_a * b
    x0 = broadcast(rate_b / det, x) * x - broadcast(b / det, x) * u
    return x0, broadcast(a / det, x) * u - broadcast(rate_a / det, x) * x


def output_rate(a: float, b: float, prediction_type: str) -> float:
    """How fast the output moves with the eps that it stands for, x_t being fixed: d output / d eps."""
    check_prediction_type(prediction_type)
    return {"epsilon": 1.0, "sample": -b / a, "v_prediction": (a * a + b * b) / a}[prediction_type]


def output_of_x0(x0: Tensor, x_t: Tensor, a: float, b: float, prediction_type: str) -> Tensor:
    """What a network of that prediction type says, (N, ...), where it predicts `x0`."""
    check_prediction_type(prediction_type)
    if prediction_type == "epsilon":
        return (x_t - a * x0) / b
    if prediction_type == "v_prediction":
        return (a * x_t - (a * a + b * b) * x0) / b
    return x0


def check_prediction_type(prediction_type: str) -> None:
    """Raise ValueError for anything that is not in `PREDICTION_TYPES`."""
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}, got {prediction_type!r}")
