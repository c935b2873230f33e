"""What a run is made of: one frozen record, checked before any work, that PNG files and the browser remember."""

import json
import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from . import defaults
from .models import Catalogue, ModelInfo


def own_scale(info: ModelInfo) -> float:
    """The guidance scale that a model draws with unless told otherwise: scales of the two kinds do not compare."""
    return info.page.get("guidance_scale", {}).get("value", defaults.GUIDANCE_SCALE)


@dataclass(frozen=True)
class Settings:
    """Everything that decides the images of a run. Image i is drawn from `seed + i` alone.

    `guidance_scale` is 1 for the conditional prediction only and 0 for the unconditional (with a classifier, 0 is off);
    guidance acts between the shares `guidance_low` and `guidance_high` of the noise process.
    """

    model: str
    class_name: str = defaults.ANY_CLASS
    steps: int = defaults.STEPS
    guidance_scale: float = defaults.GUIDANCE_SCALE
    seed: int = defaults.SEED
    count: int = defaults.COUNT
    sampler: str = defaults.SAMPLER
    eta: float = defaults.ETA
    guidance_low: float = defaults.GUIDANCE_INTERVAL[0]
    guidance_high: float = defaults.GUIDANCE_INTERVAL[1]
    guidance_rescale: float = defaults.GUIDANCE_RESCALE

    @classmethod
    def checked(cls, values: Mapping[str, Any], catalogue: Catalogue) -> Self:
        """A record of `values`; a field that is missing or None takes its default.

        Raises:
            ValueError: all that is wrong, by field.
        """
        wrong = problems(values, catalogue)
        if wrong:
            raise ValueError("; ".join(wrong.values()))
        given = {key: value for key, value in values.items() if key in FIELDS and value is not None}
        whole = {key: int(value) for key, value in given.items() if key in _WHOLE}
        real = {key: float(value) for key, value in given.items() if key in _REAL}
        known = {"model": catalogue.names[0]} | given | whole | real
        return cls(**({"guidance_scale": own_scale(catalogue[known["model"]])} | known))

    @classmethod
    def recalled(cls, values: Mapping[str, Any], catalogue: Catalogue) -> Self:
        """A record of what still holds of remembered `values`: a field that no longer fits takes its default."""
        known = {key: value for key, value in values.items() if key in FIELDS}
        if known.get("model") not in catalogue.names:
            known.pop("model", None)  # what else is remembered has to fit the model that takes its place
        wrong = problems(known, catalogue)
        return cls.checked({key: value for key, value in known.items() if key not in wrong}, catalogue)

    def of_image(self, index: int) -> Self:
        """The settings that draw image `index` of this run as their first."""
        return type(self)(**(self.as_dict() | {"seed": self.seed + index}))

    def as_dict(self) -> dict[str, Any]:
        """Field names to plain values."""
        return asdict(self)

    def as_json(self) -> str:
        """One line, in the order of the fields."""
        return json.dumps(self.as_dict(), ensure_ascii=False)

    def classes(self, info: ModelInfo) -> list[int]:
        """The class index of each image, drawn from the image's own seed for "any"; empty for a model without."""
        if not info.class_names:
            return []
        if self.class_name != defaults.ANY_CLASS:
            return [info.class_names.index(self.class_name)] * self.count
        return [random.Random(self.seed + i).randrange(len(info.class_names)) for i in range(self.count)]

    def stream_arguments(self, info: ModelInfo) -> dict[str, Any]:
        """Arguments of the pipeline's `stream`, without the generators."""
        candidates = {
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "guidance_interval": (self.guidance_low, self.guidance_high),
            "guidance_rescale": self.guidance_rescale,
        }
        chosen = {key: value for key, value in candidates.items() if key in info.accepts}
        if info.samplers and self.sampler == "DDIM":
            chosen["eta"] = self.eta
        if info.class_names:
            return {"class_labels": [info.labels[index] for index in self.classes(info)], **chosen}
        return {"batch_size": self.count, **chosen}


FIELDS = tuple(field.name for field in fields(Settings))
_WHOLE = {
    "steps": (1, defaults.MAX_STEPS),
    "seed": (0, defaults.MAX_SEED),
    "count": (1, defaults.MAX_COUNT),
}
_REAL = {
    "guidance_scale": (0.0, defaults.MAX_GUIDANCE),
    "eta": (0.0, 1.0),
    "guidance_low": (0.0, 1.0),
    "guidance_high": (0.0, 1.0),
    "guidance_rescale": (0.0, 1.0),
}


def problems(values: Mapping[str, Any], catalogue: Catalogue) -> dict[str, str]:
    """What is wrong with `values`, by field; a field that is missing or None is fine."""
    given = {key: value for key, value in values.items() if key in FIELDS and value is not None}
    numbers = {key: _number_problem(key, value) for key, value in given.items() if key in _WHOLE or key in _REAL}
    model = given.get("model", catalogue.names[0])
    wrong = {"model": _choice_problem("model", model, catalogue.names)}
    if not wrong["model"]:
        wrong |= _model_problems(given, catalogue[model])
    wrong |= {key: message for key, message in numbers.items() if message}
    low, high = (
        given.get(key, bound)
        for key, bound in zip(("guidance_low", "guidance_high"), defaults.GUIDANCE_INTERVAL, strict=True)
    )
    if not wrong.get("guidance_low") and not wrong.get("guidance_high") and float(low) > float(high):
        wrong["guidance_low"] = f"guidance_low must be at most guidance_high ({high}), got {low}"
    return {key: message for key, message in wrong.items() if message}


def _model_problems(given: Mapping[str, Any], info: ModelInfo) -> dict[str, str]:
    names = [defaults.ANY_CLASS, *info.class_names]
    class_name, sampler = given.get("class_name", defaults.ANY_CLASS), given.get("sampler", defaults.SAMPLER)
    wrong = {"class_name": _choice_problem("class_name", class_name, names)}
    if not _number_problem("steps", given.get("steps", 1)) and float(given.get("steps", 1)) > info.max_steps:
        wrong["steps"] = f"steps must be at most {info.max_steps} with model {info.name}, got {given['steps']}"
    if info.samplers:
        wrong["sampler"] = _choice_problem("sampler", sampler, list(info.samplers))
    return wrong


def _choice_problem(name: str, value: object, allowed: list[str]) -> str:
    return "" if value in allowed else f"{name} must be one of {', '.join(allowed)}; got {value!r}"


def _number_problem(name: str, value: object) -> str:
    low, high = _WHOLE.get(name) or _REAL[name]
    kind = "a whole number" if name in _WHOLE else "a number"
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if low <= number <= high and (name in _REAL or number == int(number)):
        return ""
    return f"{name} must be {kind} from {low:.12g} to {high:.12g}, got {value!r}"
