"""The images of a cascade at low and at high resolution, one above the other, with a line between them to move."""

from typing import Any

import gradio as gr
import numpy as np

from .outputs import grid
from .run import Frames

LABEL = "Low resolution on the left of the line, high on the right: move it"


class StageSlider:
    """A component below the film, seen where a run had small images that it enlarged."""

    def __init__(self) -> None:
        self.component = gr.ImageSlider(
            label=LABEL, visible=False, type="pil", format="png", interactive=False, elem_id="stages", max_height=640
        )

    def after(self, frames: Frames) -> Any:
        """What it shows of a run that is over; nothing of one that was stopped, or of a model of one stage."""
        if frames.small is None or frames.final is None:
            return gr.update(visible=False)
        return gr.update(value=(grid(as_large(frames.small, frames.final)), grid(frames.final)), visible=True)


def as_large(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Small images (N, h, w, C) in the size of large ones, a pixel as a square, or nearly so."""
    _, height, width, _ = large.shape
    rows, columns = (np.arange(side) * low // side for side, low in zip((height, width), small.shape[1:3], strict=True))
    return small[:, rows][:, :, columns]
