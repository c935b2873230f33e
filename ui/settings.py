"""What a run is made of: one frozen record of the rows of fields.py, checked before any work."""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, field, make_dataclass
from typing import Any, Self

from .catalogue import ANY_CLASS, Catalogue, ModelInfo
from .fields import FIELDS, ROWS

Words = Mapping[str, str]
NAMES = {name: name for name in FIELDS}

_Record = make_dataclass(
    "_Record", [(row.name, row.values.python_type, field(default=row.default)) for row in ROWS], frozen=True
)


class Settings(_Record):
    """Everything that decides the images of a run, an attribute per row. Image i is drawn from `seed + i` alone."""

    model: str  # what is read here and in run.py by name; the others are only passed on
    class_name: str
    steps: int
    seed: int
    count: int
    sampler: str
    prompt: str
    start: str
    adapter: str
    adapter_strength: float

    @classmethod
    def checked(cls, values: Mapping[str, Any], catalogue: Catalogue) -> Self:
        """A record of `values`; a setting that is missing or None takes the model's default.

        Raises:
            ValueError: all that is wrong, by setting.
        """
        wrong = problems(values, catalogue)
        if wrong:
            raise ValueError("; ".join(wrong.values()))
        given = {name: FIELDS[name].values.converted(value) for name, value in _given(values).items()}
        model = given.setdefault("model", catalogue.names[0])
        return cls(**({row.name: row.default_of(catalogue[model]) for row in ROWS} | given))

    @classmethod
    def recalled(cls, values: Mapping[str, Any], catalogue: Catalogue) -> Self:
        """A record of what still holds of remembered `values`: a setting that no longer fits takes its default."""
        left_out = misfits(values, catalogue)
        return cls.checked(
            {name: values[name] for name in FIELDS if name not in left_out and name in values}, catalogue
        )

    def of_image(self, index: int) -> Self:
        """The settings that draw image `index` of this run as their first."""
        return type(self)(**(self.as_dict() | {"seed": self.seed + index}))

    def beginning_with(self, start: str) -> Self:
        """The same settings of a run that begins with noise, an image, or an image and a mask."""
        return type(self)(**(self.as_dict() | {"start": start}))

    def as_dict(self) -> dict[str, Any]:
        """Names to plain values."""
        return asdict(self)

    def as_json(self) -> str:
        """One line, in the order of the rows."""
        return json.dumps(self.as_dict(), ensure_ascii=False)

    def has(self, name: str, info: ModelInfo) -> bool:
        """Whether the model has a setting, and the other settings let it count."""
        row = FIELDS[name]
        if not row.is_of(info, info.arguments_with(self.sampler)):
            return False
        if not (row.only_with or row.not_with):
            return True
        other, *values = row.only_with or row.not_with
        return (getattr(self, other) in values) == bool(row.only_with) and self.has(other, info)

    def shows(self, name: str, info: ModelInfo) -> bool:
        """Whether the page asks for a setting: one of a mask as soon as there is an image to paint on."""
        begun = self.beginning_with("mask") if self.start == "image" else self
        return not FIELDS[name].derived and begun.has(name, info)

    def classes(self, info: ModelInfo) -> list[int]:
        """The class index of each image, drawn from the image's own seed for "any"; empty for a model without."""
        if not info.class_names:
            return []
        if self.class_name != ANY_CLASS:
            return [info.class_names.index(self.class_name)] * self.count
        return [random.Random(self.seed + i).randrange(len(info.class_names)) for i in range(self.count)]

    def stream_arguments(self, info: ModelInfo) -> dict[str, Any]:
        """Arguments of the pipeline's `stream`, without the generators and the image that it begins with."""
        accepted = info.arguments_with(self.sampler)
        values: dict[str, list[Any]] = {}
        for row in ROWS:
            if row.argument in accepted and not row.derived and self.has(row.name, info):
                values.setdefault(row.argument, []).append(getattr(self, row.name))
        chosen = {name: tuple(parts) if len(parts) > 1 else parts[0] for name, parts in values.items()}
        if info.class_names:
            return {"class_labels": [info.labels[index] for index in self.classes(info)], **chosen}
        return {"batch_size": self.count, **chosen}


def kept_by_hand(values: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Of `values`, those that no model of the page has as its default: another model's own take the others' place."""
    infos = catalogue.infos.values()
    usual = {row.name: [row.default_of(info) for info in infos] for row in ROWS if row.name != "model"}
    return {name: value for name, value in values.items() if value not in usual.get(name, ())}


def misfits(values: Mapping[str, Any], catalogue: Catalogue, words: Words = NAMES) -> dict[str, str]:
    """What `Settings.recalled` leaves out of `values`, by setting, and why.

    What takes its place may not fit another setting, which then is left out, too.
    """
    known, found = _given(values), {}
    while wrong := problems(known, catalogue, words):
        found |= wrong
        known = {name: value for name, value in known.items() if name not in wrong}
    return found


def problems(values: Mapping[str, Any], catalogue: Catalogue, words: Words = NAMES) -> dict[str, str]:
    """What is wrong with `values`, by setting; one that is missing or None is fine.

    `words`: what the messages call each setting, its name or its label.
    """
    given = _given(values)
    model = given.get("model", catalogue.names[0])
    info = catalogue[model] if model in catalogue.names else None
    found = {name: FIELDS[name].values.problem(words[name], value) for name, value in given.items()}
    if info is None:
        found["model"] = f"{words['model']} must be one of {', '.join(catalogue.names)}; got {model!r}"
    else:
        found |= {name: _problem_with(info, name, given[name], words) for name in given if not found[name]}
    wrong = {name: message for name, message in found.items() if message}
    return wrong | _out_of_order(given, wrong, info, words)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in FIELDS if values.get(name) is not None}


def _problem_with(info: ModelInfo, name: str, value: Any, words: Words) -> str:
    return FIELDS[name].values.problem_with(info.name, info.own(name), words[name], value)


def _out_of_order(
    given: Mapping[str, Any], wrong: Mapping[str, str], info: ModelInfo | None, words: Words
) -> dict[str, str]:
    """Settings above the one that they may not exceed, where each by itself is right; one that was given is named."""
    found = {}
    for row in ROWS if info else ():
        if not row.at_most or {row.name, row.at_most} & set(wrong):
            continue
        value, bound = (given.get(name, FIELDS[name].default_of(info)) for name in (row.name, row.at_most))
        if float(value) <= float(bound):
            continue
        low, high = words[row.name], words[row.at_most]
        if row.name in given:
            found[row.name] = f"{low} must be at most {high} ({bound}), got {value}"
        else:
            found[row.at_most] = f"{high} must be at least {low} ({value} unless given), got {bound}"
    return found
