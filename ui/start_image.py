"""The part of the page where an image is given to begin with, and painted over where it is to be drawn anew."""

from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from .catalogue import Catalogue, ModelInfo
from .fields import FIELDS, NOISE, ROWS
from .settings import Settings
from .uploads import Start, Upload, painted, read, start_of

CANVAS = 512  # pixels along the longest side, about: images of 128 are too small to paint on
HINT = "Paint over what is to be drawn anew; the rest keeps its pixels. Paint nothing, and all of it is drawn over."
ENLARGED = "Draw enlarges it: the stage that draws small images is left out."
EITHER = (
    "Paint over what is to be drawn anew; the rest keeps its pixels. Paint nothing, and the whole image is shrunk to "
    "{width}x{height} and enlarged."
)
AGAIN = (
    "These settings began with an image, which they do not hold. Upload it again; until then, images begin with noise."
)
REMOVE, FROM_NOISE = "Remove the image", "Begin with noise"  # what the button is called
FOLLOWERS = [row.name for row in ROWS if row.only_with[:1] == ("start",)]  # seen where a run begins with an image
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class StartImage:
    """Components and event handlers. What was uploaded is kept for each visitor, and fitted to the model when drawn."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        first = catalogue[catalogue.names[0]]
        self.upload = gr.State(None, time_to_live=24 * 3600)
        with gr.Accordion("Start from an image", open=False, visible=takes_image(first), elem_id="start") as self.box:
            self.note = gr.HTML(visible=False, padding=False, elem_id="start-note")
            self.file = gr.File(label="Image, of any size", file_types=["image"], height=120)
            self.editor = gr.ImageEditor(
                type="pil",
                image_mode="RGBA",
                format="png",
                label="Image to start from",
                show_label=False,
                sources=(),
                transforms=(),
                layers=False,
                brush=gr.Brush(default_size=48, colors=["#7c3aed"], color_mode="fixed"),
                buttons=[],
                height=400,
                visible=False,
                elem_id="start-editor",
            )
            self.remove = gr.Button(REMOVE, size="sm", visible=False, render=False, elem_id="start-remove")

        self.parts = [self.box, self.upload, self.file, self.editor, self.note, self.remove]

    def connect(self, fields: dict[str, Component]) -> None:
        """Events; `fields` are the controls by setting."""
        begun = [fields["start"], *(fields[name] for name in FOLLOWERS)]
        outputs = [*self.parts, *begun]
        self.file.upload(self.receive, [self.file, fields["model"]], outputs, concurrency_limit=2, **QUIET)
        gr.on([self.remove.click, self.editor.clear], self.forget, fields["model"], outputs, queue=False, **QUIET)
        fields["model"].change(
            self.follow_model, [self.upload, fields["model"]], [self.box, self.editor, self.note], queue=False, **QUIET
        )

    @property
    def inputs(self) -> list[Component]:
        """What `given` is made of."""
        return [self.upload, self.editor]

    def given(self, info: ModelInfo, upload: Upload | None, editor: dict[str, Any] | None) -> Start | None:
        """What a run of this model begins with instead of noise.

        Raises:
            gr.Error: an image that the page still shows, but no longer has.
        """
        if not takes_image(info) or (upload is None and not (editor and editor["background"])):
            return None
        if upload is None:
            raise gr.Error("The image to start from is no longer there: upload it again.")
        strokes = painted(editor["layers"]) if editor and info.takes_mask else None
        return start_of(upload, strokes, info.start_shape(strokes is not None))

    # ------------------------------------------------------------------------------------------------------ handlers

    def receive(self, path: str, model: str) -> list[Any]:
        """An upload: shown as the model will see it, or refused."""
        try:
            upload = read(path)
        except ValueError as error:
            refused = gr.update(value=f'<p role="alert">{escape(str(error))}</p>', visible=True)
            return [gr.skip(), None, None, gr.skip(), refused, gr.skip(), *[gr.skip()] * (1 + len(FOLLOWERS))]
        info = self.catalogue[model]
        return [
            gr.skip(),
            upload,
            gr.update(value=None, visible=False),
            gr.update(value=canvas(upload, info), visible=True),
            gr.update(value=note(upload, info), visible=True),
            gr.update(value=REMOVE, visible=True),
            *self.begun("image", model),
        ]

    def forget(self, model: str) -> list[Any]:
        """Back to drawing from noise."""
        return [*self.without(Settings.recalled({"model": model}, self.catalogue)), *self.begun(NOISE, model)]

    def begun(self, kind: str, model: str) -> list[Any]:
        """The setting `start`, and which of its followers are seen."""
        settings = Settings.recalled({"model": model, "start": kind}, self.catalogue)
        seen = [settings.shows(name, self.catalogue[model]) for name in FOLLOWERS]
        return [kind, *(gr.update(visible=each) for each in seen)]

    def without(self, settings: Settings) -> list[Any]:
        """No image, for `parts`. Of settings that ask for one, it says that they do not hold it."""
        info = self.catalogue[settings.model]
        asked = self._asks(settings)
        return [
            gr.update(visible=takes_image(info), **({"open": True} if asked else {})),
            None,
            gr.update(value=None, visible=True),
            gr.update(value=None, visible=False),
            gr.update(value=f"<p>{AGAIN}</p>", visible=asked),
            gr.update(value=FROM_NOISE, visible=asked),
        ]

    def again(self, settings: Settings) -> str:
        """Of settings that ask for an image, what draws the same once more; "" for others."""
        if not self._asks(settings):
            return ""
        what = "an image" if settings.start == "image" else "an image and a mask"
        return f"It began with {what}, which the file does not hold: upload the image again to draw the same."

    def _asks(self, settings: Settings) -> bool:
        return settings.start != NOISE and settings.has("start", self.catalogue[settings.model])

    def follow_model(self, upload: Upload | None, model: str) -> list[Any]:
        """Only models that take an image show this part, and each takes the middle in its own proportions.

        What was painted goes: an editor that was hidden shows it in another place.
        """
        info = self.catalogue[model]
        takes, hidden = takes_image(info), gr.update(value=None, visible=False)
        if upload is None or not takes:
            return [gr.update(visible=takes), hidden, gr.skip()]
        return [gr.update(visible=True), gr.update(value=canvas(upload, info), visible=True), note(upload, info)]


def takes_image(info: ModelInfo) -> bool:
    """Whether a model's pipeline can begin with an image."""
    return FIELDS["start"].is_of(info, info.accepts)


def canvas(upload: Upload, info: ModelInfo) -> dict[str, Any]:
    """The image as the model will see it, enlarged to be painted on."""
    image = start_of(upload, None, info.start_shape(info.takes_mask)).image
    factor = max(1, round(CANVAS / max(image.size)))
    large = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return {"background": large, "layers": [], "composite": None}


def note(upload: Upload, info: ModelInfo) -> str:
    """What was done to the image, and what to do now."""
    height, width, _ = info.start_shape(info.takes_mask)
    done, hint, shown = upload.note(width, height), HINT, "What the model is given"
    if info.enlarges and not info.takes_mask:
        hint = ENLARGED
    elif info.enlarges:
        hint, shown = EITHER.format(height=info.enlarges[0], width=info.enlarges[1]), "What you paint on"
    return f"<p>{hint}</p>" + (f"<p>{shown}: {done}.</p>" if done else "")
