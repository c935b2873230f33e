"""The tab "Exact or learned": the optimal denoiser of Fashion-MNIST beside the shipped network, and a run on few images
that first generalises and then memorises. All of it is computed ahead, so that it moves with the sliders."""

from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from .. import links
from ..laboratory import exact_and_learned as recorded
from ..laboratory.canvas import canvas, packed
from ..laboratory.exact_fields import FIELDS, LABELS, ROWS, TAB, UPDATES, checked, problems, query
from ..outputs import told as said_alert

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = QUIET | {"queue": False, "trigger_mode": "always_last"}
EXPLAINED = """<p>Of a training set the best possible denoiser is known: the mean of all of its images, each weighted by
how likely x<sub>t</sub> came from it. With little noise that is a single training image, so that it can only copy. The
network is trained towards it, and where the two part, the network generalises: on test images it is nearer to the image
than the exact denoiser is.</p>"""
MEMORIZES = """<h2>Generalise, then memorise</h2><p>On few images a network does come near the exact denoiser, if it is
trained for long enough. Move the checkpoint: first it learns what garments look like, then it learns these garments by
heart, one after the other.</p>"""


class ExactAndLearnedTab:
    """Components and event handlers of the tab."""

    def __init__(self) -> None:
        start = {row.name: row.default for row in ROWS}
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280):
                self.fields = {name: self._control(name, start) for name in ("image", "t", "told")}
                self.said = gr.HTML(EXPLAINED, elem_classes=["plain", "lab-text"], padding=False)
            with gr.Column(scale=2, min_width=300):
                self.left_out = gr.HTML(elem_classes="plain", padding=False)
                self.images = gr.HTML(
                    self._images(start), elem_id="exact-images", elem_classes=["plain", "lab-text"], padding=False
                )
                self.canvas = canvas(recorded.plots_over_t(start["told"]), elem_id="exact-canvas")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280):
                gr.HTML(MEMORIZES, elem_classes=["plain", "lab-text"], padding=False)
                self.fields["checkpoint"] = self._control("checkpoint", start)
            with gr.Column(scale=2, min_width=300):
                self.drawn = gr.HTML(
                    recorded.drawn_at(UPDATES[start["checkpoint"] - 1]),
                    elem_id="exact-drawn",
                    elem_classes=["plain", "lab-text"],
                    padding=False,
                )
                self.run_canvas = canvas(recorded.plots_of_run(), elem_id="run-canvas")
        self.link = gr.Textbox(query(start), visible=False)
        self.copy = gr.Button("Copy link", size="sm", elem_id="exact-copy")
        gr.HTML(recorded.sources(), elem_classes=["plain", "lab-text"], padding=False)
        self._connect()

    @staticmethod
    def _control(name: str, start: Mapping[str, Any]) -> Component:
        row = FIELDS[name]
        look = row.values.look({}, start[name])
        return row.values.control(look | {"label": row.label, "info": row.info, "elem_id": f"exact-{name}"}, [{}])

    @property
    def inputs(self) -> list[Component]:
        """The settings, in the order of the rows."""
        return [self.fields[name] for name in FIELDS]

    def _connect(self) -> None:
        shown = [self.images, self.canvas, self.drawn, self.link, self.left_out]
        for control in self.inputs:
            control.input(self.show, self.inputs, shown, **AT_ONCE)
        self.copy.click(None, self.link, self.copy, js=links.COPY, **QUIET).then(
            None, None, self.copy, js=links.LATER, **QUIET
        )

    def open(self, demo: gr.Blocks) -> None:
        """The settings of a link that opens this tab, and what of them was left out."""
        demo.load(self.restore, None, [*self.inputs, self.left_out], queue=False, **QUIET).then(
            self.show_opened, self.inputs, [self.images, self.canvas, self.drawn, self.link], queue=False, **QUIET
        )

    def restore(self, request: gr.Request) -> list[Any]:
        """What the page's address says of this tab."""
        asked = {name: value for name, value in links.of_tab(request.query_params, TAB).items() if name in FIELDS}
        wrong = problems(asked, LABELS)
        fitting = {name: FIELDS[name].values.converted(value) for name, value in asked.items() if name not in wrong}
        said = said_alert("Left out of the link", "; ".join(wrong.values())) if wrong else ""
        return [*(fitting.get(row.name, row.default) for row in ROWS), said]

    def show_opened(self, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """What a link that opens this tab asks for."""
        if request.query_params.get(links.TAB) != TAB:
            return (gr.skip(),) * 4
        return self.show(*values)[:4]

    def show(self, *values: Any) -> tuple[Any, ...]:
        """The images, the curves, what the checkpoint draws, the link, and what is wrong with the settings."""
        chosen = dict(zip(FIELDS, values, strict=True))
        if wrong := problems(chosen, LABELS):
            return *(gr.skip(),) * 4, said_alert("Not shown", "; ".join(wrong.values()))
        chosen = checked(chosen)
        drawn = recorded.drawn_at(UPDATES[chosen["checkpoint"] - 1])
        return self._images(chosen), packed(recorded.plots_over_t(chosen["told"])), drawn, query(chosen), ""

    @staticmethod
    def _images(chosen: Mapping[str, Any]) -> str:
        return recorded.images_of(chosen["image"], chosen["t"], chosen["told"])
