"""The tab "Your image": one image under a model, at one t and over all of them, to noise and back."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from .. import links
from ..catalogue import Catalogue
from ..fields import Field
from ..in_queue import InQueue
from ..laboratory.canvas import canvas, packed
from ..layout import laid_out
from ..outputs import status, told
from ..own_image import samples, settings, shown
from ..own_image.api import LIMITS
from ..own_image.fields import FIELDS, LABELS, ROWS, TAB
from ..own_image.process import Whole, follow, look
from ..own_image.samples import OWN
from ..own_image.settings import Settings
from ..queueing import QUEUE, while_heard
from ..run import StopRequests
from ..uploads import Upload, read

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
LOOK: dict[str, Any] = QUIET | LIMITS | {"trigger_mode": "always_last"}  # the last of many is enough
SHOWN_EVERY = 0.5  # seconds between two reports of a run
NOTHING = "No model here denoises pixels on a noise schedule, which this tab is about."
READY = (gr.update(interactive=True), gr.update(interactive=False))


class OwnImageTab(InQueue):
    """Components and event handlers of the tab, over the models of a catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue, self.stop_requests = catalogue, StopRequests()
        self.models = settings.fitting(catalogue)
        if not self.models:
            gr.HTML(f"<p>{NOTHING}</p>", elem_classes="plain")
            return
        start = settings.checked({}, catalogue)
        self.upload = gr.State(None, time_to_live=24 * 3600)
        self.link = gr.Textbox(visible=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280):
                self.fields = self._lay_out(start)
                self.file = gr.File(label="Your own image", file_types=["image"], height=130, elem_id="own-file")
                self.note = gr.HTML(elem_id="own-note", elem_classes="plain", padding=False)
            with gr.Column(scale=2, min_width=300):
                self.said = gr.HTML(elem_id="own-said", elem_classes="plain", padding=False)
                self.look_at = gr.HTML(elem_id="own-look", elem_classes=["plain", "lab-text"], padding=False)
                with gr.Row():
                    self.run_button = gr.Button(
                        "Follow it over all t", variant="primary", scale=3, min_width=120, elem_id="own-run"
                    )
                    self.stop_button = gr.Button("Stop", interactive=False, scale=1, min_width=80, elem_id="own-stop")
                self.status = gr.HTML(elem_id="own-status", elem_classes=["plain", "progress"], padding=False)
                self.canvas = canvas(elem_id="own-canvas")
                self.story = gr.HTML(elem_id="own-story", elem_classes=["plain", "lab-text"], padding=False)
                self.copy = gr.Button("Copy link", size="sm", elem_id="own-copy")

    @property
    def inputs(self) -> list[Component]:
        """The settings in the order of the rows, and what was uploaded."""
        return [*(self.fields[name] for name in FIELDS), self.upload]

    def _lay_out(self, start: Settings) -> dict[str, Component]:
        looks = self._looks(start)

        def control(row: Field) -> Component:
            own = [settings.own_words(self.catalogue, name)[row.name] for name in self.models]
            about = {"label": row.label, "info": row.info, "min_width": row.min_width, "elem_id": f"own-{row.name}"}
            return row.values.control(looks[row.name] | about, own)

        return laid_out(ROWS, control)

    def _looks(self, chosen: Settings) -> dict[str, dict[str, Any]]:
        """Value, range and visibility of each control."""
        own, values = settings.own_words(self.catalogue, chosen.model), chosen.as_dict()
        looks = {row.name: row.values.look(own[row.name], values[row.name]) for row in ROWS}
        looks["class_name"]["visible"] = own["class_name"]["visible"]
        return looks

    def connect(self, tab: gr.Tab) -> None:
        """What happens as the tab is opened, and as its controls are used."""
        if not self.models:
            return
        shown_now = [self.look_at, self.said, self.note, self.link]
        controls = [self.fields[name] for name in FIELDS]
        for name in FIELDS:
            event = self.fields[name].input
            if name == "model":
                event = event(self.follow_model, controls, controls, queue=False, **QUIET).then
            event(self.look, self.inputs, shown_now, **LOOK)
        received = self.file.upload(
            self.receive,
            self.file,
            [self.upload, self.file, self.fields["image"], self.note],
            concurrency_limit=2,
            **QUIET,
        )
        received.success(self.look, self.inputs, shown_now, **LOOK)
        tab.select(self.look, self.inputs, shown_now, **LOOK)
        outputs = [self.canvas, self.story, self.status, self.run_button, self.stop_button]
        begun = self.run_button.click(
            self.begin, self.inputs, [self.status, self.run_button, self.stop_button], concurrency_limit=None, **QUIET
        )
        begun.success(self.run, self.inputs, outputs, **QUEUE, **QUIET).failure(
            self.give_up, None, [self.status, self.run_button, self.stop_button], queue=False, **QUIET
        )
        begun.success(self.wait, None, self.status, concurrency_limit=None, **QUIET)
        self.stop_button.click(self.stop, None, self.stop_button, queue=False, **QUIET)
        self.copy.click(None, self.link, self.copy, js=links.COPY, **QUIET).then(
            None, None, self.copy, js=links.LATER, **QUIET
        )

    def open(self, demo: gr.Blocks) -> None:
        """The settings of a link that opens this tab, and what of them was left out."""
        if not self.models:
            return
        controls = [self.fields[name] for name in FIELDS]
        demo.load(self.restore, None, [*controls, self.status], queue=False, **QUIET).then(
            self.look_opened, self.inputs, [self.look_at, self.said, self.note, self.link], **LOOK
        )

    # ------------------------------------------------------------------------------------------------- the controls

    def restore(self, request: gr.Request) -> list[Any]:
        """What the page's address says of this tab."""
        chosen, left_out = settings.recalled(links.of_tab(request.query_params, TAB), self.catalogue, LABELS)
        said = told("Left out of the link", "; ".join(left_out.values())) if left_out else gr.skip()
        return [*(gr.update(**each) for each in self._looks(chosen).values()), said]

    def look_opened(self, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """The first images, where a link opens the tab."""
        if request.query_params.get(links.TAB) != TAB:
            return (gr.skip(),) * 4
        return self.look(*values)

    def follow_model(self, *values: Any) -> list[Any]:
        """Make the controls fit another model; what still fits stays."""
        chosen, _ = settings.recalled(dict(zip(FIELDS, values, strict=True)), self.catalogue)
        return [gr.update(**each) for each in self._looks(chosen).values()]

    def receive(self, path: str) -> tuple[Any, ...]:
        """An upload: chosen, or refused with the reason, and then what is shown stays."""
        try:
            return read(path), None, OWN, ""
        except ValueError as error:
            return gr.skip(), None, gr.skip(), f'<p role="alert">{escape(str(error))}</p>'

    def _read(self, values: Sequence[Any]) -> tuple[Settings, Upload | None]:
        *given, upload = values
        return settings.checked(dict(zip(FIELDS, given, strict=True)), self.catalogue, LABELS), upload

    # ------------------------------------------------------------------------------------------------------ at one t

    def look(self, *values: Any) -> tuple[Any, ...]:
        """The image at the chosen t; where something is wrong, what was shown stays."""
        try:
            chosen, upload = self._read(values)
            info = self.catalogue[chosen.model]
            pixels = samples.given(chosen.image, upload, info)
            found = look(chosen, self.catalogue, pixels)
        except ValueError as error:
            return gr.skip(), told("Not shown", str(error)), gr.skip(), gr.skip()
        done = samples.note(chosen.image, upload, info)
        note = f"<p>What the model is given: {escape(done)}.</p>" if done else ""
        return shown.look_of(found, chosen, info), "", note, settings.query(chosen)

    # ----------------------------------------------------------------------------------------------------- over all t

    def begin(self, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """At once when the button is pressed: say what is wrong, or enable Stop."""
        try:
            chosen, upload = self._read(values)
            samples.given(chosen.image, upload, self.catalogue[chosen.model])
        except ValueError as error:
            raise gr.Error(str(error), title="Not followed") from error
        self.stop_requests.clear(request.session_hash)
        return status("Starting …", 0.0), gr.update(interactive=False), gr.update(interactive=True)

    def give_up(self, request: gr.Request) -> tuple[Any, ...]:
        """After a run that left the queue, or failed in a way that nobody foresaw: let the visitor try again."""
        stopped = self.stop_requests.pressed(request.session_hash)
        return status("You left the queue." if stopped else "The image was not followed."), *READY

    def run(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The image over all t, then to noise and back, shown as it goes on."""
        started, reported, whole, failed = time.perf_counter(), 0.0, None, ""
        try:
            chosen, upload = self._read(values)
            info = self.catalogue[chosen.model]
            pixels = samples.given(chosen.image, upload, info)
            with closing(while_heard(follow(chosen, self.catalogue, pixels))) as steps:
                for whole in steps:
                    if self.stop_requests.pressed(request.session_hash):
                        break
                    seconds = time.perf_counter() - started
                    if seconds - reported < SHOWN_EVERY:
                        continue
                    reported = seconds
                    yield *self._shown(whole, chosen), _report(whole), gr.skip(), gr.skip()
        except ValueError as error:
            failed = str(error)
        results = (gr.skip(), gr.skip()) if whole is None else self._shown(whole, chosen)
        said = told("Not followed to the end", failed) if failed else _report(whole, time.perf_counter() - started)
        yield *results, said, *READY

    def _shown(self, whole: Whole, chosen: Settings) -> tuple[Any, Any]:
        info = self.catalogue[chosen.model]
        return packed(shown.plots_of(whole, info)), shown.story_of(whole, chosen)


def _report(whole: Whole, seconds: float | None = None) -> str:
    """How far a run is; `seconds` once it has ended."""
    share = whole.done / whole.total
    if seconds is None:
        return status(f"Step {whole.done} of {whole.total}, {whole.phase}", share)
    if whole.done < whole.total:
        return status(f"Stopped after step {whole.done} of {whole.total}, {whole.phase} · {seconds:.1f} s", share)
    return status(f"Followed over all t, to noise and back · {seconds:.1f} s", 1.0)
