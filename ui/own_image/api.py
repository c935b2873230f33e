"""The endpoints /own_image and /own_image_over_t for programs: what the tab "Your image" shows, nothing required."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from .. import endpoint
from ..catalogue import Catalogue, ModelInfo
from ..queueing import QUEUE, while_heard
from ..uploads import Upload, read
from .fields import FIELDS
from .process import Whole, follow, look
from .samples import OWN, given
from .settings import Settings, checked, defaults, fitting, problems
from .shown import class_of

# one evaluation of the network: it need not wait for runs that are drawn
LIMITS: dict[str, Any] = {"concurrency_id": "own-image", "concurrency_limit": 1}
FILE = "file"
LOOK_DOC = """Look at an image under a model at one t: noised, predicted, and one step back.

Every argument may be left out. Answers with x_0, x_t, the predicted x_0, the predicted noise (halved) and the step back
as PNG files; and a report as JSON."""
FOLLOW_DOC = """Follow an image over all t, then by DDIM inversion to noise and back.

Every argument may be left out. Answers with images of the way to noise and of the way back as PNG files, at the end
what returned; and a report as JSON: L_t in bits/dim, the error of the predicted x_0 and the classifier's opinion, each
at its t, L_T, and the error of what returned. While it goes on, the report says how far it is."""
LOOKED_AT = ("model", "image", "t", "back", "eta", "class_name", "seed")
FOLLOWED = ("model", "image", "class_name", "steps", "seed")
REPORTED = ("timesteps", "losses", "errors", "prior", "noise_std", "return_error")
Answer = tuple[list[tuple[np.ndarray, str]], str]


def add_endpoints(catalogue: Catalogue) -> None:
    """Add both to the current Blocks; nothing where no model denoises pixels on a noise schedule."""
    models = fitting(catalogue)
    if not models:
        return

    def wrong(values: dict[str, Any]) -> dict[str, str]:
        return problems(_named(values), catalogue) or _file_problems(values, catalogue)

    def at_one_t(values: dict[str, Any]) -> Answer:
        settings, upload = _read(values, catalogue)
        info = catalogue[settings.model]
        found = look(settings, catalogue, given(settings.image, upload, info))
        numbers = {"a": found.a, "b": found.b, "s": found.s, "error": found.error, "loss": found.loss}
        report = {"settings": settings.as_dict()} | numbers | {"opinion": _by_class(found.opinion, info)}
        return [(pixels.squeeze(), name) for name, pixels in found.images.items()], json.dumps(report)

    def over_t(values: dict[str, Any]) -> Iterator[Answer]:
        settings, upload = _read(values, catalogue)
        info = catalogue[settings.model]
        with closing(while_heard(follow(settings, catalogue, given(settings.image, upload, info)))) as steps:
            for whole in steps:
                if whole.done < whole.total:  # if the client has gone, Gradio closes this generator at a yield
                    yield [], json.dumps({"step": whole.done, "num_steps": whole.total})
        yield _images_of(whole), json.dumps(_report_of(whole, settings, info))

    start = defaults(catalogue, models[0])
    looked_at, followed = (_parameters(names, models, start) for names in (LOOKED_AT, FOLLOWED))
    endpoint.add_endpoint("own_image", LOOK_DOC, looked_at, wrong, at_one_t, _outputs(), **LIMITS)
    endpoint.add_endpoint("own_image_over_t", FOLLOW_DOC, followed, wrong, over_t, _outputs(), **QUEUE)


def _parameters(names: tuple[str, ...], models: list[str], start: dict[str, Any]) -> dict[str, Component]:
    unless = {"model": f"{start['model']!r}, one of {', '.join(models)},"}
    unless["image"] = f"the file, or else {start['image']!r},"
    made = {name: endpoint.parameter(FIELDS[name], None, unless.get(name, "")) for name in names}
    file = gr.File(label=FILE, type="filepath", visible=False)
    return made | {FILE: endpoint.explained(file, "file of an image of your own, of any size: its middle is used")}


def _outputs() -> list[Component]:
    return [gr.Gallery(label="images", format="png", visible=False), gr.Textbox(label="report", visible=False)]


def _named(values: dict[str, Any]) -> dict[str, Any]:
    """A file alone is the image."""
    return values | {"image": OWN} if values.get(FILE) and values.get("image") is None else values


def _file_problems(values: dict[str, Any], catalogue: Catalogue) -> dict[str, str]:
    try:
        _read(values, catalogue)
    except ValueError as error:
        return {FILE: str(error)}
    return {}


def _read(values: dict[str, Any], catalogue: Catalogue) -> tuple[Settings, Upload | None]:
    """Raises ValueError for settings that cannot work, and for a file that is missing, too many or no image."""
    settings, file = checked(_named(values), catalogue), values.get(FILE)
    if file and settings.image != OWN:
        raise ValueError(f"{FILE} must be left out with image {settings.image!r}")
    if not file and settings.image == OWN:
        raise ValueError(f"{FILE} must be given with image {OWN!r}, got none")
    return settings, read(file, FILE) if file else None


def _images_of(whole: Whole) -> list[tuple[np.ndarray, str]]:
    on_the_way = [(pixels, f"{way}, t = {t}") for way in ("up", "down") for t, pixels in getattr(whole, way)]
    return [(pixels.squeeze(), caption) for pixels, caption in [*on_the_way, (whole.returned, "returned")]]


def _report_of(whole: Whole, settings: Settings, info: ModelInfo) -> dict[str, Any]:
    opinions = [_by_class(each, info) for each in whole.opinions]
    numbers = {name: getattr(whole, name) for name in REPORTED}
    return {"settings": settings.as_dict()} | numbers | {"opinions": opinions}


def _by_class(probabilities: list[float], info: ModelInfo) -> dict[str, float]:
    return {class_of(info, label): value for label, value in enumerate(probabilities)}
