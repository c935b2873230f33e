"""One image of a run, large: its class and seed, its settings for a run of its own, and its file in two sizes."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from . import image_metadata
from .catalogue import Catalogue
from .controls import KEEP_SEED, Controls, updates
from .outputs import status
from .settings import Settings

TIMES = 8  # how much larger the larger file is
SMALL = 128  # pixels of a side up to which there is one

Files = Sequence[tuple[str, str | None]]  # (path, caption) of each image of a run


class Viewer:
    """The large image and what stands around it, made in the current block. It takes the place of all images."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.shown = gr.State(([], 0), time_to_live=3600)  # the files of a run, and which of them
        with gr.Column(visible=False, elem_id="viewer") as self.box:
            with gr.Row():
                self.before = gr.Button("Previous", size="sm", min_width=60)
                self.close_button = gr.Button("All images", size="sm", min_width=80)
                self.after = gr.Button("Next", size="sm", min_width=60)
            self.image = gr.Image(
                format="png",
                type="filepath",
                show_label=False,
                interactive=False,
                buttons=["fullscreen"],
                elem_id="large",
            )
            self.text = gr.HTML(padding=False, elem_classes="plain")
            self.use = gr.Button("Use these settings", elem_id="use")
            with gr.Row():
                self.original = gr.DownloadButton("Original", size="sm", min_width=120)
                self.larger = gr.DownloadButton(f"x{TIMES}", size="sm", min_width=120)

    @property
    def parts(self) -> list[Any]:
        """What `show` and `hide` change, in their order."""
        return [self.shown, self.box, self.image, self.text, self.before, self.after, self.original, self.larger]

    def connect(self, controls: Controls, status_line: gr.HTML, draw_button: gr.Button) -> None:
        """Leaf through the images of the run, take over the settings of the one that is shown, make place for a run."""
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self.before.click(self.show_before, self.shown, self.parts, **quiet)
        self.after.click(self.show_after, self.shown, self.parts, **quiet)
        for button in (self.close_button, draw_button):
            button.click(self.hide, None, self.parts, **quiet)
        taken_over = [*controls.settings(), controls.seed_mode, *controls.start.parts, status_line]
        self.use.click(lambda shown: self.take_over(controls, shown), self.shown, taken_over, **quiet)

    def show_before(self, shown: tuple[Files, int]) -> Iterator[list[Any]]:
        """The image before."""
        return self.show(shown[0], shown[1] - 1)

    def show_after(self, shown: tuple[Files, int]) -> Iterator[list[Any]]:
        """The image after."""
        return self.show(shown[0], shown[1] + 1)

    def show(self, files: Files, index: int) -> Iterator[list[Any]]:
        """One of the images of a run. Their files are kept for an hour; later, nothing is shown."""
        files = [(path, caption) for path, caption in files if Path(path).is_file()]
        if not files:
            yield self.hide()
            return
        index = min(max(index, 0), len(files) - 1)
        path, caption = files[index]
        with tempfile.TemporaryDirectory(prefix="stepwise-") as folder, Image.open(path) as image:
            width, height = image.size
            larger = enlarged(path, Path(folder)) if max(width, height) <= SMALL else None
            shape = f"{width} x {height}"
            text = f"<p><b>{escape(caption or '')}</b> · image {index + 1} of {len(files)}</p>"
            yield [
                (files, index),
                gr.update(visible=True),
                gr.update(value=larger or path, alt_text=caption),
                text,
                gr.update(interactive=index > 0),
                gr.update(interactive=index < len(files) - 1),
                gr.update(value=path, label=f"Original, {shape}"),
                gr.update(
                    value=larger,
                    label=f"x{TIMES}, {width * TIMES} x {height * TIMES}",
                    visible=larger is not None,
                ),
            ]

    def hide(self) -> list[Any]:
        """All images again."""
        return [([], 0), gr.update(visible=False), *[gr.skip()] * (len(self.parts) - 2)]

    def take_over(self, controls: Controls, shown: tuple[Files, int]) -> list[Any]:
        """The settings that draw the image alone."""
        files, index = shown
        settings = alone(image_metadata.read(files[index][0]), self.catalogue)
        again = controls.start.again(settings) or "Draw draws it alone."
        said = status(f"Settings of the image with seed {settings.seed}. {again}")
        parts = controls.start.without(settings)
        return [*updates(self.catalogue, settings), KEEP_SEED, *parts, said]


def alone(values: dict[str, Any], catalogue: Catalogue) -> Settings:
    """The settings of an image's file as those of a run of one image, of the class that it shows."""
    settings = Settings.recalled(values, catalogue)
    info, changed = catalogue[settings.model], {"count": 1}
    for index in settings.classes(info)[:1]:
        changed["class_name"] = info.class_names[index]
    return Settings.checked(settings.as_dict() | changed, catalogue)


def enlarged(path: str, folder: Path) -> str:
    """A copy of an image's file with squares for pixels, and the same settings inside."""
    with Image.open(path) as image:
        large = image.resize((image.width * TIMES, image.height * TIMES), Image.Resampling.NEAREST)
    settings = json.dumps(image_metadata.read(path), ensure_ascii=False)
    return str(image_metadata.save(large, folder / f"{Path(path).stem}-x{TIMES}.png", settings))
