"""Inpainting by replacement and with RePaint's resampling: against the exact answer, and the seam on real images.

    python -m benchmarks.inpainting --output inpainting

First on Gaussian data, of which the exact denoiser and the exact distribution of what is drawn, given what is kept, are
known: how far of the way to its mean the drawn values lean, and the largest error of their covariance. Then on test
images of each model under five masks: the mean step between neighbouring pixels across the border of the mask, inside
what is drawn, and across the border in the image itself; a seam is a step that is larger than the image's own. A sheet
of images for each model is written into the folder `--output`.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.table import Row, check_at_least, command_line, table
from pipelines import GaussianMixture, LinearPath, NoiseSchedule
from pipelines.ddim import ddim_steps
from pipelines.ddpm import ancestral_steps
from pipelines.flow_matching import flow_steps, shifted_times
from pipelines.repaint import Inpainting, levels_of, steps_from_image
from pipelines.run import Step
from training.data import ImageData, load_images
from training.evaluation.sampling import open_model
from training.evaluation.sheets import Cell, sheet
from training.recipes import flag

MODELS = ["model_cards/fashion-ddpm", "model_cards/fashion-cfg", "model_cards/fashion-flow"]
MASKS = ("centre", "left half", "strokes", "every second row", "one pixel")
# values 0 and 1 are drawn, 2 is kept
MEAN = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.6, 0.5], [0.6, 0.8, 0.55], [0.5, 0.55, 0.9]], dtype=torch.float64)
KEPT, SAMPLES = 1.4, 4000
COLUMNS = 4  # of a sheet


@dataclass
class Options:
    """The flags of the command."""

    models: list[str] = field(default_factory=lambda: list(MODELS))
    dataset_name: str = flag("data/fashion", "what the models were trained on, a Hub id or a folder of parquet")
    images: int = flag(8, "test images per mask")
    steps: int = flag(25, "steps of each run")
    jump_length: int = flag(3, "how many steps each jump back goes")
    jump_n_samples: list[int] = field(default_factory=lambda: [1, 4, 10])
    exact_steps: int = flag(50, "steps on Gaussian data; 0 leaves them out")
    seed: int = flag(0, "seed of masks and noise")
    output: str | None = flag(None, "write a sheet of images for each model into this folder")
    json: str | None = flag(None, "write the numbers to this file")

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot work, naming the flag."""
        check_at_least(self, images=1, steps=2, jump_length=1, exact_steps=0)
        for each in self.jump_n_samples:
            if each < 1:
                raise ValueError(f"jump_n_samples must be at least 1, got {each}")


# --------------------------------------------------------------------------------------------------- the exact answer


def conditioned() -> tuple[Tensor, Tensor]:
    """Mean (2,) and covariance (2, 2) of what is drawn, given what is kept: S_11 - S_12 S_22^-1 S_21."""
    gain = COVARIANCE[:2, 2:] / COVARIANCE[2, 2]
    return MEAN[:2] + gain[:, 0] * (KEPT - MEAN[2]), COVARIANCE[:2, :2] - gain @ COVARIANCE[2:, :2]


def exact_run(method: str, count: int, kept: Inpainting, seed: int) -> Iterator[Step]:
    """The steps of a sampler on the Gaussian's exact denoiser, from noise (SAMPLES, 3, 1, 1)."""
    data, generator = GaussianMixture(MEAN[None, :, None, None], covariances=COVARIANCE[None]), torch.Generator()
    generator.manual_seed(seed)

    def noise() -> Tensor:
        return torch.randn(SAMPLES, 3, 1, 1, generator=generator, dtype=torch.float64)

    if method == "flow":
        path, times = LinearPath(), shifted_times(count)
        velocity = data.denoiser(path, "flow_prediction")
        levels = levels_of(path, times[:-1])
        return steps_from_image(
            lambda x, taken: flow_steps(velocity, x, times[taken:], path), noise(), levels, noise, None, kept
        )
    whole = NoiseSchedule.cosine(1000)
    schedule = whole.respace(whole.spaced_timesteps(count))
    loops = {"DDPM": partial(ancestral_steps, variance="fixed_large"), "DDIM": ddim_steps}  # large: of broad data
    loop, denoiser = loops[method], data.denoiser(whole)

    def begin(x: Tensor, taken: int) -> Iterator[Step]:
        return loop(denoiser, x, schedule.respace(range(count - taken)), noise=noise)

    return steps_from_image(begin, noise(), levels_of(schedule, torch.arange(count).flip(0)), noise, None, kept)


