"""What a step of each sampler computes: a sentence and its formula.

    x_t = a_t x_0 + b_t eps         the noisy image at time t; s is the time after the step

The network's predictions wear a hat, z is fresh noise, and score = -eps / b. A sampler that has no row here is told by
the equation above, which holds for all of them.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .catalogue import ModelInfo
from .settings import Settings

FIT = 1e-2  # of x_t that the equation may leave over


@dataclass(frozen=True)
class Formula:
    """Of one step, for readers: plain words, and an equation as `marked_up` takes it."""

    sentence: str = (
        "The network tells how much of x_t is noise; what is left is the predicted image, and the sampler goes on from "
        "there with a little less noise."
    )
    text: str = "x_t = a_t x̂_0 + b_t ε̂"


_LAMBDA = "h = λ_s − λ_t, λ = log a/b"
_VELOCITY = "v = a′ x̂_0 + b′ ε̂"
_SCORE = "score = −ε̂ / b_t"
_HEUN_OF_FLOWS = Formula(
    "Heun's method follows the velocity v from noise to data, and takes the mean of its values at both ends of the "
    "step, which asks the network twice.",
    f"x_s = x_t + (s − t) (v_t + v_s) / 2, {_VELOCITY}",
)
_EULER = Formula(
    "Euler's method follows the velocity v, from noise to data, in a straight line until the next time s.",
    f"x_s = x_t + (s − t) v_t, {_VELOCITY}",
)
FORMULAS = {
    "DDIM": Formula(
        "DDIM mixes the predicted x₀ and the predicted noise again, with less of the noise; Eta decides how much of "
        "it is replaced by fresh noise z (σ = 0 where Eta is 0).",
        "x_s = a_s x̂_0 + √(b_s² − σ²) ε̂ + σ z",
    ),
    "DDPM": Formula(
        "DDPM moves from x_t towards the predicted x₀, and adds a little fresh noise z.",
        "x_s = (a_s β x̂_0 + √α b_s² x_t) / b_t² + σ z, α = a_t² / a_s², β = 1 − α",
    ),
    "DPM-Solver++": Formula(
        "DPM-Solver++ keeps a share of the noisy image and adds the predicted one, D, which it extends by how the "
        "prediction changed since the step before, x̂_0′.",
        f"x_s = (b_s / b_t) x_t + a_s (1 − e^−h) D, D = x̂_0 + (x̂_0 − x̂_0′) / 2r, {_LAMBDA}",
    ),
    "UniPC": Formula(
        "UniPC extends the predicted image by how it changed over earlier steps, D, and corrects each step once the "
        "network has been asked at its end.",
        f"x_s = (b_s / b_t) x_t + a_s (1 − e^−h) (x̂_0 + Σ ρ D), {_LAMBDA}",
    ),
    "Heun": Formula(
        "Heun's method follows the slope d from noise to the predicted image, and takes the mean of its values at both "
        "ends of the step, which asks the network twice.",
        "y_s = y_t + (σ_s − σ_t) (d_t + d_s) / 2, d = (y − x̂_0) / σ, y = x / a, σ = b / a",
    ),
    "Euler": _EULER,
    "euler": _EULER,
    "heun": _HEUN_OF_FLOWS,
    "midpoint": Formula(
        "The midpoint method follows the velocity v that the network predicts half a step on, which asks it twice.",
        f"x_s = x_t + (s − t) v_m, m = (s + t) / 2, {_VELOCITY}",
    ),
    "euler_maruyama": Formula(
        "Euler-Maruyama follows the reverse SDE: the drift and the score take noise away, and a little fresh noise z "
        "comes in.",
        f"x_s = x_t − (f x_t − g² score) dt + g √dt z, {_SCORE}",
    ),
    "reverse_diffusion": Formula(
        "Each step is the forward process's own, reversed: c and G are what it multiplies by and the noise it adds.",
        f"x_s = (2 − c) x_t + G² score + G z, {_SCORE}",
    ),
    "annealed_langevin": Formula(
        "Langevin dynamics: small steps uphill along the score, each with fresh noise z, at one noise level after the "
        "other.",
        f"x ← x + (α / 2) score + √α z, {_SCORE}",
    ),
    "ode_heun": Formula(
        "Heun's method follows the probability-flow ODE, which has no fresh noise, by the mean of its slopes d at both "
        "ends of the step.",
        f"x_s = x_t + (s − t) (d_t + d_s) / 2, d = f x − g² score / 2, {_SCORE}",
    ),
    "ode_adaptive": Formula(
        "Dormand-Prince follows the probability-flow ODE, each image with steps as large as its error allows.",
        f"dx / dt = f x − g² score / 2, {_SCORE}",
    ),
}
OF_FLOWS = {"Heun": _HEUN_OF_FLOWS}


def formula_of(settings: Settings, info: ModelInfo) -> Formula:
    """What a step of this run computes."""
    if not settings.has("sampler", info):
        return Formula()
    own = OF_FLOWS if info.flow else {}
    return own.get(settings.sampler) or FORMULAS.get(settings.sampler) or Formula()


def levels(step: Any) -> tuple[float, float] | None:
    """(a, b) of x_t = a x_0 + b eps in the first image of a step, whatever process it is of; None if it is none."""
    x_t, x0, eps = (
        part[0].detach().double().flatten().cpu().numpy() for part in (step.x_t, step.pred_original_sample, step.eps)
    )
    columns = np.stack([x0, eps], axis=1)
    gram = columns.T @ columns
    if not np.isfinite(gram).all() or np.linalg.cond(gram) > 1e8:
        return None
    a, b = np.linalg.solve(gram, columns.T @ x_t)
    left = np.linalg.norm(x_t - columns @ (a, b))
    return (float(a), float(b)) if left <= FIT * np.linalg.norm(x_t) else None


def marked_up(formula: str) -> str:
    """Plain text as HTML: a letter or number after "_" is set below, and after "^", also with a minus, above."""
    return re.sub(r"\^(−?\w)", r"<sup>\1</sup>", re.sub(r"_(\w)", r"<sub>\1</sub>", formula))
