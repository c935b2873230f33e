"""One step of a run in the laboratory: its equation and its source lines, with the numbers of one particle."""

from dataclasses import replace
from functools import lru_cache

from ..equations import recorded_steps
from ..formulas import FORMULAS, Formula
from ..live_values import particle
from ..step_panel import Reading, explained, lines_html, reading_of
from . import processes
from .lab import Lab
from .processes import KINDS


def html(lab: Lab) -> str:
    """What the step asked for computes; the last one where there are fewer."""
    told = readings(lab)
    index = min(lab.step, len(told)) - 1
    t, reading = told[index]
    levels = tuple(float(level) for level in KINDS[lab.process].process.marginal(t))
    where = f"Particle {_chosen(lab) + 1}"
    said = explained(formula_of(lab), t, levels, reading, where)
    lines = lines_html(reading, where)
    return f'<p class="where">Step {index + 1} of {len(told)}</p>{said}<div class="step-lines">{lines}</div>'


def formula_of(lab: Lab) -> Formula:
    """That of the sampler that takes the steps."""
    if lab.process.endswith("SDE"):
        return FORMULAS[lab.predictor]
    if lab.process.endswith("ODE"):
        return FORMULAS["ode_heun"]
    own = {"Langevin": "annealed_langevin", "flow": lab.solver}
    return FORMULAS[own.get(lab.process, lab.process)]


def readings(lab: Lab) -> tuple[tuple[float, Reading], ...]:
    """Of all steps: moving on to another one computes nothing."""
    return _readings(replace(lab, step=1))


@lru_cache(maxsize=16)
def _readings(lab: Lab) -> tuple[tuple[float, Reading], ...]:
    """t, from 1 to 0, and the numbers of every step, with those of the particle; of the run that the plots show."""
    place = particle(_chosen(lab))
    recorded = recorded_steps(processes.steps(lab, lab.particles), place)
    found = [(float(step.timestep), reading_of(step, calls, place)) for step, calls in recorded]
    times = processes.unit_times(lab.process, [t for t, _ in found])
    return tuple(zip(times, (reading for _, reading in found), strict=True))


def _chosen(lab: Lab) -> int:
    return min(lab.particle, lab.particles) - 1
