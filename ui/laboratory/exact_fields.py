"""The settings of "Exact or learned", one row each, of the kind of ui/fields.py."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from ..fields import Field
from ..values import Choice, Number
from . import exact_and_learned as recorded

TAB = "exact"  # in links
LEVELS, UPDATES = recorded.timesteps(), recorded.updates()
ROWS = (
    Field(
        "image",
        next(iter(recorded.names())),
        Choice(tuple(recorded.names()), few=3),
        "Image",
        info="one that the network was trained on, or a test image, which it has never seen",
    ),
    Field(
        "t",
        LEVELS[len(LEVELS) // 2],
        Number(LEVELS[0], LEVELS[-1], step=LEVELS[1] - LEVELS[0], whole=True),
        "t",
        info="how much noise: at 0 the image is clean, at 999 it is gone",
        doc=f"one of {', '.join(map(str, LEVELS))}: at 0 the image is clean, at 999 it is gone",
    ),
    Field(
        "told",
        recorded.ALONE,
        Choice((recorded.ALONE, recorded.TOLD)),
        "Told",
        info="both of them: nothing but x_t (fashion-ddpm), or the class as well (fashion-cfg)",
    ),
    Field(
        "checkpoint",
        len(UPDATES),
        Number(1, len(UPDATES), step=1, whole=True),
        "Checkpoint",
        info="of a small run on few images, from its first updates to its last",
    ),
)
FIELDS = {row.name: row for row in ROWS}
NAMES = {name: name for name in FIELDS}
LABELS = {row.name: row.label for row in ROWS}


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `values`, in their types; one that is missing or None takes its default.

    Raises:
        ValueError: all that is wrong, by setting.
    """
    if wrong := problems(values):
        raise ValueError("; ".join(wrong.values()))
    start = {row.name: row.default for row in ROWS}
    return start | {name: FIELDS[name].values.converted(value) for name, value in _given(values).items()}


def problems(values: Mapping[str, Any], words: Mapping[str, str] = NAMES) -> dict[str, str]:
    """What is wrong with values, by setting; one that is missing or None is fine."""
    given, found = _given(values), {}
    for name, value in given.items():
        kind = FIELDS[name].values
        found[name] = kind.problem(words[name], value) or kind.problem_with(TAB, {}, words[name], value)
    if not found.get("t") and "t" in given and int(float(given["t"])) not in LEVELS:
        found["t"] = f"t must be one of {', '.join(map(str, LEVELS))}, got {given['t']}"
    return {name: message for name, message in found.items() if message}


def query(values: Mapping[str, Any]) -> str:
    """The part of the address from "?" on that opens the tab with these settings."""
    return f"?{urlencode({'tab': TAB} | values)}"


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in FIELDS if values.get(name) is not None}
