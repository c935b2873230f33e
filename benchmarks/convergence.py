"""How fast each sampler's error falls with its steps, on a mixture of two Gaussians of which everything is known.

    python -m benchmarks.convergence --output docs/convergence.png

Left, without noise: the error of DDIM, of the probability-flow ODE and of a flow against the exact map, which takes
each quantile of the noise to that of the data; order 1 for Euler's method and DDIM, 2 for midpoint and Heun.

Right, with noise: how far DDPM is from the VP reverse SDE, and NCSN's chain from the VE reverse SDE, when the same
Brownian motion drives both; order 1. Both are discretisations (Song et al. 2021, https://arxiv.org/abs/2011.13456,
section 3.2). They are compared at t = 0.1, because the last step of a chain leaves its noise out.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pipelines import VESDE, VPSDE, GaussianMixture, LinearPath, NoiseSchedule
from pipelines.ddim import ddim_steps
from pipelines.ddpm import ancestral_steps
from pipelines.flow_matching import flow_steps, shifted_times
from pipelines.process import Process
from pipelines.run import Step
from pipelines.score_sde import heun_steps, sde_steps
from pipelines.sde import SDE
from training.evaluation.plots import COLOURS, MARKERS, write_figure
from training.evaluation.results import aligned

WEIGHTS, MEANS, STDS = [0.4, 0.6], [-0.5, 0.6], [0.2, 0.15]
DATA = GaussianMixture(torch.tensor(MEANS, dtype=torch.float64).reshape(2, 1), STDS, weights=WEIGHTS)
STEPS = (40, 80, 160, 320, 640)
FINEST = 16  # of the Brownian motion: its steps in one step of the finest run
END = 1e-3
COMPARED_AT = 0.1
Errors = dict[str, list[float]]


def vp_schedule(steps: int) -> NoiseSchedule:
    """DDPM's schedule of `steps`, whose limit is the VP SDE: beta(t) dt."""
    t = (torch.arange(steps, dtype=torch.float64) + 1) / steps
    return NoiseSchedule(VPSDE().beta(t) / steps)


def times(steps: int, end: float) -> list[float]:
    """From 1 down to `end`, evenly."""
    return [1 + (end - 1) * i / steps for i in range(steps + 1)]


def score(process: SDE) -> Callable[..., Tensor]:
    """The exact score of the data under a process."""
    return lambda x, t: DATA.score(x, *process.marginal(t))


# ----------------------------------------------------------------------------------------------- without noise: maps


def exact_map(x: Tensor, noisy: Process, clean: float) -> Tensor:
    """Where the flow of probability takes x (N, 1) from t = 1 to t = `clean`: to the equal quantile."""
    wanted = _cdf(x, *noisy.marginal(1.0))
    low, high = torch.full_like(x, -10), torch.full_like(x, 10)
    for _ in range(100):
        middle = (low + high) / 2
        below = _cdf(middle, *noisy.marginal(clean)) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return middle


