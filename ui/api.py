"""The endpoint /generate for programs: every setting by name, none required."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from . import device, endpoint
from .catalogue import Catalogue, ModelInfo
from .endpoint import explained
from .fields import FIELDS, NOISE, ROWS, Field
from .outputs import files
from .queueing import QUEUE, while_heard
from .run import draw
from .settings import Settings, problems
from .snippet import snippet
from .uploads import Start, read, read_mask, start_of

DOC = """Draw images with a diffusion model. Every argument may be left out.

Answers with the images as PNG files, each with its settings inside; a report as JSON: settings, seconds and network
evaluations per image; and Python that draws them again."""
Answer = tuple[list[tuple[str, str]], str, str]
FILES = {
    "image": "file of an image to begin with, of any size, for a model that takes one: its middle is used",
    "mask_image": "file of a mask, white where the image is to be drawn anew, black where its pixels stay",
}
_PLACE = list(FIELDS).index("strength") + 1  # of the files, between the rows that were there before and newer ones
PARAMETERS = (*list(FIELDS)[:_PLACE], *FILES, *list(FIELDS)[_PLACE:])


def add_endpoint(catalogue: Catalogue) -> None:
    """Add /generate to the current Blocks."""
    defaults, texts = _defaults(catalogue), _texts(catalogue)

    def wrong(given: dict[str, Any]) -> dict[str, str]:
        chosen = _chosen(given, catalogue)
        return problems(chosen, catalogue) or _start_problems(given, Settings.checked(chosen, catalogue), catalogue)

    def generate(given: dict[str, Any]) -> Iterator[Answer]:
        settings = Settings.checked(_chosen(given, catalogue), catalogue)
        yield from _drawn(settings, _start(given, settings, catalogue), catalogue)

    made = {row.name: row.values.api_input(row.name, defaults[row.name]) for row in ROWS}
    made |= {name: gr.File(label=name, type="filepath", visible=False) for name in FILES}
    parameters = {name: explained(made[name], texts[name]) for name in PARAMETERS}
    outputs = [
        gr.Gallery(label="images", format="png", visible=False),
        gr.Textbox(label="report", visible=False),
        gr.Code(label="code", language="python", visible=False),
    ]
    endpoint.add_endpoint("generate", DOC, parameters, wrong, generate, outputs, **QUEUE)


def _drawn(settings: Settings, start: Start | None, catalogue: Catalogue) -> Iterator[Answer]:
    """The answers of a run: how far it is, and last its images."""
    settings = settings.beginning_with(start.kind if start else NOISE)
    with closing(while_heard(draw(settings, catalogue, start, previews=False))) as steps:
        for progress in steps:
            if progress.images is None:  # if the client has gone, Gradio closes this generator at a yield
                yield [], json.dumps({"step": progress.index, "num_steps": progress.num_steps}), ""
    report = settings.as_dict() | {"seconds": round(progress.seconds, 3), "network_evaluations": progress.evaluations}
    report |= {"not_read": progress.unread} if progress.unread else {}
    code = snippet(settings, catalogue[settings.model], device.detect())
    with tempfile.TemporaryDirectory(prefix="stepwise-") as folder:
        yield files(settings, catalogue, progress, Path(folder)), json.dumps(report, ensure_ascii=False), code


def _defaults(catalogue: Catalogue) -> dict[str, Any]:
    """What is drawn with if a setting is left out; None where that depends on the model.

    Clients fill it in for what a caller leaves out, so that each value has to hold for every model.
    """
    found = {row.name: set(_by_model(row, catalogue).values()) for row in ROWS}
    return {name: values.pop() if len(values) == 1 else None for name, values in found.items()} | {
        "model": catalogue.names[0]
    }


def _by_model(row: Field, catalogue: Catalogue) -> dict[str, Any]:
    """The default of each model that has a setting, whatever the others say."""
    infos = [info for info in catalogue.infos.values() if any(row.is_of(info, each) for each in _accepted(info))]
    return {info.name: row.default_of(info) for info in infos}


def _accepted(info: ModelInfo) -> list[frozenset[str]]:
    return [info.accepts, *map(info.arguments_with, info.swaps)]


def _texts(catalogue: Catalogue) -> dict[str, str]:
    """The documentation of each parameter: what it may be, what it does, and what is taken if it is left out."""
    texts = {row.name: row.values.api_text(row.doc or row.info or row.label) for row in ROWS}
    return FILES | {row.name: texts[row.name] + _unless_given(row, catalogue) for row in ROWS}


def _unless_given(row: Field, catalogue: Catalogue) -> str:
    by_value: dict[Any, list[str]] = {}
    for name, value in _by_model(row, catalogue).items():
        by_value.setdefault(catalogue.names[0] if row.name == "model" else value, []).append(name)
    if len(by_value) < 2:
        return "".join(f"; {value!r} unless given" for value in by_value)
    return f"; unless given {', '.join(f'{value!r} with {_listed(names)}' for value, names in by_value.items())}"


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _start(given: dict[str, Any], settings: Settings, catalogue: Catalogue) -> Start | None:
    """What the run begins with; None for noise.

    Raises:
        ValueError: files that cannot be used, or that settings ask for and the caller left out, by parameter.
    """
    files, info = {name: given[name] for name in FILES if given.get(name)}, catalogue[settings.model]
    takes = settings.has("start", info)
    if files and not takes:
        raise ValueError(f"{next(iter(files))} must be left out with model {info.name}, which takes none here")
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
    if "mask_image" in files and not info.takes_mask:
        raise ValueError(f"mask_image must be left out with model {info.name}, which only enlarges the image")
    upload = read(files["image"])
    mask = read_mask(files["mask_image"], upload, info.shape) if "mask_image" in files else None
    return start_of(upload, mask, info.start_shape(mask is not None))


def _start_problems(given: dict[str, Any], settings: Settings, catalogue: Catalogue) -> dict[str, str]:
    """What is wrong with the files, by parameter, with which each message begins."""
    try:
        _start(given, settings, catalogue)
    except ValueError as error:
        return {str(error).split()[0]: str(error)}
    return {}


def _chosen(values: dict[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Without defaults of the page's first model that do not fit another one, or that it has no use for: clients send
    them for what a caller leaves out, and programs what they once read."""
    defaults, wrong = Settings.checked({}, catalogue).as_dict(), problems(values, catalogue)
    model = values.get("model") or defaults["model"]
    sent = [row for row in ROWS if values.get(row.name) == defaults[row.name]]
    left_out = {row.name for row in sent if row.name in wrong or model not in [*_by_model(row, catalogue)]}
    return {name: values.get(name) for name in FIELDS if name not in left_out}
