"""What every sampler makes of an exact network: its error against network evaluations, ours and all of diffusers'.

    python -m benchmarks.solvers --output docs/solvers.md

The data is a mixture of two Gaussians, of which the network's answer is known in closed form: what is left is the
sampler's own error, the 2-Wasserstein distance between what it draws and the data. The file of --json has,
for a sampler without noise, how far each point ends from where the exact probability-flow ODE takes it, too.

Schedulers of diffusers are driven as its pipelines drive them, with every option at its default, and as our pipelines
drive them. The order is the slope of the error over the evaluations, beside that of the method in theory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import torch
from diffusers import DDIMScheduler
from diffusers.utils import logging
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.convergence import DATA, exact_map, order, rms
from benchmarks.exact_runs import (
    Counted,
    Sampler,
    at_any_time,
    driven_as_ours,
    driven_as_stock,
    last,
    ours,
    stock_names,
)
from benchmarks.table import Row, check_at_least, command_line, table
from pipelines import LinearPath, NoiseSchedule
from pipelines.ddim import ddim_steps
from pipelines.solvers import TAKEN
from training.evaluation.plots import COLOURS, MARKERS, write_figure
from training.files import write_whole
from training.recipes import flag

# order of the method in theory; the default of those that have several
THEORY = {
    "DDIM": 1, "DDIMParallel": 1, "CogVideoXDDIM": 1, "EulerDiscrete": 1, "EDMEuler": 1, "FlowMatchEulerDiscrete": 1,
    "HeunDiscrete": 2, "FlowMatchHeunDiscrete": 2, "KDPM2Discrete": 2, "DEISMultistep": 2, "DPMSolverMultistep": 2,
    "DPMSolverSinglestep": 2, "EDMDPMSolverMultistep": 2, "UniPCMultistep": 2, "PNDM": 4, "IPNDM": 4, "LMSDiscrete": 4,
}  # fmt: skip
NOISY = {
    "DDPM", "DDPMParallel", "EulerAncestralDiscrete", "KDPM2AncestralDiscrete", "LCM", "FlowMatchLCM", "TCD",
    "SASolver", "UnCLIP", "LTXEulerAncestralRF",
}  # fmt: skip
SPACED = ("DDIM", "EulerDiscrete", "HeunDiscrete", "DPMSolverMultistep", "UniPCMultistep")
SPACINGS = ("linspace", "leading", "trailing")
FORMULA = "The stock DDIM against eq. 12 of its paper over the same timesteps, root mean square distance:"
DDIM_STEPS = (10, 20, 30, 50, 80)
SHOWN = (
    *(("ours", name) for name in ("DDIM", "flow, euler", "flow, heun")),
    *(("diffusers", name) for name in ("DDIM", "DDIM, linspace", "DPMSolverMultistep", "HeunDiscrete")),
)


@dataclass
class Options:
    """The flags of the command."""

    evaluations: list[int] = field(
        default_factory=lambda: [10, 20, 40, 80], metadata={"help": "network evaluations per run, at most"}
    )
    points: int = flag(4096, "samples per run")
    json: str | None = flag(None, "write the numbers to this file")
    output: str | None = flag(None, "write table and plot to this Markdown file and the PNG beside it")

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot work, naming the flag."""
        check_at_least(self, points=2)
        if len(self.evaluations) < 2 or min(self.evaluations) < 8:
            raise ValueError(f"evaluations must be two numbers or more, each at least 8, got {self.evaluations}")


# ----------------------------------------------------------------------------------------------------- what is measured


def unit_noise(points: int) -> Tensor:
    """The quantiles of N(0, 1), (points, 1)."""
    return torch.special.ndtri((torch.arange(points, dtype=torch.float64) + 0.5) / points)[:, None]


def measured(sampler: Sampler, options: Options) -> Row:
    """A sampler's errors for each number of evaluations."""
    x = unit_noise(options.points)
    wanted = exact_map(x, LinearPath(), 0.0)  # the quantiles of the data
    row: Row = {"name": sampler.name, "family": sampler.family, "theory": sampler.theory, "noisy": sampler.noisy}
    row |= {"evaluations": [], "errors": [], "of_trajectories": None if sampler.noisy else []}
    cost = nfe_of(sampler, 8) / 8
    for most in options.evaluations:
        counted = Counted()
        try:
            drawn = sampler.draw(x, max(1, round(most / cost)), counted).double()
        except ValueError:  # LCM and TCD have 50 steps at most
            break
        row["evaluations"].append(counted.nfe)
        row["errors"].append(rms(drawn.sort(0).values - wanted))
        if not sampler.noisy:
            row["of_trajectories"].append(rms(drawn - wanted))
    if len(row["errors"]) < 2:
        return row | {"order": math.nan}
    return row | {"order": order(tuple(row["evaluations"]), row["errors"])}


def nfe_of(sampler: Sampler, steps: int) -> int:
    """The evaluations in a number of steps."""
    counted = Counted()
    sampler.draw(unit_noise(2), steps, counted)
    return counted.nfe


def floor(options: Options) -> float:
    """The same error of as many samples of the data itself."""
    wanted = exact_map(unit_noise(options.points), LinearPath(), 0.0)
    drawn, _ = DATA.sample(options.points, torch.Generator().manual_seed(0))
    return rms(drawn.sort(0).values - wanted)


