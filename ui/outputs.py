"""What the page and the endpoint hand out: image files, the status line, the image that a page opens with."""

from pathlib import Path

import numpy as np
from PIL import Image

from . import defaults, png
from .draw import Progress
from .grid import grid, to_uint8
from .models import Catalogue, ModelInfo
from .settings import Settings


def opening(info: ModelInfo) -> Image.Image:
    """What the page shows before the model is loaded: its samples, or the noise that a run starts from."""
    if info.samples:
        return Image.open(info.samples)
    noise = np.random.default_rng(0).normal(size=(defaults.COUNT, *info.shape))
    return grid(to_uint8((noise / 2 + 0.5).clip(0, 1)))


def files(settings: Settings, catalogue: Catalogue, progress: Progress, folder: Path) -> list[tuple[str, str]]:
    """Write each image as a PNG that holds its own settings: (path, caption)."""
    info, classes = catalogue[settings.model], settings.classes(catalogue[settings.model])
    written = []
    for i, image in enumerate(progress.images):
        name = info.class_names[classes[i]] if classes else settings.model
        stem = "".join(letter if letter.isalnum() else "-" for letter in f"{name} seed {settings.seed + i}").lower()
        own = settings.of_image(i)
        written.append((str(png.save(image, folder / f"{stem}.png", own.as_json())), f"{name} · seed {own.seed}"))
    return written


def status(text: str, share: float | None = None) -> str:
    """The status line, with a bar for the share done in [0, 1] where there is one."""
    bar = "" if share is None else f'<div class="bar"><i style="width:{100 * share:.0f}%"></i></div>'
    return f'<div role="status" aria-live="polite"><p>{text}</p>{bar}</div>'


def report(progress: Progress, verb: str = "") -> str:
    """Where a run stands: steps, seconds, network evaluations."""
    cost = f"{progress.seconds:.1f} s · {progress.evaluations:.0f} network evaluations per image"
    if verb == "Drawn in":
        return status(f"Drawn in {progress.num_steps} steps · {cost}", 1.0)
    step = f"step {progress.index} of {progress.num_steps}"
    return status(f"{verb} {step} · {cost}".strip().capitalize(), progress.index / progress.num_steps)
