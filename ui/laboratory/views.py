"""The views of the laboratory: each from an experiment to plots, with a sentence and a formula.

A new view is one entry of `VIEWS`, in this file or in one of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from ..libraries import import_them
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
        without: settings that change nothing here
    """

    plots: Callable[[Lab], list[Plot]]
    dimensions: tuple[int, ...]
    sentence: str
    formula: str
    without: tuple[str, ...] = ()


def _of(module: str, function: str = "show") -> Callable[[Lab], list[Plot]]:
    """A function of a module here, which is imported when it is needed: what computes takes seconds to import."""

    def plots(lab: Lab) -> list[Plot]:
        import_them()
        return getattr(import_module(f".{module}", __package__), function)(lab)

    return plots


OF_SAMPLERS = ("eta", "variance", "predictor", "corrector_steps", "snr", "step_size", "solver", "particles")
GUIDED = ("guidance", "guidance_scale", "class_number")
VIEWS = {
    "density": View(
        _of("density"),
        (1, 2),
        "How noise becomes data: the exact density at each time, and particles that the sampler moves from noise "
        "(t = 1) to data (t = 0). Drag a component and all of it follows.",
        "p<sub>t</sub>(x) = Σ<sub>k</sub> w<sub>k</sub> N(x; a m<sub>k</sub>, a² s<sub>k</sub>² + b²), "
        "x<sub>t</sub> = a x<sub>0</sub> + b ε",
    ),
    "score": View(
        _of("field", "score_plots"),
        (1, 2),
        "The score: at each point and time, the way in which the density grows fastest. It is all that a sampler needs "
        "to know, and what a network learns.",
        "∇ log p<sub>t</sub>(x) = −E[ε | x<sub>t</sub> = x] / b = (a E[x<sub>0</sub> | x<sub>t</sub> = x] − x) / b²",
    ),
    "velocity": View(
        _of("field", "velocity_plots"),
        (1, 2),
        "The velocity of the probability flow: without any noise, particles that follow the arrows have the same "
        "density at each time.",
        "dx/dt = E[a′ x<sub>0</sub> + b′ ε | x<sub>t</sub> = x], arrows from noise to data",
    ),
    "gases": View(
        _of("velocity_fields"),
        (2,),
        "Each class of the data is a gas with a velocity of its own; of a single point it blows straight to the point. "
        "Together, the velocity is the mean of theirs, by how dense each of them is.",
        "v(x, t) = Σ<sub>y</sub> p(y | x<sub>t</sub> = x) v<sub>y</sub>(x, t)",
    ),
    "reverse conditional": View(
        _of("reverse_conditional"),
        (1,),
        "Where x_t came from: for a large step back that may be several places, and the smaller the step, the more "
        "nearly it is one Gaussian. That is why DDPM may draw from a Gaussian in each of its steps.",
        "p(x<sub>s</sub> | x<sub>t</sub>) = q(x<sub>t</sub> | x<sub>s</sub>) p(x<sub>s</sub>) / p(x<sub>t</sub>), "
        "s &lt; t",
        without=(*OF_SAMPLERS, *GUIDED, "steps", "seed"),
    ),
    "overlay": View(
        _of("overlay"),
        (1,),
        "A sampler that takes discrete steps, over the equation that it follows, from the same noise: with more steps "
        "the paths come together, twice as many steps being half as far apart.",
        "x<sub>s</sub> = x<sub>t</sub> + (s − t) dx/dt + O((s − t)²)",
        without=("process", *OF_SAMPLERS),
    ),
    "distance": View(
        _of("distance"),
        (1, 2),
        "How far from the data each sampler ends, over the evaluations of the network that it takes; the dashed lines "
        "fall as the theory says.",
        "W = ∫ |F<sup>−1</sup>(u) − G<sup>−1</sup>(u)| du, about C n<sup>−p</sup> for a method of order p",
        without=("process", *OF_SAMPLERS, *GUIDED, "steps"),
    ),
}
