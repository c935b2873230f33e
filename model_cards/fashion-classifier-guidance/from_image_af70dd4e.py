"""Drawing from an image, and keeping a part of it, with a network that was trained for neither.

    x_s = a(s) y + b(s) eps             image-to-image begins here, at the noise of a later step   Meng et al. 2022
    x_0(x_t) = m x_0(x_t) + (1 - m) y   inpainting: of what is kept, m = 0, the image y is the prediction

The second line stands inside the denoiser, so every sampler inpaints, one with a memory of earlier steps included: what
is kept moves from its own noise to y as if the network had known it, and what is drawn is drawn to fit x_t there. (Over
pixels, repaint.py replaces x_t instead, and goes back.) Meng et al. 2022, SDEdit: https://arxiv.org/abs/2108.01073.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .process_713930e3 import Path, Process, output_of_x0, path_velocity
from .run_32486b83 import Denoiser, plain

Known = Callable[[Tensor, Tensor | float], Tensor]  # (x_t, t) -> what a network says that predicts y


def steps_left_out(num_steps: int, strength: float) -> int:
    """How many of the first steps a run from an image does without: all but a share `strength`, and never all."""
    return num_steps - max(1, min(round(num_steps * strength), num_steps))


def checked_strength(strength: float | None, from_image: bool, masked: bool) -> float:
    """The share of the steps to take; unless given, all of them with a mask and without an image, and else 0.8.

    Raises:
        ValueError: not in (0, 1], or given without an image.
    """
    if not from_image and strength is not None:
        raise ValueError(f"strength must be None without an image, got {strength!r}")
    if strength is None:
        return 0.8 if from_image and not masked else 1.0
    share = plain(strength)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ValueError(f"strength must be above 0, and at most 1, got {strength!r}")
    return float(share)


def keeping(denoiser: Denoiser, mask: Tensor, known: Known) -> Denoiser:
    """A denoiser of (x_t, t) that is right about what is kept: where `mask`, bool and as x_t, is False.

    Channels after those of x_t, a learned variance, stay the network's.
    """

    def keeps(x_t: Tensor, t: Tensor | float) -> Tensor:
        output, variance = denoiser(x_t, t).tensor_split([x_t.shape[1]], dim=1)
        mixed = torch.where(mask, output, known(x_t, t).to(output.dtype))
        return torch.cat([mixed, variance], dim=1) if variance.shape[1] else mixed

    return keeps


def known_output(image: Tensor, process: Process, prediction_type: str) -> Known:
    """What a network of eps, x_0 or v says that predicts `image` (N, ...)."""

    def known(x_t: Tensor, t: Tensor | float) -> Tensor:
        a, b = (float(level) for level in process.marginal(t))
        return output_of_x0(image.to(x_t), x_t, a, b, prediction_type)

    return known


def known_velocity(image: Tensor, path: Path, time_scale: float) -> Known:
    """What a network of a flow says that predicts `image` (N, ...); it is given time_scale t."""

    def known(x_t: Tensor, timestep: Tensor | float) -> Tensor:
        t = float(timestep) / time_scale
        a, b = (float(level) for level in path.marginal(t))
        y = image.to(x_t)
        return path_velocity(path, y, (x_t - a * y) / b, t)

    return known


# what the imports above import: diffusers' loader fetches only the files that this one names
from .conditions_5712ea1d import __doc__ as _  # noqa: E402, F401
