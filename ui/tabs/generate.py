"""The Generate tab: choose, draw, watch it denoise, look back over the steps, download the images and copy the code."""

import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from .. import controls, device, image_metadata, links, stage
from ..catalogue import Catalogue
from ..fields import FIELDS, LABELS, NOISE
from ..film import Film
from ..in_queue import InQueue
from ..outputs import files, grid, live, looked_back, opening, report, status, told
from ..queueing import QUEUE, while_heard
from ..run import VIEWS, Frames, Progress, StopRequests, draw
from ..settings import Settings, kept_by_hand, misfits, problems
from ..snippet import snippet
from ..uploads import Start

# runs in the browser: from the values of all inputs to [settings by name]
REMEMBER = f"(...values) => [Object.fromEntries({[*FIELDS, *controls.OWN]}.map((key, i) => [key, values[i]]))]"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

# of a long run, later steps are shown at this interval in seconds: a browser that is sent more falls behind the run,
# and its Stop comes too late
ALL_SHOWN, SHOWN_EVERY = 20, 0.3

READY = (gr.update(interactive=True), gr.update(interactive=False))  # Draw and Stop, when nothing is being drawn


class GenerateTab(InQueue):
    """Components and event handlers of the tab, over the models of a catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue, self.stop_requests = catalogue, StopRequests()
        self._samples: dict[str, Image.Image] = {}
        first = catalogue[catalogue.names[0]]
        self.remembered = gr.BrowserState({}, storage_key="stepwise-settings", secret="stepwise")
        self.frames = gr.State(None, time_to_live=3600)
        self.asked = gr.State(False)  # whether a run waits or is drawn
        self.wanting = gr.State("")  # the model that opened the page, if its first images have to be drawn
        self.left_out = gr.State("")  # what the link that opened the page asks for and cannot have
        self.start = gr.State(None, time_to_live=3600)  # what the run that Draw asked for begins with, if not noise
        with gr.Row(equal_height=False):
            self.stage = gr.Column(min_width=300, elem_id="stage")  # first for the keyboard, though it is seen second
            with gr.Column(min_width=300, elem_id="settings"):
                self.controls = controls.build(catalogue)
            with self.stage:
                with gr.Row():
                    self.draw_button = gr.Button("Draw", variant="primary", scale=3, min_width=120, elem_id="draw")
                    self.stop_button = gr.Button("Stop", interactive=False, scale=1, min_width=80, elem_id="stop")
                self.status = gr.HTML(status(f"Loading {first.name} …"), elem_id="status")
                self.image = gr.Image(
                    opening(first),
                    format="png",
                    type="pil",
                    show_label=False,
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="preview",
                    alt_text="The images as they are being drawn, side by side",
                )
                self.gallery = gr.Gallery(
                    label="Images: a click opens one",
                    format="png",
                    columns=4,
                    allow_preview=False,
                    height="auto",
                    object_fit="contain",
                    visible=False,
                    interactive=False,
                    buttons=[],
                    elem_id="gallery",
                )
                self.film = Film()
                self.link = gr.Textbox(visible=False)  # of what is shown, from "?" on
                self.copy_button = gr.Button("Copy link", size="sm", elem_id="copy-link")
        with gr.Accordion("The Python that made this", open=False, elem_id="code"):
            self.code = gr.Code(language="python", show_label=False, interactive=False, wrap_lines=True)
            self.code_files = gr.File(
                label="Files that it reads", visible=False, interactive=False, elem_id="code-files"
            )
        self._connect()

    def _connect(self) -> None:
        settings, inputs = self.controls.settings(), self.controls.inputs()
        outputs = [
            self.image,
            self.status,
            self.film.scrubber,
            self.gallery,
            self.code,
            self.code_files,
            self.frames,
            self.draw_button,
            self.stop_button,
            self.link,
            *self.film.outputs,
        ]
        parts = [self.status, self.controls.advanced, self.controls.start.box]
        self.draw_button.click(self.say_what_is_wrong, settings, parts, queue=False, **QUIET)
        begun = self.draw_button.click(
            self.begin,
            [*inputs, *self.controls.start.inputs],
            [self.start, self.asked, self.controls.fields["seed"], self.status, self.draw_button, self.stop_button],
            validator=self.check,
            concurrency_limit=None,
            **QUIET,
        )
        given = [*settings, self.controls.preview, self.start]
        drawn = begun.success(self.run, given, outputs, **QUEUE, **QUIET)
        drawn.failure(self.give_up, None, [self.status, self.draw_button, self.stop_button], queue=False, **QUIET)
        drawn.then(lambda: False, None, self.asked, queue=False, **QUIET).then(None, js=stage.POSITION, **QUIET)
        begun.success(self.wait, None, [self.status], concurrency_limit=None, **QUIET)
        self.stop_button.click(self.stop, None, [self.stop_button], queue=False, **QUIET)
        self.copy_button.click(None, self.link, self.copy_button, js=links.COPY, **QUIET).then(
            None, None, self.copy_button, js=links.LATER, **QUIET
        )
        self.film.connect(self.frames, self.controls.preview, self.image, self.status, self.draw_button)
        self.controls.suggestions.connect(self.controls.fields["model"], self.controls.fields["prompt"])
        samples = [self.image, self.status, self.code, self.link, self.film.scrubber, self.gallery, self.code_files]
        samples += [self.wanting]
        self.controls.fields["model"].input(self.follow_model, settings, settings, queue=False, **QUIET).then(
            self.introduce, [*settings, self.frames, self.asked], samples, queue=False, **QUIET
        )
        for name, followers in controls.followers().items():
            follow, outputs = (
                partial(self.follow_setting, followers),
                [self.controls.fields[each] for each in followers],
            )
            self.controls.fields[name].input(follow, settings, outputs, queue=False, **QUIET)
        recalled = [*settings, self.controls.seed_mode, *self.controls.start.parts, self.controls.image, self.status]
        self.controls.image.upload(self.recall, self.controls.image, recalled, queue=False, **QUIET)
        gr.on(
            [part.change for part in inputs],
            None,
            inputs,
            self.remembered,
            js=REMEMBER,
            queue=False,
            **QUIET,
        )

    # ---------------------------------------------------------------------------------------------- opening the page

    def open(self, demo: gr.Blocks) -> None:
        """Bring back the visitor's settings when the page loads, and show a sample of the model."""
        demo.load(None, js=links.SHOW_API, **QUIET)
        restored = [*self.controls.inputs(), self.left_out, *self.controls.start.parts]
        opened = demo.load(self.restore, self.remembered, restored, queue=False, **QUIET).then(
            self.open_with,
            [*self.controls.settings(), self.frames, self.asked, self.left_out],
            [self.image, self.status, self.code, self.link, self.wanting],
            queue=False,
            **QUIET,
        )
        opened.then(None, js=links.PRESS_DRAW, **QUIET)
        opened.then(
            self.sample,
            [*self.controls.settings(), self.frames, self.asked, self.left_out, self.wanting],
            [self.image, self.status, self.code, self.link],
            **QUEUE,
            **QUIET,
        )

    def restore(self, remembered: dict[str, Any] | None, request: gr.Request) -> list[Any]:
        """The remembered settings, overruled by the page's query parameters. A seed in these is meant to be drawn."""
        remembered, asked = remembered or {}, links.of_tab(request.query_params, links.GENERATE)
        settings, has_seed, left_out = links.opened(asked, remembered, self.catalogue)
        values = {**remembered, **asked}
        keep = has_seed or values.get("seed_mode") == controls.KEEP_SEED
        mode = controls.KEEP_SEED if keep else controls.NEW_SEED
        view = values.get("preview") if values.get("preview") in VIEWS else VIEWS[0]
        parts = self.controls.start.without(settings)
        return [*controls.updates(self.catalogue, settings), mode, view, left_out, *parts]

    def open_with(self, *values: Any) -> tuple[Any, ...]:
        """The first image on the page, its code and link; and the model, if it has no samples and none were drawn.

        A run that was asked for meanwhile stays.
        """
        *values, frames, asked, left_out = values
        if frames is not None or asked:
            return (gr.skip(),) * 5
        settings = Settings.recalled(self._named(values), self.catalogue)
        has_samples = settings.model in self._samples or self.catalogue[settings.model].samples
        image, said, code, link = self._introduction(settings)
        if not has_samples:
            said = status(f"Loading {settings.model} …")
        said += told("Left out of the link", left_out) * bool(left_out)
        return image, said, code, link, "" if has_samples else settings.model

    def sample(self, *values: Any) -> tuple[Any, ...]:
        """Of a model without samples: images of its own, drawn once and kept, unless something else is shown by now.

        A model that cannot draw says so, and the others can still be chosen.
        """
        *values, frames, asked, left_out, wanting = values
        settings = Settings.recalled(self._named(values), self.catalogue)
        model, cannot = settings.model, ""
        if frames is not None or asked or wanting != model:
            return (gr.skip(),) * 4
        if model not in self._samples:
            try:
                *_, last = draw(Settings.checked({"model": model}, self.catalogue), self.catalogue, previews=False)
            except ValueError as error:
                cannot = told(f"{model} cannot draw", str(error))
            else:
                self._samples[model] = grid(last.frames.final)
        image, said, code, link = self._introduction(settings)
        return image, (cannot or said) + told("Left out of the link", left_out) * bool(left_out), code, link

    def introduce(self, *values: Any) -> tuple[Any, ...]:
        """Another model was chosen: its samples, with code and link, unless a run is shown or on its way, which stays
        with all its parts."""
        *values, frames, asked = values
        if frames is not None or asked:
            return (gr.skip(),) * 8
        hidden = gr.update(visible=False)
        shown = self._introduction(Settings.recalled(self._named(values), self.catalogue))
        return *shown, hidden, gr.update(value=None, visible=False), hidden, ""

    def _introduction(self, settings: Settings) -> tuple[Any, str, str, str]:
        info = self.catalogue[settings.model]
        image = self._samples.get(settings.model) or opening(info)
        known = settings.model in self._samples or info.samples
        own = "Press Draw for images of your own." if known else "Press Draw for images."
        said = status(f"{'Samples of' if known else 'Model'} {settings.model}. {own}")
        return image, said, snippet(settings, info, device.detect()), links.query(settings, info)

    # ------------------------------------------------------------------------------------------------------- drawing

    def check(self, *values: Any) -> list[dict[str, Any]]:
        """The validator, before the run is queued: whether each input is right, and a message where it is not."""
        wrong = self._problems(values)
        names = (*FIELDS, *controls.OWN, *self.controls.start.inputs)
        return [gr.validate(name not in wrong, wrong.get(name, "")) for name in names]

    def say_what_is_wrong(self, *values: Any) -> dict[Component, Any]:
        """The same beside Draw, as the validator's messages may be out of sight; a closed part with one opens."""
        wrong = self._problems(values)
        said = told("Not drawn", "; ".join(wrong.values())) if wrong else gr.skip()
        return {self.status: said} | self.controls.opened_for(wrong)

    def _problems(self, values: Sequence[Any]) -> dict[str, str]:
        return problems(dict(zip(FIELDS, values, strict=False)), self.catalogue, LABELS)

    def begin(self, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """At once when Draw is pressed: say so, enable Stop, take the image to begin with as it is now, and put a new
        seed into the box, where one is asked for; what is typed there from now on is for the next run."""
        *values, seed_mode, _, upload, editor = values
        try:
            start = self.controls.start.given(self.catalogue[values[0]], upload, editor)
        except ValueError as error:
            raise gr.Error(str(error)) from error
        self.stop_requests.clear(request.session_hash)
        loaded = self.catalogue.is_loaded(values[0])
        text = "Starting" if loaded else f"Loading {values[0]}"
        seed = secrets.randbelow(controls.SEEDS) if seed_mode == controls.NEW_SEED else gr.skip()
        return start, True, seed, status(f"{text} …", 0.0), gr.update(interactive=False), gr.update(interactive=True)

    def give_up(self, request: gr.Request) -> tuple[Any, ...]:
        """After a run that left the queue, or failed in a way that nobody foresaw: let the visitor try again."""
        if self.stop_requests.pressed(request.session_hash):
            return status("You left the queue: nothing was drawn."), *READY
        said = told("Nothing was drawn", "an error that the log of the page tells more about")
        return said, *READY

    def run(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Draw, showing each step. What is on the page stays until the first step replaces the image, and at the end
        all of it is of this run: also of one that was stopped, or failed on its way."""
        *values, view, start = values
        named, session = self._named(values) | {"start": start.kind if start else NOISE}, request.session_hash
        progress, keep, shown, failed = None, gr.skip(), 0.0, ""
        try:
            settings = Settings.checked(named, self.catalogue)
            with closing(while_heard(draw(settings, self.catalogue, start))) as steps:
                for progress in steps:
                    if progress.images is not None or self.stop_requests.pressed(session):
                        break
                    if progress.index > ALL_SHOWN and progress.seconds - shown < SHOWN_EVERY:
                        continue
                    shown = progress.seconds
                    scrubber, frames = keep, keep
                    if progress.index == 1:  # nothing of the run before can be looked back on
                        scrubber, frames = gr.update(interactive=False), Frames()
                    image, said = live(progress, view), report(progress, settings=settings)
                    film = self.film.during(progress, view)
                    yield image, said, scrubber, keep, keep, keep, frames, keep, keep, keep, *film
        except ValueError as error:
            failed = str(error)
        if progress is None:
            kept = [keep] * (1 + len(self.film.outputs))
            yield keep, told("Nothing new was drawn", failed), keep, keep, keep, keep, keep, *READY, *kept
            return
        with tempfile.TemporaryDirectory(prefix="stepwise-") as folder:
            yield self._ending(settings, progress, view, start, failed, Path(folder))

    def _ending(
        self, settings: Settings, progress: Progress, view: str, start: Start | None, failed: str, folder: Path
    ) -> tuple[Any, ...]:
        info, frames = self.catalogue[settings.model], progress.frames
        scrubber, film = self.film.reach(frames), self.film.after(frames, view)
        if progress.images is None:
            image, images = looked_back(frames, len(frames) - 1, view), gr.update(value=None, visible=False)
        else:
            image = image_metadata.tag(grid(frames.final), settings.as_json())
            written = files(settings, self.catalogue, progress, folder)
            images = gr.update(value=written, visible=True, selected_index=None)
        said = report(progress, stopped=progress.images is None, settings=settings)
        if failed:
            said = told(f"{settings.model} failed after step {progress.index} of {progress.num_steps}", failed)
        code = snippet(settings, info, device.detect())
        read_by_code = gr.update(value=start.save(folder) if start else None, visible=start is not None)
        link = links.query(settings, info)
        return image, said, scrubber, images, code, read_by_code, frames, *READY, link, *film

    # ------------------------------------------------------------------------------------------------ around the run

    def follow_setting(self, followers: list[str], *values: Any) -> dict[Component, Any]:
        """Show or hide the settings that depend on one that changed. Their values stay: a visitor may be typing."""
        settings = Settings.recalled(self._named(values), self.catalogue)
        info = self.catalogue[settings.model]
        return {self.controls.fields[name]: gr.update(visible=settings.shows(name, info)) for name in followers}

    def follow_model(self, *values: Any) -> list[Any]:
        """Make the controls fit another model: a value that still fits stays, a default becomes the model's own."""
        settings = Settings.recalled(kept_by_hand(self._named(values), self.catalogue), self.catalogue)
        self.catalogue.warm(settings.model)
        return controls.updates(self.catalogue, settings)

    @staticmethod
    def _named(values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(FIELDS, values, strict=True))

    def recall(self, path: str) -> list[Any]:
        """The settings of an image that was dropped on the page; of another file, what is wrong with it."""
        try:
            values = image_metadata.read(path)
            settings = Settings.recalled(values, self.catalogue)
        except ValueError as error:
            kept = [gr.skip()] * (len(FIELDS) + 1 + len(self.controls.start.parts))
            return [*kept, None, told("No settings were found", str(error))]
        updates = [*controls.updates(self.catalogue, settings), controls.KEEP_SEED]
        again = self.controls.start.again(settings) or "Press Draw to draw it again."
        text = status(f"Settings of the image with seed {settings.seed} recalled. {again}")
        left_out = misfits(values, self.catalogue, LABELS)
        if left_out:
            text = status("Some settings of the image recalled, with which another one is drawn.")
            text += told("Left out of the file", "; ".join(left_out.values()))
        return [*updates, *self.controls.start.without(settings), gr.skip(), text]