def _cdf(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Of the data under a marginal."""
    parts = zip(WEIGHTS, MEANS, STDS, strict=True)
    return sum(w * torch.special.ndtr((x - a * m) / ((a * s).square() + b.square()).sqrt()) for w, m, s in parts)


def without_noise(steps: tuple[int, ...] = STEPS) -> Errors:
    """Root mean square errors of 256 points by method, for each count of steps."""
    x = torch.special.ndtri((torch.arange(256, dtype=torch.float64) + 0.5) / 256)[:, None]
    path, sde = LinearPath(), VPSDE()
    velocity = DATA.denoiser(path, "flow_prediction")

    def flow(sampler: str) -> Callable[[int], Tensor]:
        return lambda n: _end(flow_steps(velocity, x, shifted_times(n), path, sampler))

    def ddim(n: int) -> Tensor:
        return _end(ddim_steps(DATA.denoiser(vp_schedule(n)), x, vp_schedule(n)))

    def ode(n: int) -> Tensor:
        return _end(heun_steps(score(sde), x, sde, times(n, END)))

    methods = {
        "flow, Euler": (flow("euler"), exact_map(x, path, 0.0)),
        "flow, midpoint": (flow("midpoint"), exact_map(x, path, 0.0)),
        "flow, Heun": (flow("heun"), exact_map(x, path, 0.0)),
        "DDIM": (ddim, exact_map(x, sde, 0.0)),
        "VP ODE, Heun": (ode, exact_map(x, sde, END)),
    }
    return {name: [rms(draw(n) - expected) for n in steps] for name, (draw, expected) in methods.items()}


# ------------------------------------------------------------------------------------------------- with noise: chains


def with_noise(steps: tuple[int, ...] = STEPS, seed: int = 0) -> Errors:
    """Root mean square distances of 256 paths to those of the SDE under the same Brownian motion."""
    finest = FINEST * steps[-1]
    generator = torch.Generator().manual_seed(seed)
    brownian = torch.randn(finest, 256, 1, generator=generator, dtype=torch.float64)
    x = torch.randn(256, 1, generator=generator, dtype=torch.float64)

    def noise(n: int) -> Callable[[], Tensor]:
        """The motion over each of n steps, of unit variance."""
        each = iter(brownian.reshape(n, finest // n, 256, 1).sum(1) / math.sqrt(finest // n))
        return lambda: next(each)

    def compared(run: Iterator[Step], n: int) -> Tensor:
        return next(islice(run, round((1 - COMPARED_AT) * n) - 1, None)).prev_sample

    def sde_run(sde: SDE, n: int, predictor: str) -> Tensor:
        return compared(sde_steps(score(sde), sde.prior_std * x, sde, times(n, 0.0), noise(n), predictor), n)

    def ddpm(n: int) -> Tensor:
        schedule = vp_schedule(n)
        run = ancestral_steps(DATA.denoiser(schedule), x, schedule, noise=noise(n), variance="fixed_large")
        return compared(run, n)

    vp, ve = VPSDE(), VESDE(0.05, 5.0)
    limits = {"VP": sde_run(vp, finest, "euler_maruyama"), "VE": sde_run(ve, finest, "euler_maruyama")}
    return {
        "DDPM to the VP SDE": [rms(ddpm(n) - limits["VP"]) for n in steps],
        "NCSN to the VE SDE": [rms(sde_run(ve, n, "reverse_diffusion") - limits["VE"]) for n in steps],
    }


def _end(run: Iterator[Step]) -> Tensor:
    *_, last = run
    return last.prev_sample


def rms(difference: Tensor) -> float:
    """Root mean square."""
    return float(difference.square().mean().sqrt())


def order(steps: tuple[int, ...], errors: list[float]) -> float:
    """The slope of the errors over the steps, both on logarithmic axes."""
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])


# ------------------------------------------------------------------------------------------------------- what is shown


def figure(steps: tuple[int, ...], panels: dict[str, Errors]) -> Figure:
    """A panel for each set of errors; a line's order stands in the legend."""
    made = Figure(figsize=(10.4, 4.6), dpi=144, layout="constrained")
    for axis, (title, errors) in zip(made.subplots(1, 2), panels.items(), strict=True):
        _draw(axis, steps, errors)
        axis.set_title(title, loc="left")
    return made


def _draw(axis: Axes, steps: tuple[int, ...], errors: Errors) -> None:
    for index, (name, values) in enumerate(errors.items()):
        label = f"{name}: order {order(steps, values):.1f}"
        axis.plot(steps, values, color=COLOURS[index], marker=MARKERS[index], label=label)
    axis.set(xscale="log", yscale="log", xlabel="Steps", ylabel="Root mean square error")
    axis.set_xticks(steps, [str(n) for n in steps])
    axis.minorticks_off()
    axis.legend()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.convergence", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="write the plot to this PNG")
    output = parser.parse_args(arguments).output
    panels = {"Without noise, to the exact map": without_noise(), "With noise, to the SDE": with_noise()}
    lines = [["method", *(f"{n} steps" for n in STEPS), "order"]]
    for errors in panels.values():
        lines += [[name, *(f"{e:.2e}" for e in row), f"{order(STEPS, row):.2f}"] for name, row in errors.items()]
    print(aligned(lines))
    if output is not None:
        print(f"written to {write_figure(output, lambda: figure(STEPS, panels))}")


if __name__ == "__main__":
    main()
