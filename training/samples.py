"""Grids of samples, as a run goes on: the same seeds each time, so that progress shows."""

import torch
from diffusers import DiffusionPipeline
from PIL import Image

ROWS, COLUMNS, TILE = 4, 10, 56


def sample_grid(pipeline: DiffusionPipeline, seed: int, guidance_scale: float = 2.0) -> Image.Image:
    """Four rows of ten pictures, for a class-conditional pipeline one class a column (the first ten classes)."""
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(ROWS * COLUMNS)]
    steps = min(25, pipeline.scheduler.config.num_train_timesteps)
    options = {"num_inference_steps": steps, "generator": generators}
    names = pipeline.class_names
    if names:
        labels = [i % COLUMNS % len(names) for i in range(ROWS * COLUMNS)]
        images = pipeline(class_labels=labels, guidance_scale=guidance_scale, **options).images
    else:
        images = pipeline(batch_size=ROWS * COLUMNS, **options).images
    return tile(images, COLUMNS, TILE)


def tile(images: list[Image.Image], columns: int, size: int) -> Image.Image:
    """Pictures side by side on white, each enlarged by a whole factor to about `size` pixels, without smoothing."""
    factor = max(1, round(size / images[0].width))
    width, height = images[0].width * factor, images[0].height * factor
    rows, gap = -(-len(images) // columns), 2
    grid = Image.new(images[0].mode, (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        big = image.resize((width, height), Image.Resampling.NEAREST)
        grid.paste(big, (column * (width + gap), row * (height + gap)))
    return grid
