"""The runs of a visitor's session: a tile for each earlier one, which opens large, and all images as a ZIP."""

import hashlib
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.processing_utils import save_pil_to_cache
from PIL import Image

from . import image_metadata
from .outputs import LIVE_WIDTH, counted, grid
from .viewer import Files, Viewer

KEPT = 24  # runs
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
FETCH = """() => setTimeout(() => document.querySelector("#zip-file")?.click(), 300)"""


@dataclass(frozen=True)
class Run:
    """What is kept of a run: its digest and settings, the files of its images, and one of all of them side by side."""

    digest: str
    settings: dict[str, Any]
    files: tuple[tuple[str, str | None], ...]
    tile: str

    @property
    def is_there(self) -> bool:
        """Whether its files are: the page deletes them after an hour."""
        return all(Path(path).is_file() for path in (self.tile, *(path for path, _ in self.files)))


class History:
    """The part of the page below the images, made in the current block."""

    def __init__(self) -> None:
        self.runs = gr.State([], time_to_live=3600)
        with gr.Accordion("Runs of this session", open=False, visible=False, elem_id="history") as self.box:
            self.tiles = gr.Gallery(
                label="Earlier runs; a click opens their images",
                format="png",
                columns=6,
                height="auto",
                object_fit="contain",
                allow_preview=False,
                interactive=False,
                buttons=[],
                elem_id="runs",
            )
            self.zip_button = gr.Button("All images as a ZIP", size="sm", elem_id="zip")
            self.zip_file = gr.DownloadButton("ZIP", elem_id="zip-file")  # not seen: FETCH presses it

    def connect(self, gallery: gr.Gallery, viewer: Viewer) -> None:
        """Keep what the gallery shows, and open earlier runs in the viewer."""
        kept = [self.runs, self.box, self.tiles]
        gallery.change(self.keep, [self.runs, gallery], kept, **QUIET).then(viewer.hide, None, viewer.parts, **QUIET)

        def open_image(files: Files | None, event: gr.SelectData) -> Iterator[list[Any]]:
            for parts in viewer.show(files or [], event.index):
                yield [*parts, gr.update(selected_index=None)]

        def open_run(runs: list[Run], files: Files | None, event: gr.SelectData) -> Iterator[list[Any]]:
            for parts in viewer.show(self._earlier(runs, files)[event.index].files, 0):
                yield [*parts, gr.update(selected_index=None)]

        gallery.select(open_image, gallery, [*viewer.parts, gallery], **QUIET)
        self.tiles.select(open_run, [self.runs, gallery], [*viewer.parts, self.tiles], **QUIET)
        self.zip_button.click(self.pack, self.runs, self.zip_file, **QUIET).then(None, js=FETCH, **QUIET)

    def keep(self, runs: list[Run], files: Files | None) -> tuple[list[Run], Any, Any]:
        """Add the run whose images are shown, unless it is there already. Its tile is shown once it no longer is."""
        runs = [run for run in runs if run.is_there]
        if files:
            key, settings = digest(files), image_metadata.read(files[0][0])
            runs = [run for run in runs if run.digest != key]
            runs = [*runs, Run(key, settings, tuple(map(tuple, files)), self._tile(files))][-KEPT:]
        tiles = [(run.tile, caption(run)) for run in self._earlier(runs, files)]
        return runs, gr.update(visible=bool(runs)), gr.update(value=tiles, visible=bool(tiles))

    @staticmethod
    def _earlier(runs: Sequence[Run], shown: Files | None) -> list[Run]:
        """The last one first, but for the one that the page shows."""
        return list(runs[-2::-1] if shown else runs[::-1])

    def _tile(self, files: Files) -> str:
        images = np.stack([pixels(path) for path, _ in files])
        return save_pil_to_cache(grid(images, LIVE_WIDTH), self.tiles.GRADIO_CACHE, format="png")

    def pack(self, runs: list[Run]) -> Iterator[Any]:
        """A ZIP of the images of all runs, a folder for each."""
        with tempfile.TemporaryDirectory(prefix="stepwise-") as folder:
            path = Path(folder) / "stepwise-images.zip"
            with zipfile.ZipFile(path, "w") as packed:
                for number, run in enumerate((run for run in runs if run.is_there), 1):
                    for file, _ in run.files:
                        packed.write(file, f"run-{number:02d}/{Path(file).name}")
            yield gr.update(value=str(path))


def digest(files: Files) -> str:
    """What tells a run from others: the files hold their settings, and those of runs from two images can be equal."""
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path, _ in files)).hexdigest()


def caption(run: Run) -> str:
    """What a run was, in a line."""
    values = run.settings
    sizes = f"{counted(len(run.files), 'image')} · seed {values['seed']} · {counted(values['steps'], 'step')}"
    return f"{values['model']} · {sizes}"


def pixels(path: str) -> np.ndarray:
    """(H, W, C) uint8, C of 1 or 3."""
    with Image.open(path) as image:
        array = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
    return array.reshape(*array.shape[:2], -1)
