"""The Generate tab: choose, draw, watch it denoise, look back over the steps, take the images and the code along."""

import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from . import controls, defaults, fastpath, png
from .draw import Frames, Progress, draw
from .grid import LIVE_WIDTH, grid
from .models import Catalogue
from .outputs import files, opening, report, status
from .settings import FIELDS, Settings, own_scale, problems
from .snippet import snippet
from .stops import Stops

QUEUE = {"concurrency_id": "draw", "concurrency_limit": 1}  # two runs at once would only slow each other down
# in the browser itself: [settings by name] from the values of all inputs
REMEMBER = f"(...values) => [Object.fromEntries({[*FIELDS, 'seed_mode', 'preview']}.map((key, i) => [key, values[i]]))]"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class GenerateTab:
    """Components and event handlers of the tab, over the models of a catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue, self.stops = catalogue, Stops()
        self._samples: dict[str, Image.Image] = {}
        first = catalogue[catalogue.names[0]]
        self.remembered = gr.BrowserState({}, storage_key="stepwise-settings", secret="stepwise")
        self.frames = gr.State(None, time_to_live=3600)
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
        self._connect()

    def _connect(self) -> None:
        fields = [self.controls.fields[name] for name in FIELDS]
        inputs = self.controls.inputs()
        outputs = [
            self.image,
            self.status,
            self.controls.fields["seed"],
            self.scrubber,
            self.gallery,
            self.code,
            self.frames,
            self.draw_button,
            self.stop_button,
        ]
        self.draw_button.click(
            self.begin,
            inputs,
            [self.status, self.draw_button, self.stop_button],
            validator=self.check,
            concurrency_limit=None,
            **QUIET,
        ).success(self.run, inputs, outputs, **QUEUE, **QUIET).failure(
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
        model, sampler, eta = (self.controls.fields[name] for name in ("model", "sampler", "eta"))
        model.input(self.follow_model, fields, fields, queue=False, **QUIET)
        sampler.input(self.follow_sampler, fields, eta, queue=False, **QUIET)
        self.controls.image.upload(
            self.recall, self.controls.image, [*fields, self.controls.seed_mode], queue=False, **QUIET
        )
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
        fields = [self.controls.fields[name] for name in FIELDS]
        own = [self.controls.seed_mode, self.controls.preview]
        demo.load(self.restore, self.remembered, [*fields, *own], queue=False, **QUIET).then(
            self.sample, fields, [self.image, self.status, self.code], **QUEUE, **QUIET
        )

    def restore(self, remembered: dict[str, Any] | None, request: gr.Request) -> list[Any]:
        """The remembered settings, overruled by the page's query parameters."""
        values = {**(remembered or {}), **dict(request.query_params)}
        settings = Settings.recalled(values, self.catalogue)
        mode = controls.KEEP_SEED if values.get("seed_mode") == controls.KEEP_SEED else controls.NEW_SEED
        kind = values.get("preview") if values.get("preview") in defaults.PREVIEWS else defaults.PREVIEWS[0]
        return [*controls.updates(self.catalogue, settings), mode, kind]

    def sample(self, *values: Any) -> tuple[Any, str, str]:
        """A first image, so that nobody meets an empty page: the model's own, or drawn now, once; and its code."""
        settings = Settings.recalled(self._named(values), self.catalogue)
        model, info = settings.model, self.catalogue[settings.model]
        if model not in self._samples and info.samples:
            self._samples[model] = Image.open(info.samples)
        if model not in self._samples:
            *_, last = draw(Settings(model), self.catalogue)
            self._samples[model] = grid(last.frames.final)
        text = status(f"Samples of {model}. Press Draw for images of your own.")
        return self._samples[model], text, snippet(settings, info, fastpath.detect())

    # ------------------------------------------------------------------------------------------------------- drawing

    def check(self, *values: Any) -> list[dict[str, Any]]:
        """The validator: one verdict an input, before the run is queued."""
        wrong = problems(dict(zip(FIELDS, values, strict=False)), self.catalogue)
        return [gr.validate(name not in wrong, wrong.get(name, "")) for name in (*FIELDS, "seed_mode", "preview")]

    def begin(self, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        """At once on Draw: say so, and arm Stop."""
        self.stops.clear(request.session_hash)
        loaded = self.catalogue.is_loaded(values[0])
        text = "Starting" if loaded else f"Loading {values[0]}"
        return status(f"{text} …", 0.0), gr.update(interactive=False), gr.update(interactive=True)

    def stop(self, request: gr.Request) -> Any:
        """Ask the run to end after its current step."""
        self.stops.press(request.session_hash)
        return gr.update(interactive=False)

    def give_up(self) -> tuple[Any, ...]:
        """After a run that failed: let the visitor try again."""
        return status("Nothing was drawn."), gr.update(interactive=True), gr.update(interactive=False)

    def run(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Draw, showing each step. The images on the page stay until the first step replaces them."""
        *values, seed_mode, kind = values
        settings = self._settings(self._named(values), seed_mode)
        code = snippet(settings, self.catalogue[settings.model], fastpath.detect())
        progress, keep = None, gr.skip()
        with closing(draw(settings, self.catalogue)) as steps:
            for progress in steps:
                if progress.images is not None or self.stops.pressed(request.session_hash):
                    break
                seed = settings.seed if progress.index == 1 else keep
                scrubber = gr.update(interactive=False) if progress.index == 1 else keep
                image = grid(progress.preview[kind], LIVE_WIDTH)
                yield image, report(progress), seed, scrubber, keep, keep, keep, keep, keep
        with tempfile.TemporaryDirectory(prefix="stepwise-") as folder:
            yield self._ending(settings, progress, kind, code, Path(folder))

    def _settings(self, values: dict[str, Any], seed_mode: str) -> Settings:
        if seed_mode == controls.NEW_SEED:
            values["seed"] = secrets.randbelow(2**31)
        try:
            return Settings.checked(values, self.catalogue)
        except ValueError as error:
            raise gr.Error(str(error)) from error

    def _ending(self, settings: Settings, progress: Progress, kind: str, code: str, folder: Path) -> tuple[Any, ...]:
        frames, buttons = progress.frames, (gr.update(interactive=True), gr.update(interactive=False))
        last = len(frames) - 1
        scrubber = gr.update(maximum=max(last, 1), value=last, visible=last > 0, interactive=True)
        if progress.images is None:
            stopped = report(progress, "Stopped after")
            image = grid(frames.image(last, kind))
            return image, stopped, settings.seed, scrubber, gr.skip(), gr.skip(), frames, *buttons
        image = png.tag(grid(frames.final), settings.as_json())
        images = gr.update(value=files(settings, self.catalogue, progress, folder), visible=True, selected_index=None)
        return image, report(progress, "Drawn in"), settings.seed, scrubber, images, code, frames, *buttons

    # ------------------------------------------------------------------------------------------------ around the run

    def look_back(self, frames: Frames | None, position: float, kind: str) -> tuple[Any, Any]:
        """The preview at a position of the scrubber."""
        if frames is None or not len(frames):
            return gr.skip(), gr.skip()
        position = int(position)
        what = "" if position >= len(frames.steps) else f", {kind}"
        return grid(frames.image(position, kind)), status(f"Looking back: {frames.caption(position)}{what}")

    def follow_sampler(self, *values: Any) -> dict[str, Any]:
        """Show eta with the sampler that has it. No other control is touched: a visitor may be typing there."""
        settings = Settings.recalled(self._named(values), self.catalogue)
        return gr.update(visible=controls.looks(self.catalogue[settings.model], settings)["eta"]["visible"])

    def follow_model(self, *values: Any) -> list[Any]:
        """Make the controls fit another model, keeping what still holds; a scale that nobody chose becomes its own."""
        named = self._named(values)
        if named["guidance_scale"] in {own_scale(self.catalogue[name]) for name in self.catalogue.names}:
            named["guidance_scale"] = None
        settings = Settings.recalled(named, self.catalogue)
        self.catalogue.warm(settings.model)
        return controls.updates(self.catalogue, settings)

    @staticmethod
    def _named(values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(FIELDS, values, strict=True))

    def recall(self, path: str) -> list[Any]:
        """The settings of an image that was dropped on the page."""
        try:
            settings = Settings.recalled(png.read(path), self.catalogue)
        except ValueError as error:
            raise gr.Error(str(error), title="No settings in this file") from error
        gr.Info(f"Settings of the image with seed {settings.seed} recalled.")
        return [*controls.updates(self.catalogue, settings), controls.KEEP_SEED]
