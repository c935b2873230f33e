"""What the page and /generate give back: images side by side, image files, the status line."""

import math
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from . import image_metadata
from .catalogue import Catalogue, ModelInfo
from .fields import FIELDS
from .previews import enlarged, to_uint8
from .run import PREVIEWS, Frames, Progress
from .settings import Settings

WIDTH = 560  # pixels, about as wide as the page shows the grid
LONGEST_NAME = 60  # letters of a class or a prompt in the name of a file
MOST_BYTES = 180  # of that name: with seed and ending less than the 255 that file systems take
LIVE_WIDTH = 280  # while it denoises: a quarter of the pixels to compress per step, shown at the same size


def grid(images: np.ndarray, width: int = WIDTH) -> Image.Image:
    """Tile (N, H, W, C) uint8, C of 1 or 3, into a near square of about `width`, enlarged without smoothing.

    Each pixel becomes a square of a whole number of pixels, at least 1. Between the images is a gap as wide as one of
    these squares, transparent, so that the page's background shows.
    """
    count, height, across, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = max(1, width // (columns * (across + 1) - 1))
    sheet = np.zeros((rows, height + 1, columns, across + 1, channels + 1), np.uint8)
    for i, image in enumerate(images):
        sheet[i // columns, :height, i % columns, :across, :-1] = image
        sheet[i // columns, :height, i % columns, :across, -1] = 255
    flat = sheet.reshape(rows * (height + 1), columns * (across + 1), channels + 1)[:-1, :-1]
    return Image.fromarray(flat.repeat(scale, axis=0).repeat(scale, axis=1), {1: "LA", 3: "RGBA"}[channels])


def live(progress: Progress, view: str) -> Image.Image:
    """A step of a run as the page shows it while the run goes on."""
    return viewed(lambda kind: enlarged(progress.preview[kind], progress.scale), view, LIVE_WIDTH)


def looked_back(frames: Frames, position: int, view: str) -> Image.Image:
    """What is kept at a position: the final images, or a step."""
    if position >= len(frames.steps):
        return grid(frames.final)
    return viewed(partial(frames.image, position), view)


def viewed(images: Callable[[str], np.ndarray], view: str, width: int = WIDTH) -> Image.Image:
    """The sheet of one of the kinds of `PREVIEWS`, (N, H, W, C) uint8 each, or the noisy one left of the predicted."""
    if view in PREVIEWS:
        return grid(images(view), width)
    predicted, noisy = (grid(images(kind), width // 2) for kind in PREVIEWS)
    return side_by_side(noisy, predicted)


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two sheets of one size, with a transparent gap as wide as a twentieth of one."""
    gap = max(2, left.width // 20)
    both = Image.new(left.mode, (2 * left.width + gap, left.height))
    both.paste(left, (0, 0))
    both.paste(right, (left.width + gap, 0))
    return both


def opening(info: ModelInfo) -> Image.Image:
    """What the page shows before the model is loaded: its samples or, without any, noise such as a run starts from."""
    if info.samples:
        return Image.open(info.samples)
    noise = np.random.default_rng(0).normal(size=(FIELDS["count"].default, *info.shape))
    return grid(to_uint8((noise / 2 + 0.5).clip(0, 1)))


def files(settings: Settings, catalogue: Catalogue, progress: Progress, folder: Path) -> list[tuple[str, str]]:
    """Write each image as a PNG that holds its own settings: (path, caption)."""
    info, classes = catalogue[settings.model], settings.classes(catalogue[settings.model])
    written = []
    for i, image in enumerate(progress.images):
        told = settings.prompt if settings.has("prompt", info) else ""
        name = info.class_names[classes[i]] if classes else told or settings.model
        own = settings.of_image(i)
        path = image_metadata.save(image, folder / f"{_stem(name)}-seed-{own.seed}.png", own.as_json())
        written.append((str(path), f"{name} · seed {own.seed}"))
    return written


def _stem(name: str) -> str:
    """A name as the beginning of a file's, whatever its letters and however many."""
    letters = "".join(letter if letter.isalnum() else "-" for letter in name[:LONGEST_NAME].lower())
    return letters.encode()[:MOST_BYTES].decode(errors="ignore")


def told(what: str, why: str) -> str:
    """The status line after something that did not work: what, and why, in words that may come from anywhere."""
    return f'<div role="alert"><p>{escape(f"{what}: {why}")}</p></div>'


def status(text: str, share: float | None = None) -> str:
    """The status line, with a progress bar where `share`, in [0, 1], is given. `text` is shown as it is written."""
    bar = "" if share is None else f'<div class="bar"><i style="width:{100 * share:.0f}%"></i></div>'
    return f'<div role="status" aria-live="polite"><p>{escape(text)}</p>{bar}</div>'


def waiting(before: int) -> str:
    """How many runs come before a visitor's, for the status line."""
    runs = "1 run comes" if before == 1 else f"{before} runs come"
    return status(f"Waiting: {runs} before yours. Stop leaves the queue.", 0.0)


def counted(count: int, noun: str) -> str:
    """A number of things: 1 image, 2 images."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def report(progress: Progress, stopped: bool = False, settings: Settings | None = None) -> str:
    """How far a run is, for the status line: steps, seconds, network evaluations, and of `settings` model and seed."""
    cost = f"{progress.seconds:.1f} s · {counted(round(progress.evaluations), 'network evaluation')} per image"
    cost += f" · {settings.model}, seed {settings.seed}" if settings else ""
    if progress.images is not None:
        unread = [
            f" · not read of the {name}, as it is unknown or too long: {_shortened(text)}"
            for name, text in progress.unread.items()
        ]
        return status(f"Drawn in {counted(progress.num_steps, 'step')} · {cost}{''.join(unread)}", 1.0)
    start = "Stopped after step" if stopped else "Step"
    stage = f" ({progress.stage})" if progress.stage else ""
    text = f"{start} {progress.index} of {progress.num_steps}{stage} · {cost}"
    return status(text, progress.index / progress.num_steps)


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
