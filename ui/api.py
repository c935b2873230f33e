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
from .answers import answered
from .catalogue import Catalogue
from .fields import FIELDS, NOISE, ROWS
from .outputs import files
from .run import QUEUE, draw
from .settings import Settings, problems
from .snippet import snippet
from .uploads import Start, read, read_mask, start_of

DOC = """Draw images with a diffusion model. Every argument may be left out.

Args:
{arguments}

Returns:
    The images as PNG files, each with its settings inside; a report as JSON: settings, seconds and network
    evaluations per image; and Python that draws them again.
"""
Answer = tuple[list[tuple[str, str]], str, str]
FILES = {
    "image": "file of an image to begin with, of any size, for a model that takes one: its middle is used",
    "mask_image": "file of a mask, white where the image is to be drawn anew, black where its pixels stay",
}
_PLACE = list(FIELDS).index("strength") + 1  # of the files, between the rows that were there before and newer ones
PARAMETERS = (*list(FIELDS)[:_PLACE], *FILES, *list(FIELDS)[_PLACE:])


def add_endpoint(catalogue: Catalogue) -> None:
    """Add /generate to the current Blocks. Its components are invisible: they only carry names and defaults."""
    defaults = Settings.checked({}, catalogue).as_dict()

    def check(*values: Any) -> list[dict[str, Any]]:
        given = dict(zip(PARAMETERS, values, strict=True))
        chosen = _chosen(given, defaults, catalogue)
        wrong = problems(chosen, catalogue) or _start_problems(given, Settings.checked(chosen, catalogue), catalogue)
        return [gr.validate(name not in wrong, wrong.get(name, "")) for name in PARAMETERS]

    made = {row.name: row.values.api_input(row.name, defaults[row.name]) for row in ROWS}
    made |= {name: gr.File(label=name, type="filepath", visible=False) for name in FILES}
    inputs = [made[name] for name in PARAMETERS]
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
        with answered():
            settings = Settings.checked(_chosen(given, defaults, catalogue), catalogue)
            start = _start(given, settings, catalogue)
        settings = settings.beginning_with(start.kind if start else NOISE)
        with answered(), closing(draw(settings, catalogue, start, previews=False)) as steps:
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

    kinds = dict.fromkeys(FILES, str | None)
    kinds |= {row.name: (str if row.values.python_type is str else float) | None for row in ROWS}
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [inspect.Parameter(name, keyword, default=None, annotation=kinds[name]) for name in PARAMETERS],
        return_annotation=Iterator[Answer],
    )
    texts = FILES | {row.name: row.values.api_text(row.doc or row.info or row.label) for row in ROWS}
    arguments = "\n".join(f"    {name}: {texts[name]}" for name in PARAMETERS)
    generate.__signature__ = signature
    generate.__annotations__ = kinds | {"return": Iterator[Answer]}
    generate.__doc__ = DOC.format(arguments=arguments)
    return generate


def _start(given: dict[str, Any], settings: Settings, catalogue: Catalogue) -> Start | None:
    """What the run begins with; None for noise.

    Raises:
        ValueError: files that cannot be used, or that settings ask for and the caller left out, by parameter.
    """
    files, info = {name: given[name] for name in FILES if given.get(name)}, catalogue[settings.model]
    takes = settings.has("start", info)
    if files and not takes:
        raise ValueError(f"{next(iter(files))} must be left out with model {info.name}, which begins with noise only")
    asked = {"image": ("image",), "mask": ("image", "mask_image")}.get(settings.start, ()) if takes else ()
    for name in asked:
        if name not in files:
            raise ValueError(
                f"{name} must be given again for start {settings.start!r}, got none: settings hold no image"
            )
    if "image" not in files:
        if files:
            raise ValueError("mask_image must be left out without an image")
        return None
    upload = read(files["image"])
    mask = read_mask(files["mask_image"], upload, info.shape) if "mask_image" in files else None
    return start_of(upload, mask, info.shape)


def _start_problems(given: dict[str, Any], settings: Settings, catalogue: Catalogue) -> dict[str, str]:
    """What is wrong with the files, by parameter, with which each message begins."""
    try:
        _start(given, settings, catalogue)
    except ValueError as error:
        return {str(error).split()[0]: str(error)}
    return {}


def _chosen(values: dict[str, Any], defaults: dict[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Without the defaults of the page's first model, where they do not fit or another model is asked for.

    Gradio's clients fill in what a caller leaves out, with these: another model draws with its own.
    """
    wrong = problems(values, catalogue)
    other = (values.get("model") or defaults["model"]) != defaults["model"]
    named = {name: values.get(name) for name in FIELDS}
    left_out = {name for name, value in named.items() if value == defaults[name] and (other or name in wrong)}
    return {name: value for name, value in named.items() if name not in left_out}
