"""The endpoint /laboratory for programs: every setting by name, none required."""

import inspect
import time
from typing import Any

import gradio as gr

from ..answers import answered
from ..fields import Field
from . import settings
from .fields import FIELDS, ROWS
from .plots import Plot
from .views import VIEWS

# redraws at the same time: they are short, and runs with a network go on meanwhile
LIMITS: dict[str, Any] = {"concurrency_id": "laboratory", "concurrency_limit": 2}
DOC = """Draw the plots of an experiment in the laboratory: a sampler on a distribution of which everything is known.

Every argument may be left out.

Returns:
    settings, the seconds that it took, and plots: what the page draws, as ui/laboratory/plots.py says.
"""


def add_endpoint() -> None:
    """Add /laboratory to the current Blocks. Its components are invisible."""
    gr.Button(visible=False).click(
        draw,
        [_parameter(row) for row in ROWS],
        gr.JSON(label="experiment", visible=False),
        api_name="laboratory",
        api_description=DOC,
        validator=check,
        show_progress="hidden",
        **LIMITS,
    )


def check(*values: Any) -> list[dict[str, Any]]:
    """Whether each argument is right, and a message where it is not."""
    wrong = settings.problems(dict(zip(FIELDS, values, strict=True)))
    return [gr.validate(name not in wrong, wrong.get(name, "")) for name in FIELDS]


def draw(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """What /laboratory answers. Gradio reads the names of its parameters, which are those of the rows."""
    started = time.perf_counter()
    with answered():
        lab = settings.checked(SIGNATURE.bind(*args, **kwargs).arguments)
        plots: list[Plot] = VIEWS[lab.view].plots(lab)
    return {"settings": lab.as_dict(), "seconds": round(time.perf_counter() - started, 4), "plots": plots}


_KIND = inspect.Parameter.POSITIONAL_OR_KEYWORD
SIGNATURE = inspect.Signature([inspect.Parameter(name, _KIND, default=None) for name in FIELDS])
draw.__signature__ = SIGNATURE


def _parameter(row: Field) -> gr.components.Component:
    """With what it may be in ?view=api; the distribution that is left out follows the view."""
    default = None if row.name == "distribution" else row.default
    made = row.values.api_input(row.name, default)
    plain = made.api_info()
    text = row.values.api_text(row.doc or row.info or row.label)
    unless = "; the first that the view can show unless given" if default is None else f"; {default!r} unless given"
    made.api_info = lambda: plain | {"additional_description": f"{text}{unless}."}
    return made
