"""The endpoint /exact_or_learned for programs: what the tab of that name shows, none of its settings required."""

from typing import Any

import gradio as gr

from .. import endpoint
from . import exact_and_learned as recorded
from .exact_fields import ROWS, UPDATES, checked, problems
from .images import Shown

DOC = """Look at an image at one noise level as the optimal denoiser of Fashion-MNIST sees it, and as the network does.

Every argument may be left out. Answers with x_0, x_t and both predictions; then what the checkpoint draws, each image
with the training image nearest to it. And as JSON: settings, the distance of the two predictions, the share of copies,
and the plots of the page."""


def add_endpoint() -> None:
    """Add /exact_or_learned to the current Blocks."""
    parameters = {row.name: endpoint.parameter(row, row.default) for row in ROWS}
    outputs = [gr.Gallery(label="images", format="png", visible=False), gr.JSON(label="report", visible=False)]
    endpoint.add_endpoint("exact_or_learned", DOC, parameters, problems, _look, outputs, concurrency_limit=None)


def _look(values: dict[str, Any]) -> tuple[list[Shown], dict[str, Any]]:
    chosen = checked(values)
    where = (chosen["image"], chosen["t"], chosen["told"])
    update = UPDATES[chosen["checkpoint"] - 1]
    report = {
        "settings": chosen,
        "apart": recorded.apart(*where),
        "updates": update,
        "copied": recorded.checkpoint(update)["copied"],
        "plots": [*recorded.plots_over_t(chosen["told"]), *recorded.plots_of_run()],
    }
    shown = [*recorded.tiles(*where), *recorded.pairs_at(update)]
    return [(pixels, caption) for caption, pixels in shown], report
