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

from .. import controls, device, image_metadata
from ..answers import answered
from ..catalogue import Catalogue
from ..fields import FIELDS, NOISE, ROWS
from ..outputs import files, grid, live, opening, report, status
from ..run import PREVIEWS, QUEUE, Frames, Progress, StopRequests, draw
from ..settings import Settings, problems
from ..snippet import snippet

# runs in the browser: from the values of all inputs to [settings by name]
REMEMBER = f"(...values) => [Object.fromEntries({[*FIELDS, *controls.OWN]}.map((key, i) => [key, values[i]]))]"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

# of a long run, later steps are shown at this interval in seconds: a browser that is sent more falls behind the run,
# and its Stop comes too late
ALL_SHOWN, SHOWN_EVERY = 20, 0.1


class GenerateTab:
    """Components and event handlers of the tab, over the models of a catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue, self.stop_requests = catalogue, StopRequests()
        self._samples: dict[str, Image.Image] = {}
        first = catalogue[catalogue.names[0]]
        self.remembered = gr.BrowserState({}, storage_key="stepwise-settings", secret="stepwise")
        self.frames = gr.State(None, time_to_live=3600)
        self.start = gr.State(None, time_to_live=3600)  # what the run that Draw asked for begins with, if not noise
        with gr.Row(equal_height=False):
            with gr.Column(min_width=300, elem_id="settings"):
                self.controls = controls.build(catalogue)
            with gr.Column(min_width=300, elem_id="stage"):
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
                self.scrubber = gr.Slider(
                    0,
                    1,
                    value=1,
                    step=1,
                    label="Look back over the steps",
                    visible=False,
                    buttons=[],
                    elem_id="scrubber",
                )
        self.gallery = gr.Gallery(
            label="Images, each with its settings inside",
            format="png",
            columns=16,
            height="auto",
            object_fit="contain",
            visible=False,
            interactive=False,
            buttons=["download", "fullscreen"],
            elem_id="gallery",
        )
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
            self.controls.fields["seed"],
            self.scrubber,
            self.gallery,
            self.code,
            self.code_files,
            self.frames,
            self.draw_button,
            self.stop_button,
        ]
        self.draw_button.click(
            self.begin,
            [*inputs, *self.controls.start.inputs],
            [self.start, self.status, self.draw_button, self.stop_button],
            validator=self.check,
            concurrency_limit=None,
            **QUIET,
        ).success(self.run, [*inputs, self.start], outputs, **QUEUE, **QUIET).failure(
            self.give_up, None, [self.status, self.draw_button, self.stop_button], queue=False, **QUIET
        )
        self.stop_button.click(self.stop, None, [self.stop_button], queue=False, **QUIET)
        for event in (self.scrubber.input, self.controls.preview.input):
            event(
                self.look_back,
                [self.frames, self.scrubber, self.controls.preview],
                [self.image, self.status],
                queue=False,
                trigger_mode="always_last",
                **QUIET,
            )
        self.controls.suggestions.connect(self.controls.fields["model"], self.controls.fields["prompt"])
        self.controls.fields["model"].input(self.follow_model, settings, settings, queue=False, **QUIET)
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
        restored = [*self.controls.inputs(), *self.controls.start.parts]
        demo.load(self.restore, self.remembered, restored, queue=False, **QUIET).then(
            self.sample, self.controls.settings(), [self.image, self.status, self.code], **QUEUE, **QUIET
        )

    def restore(self, remembered: dict[str, Any] | None, request: gr.Request) -> list[Any]:
        """The remembered settings, overruled by the page's query parameters."""
        values = {**(remembered or {}), **dict(request.query_params)}
        settings = Settings.recalled(values, self.catalogue)
        mode = controls.KEEP_SEED if values.get("seed_mode") == controls.KEEP_SEED else controls.NEW_SEED
        kind = values.get("preview") if values.get("preview") in PREVIEWS else PREVIEWS[0]
        return [*controls.updates(self.catalogue, settings), mode, kind, *self.controls.start.without(settings)]

    def sample(self, *values: Any) -> tuple[Any, str, str]:
        """The first image on the page and its code: the model's own samples or, without any, drawn once and kept.

        A model that cannot draw says so, and the others can still be chosen.
        """
        settings = Settings.recalled(self._named(values), self.catalogue)
        model, info = settings.model, self.catalogue[settings.model]
        if model not in self._samples and info.samples:
            self._samples[model] = Image.open(info.samples)
        code, text = snippet(settings, info, device.detect()), f"Samples of {model}. Press Draw for images of your own."
        if model not in self._samples:
            try:
                *_, last = draw(Settings.checked({"model": model}, self.catalogue), self.catalogue, previews=False)
            except ValueError as error:
                return opening(info), status(str(error)), code
            self._samples[model] = grid(last.frames.final)
        return self._samples[model], status(text), code

    # ------------------------------------------------------------------------------------------------------- drawing

    def check(self, *values: Any) -> list[dict[str, Any]]:
        """The validator, before the run is queued: whether each input is right, and a message where it is not."""
        wrong = problems(dict(zip(FIELDS, values, strict=False)), self.catalogue)
        names = (*FIELDS, *controls.OWN, *self.controls.start.inputs)
        return [gr.validate(name not in wrong, wrong.get(name, "")) for name in names]

    def begin(self, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """At once when Draw is pressed: say so, enable Stop, and take the image to begin with as it is now."""
        *values, upload, editor = values
        start = self.controls.start.given(self.catalogue[values[0]], upload, editor)
        self.stop_requests.clear(request.session_hash)
        loaded = self.catalogue.is_loaded(values[0])
        text = "Starting" if loaded else f"Loading {values[0]}"
        return start, status(f"{text} …", 0.0), gr.update(interactive=False), gr.update(interactive=True)

    def stop(self, request: gr.Request) -> Any:
        """Ask the run to end after its current step."""
        self.stop_requests.press(request.session_hash)
        return gr.update(interactive=False)

    def give_up(self) -> tuple[Any, ...]:
        """After a run that failed: let the visitor try again."""
        return status("Nothing was drawn."), gr.update(interactive=True), gr.update(interactive=False)

    def run(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Draw, showing each step. The images on the page stay until the first step replaces them."""
        *values, seed_mode, kind, start = values
        named = self._named(values) | {"start": start.kind if start else NOISE}
        settings = self._settings(named, seed_mode)
        code = snippet(settings, self.catalogue[settings.model], device.detect())
        progress, keep, shown = None, gr.skip(), 0.0
        with answered(), closing(draw(settings, self.catalogue, start)) as steps:
            for progress in steps:
                if progress.images is not None or self.stop_requests.pressed(request.session_hash):
                    break
                if progress.index > ALL_SHOWN and progress.seconds - shown < SHOWN_EVERY:
                    continue
                shown = progress.seconds
                seed = settings.seed if progress.index == 1 else keep
                scrubber = gr.update(interactive=False) if progress.index == 1 else keep
                image = live(progress, kind)
                yield image, report(progress), seed, scrubber, keep, keep, keep, keep, keep, keep
        with tempfile.TemporaryDirectory(prefix="stepwise-") as folder:
            read_by_code = gr.update(value=start.save(Path(folder)) if start else None, visible=start is not None)
            yield self._ending(settings, progress, kind, (code, read_by_code), Path(folder))

    def _settings(self, values: dict[str, Any], seed_mode: str) -> Settings:
        if seed_mode == controls.NEW_SEED:
            values["seed"] = secrets.randbelow(2**31)
        with answered():
            return Settings.checked(values, self.catalogue)

    def _ending(
        self, settings: Settings, progress: Progress, kind: str, code: tuple[str, Any], folder: Path
    ) -> tuple[Any, ...]:
        frames, buttons = progress.frames, (gr.update(interactive=True), gr.update(interactive=False))
        last = len(frames) - 1
        scrubber = gr.update(maximum=max(last, 1), value=last, visible=last > 0, interactive=True)
        if progress.images is None:
            stopped = report(progress, stopped=True)
            image = grid(frames.image(last, kind))
            return image, stopped, settings.seed, scrubber, gr.skip(), gr.skip(), gr.skip(), frames, *buttons
        image = image_metadata.tag(grid(frames.final), settings.as_json())
        images = gr.update(value=files(settings, self.catalogue, progress, folder), visible=True, selected_index=None)
        return image, report(progress), settings.seed, scrubber, images, *code, frames, *buttons

    # ------------------------------------------------------------------------------------------------ around the run

    def look_back(self, frames: Frames | None, position: float, kind: str) -> tuple[Any, Any]:
        """What the slider below the image points at: the preview of a step, or the final images."""
        if frames is None or not len(frames):
            return gr.skip(), gr.skip()
        position = int(position)
        what = "" if position >= len(frames.steps) else f", {kind}"
        return grid(frames.image(position, kind)), status(f"Looking back: {frames.caption(position)}{what}")

    def follow_setting(self, followers: list[str], *values: Any) -> dict[Component, Any]:
        """Show or hide the settings that depend on one that changed. Their values stay: a visitor may be typing."""
        settings = Settings.recalled(self._named(values), self.catalogue)
        info = self.catalogue[settings.model]
        return {self.controls.fields[name]: gr.update(visible=settings.has(name, info)) for name in followers}

    def follow_model(self, *values: Any) -> list[Any]:
        """Make the controls fit another model: a value that still fits stays, a default becomes the model's own."""
        named, infos = self._named(values), self.catalogue.infos.values()
        chosen = {
            row.name: named[row.name]
            for row in ROWS
            if row.name == "model" or named[row.name] not in [row.default_of(info) for info in infos]
        }
        settings = Settings.recalled(chosen, self.catalogue)
        self.catalogue.warm(settings.model)
        return controls.updates(self.catalogue, settings)

    @staticmethod
    def _named(values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(FIELDS, values, strict=True))

    def recall(self, path: str) -> list[Any]:
        """The settings of an image that was dropped on the page; of another file, what is wrong with it."""
        try:
            settings = Settings.recalled(image_metadata.read(path), self.catalogue)
        except ValueError as error:
            kept = [gr.skip()] * (len(FIELDS) + 1 + len(self.controls.start.parts))
            return [*kept, None, status(str(error))]
        updates = [*controls.updates(self.catalogue, settings), controls.KEEP_SEED]
        text = status(f"Settings of the image with seed {settings.seed} recalled.")
        return [*updates, *self.controls.start.without(settings), gr.skip(), text]
