"""What a model makes of one image: at one t, over all t, and all the way to noise and back.

    x_t = a x_0 + b eps                                                     the forward process, from any x_0
    x_0 = (x_t - b eps) / a                                                 as the network predicts it there
    L_t = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))                     what the network loses at t, in bits/dim
    L_0 = -log p(x_0 | x_1)                                                 and at the end, for 8-bit values; t, which
                                                                            counts from 0, is then 0
    p(y | x_t)                                                              what a classifier of noisy images sees

Images come in as (H, W, C) uint8 and go out as (H, W, C) uint8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..catalogue import Catalogue
from ..libraries import import_them
from ..loading import in_a_line
from ..zero_gpu import on_gpu
from .settings import Settings, label_of

if TYPE_CHECKING:  # torch is imported once an image is looked at
    from torch import Tensor

    from pipelines.solvers import Solver

    from .bench import Bench

POINTS = 32  # timesteps that the curves are measured at
DRAWS = 8  # of the noise, at each of them
KEPT = 6  # images of the way to noise, and of the way back


@dataclass
class Look:
    """An image at one t: images by what they show, and numbers by name."""

    images: dict[str, np.ndarray]
    a: float
    b: float
    s: int
    error: float
    loss: float
    opinion: list[float] = field(default_factory=list)


@dataclass
class Whole:
    """An image over all t, as far as it has been computed: `done` of `total` steps, of which the last is of `phase`.

    `losses` are L_t in bits/dim, `errors` the root mean square errors of x_0 from 0 to 1, and `opinions`
    (timesteps, classes) the classifier's mean probabilities, each at `timesteps` and a mean over draws of the noise;
    `prior` is L_T. `up` and `down` are (t, image) of the inversion and of the return, which ends in `returned`.
    """

    total: int
    done: int = 0
    phase: str = ""
    timesteps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    opinions: list[list[float]] = field(default_factory=list)
    prior: float = math.nan
    up: list[tuple[int, np.ndarray]] = field(default_factory=list)
    down: list[tuple[int, np.ndarray]] = field(default_factory=list)
    noise_std: float = math.nan
    returned: np.ndarray | None = None
    return_error: float = math.nan


@on_gpu
def look(settings: Settings, catalogue: Catalogue, pixels: np.ndarray) -> Look:
    """An image (H, W, C) at one t: noised, predicted, and one step back.

    Raises:
        ValueError: the model cannot be loaded, or its code fails, in one line.
    """
    import_them()
    from .bench import Bench, to_input

    pipe = catalogue.pipeline(settings.model)
    try:
        bench = Bench(pipe, settings, label_of(settings, catalogue))
        return _look(bench, settings, to_input(pixels))
    except ValueError:
        raise
    except Exception as error:  # code in folders is of others
        raise ValueError(f"model {settings.model} cannot show this: {in_a_line(error)}") from error


def _look(bench: Bench, settings: Settings, x0: Tensor) -> Look:
    from pipelines.ddim import ddim_step

    from .bench import rms, to_pixels, unit_noise

    t, schedule = settings.t, bench.schedule
    noise, fresh = unit_noise(settings.seed, 2, x0.shape[1:]).split(1)
    x_t = schedule.add_noise(x0, noise, t)
    predicted, eps, v = bench.predict(x_t, t)
    s = max(t - settings.back, -1)
    x_s = ddim_step(schedule, predicted, eps, t, s, settings.eta, lambda: fresh)
    opinion = bench.opinion(x_t, t)
    a, b = (float(level) for level in schedule.marginal(t))
    return Look(
        images={
            "x0": to_pixels(x0),
            "x_t": to_pixels(x_t),
            "predicted": to_pixels(predicted),
            "eps": to_pixels(eps / 2),  # of which 95 % lie between black and white
            "x_s": to_pixels(x_s),
        },
        a=a,
        b=b,
        s=s,
        error=rms(predicted - x0),
        loss=float(bench.loss(x0, x_t, t, predicted, v)),
        opinion=[] if opinion is None else opinion[0].tolist(),
    )


@on_gpu
def follow(settings: Settings, catalogue: Catalogue, pixels: np.ndarray) -> Iterator[Whole]:
    """An image (H, W, C) over all t, then to noise and back; after each evaluation of the network, how far it is.

    Raises:
        ValueError: the model cannot be loaded, or its code fails, in one line.
    """
    import_them()
    from .bench import Bench, to_input

    pipe = catalogue.pipeline(settings.model)
    try:
        bench = Bench(pipe, settings, label_of(settings, catalogue))
        yield from _followed(bench, settings, to_input(pixels))
    except ValueError:
        raise
    except Exception as error:  # code in folders is of others
        raise ValueError(f"model {settings.model} cannot show this: {in_a_line(error)}") from error


def timesteps_of(length: int) -> list[int]:
    """Timesteps of the curves, evenly spaced from 0 to the last; all where the process has few."""
    return sorted({int(t) for t in np.linspace(0, length - 1, POINTS).round()})


def _followed(bench: Bench, settings: Settings, x0: Tensor) -> Iterator[Whole]:
    from pipelines.solvers import Solver

    from .bench import rms, unit_noise

    solver = Solver(bench.pipe.scheduler, settings.steps)
    timesteps = timesteps_of(len(bench.schedule))
    whole = Whole(total=len(timesteps) + 2 * len(solver.schedule), phase="over t", prior=bench.prior(x0))
    many, noise = x0.expand(DRAWS, *x0.shape[1:]), unit_noise(settings.seed, DRAWS, x0.shape[1:])
    for t in timesteps:
        x_t = bench.schedule.add_noise(many, noise, t)
        predicted, _, v = bench.predict(x_t, t)
        whole.timesteps.append(t)
        whole.losses.append(float(bench.loss(many, x_t, t, predicted, v).mean()))
        whole.errors.append(rms(predicted - many))
        opinion = bench.opinion(x_t, t)
        if opinion is not None:
            whole.opinions.append(opinion.mean(0).tolist())
        yield _advanced(whole)
    yield from _there_and_back(bench, solver, x0, whole)


def _there_and_back(bench: Bench, solver: Solver, x0: Tensor, whole: Whole) -> Iterator[Whole]:
    """DDIM inversion, and DDIM from where it ends. The way back does not clip, as the way there does not."""
    from pipelines.ddim import ddim_inversion_steps, ddim_steps

    from .bench import rms, to_pixels

    whole.phase, kept = "to noise", _kept(len(solver.schedule))
    x = x0
    for step in ddim_inversion_steps(bench.network, x0, solver.schedule, prediction_type=bench.kind):
        x = step.prev_sample
        if step.index in kept:
            whole.up.append((int(solver.schedule.timesteps[step.index]), to_pixels(x)))
        yield _advanced(whole)
    whole.phase, whole.noise_std = "and back", float(x.std())
    for step in ddim_steps(bench.network, x, solver.schedule, prediction_type=bench.kind):
        x = step.prev_sample
        left = len(solver.schedule) - 1 - step.index
        if left - 1 in kept:
            whole.down.append((int(solver.schedule.timesteps[left - 1]), to_pixels(x)))
        if not left:
            whole.returned, whole.return_error = to_pixels(x), rms(x.clamp(-1, 1) - x0)
        yield _advanced(whole)


def _advanced(whole: Whole) -> Whole:
    whole.done += 1
    return whole


def _kept(steps: int) -> set[int]:
    """Which steps' images are shown: evenly spaced, the last among them."""
    return {int(i) for i in np.linspace(steps - 1, 0, min(KEPT, steps), endpoint=steps < KEPT).round()}
