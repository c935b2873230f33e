"""What Compare draws: one image for each value of one setting, X, and each value of another, Y; all else stays.

The seed stays too, unless it is what is compared, so that every image begins with the same noise. Where a value means
nothing, guidance for a model that is not guided, say, the grid has an empty cell.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .catalogue import ANY_CLASS, Catalogue, ModelInfo
from .fields import FIELDS, LABELS
from .settings import Settings, problems
from .values import Number

MOST = 36  # images of a comparison
NONE = "none"  # for Y: X alone is compared
STARTING = 4  # values that stand there when a setting is chosen

# the settings that can be compared, each with values to offer; [] for the model's own: classes, samplers, examples
OFFERED: dict[str, tuple[float, ...]] = {
    "steps": (2, 4, 8, 16, 32, 64),
    "sampler": (),
    "guidance_scale": (0, 1, 2, 4, 8),
    "eta": (0, 0.25, 0.5, 0.75, 1),
    "class_name": (),
    "prompt": (),
    "seed": (),
    "model": (),
    "adapter": (),
    "adapter_strength": (0, 0.25, 0.5, 0.75, 1),
}


@dataclass(frozen=True)
class Axis:
    """A setting and its values, each once, as `Settings` holds them."""

    name: str
    values: tuple[Any, ...]

    @property
    def label(self) -> str:
        """The word beside its control."""
        return FIELDS[self.name].label


@dataclass(frozen=True)
class Comparison:
    """What is drawn.

    Attributes:
        base: the settings that all images share, but for those compared
        x, y: from left to right, and from top to bottom; no y where x alone is compared
        cells: settings by (row, column), each of one image; None where the values mean nothing together
    """

    base: Settings
    x: Axis
    y: Axis | None
    cells: dict[tuple[int, int], Settings | None]

    @property
    def runs(self) -> list[Settings]:
        """The settings of each image, row by row."""
        return [settings for settings in self.cells.values() if settings is not None]

    def columns(self) -> list[str]:
        """What stands above the columns."""
        return [written(value) for value in self.x.values]

    def rows(self) -> list[str]:
        """What stands beside the rows."""
        return [written(value) for value in self.y.values] if self.y else [""]

    def shared(self, info: ModelInfo) -> str:
        """The settings that stay, for a reader."""
        compared = {self.x.name, *([self.y.name] if self.y else [])}
        names = [name for name in FIELDS if name in OFFERED and name not in compared and self.base.has(name, info)]
        values = self.base.as_dict()
        parts = [f"{FIELDS[name].label} {written(values[name]) or 'empty'}" for name in names]
        return " · ".join(part.replace(" ", "\N{NO-BREAK SPACE}") if len(part) < 40 else part for part in parts)

    def as_json(self) -> str:
        """What the image of the comparison holds, on one line: the shared settings, and the axes under "compare"."""
        axes = {"x": self.x, **({"y": self.y} if self.y else {})}
        kept = {key: {"setting": axis.name, "values": list(axis.values)} for key, axis in axes.items()}
        return json.dumps(self.base.as_dict() | {"compare": kept}, ensure_ascii=False)


def written(value: Any) -> str:
    """A value as it stands in the grid: 2.0 is 2."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def choices(catalogue: Catalogue) -> list[tuple[str, str]]:
    """(label, name) of the settings that some model of the page has."""
    has = {name for info in catalogue.infos.values() for name in OFFERED if can_have(name, info)}
    return [(FIELDS[name].label, name) for name in OFFERED if name in has]


def can_have(name: str, info: ModelInfo) -> bool:
    """Whether a model has a setting, with one of its samplers at least."""
    return FIELDS[name].is_of(info, info.accepts.union(*map(info.arguments_with, info.samplers)))


def offered(name: str, base: Settings, info: ModelInfo) -> list[str]:
    """Values of a setting to choose from, for the model that the page shows; others can be typed."""
    own = info.own(name)
    if name == "seed":
        return [str(base.seed + i) for i in range(8)]
    if name == "prompt":
        return list(dict.fromkeys(filter(None, (base.prompt, *info.examples))))
    if isinstance(FIELDS[name].values, Number):
        fitting = [
            value for value in OFFERED[name] if not FIELDS[name].values.problem_with(info.name, own, name, value)
        ]
        return [written(value) for value in fitting]
    return [choice for choice in FIELDS[name].values.choices(own) if choice != ANY_CLASS]


def starting(name: str, base: Settings, info: ModelInfo) -> list[str]:
    """The values that stand there when a setting is chosen."""
    return offered(name, base, info)[:STARTING]


def fits(name: str, value: str, info: ModelInfo) -> bool:
    """Whether a model has a value of a choice; numbers and text are left as they were typed."""
    own = info.own(name)
    return not hasattr(FIELDS[name].values, "choices") or value in FIELDS[name].values.choices(own)


