"""What the laboratory draws from: mixtures of Gaussians on a line or in a plane, whose components can be moved, and
classic sets of points as mixtures of many narrow ones.

A component is written as a list of numbers: position, standard deviation, weight and class. On a line that is
[x, std, weight, class], in a plane [x, y, std, weight, class].
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ..libraries import import_them

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.exact import GaussianMixture

    Points = tuple[Tensor, Tensor]  # (N, 2), and the class of each (N,)

REACH = 3.0  # of positions, on either side of 0
STDS, WEIGHTS = (0.02, 2.0), (0.01, 100.0)
MOST, CLASSES = 12, 8  # components, and classes of them
LONGEST = 4000  # letters of components that are written down


@dataclass(frozen=True)
class Component:
    """One Gaussian: position (1 or 2 numbers), standard deviation, weight and class."""

    at: tuple[float, ...]
    std: float
    weight: float
    label: int

    def written(self) -> list[float]:
        """As a list of numbers."""
        return [*(round(x, 3) for x in self.at), round(self.std, 3), round(self.weight, 3), self.label]


@dataclass(frozen=True)
class Distribution:
    """A distribution that can be chosen: of `components`, which can be moved, or of points of each class.

    Attributes:
        dimensions: 1, a line, or 2, a plane
        points: gives the points, each of which is a narrow Gaussian
        kernel: the standard deviation of these
    """

    dimensions: int
    components: tuple[Component, ...] = ()
    points: Callable[[], Points] | None = None
    kernel: float = 0.1


def _moons() -> Points:
    import torch

    angle = torch.linspace(0, math.pi, 20, dtype=torch.float64)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    lower = torch.stack([0.5 - angle.cos(), 0.25 - angle.sin()], 1)
    return 1.3 * torch.cat([upper, lower]), torch.arange(2).repeat_interleave(20)


def _ring() -> Points:
    import torch

    angle = 2 * math.pi * torch.arange(40, dtype=torch.float64) / 40
    return 1.5 * torch.stack([angle.cos(), angle.sin()], 1), torch.arange(40) // 20


def _checkerboard() -> Points:
    import torch

    inside = (torch.arange(3, dtype=torch.float64) + 0.5) / 3
    square = torch.cartesian_prod(inside, inside)
    corners = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    points = torch.cat([square + torch.tensor(corner, dtype=torch.float64) for corner in corners]) - 2
    return points, (points[:, 0] > 0).long()


def _spiral() -> Points:
    import torch

    share = torch.linspace(0.02, 1, 30, dtype=torch.float64).sqrt()
    angle = 3 * math.pi * share
    arm = 1.9 * share[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return torch.cat([arm, -arm]), torch.arange(2).repeat_interleave(30)


def _around(count: int, radius: float, std: float) -> tuple[Component, ...]:
    angles = [2 * math.pi * i / count for i in range(count)]
    at = [(radius * math.sin(angle), radius * math.cos(angle)) for angle in angles]
    return tuple(Component(place, std, 1.0, i) for i, place in enumerate(at))


DISTRIBUTIONS = {
    "1-D, two Gaussians": Distribution(1, (Component((-1.0,), 0.2, 0.4, 0), Component((1.0,), 0.3, 0.6, 1))),
    "1-D, three Gaussians": Distribution(
        1, (Component((-1.6,), 0.15, 1, 0), Component((0.0,), 0.35, 1, 1), Component((1.4,), 0.2, 1, 2))
    ),
    "1-D, one point": Distribution(1, (Component((0.8,), 0.02, 1, 0),)),
    "2-D, three Gaussians": Distribution(2, _around(3, 1.3, 0.25)),
    "2-D, eight Gaussians": Distribution(2, _around(8, 1.6, 0.12)),
    "2-D, one point": Distribution(2, (Component((0.8, 0.5), 0.02, 1, 0),)),
    "2-D, two points": Distribution(2, (Component((-1.0, 0.0), 0.02, 1, 0), Component((1.0, 0.0), 0.02, 1, 1))),
    "2-D, two moons": Distribution(2, points=_moons),
    "2-D, ring": Distribution(2, points=_ring),
    "2-D, checkerboard": Distribution(2, points=_checkerboard, kernel=0.16),
    "2-D, spiral": Distribution(2, points=_spiral, kernel=0.08),
}


def names(dimensions: tuple[int, ...]) -> list[str]:
    """Those of so many dimensions."""
    return [name for name, each in DISTRIBUTIONS.items() if each.dimensions in dimensions]


def components_of(name: str, written: str) -> tuple[Component, ...]:
    """The components of a distribution: its own, or those that are written down; none where they cannot be moved."""
    own = DISTRIBUTIONS[name]
    return parsed(written, own.dimensions) if written.strip() else own.components


def mixture_of(name: str, written: str) -> GaussianMixture:
    """The exact distribution, with the classes of its components.

    Raises:
        ValueError: components that are none, by what is wrong with them.
    """
    components = components_of(name, written)
    return _points(name) if not components else _mixture(components)


def classes_of(name: str, written: str) -> list[int]:
    """The classes that its components have, in order.

    Raises:
        ValueError: components that are none, by what is wrong with them.
    """
    components = components_of(name, written)
    return sorted({each.label for each in components} if components else {*_points(name).labels.tolist()})


@cache
def _points(name: str) -> GaussianMixture:
    import_them()
    from pipelines.exact import GaussianMixture

    chosen = DISTRIBUTIONS[name]
    points, labels = chosen.points()
    return GaussianMixture(points, [chosen.kernel] * len(points), labels=labels)


def _mixture(components: tuple[Component, ...]) -> GaussianMixture:
    import_them()
    from pipelines.exact import GaussianMixture

    return GaussianMixture(
        [each.at for each in components],
        [each.std for each in components],
        weights=[each.weight for each in components],
        labels=[each.label for each in components],
    )


def written(components: tuple[Component, ...]) -> str:
    """Components as they stand in links."""
    return json.dumps([each.written() for each in components], separators=(",", ":"))


def moved(components: tuple[Component, ...], at: Any, radius: Any, dimensions: int) -> str:
    """Components with the positions (x, y) and deviations that the page says, in writing; on a line, y is theirs.

    Raises:
        ValueError: another number of them than there are, or what is no position.
    """
    try:
        places = [tuple(map(float, place))[2 - dimensions :] for place in at]
        pairs = [*zip(components, places, map(float, radius), strict=True)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"components must be moved to {len(components)} places of two numbers") from error
    text = written(tuple(Component(place, std, each.weight, each.label) for each, place, std in pairs))
    return written(parsed(text, dimensions))


def with_one_more(components: tuple[Component, ...], dimensions: int) -> str:
    """Components and another one in the middle, of a class of its own, in writing.

    Raises:
        ValueError: there are none to begin with, or the most that there may be.
    """
    if not 0 < len(components) < MOST:
        raise ValueError(f"components must be 1 to {MOST - 1} before another one, got {len(components)}")
    label = min({*range(CLASSES)} - {each.label for each in components}, default=CLASSES - 1)
    return written((*components, Component((0.0,) * dimensions, 0.2, 1.0, label)))


# ------------------------------------------------------------------------------------------ what others have written


def parsed(text: str, dimensions: int) -> tuple[Component, ...]:
    """Components from their JSON.

    Raises:
        ValueError: what is no list of 1 to MOST lists of numbers in their ranges.
    """
    form = "[x, std, weight, class]" if dimensions == 1 else "[x, y, std, weight, class]"
    if len(text) > LONGEST:
        raise ValueError(f"components must have at most {LONGEST} characters, got {len(text)}")
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"components must be a JSON list of {form}, got {_short(text)}") from error
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST:
        got = f"{len(rows)}" if isinstance(rows, list) else _short(text)
        raise ValueError(f"components must be a JSON list of 1 to {MOST} components, each {form}, got {got}")
    return tuple(_component(row, index + 1, dimensions, form) for index, row in enumerate(rows))


def _component(row: Any, number: int, dimensions: int, form: str) -> Component:
    if not isinstance(row, list) or len(row) != dimensions + 3 or not all(map(_is_number, row)):
        raise ValueError(f"components must each be {form} with numbers, got {_short(json.dumps(row))} as {number}")
    *at, std, weight, label = row
    ranges = [("position", x, -REACH, REACH) for x in at]
    ranges += [("std", std, *STDS), ("weight", weight, *WEIGHTS), ("class", label, 0, CLASSES - 1)]
    for what, value, low, high in ranges:
        if not low <= value <= high or (what == "class" and value % 1):
            kind = "a whole number" if what == "class" else "a number"
            raise ValueError(
                f"components must have as {what} {kind} from {low:g} to {high:g}, component {number} has {value:g}"
            )
    return Component(tuple(map(float, at)), float(std), float(weight), int(label))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # not NaN either


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
