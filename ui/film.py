"""The film of a run: look back over its steps, play them, read what one computes, and keep them as a GIF."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from .outputs import looked_back, status, viewed
from .run import BESIDE, PREVIEWS, Frames, Progress
from .stage_slider import StageSlider
from .step_panel import explained, lines_html, where_of

FRAME_SECONDS, LAST_SECONDS = 0.12, 2.0  # how long a step is shown, and the images
AT_ONCE = 8  # visitors whose films play at the same time
LONGEST_NAME = 60  # letters of a file's name
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
# runs in the browser: take the file that is there now
DOWNLOAD = "() => document.querySelector('#film-file a[download]')?.click()"
CODE = "The code of this step, line by line, with its numbers"
CAPTIONS = '<p class="captions"><span>noisy x<sub>t</sub></span><span>predicted x̂<sub>0</sub></span></p>'


class Film:
    """Components and event handlers, below the image that they change."""

    def __init__(self) -> None:
        self.captions = gr.HTML(CAPTIONS, visible=False, padding=False, elem_id="captions", elem_classes="plain")
        self.scrubber = gr.Slider(
            1,
            2,
            value=2,
            step=1,
            label="Look back over the steps",
            visible=False,
            buttons=[],
            elem_id="scrubber",
        )
        with gr.Row(visible=False, elem_id="film") as self.box:
            self.play_button = gr.Button("▶ Play", size="sm", min_width=90, elem_id="play")
            self.pause_button = gr.Button("❚❚ Pause", size="sm", min_width=90, visible=False, elem_id="pause")
            self.save_button = gr.Button("Save as GIF", size="sm", min_width=90, elem_id="save-film")
        self.text = gr.HTML(visible=False, padding=False, elem_id="film-text", elem_classes="plain")
        with gr.Accordion(CODE, open=False, visible=False, elem_id="step-code") as self.code_box:
            self.code = gr.HTML(padding=False, elem_classes=["plain", "step-lines"])
        self.file = gr.File(label="The film", visible=False, interactive=False, elem_id="film-file")
        self.stages = StageSlider()

    @property
    def outputs(self) -> list[Component]:
        """What a run changes besides the scrubber."""
        return [self.captions, self.text, self.code, self.box, self.code_box, self.file, *self.stages.outputs]

    def connect(self, frames: gr.State, view: gr.Radio, image: gr.Image, line: gr.HTML, draw: gr.Button) -> None:
        """Events; `line` is the status line, and a click on `draw` ends a film that plays."""
        shown = [image, line, self.captions, self.text, self.code]
        buttons = [self.play_button, self.pause_button]
        playing = self.play_button.click(
            self.play,
            [frames, self.scrubber, view],
            [*shown, self.scrubber, *buttons],
            concurrency_id="film",
            concurrency_limit=AT_ONCE,
            **QUIET,
        )
        stops = [self.pause_button.click, self.scrubber.input, draw.click]
        gr.on(stops, self.halt, None, buttons, cancels=[playing], queue=False, **QUIET)
        for event in (self.scrubber.input, view.input):
            event(
                self.look_back,
                [frames, self.scrubber, view],
                shown,
                queue=False,
                trigger_mode="always_last",
                **QUIET,
            )
        self.save_button.click(
            self.save, [frames, view], self.file, concurrency_id="film", concurrency_limit=AT_ONCE, **QUIET
        ).then(None, js=DOWNLOAD)

    # ------------------------------------------------------------------------------------------------------ of a run

    def during(self, progress: Progress, view: str) -> list[Any]:
        """For `outputs`, while a run goes on."""
        text = explained(progress.frames.formula, progress.timestep, progress.levels, progress.reading)
        kept, hidden = gr.skip(), gr.update(visible=False)
        if progress.index > 1:
            return [kept, text, *[kept] * (len(self.outputs) - 2)]
        captions, shown = gr.update(visible=view == BESIDE), gr.update(value=text, visible=True)
        return [captions, shown, kept, hidden, hidden, gr.update(value=None, visible=False), *self.stages.during()]

    def after(self, frames: Frames, view: str) -> list[Any]:
        """For `outputs`, when it is over."""
        told, several = _told_at(frames, len(frames) - 1, view), gr.update(visible=len(frames) > 1)
        has_code = gr.update(visible=any(reading.calls for reading in frames.readings))
        return [*told, several, has_code, gr.update(value=None, visible=False), *self.stages.after(frames)]

    def reach(self, frames: Frames) -> Any:
        """The scrubber at the end of a run: it counts steps."""
        last = frames.step_at(len(frames) - 1)
        return gr.update(maximum=max(last, 2), value=last, visible=len(frames) > 1, interactive=True)

    # ------------------------------------------------------------------------------------------------------ handlers

    def look_back(self, frames: Frames | None, step: float, view: str) -> list[Any]:
        """What the scrubber points at: a step, or the final images."""
        if frames is None or not len(frames):
            return [gr.skip()] * 5
        return _shown(frames, frames.position_of(step), view)

    async def play(self, frames: Frames | None, step: float, view: str) -> AsyncIterator[list[Any]]:
        """Show one step after the other, from where the scrubber is, or from the first if it is at the end."""
        if frames is None or not len(frames):
            yield [gr.skip()] * 8
            return
        begin = frames.position_of(step)
        begin = begin if begin < len(frames) - 1 else 0
        pause = [gr.update(visible=False), gr.update(visible=True)]
        for position in range(begin, len(frames)):
            shown = await asyncio.to_thread(_shown, frames, position, view)
            yield [*shown, frames.step_at(position), *(pause if position == begin else [gr.skip()] * 2)]
            await asyncio.sleep(FRAME_SECONDS)
        yield [gr.skip()] * 6 + self.halt()

    def halt(self) -> list[Any]:
        """The film stands still: show Play, not Pause."""
        return [gr.update(visible=True), gr.update(visible=False)]

    def save(self, frames: Frames | None, view: str) -> Iterator[Any]:
        """The film as a file, which the browser then takes."""
        if frames is None or not len(frames):
            raise gr.Error("There is no film yet: draw first.")
        with tempfile.TemporaryDirectory(prefix="stepwise-") as folder:
            yield gr.update(value=write_gif(frames, view, Path(folder)), visible=True)


def write_gif(frames: Frames, view: str, folder: Path) -> str:
    """Write the steps and, for longer, the images as an animation on white that repeats; the path.

    Grey images keep every pixel; of colours a GIF has 256 per step.
    """
    sheets = [_flat(_sheet(frames, position, view)) for position in range(len(frames))]
    letters = frames.name[:LONGEST_NAME]
    path = folder / f"{''.join(letter if letter.isalnum() else '-' for letter in letters).lower()}.gif"
    seconds = [FRAME_SECONDS] * (len(sheets) - 1) + [LAST_SECONDS]
    durations = [round(1000 * each) for each in seconds]
    sheets[0].save(path, save_all=True, append_images=sheets[1:], duration=durations, loop=0)
    return str(path)


def _sheet(frames: Frames, position: int, view: str) -> Image.Image:
    """All of one size: the final images stand where the predicted ones did, with the last noisy ones beside them."""
    if view == BESIDE or position < len(frames.steps):
        return viewed(lambda kind: _image(frames, position, kind), view)
    return looked_back(frames, position, view)


def _image(frames: Frames, position: int, kind: str) -> Any:
    last = len(frames.steps) - 1
    return frames.image(min(position, last) if kind != PREVIEWS[0] else position, kind)


def _flat(sheet: Image.Image) -> Image.Image:
    """On white, without transparency, which a GIF has for whole pixels only."""
    ground = Image.new(sheet.mode, sheet.size, "white")
    return Image.alpha_composite(ground, sheet).convert("RGB" if sheet.mode == "RGBA" else "L")


def _shown(frames: Frames, position: int, view: str) -> list[Any]:
    """Image, status line, captions, text and code of a position."""
    what = "" if view == BESIDE or position >= len(frames.steps) else f", {view}"
    line = status(f"Looking back: {frames.caption(position)}{what}")
    return [looked_back(frames, position, view), line, *_told_at(frames, position, view)]


def _told_at(frames: Frames, position: int, view: str) -> list[Any]:
    """Captions, text and code; with the images stands the code of the last step."""
    last = frames.readings[min(position, len(frames.steps) - 1)]
    code = lines_html(last, where_of(last.x_t.shape))
    if position >= len(frames.steps):
        return [gr.update(visible=False), gr.update(value=explained(frames.formula), visible=True), code]
    text = explained(frames.formula, frames.timesteps[position], frames.levels[position], frames.readings[position])
    return [gr.update(visible=view == BESIDE), gr.update(value=text, visible=True), code]