def read(
    values: Mapping[str, Any], x: tuple[str, Sequence[Any]], y: tuple[str, Sequence[Any]], catalogue: Catalogue
) -> Comparison:
    """The comparison that the controls ask for: settings by name, and (setting, values) of each axis.

    Raises:
        ValueError: nothing to compare, too many images, or a value that is wrong, with what is allowed.
    """
    wrong = problems(base_of(values), catalogue, LABELS)
    if wrong:
        raise ValueError(f"In Generate: {'; '.join(wrong.values())}")
    base = Settings.checked(base_of(values) | {"count": 1}, catalogue)
    across = _axis("X", *x)
    down = None if y[0] == NONE else _axis("Y", *y)
    if down and down.name == across.name:
        raise ValueError(f"X and Y must be two settings, got {across.label} twice")
    count = len(across.values) * (len(down.values) if down else 1)
    if count > MOST:
        sizes = f"{len(across.values)} x {len(down.values)} = {count}" if down else count
        raise ValueError(f"A comparison must have at most {MOST} images, got {sizes}")
    axes = [axis for axis in (across, down) if axis]
    models = next((axis.values for axis in axes if axis.name == "model"), (base.model,))
    for axis in axes:
        _check_fit(axis, models, catalogue)
    return Comparison(base, across, down, _cells(base, across, down, catalogue))


def recalled(values: Mapping[str, Any], catalogue: Catalogue) -> Comparison:
    """The comparison that an image holds, with settings that no longer fit at their defaults.

    Raises:
        ValueError: the image is of no comparison, or of one that cannot be drawn here.
    """
    kept = values.get("compare")
    if not isinstance(kept, dict):
        raise ValueError("image must be one that Compare drew, got one without a comparison inside")
    base = Settings.recalled(base_of(values), catalogue).as_dict()
    return read(base, _kept(kept.get("x")), _kept(kept.get("y")), catalogue)


def _kept(axis: Any) -> tuple[str, list[Any]]:
    """(setting, values) of an axis as an image holds it, which anyone may have written."""
    name, values = (axis.get("setting"), axis.get("values")) if isinstance(axis, dict) else (NONE, [])
    return str(name), values if isinstance(values, list) else []


def base_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings by name: those that a run which begins with noise can have."""
    return {name: value for name, value in values.items() if name in FIELDS and not FIELDS[name].derived}


def _axis(letter: str, name: str, given: Sequence[Any]) -> Axis:
    if name not in OFFERED:
        raise ValueError(f"{letter} must be one of {', '.join(LABELS[each] for each in OFFERED)}; got {name!r}")
    row = FIELDS[name]
    parts = list(_parts(given, isinstance(row.values, Number)))
    wrong = next(filter(None, (row.values.problem(row.label, part) for part in parts)), "")
    if wrong:
        raise ValueError(f"{letter}: {wrong}")
    if not parts:
        raise ValueError(f"{letter} must have at least one value of {row.label}, got none")
    return Axis(name, tuple(dict.fromkeys(row.values.converted(part) for part in parts)))


def _parts(given: Sequence[Any], numbers: bool) -> Iterator[Any]:
    """Numbers may be typed one by one, or several with commas or spaces between them."""
    for each in given:
        if numbers and isinstance(each, str):
            yield from re.split(r"[,;\s]+", each.strip(" ,;"))
        else:
            yield each


def _cells(base: Settings, x: Axis, y: Axis | None, catalogue: Catalogue) -> dict[tuple[int, int], Settings | None]:
    found: dict[tuple[int, int], Settings | None] = {}
    reasons = []
    for row, below in enumerate(y.values if y else (None,)):
        for column, above in enumerate(x.values):
            chosen = {x.name: above} | ({y.name: below} if y else {})
            found[row, column], reason = _cell(base, chosen, catalogue)
            reasons.append(reason)
    if all(reasons):
        raise ValueError(f"Nothing to draw: {reasons[0]}")
    return found


def _check_fit(axis: Axis, models: Sequence[str], catalogue: Catalogue) -> None:
    """Raise ValueError for a value that is wrong with every model that is compared."""
    for value in axis.values:
        wrong = [problems({"model": model, axis.name: value}, catalogue, LABELS) for model in models]
        if all(wrong):
            raise ValueError("; ".join(wrong[0].values()))


def _cell(base: Settings, chosen: dict[str, Any], catalogue: Catalogue) -> tuple[Settings | None, str]:
    """The settings of an image, or why there are none. What does not fit another model takes its default."""
    model = chosen.get("model", base.model)
    wrong = problems(chosen | {"model": model}, catalogue, LABELS)
    if wrong:
        return None, "; ".join(wrong.values())
    settings, info = Settings.recalled(base.as_dict() | chosen, catalogue), catalogue[model]
    for name in chosen:
        if not settings.has(name, info):
            return None, _meaningless(name, settings, info)
    return settings, ""


def _meaningless(name: str, settings: Settings, info: ModelInfo) -> str:
    row = FIELDS[name]
    if row.only_with and can_have(name, info):
        other, *values = row.only_with
        current = getattr(settings, other)
        return f"{row.label} counts only with {FIELDS[other].label} {' or '.join(values)}, which is {current}"
    if row.not_with and can_have(name, info):
        other, *values = row.not_with
        return f"{row.label} does not count with {FIELDS[other].label} {' or '.join(values)}"
    return f"{row.label} is no setting of model {info.name}"
