"""From values of any kind to checked settings, and the models that an image can be looked at with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode

from pipelines.about import read_json

from ..catalogue import Catalogue, ModelInfo
from .fields import FIELDS, NO_CLASS, ROWS, TAB
from .samples import OWN, samples

Words = Mapping[str, str]
NAMES = {name: name for name in FIELDS}
PARTS = {"unet", "scheduler"}  # of a model: with others, the network is told more than x_t, t and a class
CLASSIFIER = "classifier"


@dataclass(frozen=True)
class Settings:
    """Checked settings; an attribute per row of fields.py."""

    model: str
    image: str
    t: int
    back: int
    eta: float
    class_name: str
    steps: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Names to plain values."""
        return asdict(self)


def fitting(catalogue: Catalogue) -> list[str]:
    """The models whose network denoises pixels on a noise schedule, those that have a classifier first."""
    parts = {name: _parts(info) for name, info in catalogue.infos.items() if not info.flow}
    names = [name for name, found in parts.items() if PARTS <= found <= PARTS | {CLASSIFIER}]
    return sorted(names, key=lambda name: CLASSIFIER not in parts[name])


def _parts(info: ModelInfo) -> set[str]:
    """The parts that its index names, each with a library and a class; other lists in it are settings."""
    index = read_json(info.folder / "model_index.json")
    parts = {name for name, value in index.items() if isinstance(value, list) and value and isinstance(value[0], str)}
    return {name for name in parts if not name.startswith("_")}


def _is_told_classes(info: ModelInfo) -> bool:
    """Whether the network itself takes a class: one that a classifier guides does not."""
    config = info.folder / "unet" / "config.json"
    return config.is_file() and bool(read_json(config).get("num_class_embeds"))


def checked(values: Mapping[str, Any], catalogue: Catalogue, words: Words = NAMES) -> Settings:
    """The settings of `values`; one that is missing or None takes the model's default.

    Raises:
        ValueError: all that is wrong, by setting.
    """
    wrong = problems(values, catalogue, words)
    if wrong:
        raise ValueError("; ".join(wrong.values()))
    given = {name: FIELDS[name].values.converted(value) for name, value in _given(values).items()}
    model = given.get("model", fitting(catalogue)[0])
    return Settings(**(defaults(catalogue, model) | given))


def recalled(values: Mapping[str, Any], catalogue: Catalogue, words: Words = NAMES) -> tuple[Settings, dict[str, str]]:
    """The settings of what holds of `values`, and what was left out of them, by setting."""
    known, left_out = _given(values), {}
    while wrong := problems(known, catalogue, words):
        left_out |= wrong
        known = {name: value for name, value in known.items() if name not in wrong}
    return checked(known, catalogue), left_out


def problems(values: Mapping[str, Any], catalogue: Catalogue, words: Words = NAMES) -> dict[str, str]:
    """What is wrong with `values`, by setting; one that is missing or None is fine."""
    given, models = _given(values), fitting(catalogue)
    model = given.get("model", models[0])
    if model not in models:
        return {"model": f"{words['model']} must be one of {', '.join(models)}; got {model!r}"}
    own = own_words(catalogue, model)
    found = {}
    for name, value in given.items():
        kind = FIELDS[name].values
        found[name] = kind.problem(words[name], value) or kind.problem_with(model, own[name], words[name], value)
    return {name: message for name, message in found.items() if message}


def label_of(settings: Settings, catalogue: Catalogue) -> str | int | None:
    """What the network is told of the class; None for none."""
    info = catalogue[settings.model]
    return None if settings.class_name == NO_CLASS else info.labels[info.class_names.index(settings.class_name)]


def own_words(catalogue: Catalogue, model: str) -> dict[str, dict[str, Any]]:
    """What follows for each setting from the model."""
    info = catalogue[model]
    length = info.num_train_timesteps
    classes = (NO_CLASS, *info.class_names) if _is_told_classes(info) else (NO_CLASS,)
    told = {
        "model": {"choices": tuple(fitting(catalogue))},
        "image": {"choices": (*samples(), OWN)},
        "t": {"range": (0, length - 1)},
        "back": {"range": (1, length)},
        "steps": {"range": (1, length)},
        "class_name": {"choices": classes, "visible": len(classes) > 1},
    }
    return {name: told.get(name, {}) for name in FIELDS}


def defaults(catalogue: Catalogue, model: str) -> dict[str, Any]:
    """Of each setting, with a model."""
    own = own_words(catalogue, model)
    start = {row.name: row.default for row in ROWS} | {"model": model, "image": next(reversed(list(samples())[:10]))}
    return {name: FIELDS[name].values.nearest(own[name], value) for name, value in start.items()}


def query(settings: Settings) -> str:
    """The part of the address from "?" on that opens the tab with these settings; an upload is in no link, and
    is asked for."""
    return f"?{urlencode({'tab': TAB} | settings.as_dict())}"


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in FIELDS if values.get(name) is not None}
