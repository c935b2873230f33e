"""The endpoint /generate for programs: every setting by name, none required."""

import inspect
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from . import device
from .catalogue import Catalogue
from .fields import FIELDS, ROWS
from .outputs import files
from .run import QUEUE, draw
from .settings import Settings, problems
from .snippet import snippet

DOC = """Draw images with a diffusion model. Every argument may be left out.

Args:
{arguments}

Returns:
    The images as PNG files, each with its settings inside; a report as JSON: settings, seconds and network
    evaluations per image; and Python that draws them again.
"""
Answer = tuple[list[tuple[str, str]], str, str]


def add_endpoint(catalogue: Catalogue) -> None:
    """Add /generate to the current Blocks. Its components are invisible: they only carry names and defaults."""
    defaults = Settings.checked({}, catalogue).as_dict()

    def check(*values: Any) -> list[dict[str, Any]]:
        wrong = problems(_chosen(dict(zip(FIELDS, values, strict=True)), defaults, catalogue), catalogue)
        return [gr.validate(name not in wrong, wrong.get(name, "")) for name in FIELDS]

    inputs = [row.values.api_input(row.name, defaults[row.name]) for row in ROWS]
    outputs = [
        gr.Gallery(label="images", format="png", visible=False),
        gr.Textbox(label="report", visible=False),
        gr.Code(label="code", language="python", visible=False),
    ]
    gr.Button(visible=False).click(
        _endpoint(catalogue, defaults),
        inputs,
        outputs,
        api_name="generate",
        validator=check,
        show_progress="hidden",
        **QUEUE,
    )


def _endpoint(catalogue: Catalogue, defaults: dict[str, Any]) -> Callable[..., Iterator[Answer]]:
    """The function behind /generate. Gradio reads its parameters and its documentation, which are made of the rows."""

    def generate(*args: Any, **kwargs: Any) -> Iterator[Answer]:
        given = signature.bind(*args, **kwargs).arguments
        try:
            settings = Settings.checked(_chosen(given, defaults, catalogue), catalogue)
        except ValueError as error:
            raise gr.Error(str(error)) from error
        with closing(draw(settings, catalogue, previews=False)) as steps:
            for progress in steps:
                if progress.images is None:  # if the client has gone, Gradio closes this generator at a yield
                    yield [], json.dumps({"step": progress.index, "num_steps": progress.num_steps}), ""
        report = settings.as_dict() | {
            "seconds": round(progress.seconds, 3),
            "network_evaluations": progress.evaluations,
        }
        code = snippet(settings, catalogue[settings.model], device.detect())
        with tempfile.TemporaryDirectory(prefix="stepwise-") as folder:
            yield files(settings, catalogue, progress, Path(folder)), json.dumps(report, ensure_ascii=False), code

    kinds = {row.name: (str if row.values.python_type is str else float) | None for row in ROWS}
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in kinds.items()],
        return_annotation=Iterator[Answer],
    )
    arguments = "\n".join(f"    {row.name}: {row.values.api_text(row.doc or row.info or row.label)}" for row in ROWS)
    generate.__signature__ = signature
    generate.__annotations__ = kinds | {"return": Iterator[Answer]}
    generate.__doc__ = DOC.format(arguments=arguments)
    return generate


def _chosen(values: dict[str, Any], defaults: dict[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Without the defaults of the page's first model, where they do not fit or another model is asked for.

    Gradio's clients fill in what a caller leaves out, with these: another model draws with its own.
    """
    wrong = problems(values, catalogue)
    other = (values.get("model") or defaults["model"]) != defaults["model"]
    left_out = {name for name, value in values.items() if value == defaults[name] and (other or name in wrong)}
    return {name: value for name, value in values.items() if name not in left_out}