def stock() -> tuple[list[tuple[Sampler, Sampler | None]], dict[str, str]]:
    """Each scheduler that can be driven, as diffusers does and as we do, if we take it; and why not the others."""
    found, others = [], {}
    for full in stock_names():
        name, kind = full.removesuffix("Scheduler"), getattr(diffusers, full)
        try:
            draw = driven_as_stock(kind)
        except (ImportError, TypeError, ValueError) as error:
            others[full] = " ".join(str(error).split()).removeprefix(full).strip()
            continue
        known = {"noisy": name in NOISY, "theory": THEORY.get(name)}
        mine = Sampler(name, "ours", driven_as_ours(kind), **known) if full in TAKEN else None
        found.append((Sampler(name, "diffusers", draw, **known), mine))
        for spacing in _other_spacings(name, kind):
            spaced = driven_as_stock(kind, timestep_spacing=spacing)
            found.append((Sampler(f"{name}, {spacing}", "diffusers", spaced, **known), None))
    return found, others


def _other_spacings(name: str, kind: type) -> list[str]:
    """The spacings that are worth a row besides the default one."""
    return [spacing for spacing in SPACINGS if name in SPACED and spacing != kind().config.timestep_spacing]


def ddim_against_formula(spacing: str, steps: int) -> float:
    """Root mean square distance of the stock DDIM to eq. 12 of the paper over the same timesteps."""
    scheduler, x = DDIMScheduler(timestep_spacing=spacing, clip_sample=False), unit_noise(256)
    drawn = driven_as_stock(DDIMScheduler, timestep_spacing=spacing, clip_sample=False)(x, steps, Counted())
    scheduler.set_timesteps(steps)
    whole = NoiseSchedule.from_scheduler(scheduler)
    schedule = whole.respace(sorted(scheduler.timesteps.tolist()))
    return rms(last(ddim_steps(at_any_time(whole.alphas_cumprod), x, schedule)) - drawn)


def run(options: Options) -> list[Row]:
    """Measure all; the first rows are ours. Written to `output` if that is given."""
    logging.set_verbosity_error()
    pairs, others = stock()
    rows = [measured(sampler, options) for sampler in tqdm(ours(), desc="Ours", disable=None)]
    for theirs, mine in tqdm(pairs, desc="diffusers", disable=None):
        row = measured(theirs, options)
        rows.append(row | {"in_our_pipelines": None if mine is None else measured(mine, options)["errors"]})
    rows[0] |= {"floor": floor(options), "not_driven": others, "asked": options.evaluations}
    rows[0]["ddim"] = {spacing: [ddim_against_formula(spacing, n) for n in DDIM_STEPS] for spacing in SPACINGS}
    if options.output is not None:
        write(Path(options.output), rows)
    return rows


# -------------------------------------------------------------------------------------------------------- what is shown


def show(rows: list[Row]) -> str:
    """The errors by sampler, and what is not among them."""
    asked = rows[0]["asked"]
    heads = [
        "sampler",
        *(f"{most} evaluations" for most in asked),
        "order",
        "in theory",
        *(f"ours, {n}" for n in asked),
    ]
    lines = [_line(row, len(asked)) for row in rows]
    floor = f"As many samples of the data itself: {rows[0]['floor']:.4f}."
    spacings = [[name, *(f"{error:.4f}" for error in errors)] for name, errors in rows[0]["ddim"].items()]
    ddim = table(["DDIMScheduler, steps", *map(str, DDIM_STEPS)], spacings)
    others = [f"- {name}: {why}" for name, why in rows[0]["not_driven"].items()]
    return "\n\n".join([table(heads, lines), floor, FORMULA, ddim, "Not driven:", "\n".join(others)])


def _line(row: Row, count: int) -> list[str]:
    theory = "" if row["theory"] is None else str(row["theory"])
    errors, mine = _cells(row["errors"], count), _cells(row.get("in_our_pipelines") or [], count)
    return [f"{row['family']}: {row['name']}", *errors, f"{row['order']:.1f}", theory, *mine]


def _cells(errors: list[float], count: int) -> list[str]:
    return [f"{error:.4f}" for error in errors] + [""] * (count - len(errors))


def figure(rows: list[Row]) -> Figure:
    """The errors of some samplers over evaluations."""
    made = Figure(figsize=(7.2, 4.8), dpi=144, layout="constrained")
    axis = made.subplots()
    for index, row in enumerate(row for row in rows if (row["family"], row["name"]) in SHOWN):
        style = {
            "color": COLOURS[index],
            "marker": MARKERS[index],
            "linestyle": "-" if row["family"] == "ours" else "--",
        }
        axis.plot(row["evaluations"], row["errors"], label=f"{row['name']} ({row['family']})", **style)
    axis.axhline(rows[0]["floor"], color="grey", linewidth=0.8, label="samples of the data")
    axis.set(xscale="log", yscale="log", xlabel="Network evaluations", ylabel="2-Wasserstein distance to the data")
    axis.set_xticks(rows[0]["asked"], [str(n) for n in rows[0]["asked"]])
    axis.minorticks_off()
    axis.legend()
    return made


def write(path: Path, rows: list[Row]) -> None:
    """Table and plot."""
    plot = write_figure(path.with_suffix(".png"), lambda: figure(rows))
    about = __doc__.split("\n\n")
    image = f"![Errors of samplers over evaluations]({plot.name})"
    parts = ["# Samplers on an exact network", *map(str.strip, about[2:]), image]
    command = about[1].strip()
    write_whole(path, ("\n\n".join([*parts, show(rows), f"*Written by `{command}`.*"]) + "\n").encode())


def main(arguments: list[str] | None = None) -> list[Row]:
    """The command line; returns the rows of the table."""
    return command_line(Options, run, show, "benchmarks.solvers", __doc__, arguments)


if __name__ == "__main__":
    main()
