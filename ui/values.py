"""The kinds of settings, numbers, choices and text: what is allowed, and how the page and programs are asked for it.

`own` is what the chosen model's pipeline says of the setting: {} or some of value, info, choices, range and visible.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

Own = Mapping[str, Any]


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`; a model may narrow that by its "range".

    Attributes:
        step: of the slider; None for a box to type into
        reach: how far the slider goes where that is less than `high`; more can be typed, and asked for by programs
        whole: no fractions
    """

    low: float
    high: float
    step: float | None = None
    reach: float | None = None
    whole: bool = False

    @property
    def python_type(self) -> type:
        """Of a checked value."""
        return int if self.whole else float

    def problem(self, name: str, value: object) -> str:
        """What is wrong with a value for any model; "" if nothing is."""
        number = _as_number(value)
        if self.low <= number <= self.high and not (self.whole and number % 1):
            return ""
        kind = "a whole number" if self.whole else "a number"
        return f"{name} must be {kind} from {self.low:.12g} to {self.high:.12g}, got {value!r}"

    def problem_with(self, model: str, own: Own, name: str, value: object) -> str:
        """What is wrong with a value for this model, where it would do for another."""
        low, high = self._range(own)
        if _as_number(value) < low:
            return f"{name} must be at least {low:.12g} with model {model}, got {value}"
        return f"{name} must be at most {high:.12g} with model {model}, got {value}" if _as_number(value) > high else ""

    def nearest(self, own: Own, value: Any) -> Any:
        """`value`, or what the model takes instead."""
        low, high = self._range(own)
        return min(max(value, low), high)

    def converted(self, value: Any) -> Any:
        """A checked value in the type that pipelines take: "8" and 8.0 are 8 steps."""
        return self.python_type(float(value))

    def is_of_model(self, own: Own, accepted: bool) -> bool:
        """Whether a model has the setting, given whether its pipeline accepts the argument."""
        return own.get("visible", accepted)

    def look(self, own: Own, value: Any) -> dict[str, Any]:
        """What the control shows. Gradio refuses a value that the slider does not reach, so it reaches any."""
        if self.step is None:
            return {"value": value}
        low, high = self._range(own)
        return {"value": value, "minimum": low, "maximum": max(min(self.reach or high, high), value)}

    def control(self, look: dict[str, Any], of_models: Iterable[Own]) -> Component:
        """Made in the current block."""
        return gr.Number(**look) if self.step is None else gr.Slider(step=self.step, buttons=[], **look)

    def api_input(self, name: str, value: Any) -> Component:
        """The parameter of /generate. It is not shown."""
        return gr.Number(value, label=name, visible=False)

    def api_text(self, text: str) -> str:
        """The parameter's line in the documentation of /generate."""
        return f"{self.low:.12g} to {self.high:.12g}; {text}"

    def _range(self, own: Own) -> tuple[float, float]:
        low, high = own.get("range", (self.low, self.high))
        return max(low, self.low), min(high, self.high)


@dataclass(frozen=True)
class Choice:
    """One of several names: `options`, or the model's own "choices".

    Up to `few` of them are laid out as buttons, more go into a list.
    """

    options: tuple[str, ...] = ()
    few: int = 16

    python_type = str

    def problem(self, name: str, value: object) -> str:
        """Nothing: which choices there are depends on the model."""
        return ""

    def problem_with(self, model: str, own: Own, name: str, value: object) -> str:
        """What is wrong with a value for this model; "" if nothing is, or if the model does not have the setting."""
        choices = self.choices(own)
        if value in choices or (isinstance(value, str) and not choices):
            return ""
        return (
            f"{name} must be one of {', '.join(choices)}; got {value!r}"
            if choices
            else f"{name} must be text, got {value!r}"
        )

    def nearest(self, own: Own, value: str) -> str:
        """`value`, or what the model takes instead."""
        choices = self.choices(own) or (value,)
        return value if value in choices else choices[0]

    def converted(self, value: str) -> str:
        """A checked value as it is."""
        return value

    def is_of_model(self, own: Own, accepted: bool) -> bool:
        """Whether a model has the setting: where it names choices, or accepts the argument that the options are of."""
        return own.get("visible", bool(own.get("choices")) or (bool(self.options) and accepted))

    def look(self, own: Own, value: str) -> dict[str, Any]:
        """What the control shows."""
        return {"value": value, "choices": list(self.choices(own)) or [value]}

    def control(self, look: dict[str, Any], of_models: Iterable[Own]) -> Component:
        """Made in the current block; a list if any model of the page has too many choices for buttons."""
        most = max(len(self.choices(own)) for own in of_models)
        return gr.Radio(**look) if most <= self.few else gr.Dropdown(**look)

    def api_input(self, name: str, value: str) -> Component:
        """The parameter of /generate. It is not shown."""
        return gr.Textbox(value, label=name, visible=False)

    def api_text(self, text: str) -> str:
        """The parameter's line in the documentation of /generate."""
        return f"{', '.join(self.options)}; {text}" if self.options else text

    def choices(self, own: Own) -> tuple[str, ...]:
        """What may be chosen; nothing where the model does not have the setting."""
        return tuple(own.get("choices", self.options))


@dataclass(frozen=True)
class Text:
    """Anything that one can write, of at most `longest` characters.

    Attributes:
        placeholder: what the empty box shows
    """

    longest: int = 10_000
    placeholder: str = ""

    python_type = str

    def problem(self, name: str, value: object) -> str:
        """What is wrong with a value; "" if nothing is."""
        if not isinstance(value, str):
            return f"{name} must be text, got {value!r}"
        if not value.isascii() and value != value.encode(errors="ignore").decode():
            return f"{name} must be text that UTF-8 can write, got {ascii(value[:40])}"
        return f"{name} must have at most {self.longest} characters, got {len(value)}" * (len(value) > self.longest)

    def problem_with(self, model: str, own: Own, name: str, value: object) -> str:
        """Nothing: any model that is told text takes any."""
        return ""

    def nearest(self, own: Own, value: str) -> str:
        """`value`."""
        return value

    def converted(self, value: str) -> str:
        """A checked value as it is."""
        return value

    def is_of_model(self, own: Own, accepted: bool) -> bool:
        """Whether a model has the setting."""
        return own.get("visible", accepted)

    def look(self, own: Own, value: str) -> dict[str, Any]:
        """What the control shows."""
        return {"value": value}

    def control(self, look: dict[str, Any], of_models: Iterable[Own]) -> Component:
        """Made in the current block."""
        return gr.Textbox(placeholder=self.placeholder, lines=1, max_lines=3, **look)

    def api_input(self, name: str, value: str) -> Component:
        """The parameter of /generate. It is not shown."""
        return gr.Textbox(value, label=name, visible=False)

    def api_text(self, text: str) -> str:
        """The parameter's line in the documentation of /generate."""
        return text


def _as_number(value: Any) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
