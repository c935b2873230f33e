"""Draw fixed prompts, or classes, at several guidance scales as one image, or beside the nearest training images.

    python -m training.contact_sheet model_cards/emoji-latent --guidance_scale 1 3 6
    python -m training.contact_sheet model_cards/emoji-latent --adapter runs/mine --strength 0 0.5 1
    python -m training.contact_sheet model_cards/emoji-latent --dataset_name data/emoji \\
        --prompts training/data/emoji/unseen_prompts.txt --guidance_scale 3

The first writes guidance_sheet.png beside the model: each prompt of a list, with the images of one seed at each scale
next to each other. A model of classes draws the same number of seeds of each class. The second one writes strengths.png
beside an adapter (LoRA) of the model, with the images of each strength next to each other. The third one, given the
data set that the model was trained on, writes nearest_sheet.png: each image beside the two training images nearest to
it in EfficientNet's features, with the ratio of the two distances, which is near 0 for a copy.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import HfArgumentParser

from training.command_line import parse_dataclasses
from training.data import ImageData
from training.data.cache import default_cache_dir
from training.evaluation.cached_features import extract_cached
from training.evaluation.checks import dimensions
from training.evaluation.options import DTYPES, OWN_CODE, check_scales, chosen_dtype, dtype_of, flag, one_of
from training.evaluation.prepare import default_output
from training.evaluation.real_images import load_trained_on
from training.evaluation.results import key_of
from training.evaluation.sampling import SCHEDULERS, Model, at_strengths, draw_batch, open_model
from training.evaluation.sheets import SHOWN, Cell, choose, neighbour_cell, png_bytes, sheet, with_seed
from training.files import write_whole
from training.metrics.feature_memorization import two_nearest
from training.metrics.feature_nets import EFFICIENTNET, open_features
from training.metrics.features import extract

PROMPTS = Path(__file__).parent / "data" / "emoji" / "prompts.txt"
COLUMNS = 4  # of the sheet


@dataclass
class Options:
    """The options of the command."""

    prompts: str | None = flag(
        None, "a text file with a prompt on each line, for a model that is told prompts [64 of emoji]"
    )
    guidance_scale: list[float] | None = flag(None, "one or more [1 3 6; with dataset_name 3]")
    adapter: str | None = flag(None, "the folder or the Hub id of an adapter (LoRA) of the model")
    strength: list[float] | None = flag(None, "strengths of the adapter, one or more [0 0.5 1]")
    num_inference_steps: int = flag(20, "sampling steps")
    scheduler: str | None = flag(None, f"{', '.join(SCHEDULERS)} [the model's own]")
    seed: int = flag(0, "of the first image; image k has seed + k, at every scale")
    dtype: str | None = dtype_of("model")
    batch_size: int = flag(16, "images per batch")
    dataset_name: str | None = flag(None, "the images that the model was trained on, to show the nearest of them")
    train_split: str = flag("train", "their split")
    output: str | None = flag(None, "the PNG to write [guidance_sheet.png or nearest_sheet.png in the model's folder]")

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is not allowed."""
        self.dtype = chosen_dtype(self.dtype)
        if self.scheduler is not None:
            self.scheduler = one_of("scheduler", self.scheduler, list(SCHEDULERS))
        for name, low in {"num_inference_steps": 1, "batch_size": 1, "seed": 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        check_scales(self.guidance_scale)
        if self.strength and self.adapter is None:
            raise ValueError(f"strength goes with adapter, which was not given, got {self.strength}")
        if self.adapter is not None and (self.dataset_name is not None or len(self.guidance_scale or []) > 1):
            raise ValueError("adapter goes without dataset_name, and with one guidance_scale [3]")
        if self.dataset_name is not None and len(self.guidance_scale or []) > 1:
            raise ValueError(f"guidance_scale must be one number beside dataset_name, got {self.guidance_scale}")


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        ValueError: it is no text file, or says nothing.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompts must be a text file in UTF-8, got {str(path)!r}: {error}") from error
    found = [line for line in lines if line]
    if not found:
        raise ValueError(f"prompts must be a text file with a prompt on each line, got {str(path)!r}, which is empty")
    return found


@dataclass(frozen=True)
class Wanted:
    """What is drawn: images by their numbers, whose conditions the model knows, and the words below each."""

    numbers: list[int]
    texts: list[str]


def wanted(model: Model, options: Options) -> Wanted:
    """The prompts of the list, or the same number of seeds of each class, or seeds alone.

    Raises:
        ValueError: prompts for a model that is told none.
    """
    if model.is_told_prompts:
        prompts = read_prompts(Path(options.prompts) if options.prompts else PROMPTS)
        model.prompts = tuple(prompts)
        return Wanted(list(range(len(prompts))), prompts)
    if options.prompts:
        raise ValueError(f"prompts must be left out: {model.name} is told none, it has no text_encoder")
    told = model.told or ("",)
    count = -(-SHOWN // len(told)) * len(told)
    numbers, _ = choose(min(count, max(SHOWN, len(told))), len(told), is_grid=True)
    return Wanted(numbers, [with_seed(told[k % len(told)], options.seed + k) for k in numbers])


def draw(model: Model, numbers: Sequence[int], options: Options, scale: float | None) -> np.ndarray:
    """The images with these numbers at a guidance scale, 8-bit (N, C, H, W)."""
    settings = {"num_inference_steps": options.num_inference_steps}
    settings |= {} if scale is None else {"guidance_scale": scale}
    parts = [numbers[start : start + options.batch_size] for start in range(0, len(numbers), options.batch_size)]
    return np.concatenate([draw_batch(model, part, options.seed, **settings).pixels for part in parts])


def scales_of(model: Model, options: Options) -> list[float | None]:
    """The guidance scales to draw at; [None] for a model that is not guided.

    Raises:
        ValueError: a scale for such a model.
    """
    if "guidance_scale" in model.arguments:
        alone = options.dataset_name is not None or options.adapter is not None
        return options.guidance_scale or ([3.0] if alone else [1.0, 3.0, 6.0])
    if options.guidance_scale:
        raise ValueError(f"guidance_scale must be left out: {type(model.pipe).__name__} does not take it")
    return [None]


def load_train(model: Model, options: Options) -> ImageData:
    """The training images. Raises ValueError if they are not of the size that the model draws."""
    data = load_trained_on(options.dataset_name, options.train_split, None, model.folder)
    if data.images.shape[1:] != model.shape:
        raise ValueError(
            f"model and dataset_name must agree in size: {model.name} draws {dimensions(model.shape)}, "
            f"{options.dataset_name} has {dimensions(data.images.shape[1:])}"
        )
    return data


def nearest_cells(pixels: np.ndarray, texts: list[str], train: ImageData) -> list[Cell]:
    """Each image (C, H, W) beside the two training images nearest to it; prompts that were trained on are marked."""
    network = open_features(EFFICIENTNET)
    known, _ = extract_cached(network, train.images, train.fingerprint, default_cache_dir(), "training images")
    found = two_nearest(extract(network, pixels, "samples")[0], known)
    said = ([each] if isinstance(each, str) else each for each in train.captions or ())
    captions = {caption.lower() for several in said for caption in several}
    told = [f"{text} (a training caption)" if text.lower() in captions else text for text in texts]
    return [neighbour_cell(k, pixels, train.images, found, text) for k, text in enumerate(told)]


def run(location: str, options: Options) -> Path:
    """Draw, write the sheet and return its path."""
    model = open_model(location, DTYPES[options.dtype])
    model.use_scheduler(options.scheduler, options.num_inference_steps)
    asked, scales = wanted(model, options), scales_of(model, options)
    train = None if options.dataset_name is None else load_train(model, options)
    strengths = options.strength or [0.0, 0.5, 1.0]
    if options.adapter is None:
        drawn = [draw(model, asked.numbers, options, scale) for scale in scales]
    else:
        drawn = [
            draw(model, asked.numbers, options, scales[0]) for _ in at_strengths(model, options.adapter, strengths)
        ]
    note = key_of(
        {
            "model": model.name,
            "scheduler": model.scheduler,
            "num_inference_steps": options.num_inference_steps,
            "guidance_scale": " ".join(f"{scale:g}" for scale in scales if scale is not None) or None,
            "strength": " ".join(f"{strength:g}" for strength in strengths) if options.adapter else None,
            "seed": options.seed,
            "dtype": options.dtype,
        }
    )
    if train is None:
        cells = [Cell(images, text) for images, text in zip(zip(*drawn, strict=True), asked.texts, strict=True)]
        name, title = "strengths.png" if options.adapter else "guidance_sheet.png", note
    else:
        cells = nearest_cells(drawn[0], asked.texts, train)
        name, title = "nearest_sheet.png", f"drawn | nearest | second-nearest training image. {note}"
    path = Path(options.output) if options.output else default_output(options.adapter or location).with_name(name)
    write_whole(path, png_bytes(sheet(cells, COLUMNS, title), note))
    return path


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = HfArgumentParser(Options, prog="python -m training.contact_sheet", description=__doc__.splitlines()[0])
    parser.add_argument("model", help=f"a pipeline's folder or Hub id. {OWN_CODE}")
    try:
        options, rest = parse_dataclasses(parser, sys.argv[1:] if arguments is None else arguments)
        print(f"written to {run(rest.model, options)}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
