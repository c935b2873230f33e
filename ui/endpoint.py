"""The endpoint /generate for programs: every setting by name, none required."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from . import fastpath
from .draw import draw
from .generate import QUEUE
from .models import Catalogue
from .outputs import files
from .settings import FIELDS, Settings, problems
from .snippet import snippet


def add_endpoint(catalogue: Catalogue) -> None:
    """Add /generate to the current Blocks. Its components are not shown; they only carry names and defaults."""

    def generate(
        model: str | None = None,
        class_name: str | None = None,
        steps: float | None = None,
        guidance_scale: float | None = None,
        seed: float | None = None,
        count: float | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        guidance_low: float | None = None,
        guidance_high: float | None = None,
        guidance_rescale: float | None = None,
    ) -> Iterator[tuple[list[tuple[str, str]], str, str]]:
        """Draw images with a diffusion model. Every argument may be left out.

        Args:
            model: name of the model; the first of the page unless given
            class_name: what to draw, a class name of the model, or "any" for a random class per image
            steps: sampling steps, 1 to 1000
            guidance_scale: 0 to 30; 1 is the class alone, 0 is no class at all, higher follows the class more closely;
                for a model that a classifier guides, 0 is off; 2 or, with a classifier, 4 unless given
            seed: of the first image, 0 to 4294967295; image i is drawn from seed + i alone
            count: how many images, 1 to 16
            sampler: DPM-Solver++, UniPC, Heun, DDIM or DDPM
            eta: share of DDPM's noise in DDIM, 0 to 1
            guidance_low: guide above this share of the noise process, 0 to 1
            guidance_high: guide below this share of the noise process, 0 to 1
            guidance_rescale: 0 to 1, tames contrast at high guidance scales

        Returns:
            The images as PNG files, each with its settings inside; a report as JSON: settings, seconds and network
            evaluations per image; and Python that draws them again.
        """
        given = (model, class_name, steps, guidance_scale, seed, count, sampler)
        given = (*given, eta, guidance_low, guidance_high, guidance_rescale)
        try:
            settings = Settings.checked(_by_field(given), catalogue)
        except ValueError as error:
            raise gr.Error(str(error)) from error
        with closing(draw(settings, catalogue)) as steps:
            for progress in steps:
                if progress.images is None:  # a client that goes away closes the run here, after each step
                    yield [], json.dumps({"step": progress.index, "num_steps": progress.num_steps}), ""
        report = settings.as_dict() | {
            "seconds": round(progress.seconds, 3),
            "network_evaluations": progress.evaluations,
        }
        code = snippet(settings, catalogue[settings.model], fastpath.detect())
        with tempfile.TemporaryDirectory(prefix="stepwise-") as folder:
            yield files(settings, catalogue, progress, Path(folder)), json.dumps(report, ensure_ascii=False), code

    def check(*values: Any) -> list[dict[str, Any]]:
        wrong = problems(_by_field(values), catalogue)
        return [gr.validate(name not in wrong, wrong.get(name, "")) for name in _ARGUMENTS]

    values = Settings(catalogue.names[0]).as_dict()
    text = ("model", "class_name", "sampler")
    inputs = [
        gr.Textbox(values[name], label=name, visible=False)
        if name in text
        else gr.Number(values[name], label=name, visible=False)
        for name in _ARGUMENTS
    ]
    outputs = [
        gr.Gallery(label="images", format="png", visible=False),
        gr.Textbox(label="report", visible=False),
        gr.Code(label="code", language="python", visible=False),
    ]
    gr.Button(visible=False).click(
        generate, inputs, outputs, api_name="generate", validator=check, show_progress="hidden", **QUEUE
    )


_ARGUMENTS = (
    "model",
    "class_name",
    "steps",
    "guidance_scale",
    "seed",
    "count",
    "sampler",
    "eta",
    "guidance_low",
    "guidance_high",
    "guidance_rescale",
)
assert set(_ARGUMENTS) == set(FIELDS)


def _by_field(values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(_ARGUMENTS, values, strict=True))
