"""From values of any kind to an experiment, checked before any work."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from . import distributions
from .distributions import DISTRIBUTIONS
from .fields import FIELDS, ROWS
from .lab import Lab
from .views import VIEWS

Words = Mapping[str, str]
NAMES = {name: name for name in FIELDS}
TAB = "laboratory"  # in links


def checked(values: Mapping[str, Any], words: Words = NAMES) -> Lab:
    """The experiment of `values`; a setting that is missing or None takes its default.

    Raises:
        ValueError: all that is wrong, by setting.
    """
    wrong = problems(values, words)
    if wrong:
        raise ValueError("; ".join(wrong.values()))
    given = {name: FIELDS[name].values.converted(value) for name, value in _given(values).items()}
    return Lab(**(_defaults(given) | given))


def recalled(values: Mapping[str, Any], words: Words = NAMES) -> tuple[Lab, dict[str, str]]:
    """The experiment of what holds of a link's values, and what was left out of them, by setting."""
    known, left_out = _given(values), {}
    while wrong := problems(known, words):
        left_out |= wrong
        known = {name: value for name, value in known.items() if name not in wrong}
    return checked(known), left_out


def problems(values: Mapping[str, Any], words: Words = NAMES) -> dict[str, str]:
    """What is wrong with `values`, by setting; one that is missing or None is fine."""
    given = _given(values)
    found = {name: _problem(name, value, words) for name, value in given.items()}
    wrong = {name: message for name, message in found.items() if message}
    return wrong or _misfits(_defaults(given) | given, words)


def has(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a setting counts beside the others."""
    row = FIELDS[name]
    if name in VIEWS[values["view"]].without:
        return False
    if name == "components":
        return not DISTRIBUTIONS[values["distribution"]].points
    return not row.only_with or values[row.only_with[0]] in row.only_with[1:]


def query(lab: Lab) -> str:
    """The part of the address from "?" on that opens the tab with this experiment."""
    values = lab.as_dict()
    return f"?{urlencode({'tab': TAB} | {name: value for name, value in values.items() if has(name, values)})}"


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in FIELDS if values.get(name) is not None}


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of each setting; the distribution is the first that the view can show, the class its first."""
    found = {row.name: row.default for row in ROWS}
    view = VIEWS[given.get("view", found["view"])]
    found["distribution"] = distributions.names(view.dimensions)[0]
    name, written = (given.get(each, found[each]) for each in ("distribution", "components"))
    with suppress(ValueError):  # components that are none, which `_misfits` says
        found["class_number"] = distributions.classes_of(name, written)[0]
    return found


def _problem(name: str, value: Any, words: Words) -> str:
    kind = FIELDS[name].values
    return kind.problem(words[name], value) or kind.problem_with(TAB, {}, words[name], value)


def _misfits(values: Mapping[str, Any], words: Words) -> dict[str, str]:
    """Settings that do not fit each other, where each by itself is right."""
    view, name = values["view"], values["distribution"]
    fitting = distributions.names(VIEWS[view].dimensions)
    if name not in fitting:
        return {
            "distribution": f"{words['distribution']} must be one of {', '.join(fitting)} with view {view!r}, "
            f"got {name!r}"
        }
    if DISTRIBUTIONS[name].points and values["components"].strip():
        return {"components": f"{words['components']} must be empty with distribution {name!r}, which has none to move"}
    try:
        classes = distributions.classes_of(name, values["components"])
    except ValueError as error:
        return {"components": str(error).replace("components", words["components"], 1)}
    wanted = float(values["class_number"])
    if not has("class_number", values) or wanted in classes:
        return {}
    known = ", ".join(map(str, classes))
    return {"class_number": f"{words['class_number']} must be one of {known} with these components, got {wanted:g}"}
