"""The images of a cascade at low and at high resolution, one above the other, with a line between them to move."""

from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from .outputs import grid
from .run import Frames

CAPTIONS = '<p class="captions"><span>low resolution</span><span>high resolution</span></p>'


class StageSlider:
    """Below the film, seen where a run had small images that it enlarged."""

    def __init__(self) -> None:
        with gr.Column(visible=False, elem_id="stages") as self.box:
            gr.HTML(CAPTIONS, padding=False, elem_classes="plain")
            self.slider = gr.ImageSlider(
                label="Low and high resolution, with a line between them to move",
                show_label=False,
                type="pil",
                format="png",
                interactive=False,
                buttons=["fullscreen"],
                max_height=640,
            )

    @property
    def outputs(self) -> list[Component]:
        """What a run changes."""
        return [self.box, self.slider]

    def during(self) -> list[Any]:
        """For `outputs`, as a run begins."""
        return [gr.update(visible=False), gr.skip()]

    def after(self, frames: Frames) -> list[Any]:
        """For `outputs`, when it is over; hidden of one that was stopped, or of a model of one stage."""
        if frames.small is None or frames.final is None:
            return self.during()
        return [gr.update(visible=True), (grid(as_large(frames.small, frames.final)), grid(frames.final))]


def as_large(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Small images (N, h, w, C) in the size of large ones, a pixel as a square, or nearly so."""
    _, height, width, _ = large.shape
    rows, columns = (np.arange(side) * low // side for side, low in zip((height, width), small.shape[1:3], strict=True))
    return small[:, rows][:, :, columns]
