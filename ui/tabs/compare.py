"""The Compare tab: two settings change, one from left to right and one from top to bottom, and all else stays."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from .. import comparison, image_metadata, timing
from ..catalogue import Catalogue
from ..comparison import MOST, NONE, Comparison
from ..comparison_sheet import Sheet
from ..controls import updates
from ..fields import FIELDS, LABELS
from ..in_queue import InQueue
from ..outputs import counted, status, told
from ..queueing import QUEUE, while_heard
from ..run import StopRequests, draw
from ..settings import Settings, misfits
from ..start_image import StartImage

TIMED = {"concurrency_id": "timing", "concurrency_limit": 1}  # apart from runs: it takes a few steps, and comes before
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
SHOWN_EVERY = 0.2  # seconds between two reports within an image
HELP = f"""<p>Two settings change: X from left to right, Y from top to bottom. All others are those of <b>Generate</b>,
and every image begins with the same noise, unless seeds are compared. At most {MOST} images.</p>"""


class CompareTab(InQueue):
    """Components and event handlers of the tab.

    `settings` are the controls of Generate, in the order of the rows, and `start` the part of it for an image to begin
    with, which no comparison does.
    """

    def __init__(self, catalogue: Catalogue, settings: list[Component], start: StartImage) -> None:
        self.catalogue, self.settings, self.start = catalogue, settings, start
        self.stop_requests, self.timing = StopRequests(), timing.Timing(catalogue)
        base = Settings.checked({}, catalogue)
        names = comparison.choices(catalogue)
        first = catalogue[base.model]
        second = next((n for n in ("class_name", "prompt") if len(comparison.offered(n, base, first)) > 1), NONE)
        with gr.Row(equal_height=False):
            with gr.Column(min_width=300, elem_id="compare-settings"):
                gr.HTML(HELP, padding=False, elem_classes="plain")
                self.x, self.in_x = self._axis("X", names, "steps", base)
                self.y, self.in_y = self._axis("Y", [("None", NONE), *names], second, base)
                self.estimate_line = gr.HTML(elem_id="compare-estimate", elem_classes="plain", padding=False)
            with gr.Column(min_width=300, scale=2, elem_id="compare-stage"):
                with gr.Row():
                    self.start_button = gr.Button(
                        "Compare", variant="primary", scale=3, min_width=120, elem_id="compare"
                    )
                    self.stop_button = gr.Button(
                        "Stop", interactive=False, scale=1, min_width=80, elem_id="compare-stop"
                    )
                self.status = gr.HTML(
                    status("Press Compare to draw."), elem_id="compare-status", elem_classes="plain", padding=False
                )
                self.image = gr.Image(
                    format="png",
                    type="pil",
                    show_label=False,
                    interactive=False,
                    visible=False,
                    buttons=["download", "fullscreen"],
                    elem_id="compare-sheet",
                )
                self.file = gr.File(
                    label="Settings from the image of a comparison",
                    file_types=[".png"],
                    height=150,
                    elem_id="compare-file",
                )

    def _axis(
        self, letter: str, names: list[tuple[str, str]], name: str, base: Settings
    ) -> tuple[gr.Dropdown, gr.Dropdown]:
        axis = gr.Dropdown(names, value=name, label=letter, elem_id=f"compare-{letter.lower()}", filterable=False)
        values = gr.Dropdown(
            multiselect=True,
            allow_custom_value=True,
            max_choices=MOST,
            label=f"Values of {letter}",
            info="choose, or type others, each with Enter",
            elem_id=f"compare-in-{letter.lower()}",
            **self._look(name, base),
        )
        return axis, values

    def _look(self, name: str, base: Settings, chosen: Sequence[str] | None = None) -> dict[str, Any]:
        """What the control of an axis' values shows: `chosen` as far as it fits the model, or what to begin with."""
        if name == NONE:
            return {"choices": [], "value": [], "visible": False}
        info = self.catalogue[base.model]
        kept = [value for value in chosen or () if comparison.fits(name, value, info)]
        value = kept or comparison.starting(name, base, info)
        return {"choices": comparison.offered(name, base, info), "value": value, "visible": True}

    def connect(self, tab: gr.Tab) -> None:
        """Once the page has all of its parts: what happens as the tab is opened, and as its controls are used."""
        axes = [self.x, self.in_x, self.y, self.in_y]
        asked = [*axes, *self.settings]
        recalled = [*self.settings, *axes, *self.start.parts, self.status]
        changed = [
            tab.select(self.follow_settings, asked, axes, queue=False, **QUIET).then,
            self.x.input(self.offer, [self.x, *self.settings], self.in_x, queue=False, **QUIET).then,
            self.y.input(self.offer, [self.y, *self.settings], self.in_y, queue=False, **QUIET).then,
            self.file.upload(self.recall, self.file, recalled, concurrency_limit=None, **QUIET).then,
            self.in_x.input,
            self.in_y.input,
        ]
        for event in changed:
            event(self.estimate, asked, self.estimate_line, trigger_mode="always_last", **TIMED, **QUIET)
        buttons = [self.start_button, self.stop_button]
        begun = self.start_button.click(self.begin, asked, [self.status, *buttons], concurrency_limit=None, **QUIET)
        begun.success(self.run, asked, [self.image, self.status, *buttons], **QUEUE, **QUIET).failure(
            self.give_up, asked, [self.status, *buttons], queue=False, **QUIET
        )
        begun.success(self.wait, None, self.status, concurrency_limit=None, **QUIET)
        self.stop_button.click(self.stop, None, self.stop_button, queue=False, **QUIET)

    # -------------------------------------------------------------------------------------------------- the controls

    def follow_settings(self, x: str, in_x: list[str], y: str, in_y: list[str], *values: Any) -> list[Any]:
        """As the tab is opened: settings that the model of Generate has, unless models are compared, and values."""
        base = self._base(values)
        missing = set()
        if "model" not in (x, y):
            missing = {name for name in {x, y} - {NONE} if not comparison.can_have(name, self.catalogue[base.model])}
        y = NONE if y in missing else y
        x = next(name for name in ("steps", "seed") if name != y) if x in missing else x
        return [x, gr.update(**self._look(x, base, in_x)), y, gr.update(**self._look(y, base, in_y))]

    def offer(self, name: str, *values: Any) -> Any:
        """The values of a setting that was chosen for an axis."""
        return gr.update(**self._look(name, self._base(values)))

    def estimate(self, *values: Any) -> Iterator[str]:
        """What would be drawn and how long it will take, or what is wrong. Runs of a kind not yet timed are timed."""
        try:
            asked = self._read(values)
        except ValueError as error:
            yield _alert(error)
            return
        yield self._in_words(asked)
        untimed = self.timing.unknown(asked.runs)
        try:
            for run in untimed:
                self.timing.measure(run)
        except ValueError as error:  # a model that is damaged
            yield _alert(error)
            return
        if untimed:
            yield self._in_words(asked)

    def _in_words(self, asked: Comparison) -> str:
        runs = asked.runs
        known = not self.timing.unknown(runs)
        seconds = timing.in_words(self.timing.seconds(runs)) if known else "timing a few steps …"
        images = f"{counted(len(runs), 'image')}, {counted(sum(run.steps for run in runs), 'step')}"
        shared = escape(asked.shared(self.catalogue[asked.base.model]))
        return f"<p><b>{images}: {seconds}</b></p><p>{shared}</p>"

    def _read(self, values: Sequence[Any]) -> Comparison:
        x, in_x, y, in_y, *settings = values
        return comparison.read(self._named(settings), (x, in_x or []), (y, in_y or []), self.catalogue)

    def _base(self, values: Sequence[Any]) -> Settings:
        return Settings.recalled(self._named(values), self.catalogue)

    @staticmethod
    def _named(values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(FIELDS, values, strict=True))

    # ------------------------------------------------------------------------------------------------------- drawing

    def begin(self, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """At once when Compare is pressed: say what is wrong, or enable Stop."""
        try:
            self._read(values)
        except ValueError as error:
            raise gr.Error(str(error), title="Nothing is compared") from error
        self.stop_requests.clear(request.session_hash)
        return status("Starting …", 0.0), gr.update(interactive=False), gr.update(interactive=True)

    def give_up(self, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """After what failed, or left the queue: say why where the controls tell, and let the visitor try again."""
        buttons = gr.update(interactive=True), gr.update(interactive=False)
        try:
            self._read(values)
        except ValueError as error:
            return status(str(error)), *buttons
        stopped = self.stop_requests.pressed(request.session_hash)
        return status(
            "You left the queue: nothing was drawn." if stopped else "The comparison was not completed."
        ), *buttons

    def run(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Draw cell by cell into one sheet, which is shown after each."""
        asked, keep = self._read(values), (gr.skip(), gr.skip())
        sheet, started, done = self._sheet(asked), time.perf_counter(), 0
        yield self._shown(asked, sheet, done), status("Starting …", 0.0), *keep
        failed = ""
        try:
            for place, pixels, said in self._cells(asked, request.session_hash):
                if pixels is not None:
                    sheet.place(*place, pixels)
                    done += 1
                yield gr.skip() if pixels is None else self._shown(asked, sheet, done), said, *keep
        except ValueError as error:
            failed = str(error)
        total, seconds = len(asked.runs), time.perf_counter() - started
        text = (
            f"{counted(total, 'image')} drawn"
            if done == total
            else f"Stopped after {done} of {counted(total, 'image')}"
        )
        buttons = gr.update(interactive=True), gr.update(interactive=False)
        said = status(failed) if failed else status(f"{text} · {seconds:.1f} s", done / total)
        yield self._shown(asked, sheet, done), said, *buttons

    def _cells(self, asked: Comparison, session: str) -> Iterator[tuple[tuple[int, int], Any, str]]:
        """(place, None or pixels, a report), image by image, until all are drawn or Stop is pressed."""
        runs = [(place, settings) for place, settings in asked.cells.items() if settings is not None]
        for done, (place, settings) in enumerate(runs):
            for pixels, said in self._cell(settings, done, len(runs), session):
                yield place, pixels, said
            if self.stop_requests.pressed(session):
                return

    def _cell(self, settings: Settings, done: int, total: int, session: str) -> Iterator[tuple[Any, str]]:
        """(None, a report) while an image is drawn, then (its pixels, a report); nothing more once Stop is pressed."""
        shown = 0.0
        with closing(while_heard(draw(settings, self.catalogue, previews=False))) as steps:
            for progress in steps:
                if progress.images is not None:
                    yield progress.frames.final[0], status(f"Image {done + 1} of {total}", (done + 1) / total)
                elif self.stop_requests.pressed(session):
                    return
                elif progress.seconds - shown > SHOWN_EVERY:
                    shown = progress.seconds
                    share = (done + progress.index / progress.num_steps) / total
                    step = f"step {progress.index} of {progress.num_steps}"
                    yield None, status(f"Image {done + 1} of {total} · {step}", share)

    def _sheet(self, asked: Comparison) -> Sheet:
        sides = [max(self.catalogue[run.model].shape[:2]) for run in asked.runs]
        return Sheet(asked, max(sides), asked.shared(self.catalogue[asked.base.model]))

    def _shown(self, asked: Comparison, sheet: Sheet, done: int) -> Any:
        """The sheet as it is now. The page keeps what it is given, so that later cells do not change it."""
        image: Image.Image = image_metadata.tag(sheet.image.copy(), asked.as_json())
        axes = f"{asked.x.label}{f' and {asked.y.label}' if asked.y else ''}"
        text = f"Comparison of {axes}: {done} of {counted(len(asked.runs), 'image')}"
        return gr.update(value=image, visible=True, alt_text=text)

    def recall(self, path: str) -> list[Any]:
        """The axes and the settings of a comparison from its image."""
        try:
            values = image_metadata.read(path)
            asked = comparison.recalled(values, self.catalogue)
        except ValueError as error:
            raise gr.Error(str(error), title="No comparison in this file") from error
        y = (asked.y.name, asked.rows()) if asked.y else (NONE, [])
        axes = []
        for name, chosen in ((asked.x.name, asked.columns()), y):
            axes += [name, gr.update(**self._look(name, asked.base, chosen))]
        left_out = misfits(comparison.base_of(values), self.catalogue, LABELS)
        said = status("Settings of the comparison recalled. Press Compare to draw.")
        said += told("Left out of the file", "; ".join(left_out.values())) * bool(left_out)
        return [*updates(self.catalogue, asked.base), *axes, *self.start.without(asked.base), said]


def _alert(error: ValueError) -> str:
    return f'<p role="alert">{escape(str(error))}</p>'
