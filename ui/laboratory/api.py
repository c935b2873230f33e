"""The endpoint /laboratory for programs: every setting by name, none required."""

import time
from typing import Any

import gradio as gr

from .. import endpoint
from . import settings
from .fields import ROWS
from .plots import Plot
from .views import VIEWS

# redraws at the same time: they are short, and runs with a network go on meanwhile
LIMITS: dict[str, Any] = {"concurrency_id": "laboratory", "concurrency_limit": 2}
DOC = """Draw the plots of an experiment in the laboratory: a sampler on a distribution of which everything is known.

Every argument may be left out. Answers with settings, the seconds that it took, and plots: what the page draws, as
ui/laboratory/plots.py says."""
UNLESS = {"distribution": "the first that the view can show"}


def add_endpoint() -> None:
    """Add /laboratory to the current Blocks."""
    parameters = {
        row.name: endpoint.parameter(row, None if row.name in UNLESS else row.default, UNLESS.get(row.name, ""))
        for row in ROWS
    }
    answer = gr.JSON(label="experiment", visible=False)
    endpoint.add_endpoint("laboratory", DOC, parameters, settings.problems, draw, [answer], **LIMITS)


def draw(values: dict[str, Any]) -> dict[str, Any]:
    """What /laboratory answers."""
    started = time.perf_counter()
    lab = settings.checked(values)
    plots: list[Plot] = VIEWS[lab.view].plots(lab)
    return {"settings": lab.as_dict(), "seconds": round(time.perf_counter() - started, 4), "plots": plots}
