"""The Laboratory tab: distributions of which everything is known, under the samplers as they ship."""

import time
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from .. import links
from ..fields import Field
from ..laboratory import distributions, settings
from ..laboratory.api import LIMITS
from ..laboratory.canvas import canvas, packed
from ..laboratory.fields import FIELDS, LABELS, ROWS
from ..laboratory.lab import Lab
from ..laboratory.settings import TAB
from ..laboratory.views import VIEWS
from ..layout import laid_out
from ..libraries import import_them

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
REDRAW: dict[str, Any] = QUIET | LIMITS | {"trigger_mode": "always_last"}
ONE_STEP = ("step", "particle")  # settings of what stands below the plots
FOLLOWED = ("view", "distribution", "process", "guidance")  # settings that others come and go with


class LaboratoryTab:
    """Components and event handlers of the tab."""

    def __init__(self) -> None:
        start = settings.checked({})
        with gr.Row(equal_height=False, elem_classes="lab"):
            with gr.Column(scale=2, min_width=300):
                self.left_out = gr.HTML(visible=False, elem_id="lab-left-out", elem_classes="plain")
                self.status = gr.HTML("<p>Open the tab to draw.</p>", elem_id="lab-status", elem_classes="plain")
                self.canvas = canvas(elem_id="lab-canvas", elem_classes="plain")
                self.text = gr.HTML(elem_id="lab-text", elem_classes="plain")
                chosen = _lay_out([FIELDS[name] for name in ONE_STEP], start)
                self.step = gr.HTML(elem_id="lab-one-step", elem_classes="plain")
                self.link = gr.Textbox(visible=False)
                with gr.Row():
                    self.add = gr.Button("Add a component", size="sm", min_width=120)
                    self.remove = gr.Button("Remove the last", size="sm", min_width=120)
                    self.copy = gr.Button("Copy link", size="sm", min_width=120, elem_id="lab-copy")
            with gr.Column(scale=1, min_width=280, elem_classes="lab-settings"):
                self.fields = chosen | _lay_out([r for r in ROWS if not r.advanced and r.name not in ONE_STEP], start)
                with gr.Accordion("Advanced", open=False):
                    self.fields |= _lay_out([row for row in ROWS if row.advanced], start)

    @property
    def inputs(self) -> list[Component]:
        """The settings, in the order of the rows."""
        return [self.fields[name] for name in FIELDS]

    @property
    def shown(self) -> list[Component]:
        """What a redraw changes."""
        return [self.canvas, self.status, self.text, self.link, self.add, self.remove, self.step]

    def connect(self, tab: gr.Tab) -> None:
        """Draw as the tab is opened, and again with each change."""
        self.fields["step"].input(self.show_step, self.inputs, [self.step, self.link], **REDRAW)
        self.canvas.select(self.pick, self.inputs, [self.fields["step"], self.step, self.link], **REDRAW)
        for name in [name for name in FIELDS if name != "step"]:
            event = self.fields[name].input
            if name in FOLLOWED:
                event = event(
                    lambda *values, name=name: self.follow(name, values), self.inputs, self.inputs, queue=False, **QUIET
                ).then
            event(self.redraw, self.inputs, self.shown, **REDRAW)
        for event, change in (
            (self.canvas.input, self.move),
            (self.add.click, self.more),
            (self.remove.click, self.less),
        ):
            event(change, self.inputs, [self.fields["components"], self.status], queue=False, **QUIET).then(
                self.redraw, self.inputs, self.shown, **REDRAW
            )
        tab.select(self.redraw, self.inputs, self.shown, **REDRAW)
        self.copy.click(None, self.link, self.copy, js=links.COPY, **QUIET).then(
            None, None, self.copy, js=links.LATER, **QUIET
        )

    def open(self, demo: gr.Blocks) -> Dependency:
        """The settings of a link, and what of it was left out. The tab has to be selected after, as it then draws."""
        return demo.load(self.follow_link, None, [*self.inputs, self.left_out], queue=False, **QUIET)

    def follow_link(self, request: gr.Request) -> list[Any]:
        """What the page's address says to this tab."""
        lab, left_out = settings.recalled(links.of_tab(request.query_params, TAB), LABELS)
        said = _alert(f"Left out of the link: {'; '.join(left_out.values())}") if left_out else ""
        return [*_updates(lab), gr.update(value=said, visible=bool(said))]

    def follow(self, changed: str, values: Sequence[Any]) -> list[Any]:
        """Make the other settings fit one that was chosen: the distribution follows the view, components and class
        the distribution."""
        chosen = dict(zip(FIELDS, values, strict=True))
        fitting = distributions.names(VIEWS[chosen["view"]].dimensions)
        if chosen["distribution"] not in fitting:
            chosen["distribution"] = fitting[0]
            changed = "distribution"
        if changed == "distribution":
            chosen["components"] = ""
        lab, _ = settings.recalled(chosen)
        return _updates(lab)

    def redraw(self, *values: Any) -> tuple[Any, ...]:
        """The plots of the settings; on what is wrong with them, the plots before stay."""
        started = time.perf_counter()
        try:
            lab = settings.checked(dict(zip(FIELDS, values, strict=True)), LABELS)
            plots = VIEWS[lab.view].plots(lab)
        except ValueError as error:
            kept = [gr.skip()] * len(self.shown)
            kept[1] = _alert(str(error))
            return tuple(kept)
        seconds = time.perf_counter() - started
        what = [lab.process] * settings.has("process", lab.as_dict())
        what += [f"{lab.steps} steps"] * settings.has("steps", lab.as_dict())
        said = f"<p role='status'>{escape(', '.join(what) or lab.view)} · drawn in {seconds:.2f} s</p>"
        view = VIEWS[lab.view]
        text = f"<p>{escape(view.sentence)}</p><p class='formula'>{view.formula}</p>"
        buttons = [gr.update(visible=bool(lab.movable))] * 2
        return packed(plots), said, text, settings.query(lab), *buttons, _one_step(lab)

    def show_step(self, *values: Any) -> tuple[Any, Any]:
        """Another step of the same run, and the link to it."""
        try:
            lab = settings.checked(dict(zip(FIELDS, values, strict=True)), LABELS)
        except ValueError:  # which the plots say, too
            return gr.skip(), gr.skip()
        return _one_step(lab), settings.query(lab)

    def pick(self, event: gr.EventData, *values: Any) -> tuple[Any, Any, Any]:
        """The step of the frame that a plot's slider was moved to, a share of the run."""
        chosen = dict(zip(FIELDS, values, strict=True))
        lab, wrong = settings.recalled(chosen)
        if wrong or not settings.has("step", chosen):
            return (gr.skip(),) * 3
        import_them()
        from ..laboratory import one_step

        last = len(one_step.readings(lab))
        chosen["step"] = min(round(float(event.share) * last) + 1, last)
        return chosen["step"], *self.show_step(*chosen.values())

    # ---------------------------------------------------------------------------------------------------- components

    def move(self, event: gr.EventData, *values: Any) -> tuple[Any, Any]:
        """Components that were dragged in the page."""

        def moved(lab: Lab) -> str:
            return distributions.moved(lab.movable, event.at, event.radius, lab.dimensions)

        return self._changed(values, moved)

    def more(self, *values: Any) -> tuple[Any, Any]:
        """One more component."""
        return self._changed(values, lambda lab: distributions.with_one_more(lab.movable, lab.dimensions))

    def less(self, *values: Any) -> tuple[Any, Any]:
        """Without the last component."""
        return self._changed(values, lambda lab: distributions.written(lab.movable[:-1]))

    def _changed(self, values: Sequence[Any], change: Any) -> tuple[Any, Any]:
        try:
            return change(settings.checked(dict(zip(FIELDS, values, strict=True)), LABELS)), gr.skip()
        except ValueError as error:
            return gr.skip(), _alert(str(error))


def _lay_out(rows: list[Field], start: Lab) -> dict[str, Component]:
    looks = _looks(start)

    def control(row: Field) -> Component:
        about = {"label": row.label, "info": row.info, "min_width": row.min_width, "elem_id": f"lab-{row.name}"}
        return row.values.control(looks[row.name] | about, [{}])

    return laid_out(rows, control)


def _one_step(lab: Lab) -> str:
    """What stands below the plots of a run."""
    import_them()
    from ..laboratory import one_step

    return one_step.html(lab) if settings.has("step", lab.as_dict()) else ""


def _looks(lab: Lab) -> dict[str, dict[str, Any]]:
    """Value and visibility of each control."""
    values = lab.as_dict()
    looks = {row.name: row.values.look({}, values[row.name]) for row in ROWS}
    looks["distribution"]["choices"] = distributions.names(VIEWS[lab.view].dimensions)
    return {name: look | {"visible": settings.has(name, values)} for name, look in looks.items()}


def _updates(lab: Lab) -> list[Any]:
    return [gr.update(**look) for look in _looks(lab).values()]


def _alert(text: str) -> str:
    return f'<p role="alert">{escape(text)}</p>'
