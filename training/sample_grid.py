"""Grids of samples during a run, drawn with the same seeds each time, so that they show the progress."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

ROWS, COLUMNS, TILE = 4, 10, 56


def sample_grid(pipeline: DiffusionPipeline, seed: int, prompts: Sequence[str] | None = None) -> Image.Image:
    """Four rows of ten samples; each column has one of up to ten prompts, or of the first ten classes if there are."""
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(ROWS * COLUMNS)]
    steps = min(25, pipeline.scheduler.config.num_train_timesteps)
    options = {"num_inference_steps": steps, "generator": generators}
    names = pipeline.class_names
    if prompts:
        wanted = [prompts[i % COLUMNS % len(prompts)] for i in range(ROWS * COLUMNS)]
        images = pipeline(prompt=wanted, guidance_scale=2.0, **options).images
    elif names:
        labels = [i % COLUMNS % len(names) for i in range(ROWS * COLUMNS)]
        images = pipeline(class_labels=labels, guidance_scale=2.0, **options).images
    else:
        images = pipeline(batch_size=ROWS * COLUMNS, **options).images
    return tile(images, COLUMNS, scale=max(1, round(TILE / images[0].width)), gap=2)


def beside(originals: np.ndarray, made: np.ndarray) -> Image.Image:
    """8-bit images (N, C, H, W), each with what was made of it to its right; four pairs a row."""
    pairs = np.stack([originals, made], axis=1).reshape(-1, *originals.shape[1:]).transpose(0, 2, 3, 1)
    images = [Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels) for pixels in pairs]
    return tile(images, 8, scale=max(1, round(TILE / images[0].width)), gap=2)


def tile(images: list[Image.Image], columns: int, scale: int, gap: int = 0) -> Image.Image:
    """Images side by side on white, `gap` pixels apart, each enlarged `scale` times without smoothing."""
    width, height = images[0].width * scale, images[0].height * scale
    rows = -(-len(images) // columns)
    grid = Image.new(images[0].mode, (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        big = image.resize((width, height), Image.Resampling.NEAREST)
        grid.paste(big, (column * (width + gap), row * (height + gap)))
    return grid


def image_path(folder: Path, step: int, name: str = "samples") -> Path:
    """The path at which `keep_images` writes an image of an update."""
    prefix = "" if name == "samples" else f"{name}-"
    return folder / f"{prefix}step-{step:06d}.png"


def keep_images(images: dict[str, Image.Image], folder: Path, step: int, trackers: Sequence[Any]) -> None:
    """Write images to `folder` and log them to accelerate's trackers.

    "samples" becomes step-NNNNNN.png, any other NAME-step-NNNNNN.png. Trackers that cannot log images are skipped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        image.save(image_path(folder, step, name))
    for tracker in trackers:
        if not hasattr(tracker, "log_images"):
            continue
        as_asked = _as_batch if tracker.name == "tensorboard" else _as_list
        tracker.log_images({name: as_asked(image) for name, image in images.items()}, step)


def _as_batch(image: Image.Image) -> np.ndarray:
    """(1, 3, H, W), as tensorboard's writer takes it."""
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)[None]


def _as_list(image: Image.Image) -> list[Image.Image]:
    return [image]