def exact_row(method: str, count: int, jump_length: int, jump_n_sample: int, seed: int) -> Row:
    """How near the drawn values come to their exact distribution."""
    y, mask = torch.full((1, 3, 1, 1), KEPT, dtype=torch.float64), torch.tensor([True, True, False]).reshape(1, 3, 1, 1)
    for step in exact_run(method, count, Inpainting(y, mask, jump_length, jump_n_sample), seed):
        last = step
    drawn, (mean, covariance) = last.prev_sample[:, :2, 0, 0], conditioned()
    way = ((drawn.mean(0) - MEAN[:2]) / (mean - MEAN[:2])).mean()
    error = (torch.cov(drawn.T) - covariance).abs().max()
    return {
        "kind": "exact",
        "method": method,
        "jump_n_sample": jump_n_sample,
        "evaluations": last.num_steps,
        "mean_of_the_way": float(way),
        "covariance_error": float(error),
    }


# -------------------------------------------------------------------------------------------------------- real images


def mask_named(name: str, height: int, width: int, seed: int) -> np.ndarray:
    """bool (H, W), True where the image is drawn anew."""
    mask = np.zeros((height, width), bool)
    if name == "centre":
        mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    elif name == "left half":
        mask[:, : width // 2] = True
    elif name == "every second row":
        mask[1::2] = True
    elif name == "one pixel":
        mask[height // 2, width // 2] = True
    else:
        ends = np.random.default_rng(seed).uniform(0, 1, (4, 2, 2)) * (width, height)
        image = Image.new("L", (width, height))
        for line in ends:
            ImageDraw.Draw(image).line([tuple(end) for end in line], 255, max(2, width // 9))
        mask = np.asarray(image) > 0
    return mask


def seams(images: np.ndarray, mask: np.ndarray) -> tuple[float | None, float | None]:
    """Mean absolute difference of neighbouring pixels across the border of a mask (H, W), and inside of it; None
    without such neighbours. Images are (N, H, W, C) in [0, 1]."""
    across, inside = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(images, axis=axis + 1)).mean(-1)
        near, far = np.split(np.stack([mask, np.roll(mask, -1, axis)]), 2)
        near, far = (np.delete(side[0], -1, axis) for side in (near, far))
        across.append(steps[:, near != far].ravel())
        inside.append(steps[:, near & far].ravel())
    return tuple(float(np.concatenate(found).mean()) if sum(map(len, found)) else None for found in (across, inside))


def takes(pipe: Any, name: str) -> bool:
    """Whether a pipeline has this argument."""
    return name in inspect.signature(type(pipe).__call__).parameters


def told(pipe: Any, data: ImageData, chosen: np.ndarray) -> dict[str, Any]:
    """What the model is told of the images `chosen`: captions, classes, or how many."""
    if getattr(pipe, "takes_prompts", False) and data.captions:
        return {"prompt": data.captions_of(chosen, torch.zeros(len(chosen)))}
    if pipe.num_classes and data.labels is not None:
        return {"class_labels": data.labels[chosen].tolist()}
    return {"batch_size": len(chosen)}


def model_rows(model: str, options: Options) -> list[Row]:
    """The seam of each method under each mask, and the sheet."""
    pipe = open_model(model, torch.float32).pipe
    pipe.set_progress_bar_config(disable=True)
    if not takes(pipe, "mask_image"):
        raise ValueError(f"models must take mask_image, {model} does not")
    channels, height, width = pipe.facts.image_shape
    data = load_images(dataset_name=options.dataset_name, split="test", resolution=height, channels=channels)
    chosen = np.tile(np.arange(min(options.images, len(data.images))), len(MASKS))  # mask by mask
    images = data.images[chosen].transpose(0, 2, 3, 1).astype(np.float32) / 255
    masks = np.stack([mask_named(name, height, width, options.seed) for name in MASKS])
    each = masks.repeat(len(chosen) // len(MASKS), axis=0)
    given = told(pipe, data, chosen) | {"image": images, "mask_image": each.astype(np.float32)}
    given |= {"num_inference_steps": options.steps, "output_type": "np"}
    found, rows = {}, []
    for r in options.jump_n_samples if takes(pipe, "jump_n_sample") else [1]:
        jumps = {"jump_length": options.jump_length, "jump_n_sample": r} if takes(pipe, "jump_n_sample") else {}
        generators = [torch.Generator().manual_seed(options.seed + i) for i in range(len(images))]
        output = pipe(**given, **jumps, generator=generators)
        found[r] = output.images
        for number, name in enumerate(MASKS):
            those = slice(number * len(images) // len(MASKS), (number + 1) * len(images) // len(MASKS))
            row = {"kind": "images", "model": Path(model).name, "mask": name, "jump_n_sample": r}
            measured = seam_row(output.images[those], images[those], masks[number])
            rows.append(row | {"evaluations": output.nfe} | measured)
    if options.output is not None:
        write_sheet(Path(options.output) / f"{Path(model).name}.png", images, each, found)
    return rows


def seam_row(made: np.ndarray, images: np.ndarray, mask: np.ndarray) -> Row:
    """The steps across the border of a mask (H, W) and inside of it, of what was made of images (N, H, W, C)."""
    across, inside = seams(made, mask)
    exact = np.array_equal(np.round(made * 255)[:, ~mask], np.round(images * 255)[:, ~mask])
    return {"across": across, "inside": inside, "own": seams(images, mask)[0], "kept_exactly": exact}


def write_sheet(path: Path, images: np.ndarray, masks: np.ndarray, found: dict[int, np.ndarray]) -> None:
    """A row per mask: images, what is kept of them (the rest grey), and what each method makes of them."""

    def shown(image: np.ndarray) -> np.ndarray:
        return (image.clip(0, 1) * 255).round().astype(np.uint8).transpose(2, 0, 1)

    each = len(images) // len(MASKS)
    columns, cells = min(COLUMNS, each), []
    for i in range(len(images)):
        if i % each < columns:
            known = np.where(masks[i][..., None], 0.5, images[i])
            text = f"{MASKS[i // each]}: the image, what is kept, {', '.join(f'{r}x' for r in found)}"
            cells.append(Cell(tuple(map(shown, (images[i], known, *(made[i] for made in found.values())))), text))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(cells, columns, path.stem).save(path)


def run(options: Options) -> list[Row]:
    """All rows, the exact ones first."""
    rows = []
    if options.exact_steps:
        for method in ("DDPM", "DDIM", "flow"):
            for r in options.jump_n_samples:
                rows.append(exact_row(method, options.exact_steps, options.jump_length, r, options.seed))
    return rows + [row for model in options.models for row in model_rows(model, options)]


def show(rows: list[Row]) -> str:
    """Both tables."""
    exact = [[row["method"], *(_text(row[name]) for name in EXACT)] for row in rows if row["kind"] == "exact"]
    real = [
        [f"{row['model']}, {row['mask']}", *(_text(row[name]) for name in REAL)]
        for row in rows
        if row["kind"] == "images"
    ]
    found = [table(["Gaussian data", *EXACT.values()], exact)] if exact else []
    return "\n\n".join([*found, *([table(["images", *REAL.values()], real)] if real else [])])


EXACT = {
    "jump_n_sample": "runs of each stretch",
    "evaluations": "evaluations",
    "mean_of_the_way": "mean, of the way to the exact one",
    "covariance_error": "covariance, largest error",
}
REAL = {
    "jump_n_sample": "runs of each stretch",
    "evaluations": "evaluations",
    "across": "step across",
    "inside": "inside",
    "own": "across in the image",
    "kept_exactly": "kept exactly",
}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:g}" if isinstance(value, int) else f"{value:.3f}"


def main(arguments: list[str] | None = None) -> list[Row]:
    """The command line; returns the rows of the tables."""
    return command_line(Options, run, show, "benchmarks.inpainting", __doc__, arguments)


if __name__ == "__main__":
    main()
