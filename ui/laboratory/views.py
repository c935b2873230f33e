"""The views of the laboratory: each from an experiment to plots, with a sentence and a formula.

A new view is one entry of `VIEWS`, in this file or in one of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

from . import density, field
from .lab import Lab
from .plots import Plot


@dataclass(frozen=True)
class View:
    """What can be looked at.

    Attributes:
        plots: of an experiment, drawn side by side
        dimensions: of the distributions that it shows
        sentence: what is seen, in plain words
        formula: as HTML
    """

    plots: Callable[[Lab], list[Plot]]
    dimensions: tuple[int, ...]
    sentence: str
    formula: str


VIEWS = {
    "density": View(
        density.show,
        (1, 2),
        "How noise becomes data: the exact density at each time, and particles that the sampler moves from noise "
        "(t = 1) to data (t = 0). Drag a component and all of it follows.",
        "p<sub>t</sub>(x) = Σ<sub>k</sub> w<sub>k</sub> N(x; a m<sub>k</sub>, a² s<sub>k</sub>² + b²), "
        "x<sub>t</sub> = a x<sub>0</sub> + b ε",
    ),
    "score": View(
        field.score_plots,
        (1, 2),
        "The score: at each point and time, the way in which the density grows fastest. It is all that a sampler needs "
        "to know, and what a network learns.",
        "∇ log p<sub>t</sub>(x) = −E[ε | x<sub>t</sub> = x] / b = (a E[x<sub>0</sub> | x<sub>t</sub> = x] − x) / b²",
    ),
    "velocity": View(
        field.velocity_plots,
        (1, 2),
        "The velocity of the probability flow: without any noise, particles that follow the arrows have the same "
        "density at each time.",
        "dx/dt = E[a′ x<sub>0</sub> + b′ ε | x<sub>t</sub> = x], arrows from noise to data",
    ),
}
