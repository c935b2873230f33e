"""How well images show what their prompts ask for, judged by the real images that they look like.

    python -m training.metrics.alignment model_cards/emoji-latent --dataset_name data/emoji --guidance_scale 1 2 3

draws an image for each of 200 prompts of three kinds: captions of training images, captions of test images, whose
concepts were held back, and concepts with hands that never drew them. Each is compared with all real images in the
features of a network, and the nearest one's concept, subgroup, group and vendor with those asked for. Beside them
stand the same shares by chance, of real images reconstructed by the model's autoencoder, where it has one, and of
real images whose own drawing does not count. A colour word in a name is replaced by each of the others, all drawn
from the same noise, and the hue drawn compared with that of real images of the word. The data set needs the columns
of `python -m training.data emoji`; the numbers go to metrics.json.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import HfArgumentParser

from training.command_line import parse_dataclasses
from training.data import ImageData, load_images
from training.data.cache import default_cache_dir
from training.data.hub import Opened
from training.evaluation.cached_features import extract_cached
from training.evaluation.options import (
    DTYPES,
    OWN_CODE,
    check_interval,
    check_scales,
    chosen_dtype,
    dtype_of,
    flag,
    one_of,
    recorded,
)
from training.evaluation.prepare import default_output, own_interval
from training.evaluation.prompts import ASPECTS, COLUMNS, KINDS, Known, Prompt, prompts_of, recoloured
from training.evaluation.results import Row, aligned, find_done, merge, read_rows
from training.evaluation.sampling import SCHEDULERS, Model, draw_batch, find_folder, open_model, short_name
from training.files import weights_hash
from training.machine import versions
from training.metrics.alignment import COLOURS, agreement, chance, dominant_hue, mean_hue, named_hue, nearest
from training.metrics.feature_nets import EFFICIENTNET, open_features
from training.metrics.features import classifier_hash, extract
from training.metrics.reconstruction import reconstruct

SECTION = "alignment"  # of metrics.json


@dataclass
class Options:
    """The options of the command."""

    dataset_name: str = field(metadata={"help": "the images: a folder of parquet or a Hub id, with the columns above"})
    num_prompts: int = flag(200, "prompts of each kind")
    num_inference_steps: int = flag(20, "sampling steps")
    scheduler: str | None = flag(None, f"{', '.join(SCHEDULERS)} [the model's own]")
    guidance_scale: list[float] = field(default_factory=lambda: [3.0], metadata={"help": "one or more"})
    guidance_interval: list[float] | None = flag(
        None, "LOW HIGH, the part of the noise process that is guided, each in [0, 1]; default: that of the model"
    )
    seed: int = flag(0, "of the first image; image k has seed + k")
    dtype: str | None = dtype_of("model")
    batch_size: int = flag(20, "images per batch")
    output: str | None = flag(None, "the file to write [metrics.json in the model's folder]")

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is not allowed."""
        self.dtype = chosen_dtype(self.dtype)
        check_scales(self.guidance_scale)
        check_interval(self.guidance_interval)
        if self.scheduler is not None:
            self.scheduler = one_of("scheduler", self.scheduler, list(SCHEDULERS))
        for name in ("num_prompts", "num_inference_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass
class OneScale(Options):
    """The same, for commands that draw at one guidance scale."""

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is not allowed."""
        super().__post_init__()
        if len(self.guidance_scale) != 1:
            raise ValueError(f"guidance_scale must be one number, got {self.guidance_scale}")


def load_known(options: Options, network: torch.nn.Module) -> tuple[Known, list[str]]:
    """The real images with their features, and the fingerprints of the splits.

    Raises:
        ValueError: no such data, or data without the columns.
    """
    splits = [load_images(dataset_name=options.dataset_name, split=split) for split in ("train", "test")]
    about = [row for split, data in zip(("train", "test"), splits, strict=True) for row in _about(options, split, data)]
    cache_dir = default_cache_dir()
    named = zip(splits, ("training images", "test images"), strict=True)
    features = [extract_cached(network, data.images, data.fingerprint, cache_dir, name)[0] for data, name in named]
    pixels = np.concatenate([data.images for data in splits])
    known = Known(pixels, np.concatenate(features), about, len(splits[0].images))
    return known, [data.fingerprint for data in splits]


def _about(options: Options, split: str, data: ImageData) -> list[Row]:
    dataset = Opened(options.dataset_name, None, split).dataset
    missing = [name for name in COLUMNS if name not in dataset.column_names]
    if missing or data.skipped:
        lacks = f"has no column {', '.join(missing)}" if missing else f"has {data.skipped} images that cannot be read"
        raise ValueError(f"dataset_name must have the columns {', '.join(COLUMNS)}: split {split!r} {lacks}")
    return dataset.select_columns(list(COLUMNS)).to_list()


def hues_of_words(known: Known) -> dict[str, float]:
    """The mean hue in degrees of the training images with each colour word in their name."""
    found: dict[str, list[float]] = {colour: [] for colour in COLOURS}
    for row, colour in _colour_words(known):
        hue = dominant_hue(known.pixels[row])
        if hue is not None:
            found[colour].append(hue)
    return {colour: mean_hue(hues) for colour, hues in found.items() if hues}


def _colour_words(known: Known) -> Iterator[tuple[int, str]]:
    """The rows of training images whose name has one colour word, and that."""
    for row, about in enumerate(known.about[: known.train]):
        named = [colour for colour in COLOURS if re.search(rf"\b{colour}\b", about["name"])]
        if len(named) == 1:
            yield row, named[0]


def draw_prompts(model: Model, texts: list[str], options: Options, scale: float, **more: Any) -> np.ndarray:
    """An image of each prompt, 8-bit (N, C, H, W); `more` is passed to the pipeline's call."""
    model.prompts = tuple(texts)
    starts = range(0, len(texts), options.batch_size)
    chosen = [range(start, min(start + options.batch_size, len(texts))) for start in starts]
    settings = {"num_inference_steps": options.num_inference_steps, "guidance_scale": scale} | more
    settings |= {} if options.guidance_interval is None else {"guidance_interval": tuple(options.guidance_interval)}
    return np.concatenate([draw_batch(model, some, options.seed, **settings).pixels for some in chosen])


def shares(wanted: list[Row], found: np.ndarray, known: Known) -> dict[str, float]:
    """The share of images whose nearest real image has each aspect that was wanted."""
    return {
        aspect: agreement([row[name] for row in wanted], [known.about[i][name] for i in found])
        for aspect, name in ASPECTS.items()
    }


def references(model: Model, network: torch.nn.Module, known: Known, prompts: dict[str, list[Prompt]]) -> Row:
    """What the shares are by chance, of reconstructions if there is an autoencoder, and without the own drawing."""
    found = {}
    for kind, some in prompts.items():
        wanted = [prompt.about for prompt in some]
        by_chance = {
            aspect: chance([row[name] for row in wanted], known.of(aspect)) for aspect, name in ASPECTS.items()
        }
        found[kind] = {"chance": by_chance}
        rows = [prompt.row for prompt in some]
        if None in rows:
            continue
        if getattr(model.pipe, "vae", None) is not None:
            made = reconstruct(model.pipe.vae, known.pixels[rows], 25)
            near = nearest(extract(network, made, "reconstructions")[0], known.features)
            found[kind]["reconstructions"] = shares(wanted, near, known)
        others = nearest(known.features[rows], known.features, without=rows)
        found[kind]["other drawings"] = shares(wanted, others, known)
    hues = hues_of_words(known)
    return found | ({"colours": hues_of_real(known, hues)} if len(hues) > 1 else {})


def measure(model: Model, network: torch.nn.Module, known: Known, options: Options, scale: float) -> Row:
    """The shares of each kind of prompts, and of the colours that were asked for."""
    measured = {}
    for kind, some in prompts_of(known, options.num_prompts).items():
        made = draw_prompts(model, [prompt.text for prompt in some], options, scale)
        near = nearest(extract(network, made, kind)[0], known.features)
        measured[kind] = shares([prompt.about for prompt in some], near, known)
    hues, asked = hues_of_words(known), recoloured(known.about[: known.train], options.num_prompts)
    if asked and len(hues) > 1:
        measured["colours"] = colours(model, asked, hues, options, scale)
    return measured


def colours(
    model: Model, asked: list[tuple[str, str]], hues: dict[str, float], options: Options, scale: float
) -> dict[str, float]:
    """Of images with a colour word: how often its hue is drawn, and of how many names.

    `own` is of the names as they are, `changed` with another word in its place, `both` of all these, and `chance` that
    of whoever draws one hue whatever the word; `different` is how often the hue with another word is not that of the
    name as it is, which is drawn from the same noise.
    """
    drawn = []
    for nth in range(len(COLOURS)):  # the nth word of each name, so that image k always has the noise of name k
        made = draw_prompts(model, [text for text, _ in asked[nth :: len(COLOURS)]], options, scale)
        drawn.append([named_hue(dominant_hue(image), hues) for image in made])
    wanted = [[colour for _, colour in asked[nth :: len(COLOURS)]] for nth in range(len(COLOURS))]
    found, right = np.array(drawn, dtype=object), np.array(drawn, dtype=object) == np.array(wanted, dtype=object)
    return {
        "own": float(right[0].mean()),
        "changed": float(right[1:].mean()),
        "both": float(right.mean()),
        "chance": 1 / len(COLOURS),
        "different": float((found[1:] != found[:1]).mean()),
        "names": len(drawn[0]),
    }


def hues_of_real(known: Known, hues: dict[str, float]) -> dict[str, float]:
    """What real training images with one colour word in their name score as `own`."""
    named = [(row, words) for row, words in _colour_words(known) if words in hues]
    right = [named_hue(dominant_hue(known.pixels[row]), hues) == word for row, word in named]
    return {"real images": float(np.mean(right))}


def run(location: str, options: Options, command: str) -> list[Row]:
    """Measure each guidance scale, print and write; returns the rows of metrics.json."""
    folder = find_folder(location)
    output = Path(options.output) if options.output else default_output(location)
    read_rows(output, SECTION)  # raises for another kind of file now, not after the work
    model = open_model(location, DTYPES[options.dtype])
    if not model.is_told_prompts:
        raise ValueError(f"model must be told prompts, {model.name} is not: it has no text_encoder")
    if model.num_stages > 1 and model.pipe.unet is None:
        raise ValueError(f"model must draw images of prompts, {model.name} only enlarges images")
    if options.guidance_interval is not None and "guidance_interval" not in model.arguments:
        raise ValueError(f"guidance_interval must be left out: {type(model.pipe).__name__} does not take it")
    model.use_scheduler(options.scheduler, options.num_inference_steps)
    network = open_features(EFFICIENTNET)
    known, fingerprints = load_known(options, network)
    compared, rows = None, []
    for scale in options.guidance_scale:
        row = unmeasured(folder, model, network, options, scale, fingerprints) | {
            "device": model.pipe.device.type,
            "command": command,
            "versions": versions(),
        }
        done = find_done(output, row, set(KINDS), SECTION)
        if done is None or not _is_whole(done):
            done = None
            compared = compared or references(model, network, known, prompts_of(known, options.num_prompts))
            row |= {"measured": measure(model, network, known, options, scale), "references": compared}
            merge(output, row, SECTION)
        rows.append(done or row)
    print(f"{table(rows)}\nwritten to {output}")
    return rows


def unmeasured(
    folder: Path, model: Model, network: torch.nn.Module, options: Options, scale: float, fingerprints: list[str]
) -> Row:
    """What decides the numbers of a row: its settings, which are its key, its weights and the real images."""
    own = Path(options.dataset_name).is_dir()
    return {
        "settings": {
            "model": model.name,
            "scheduler": options.scheduler or short_name(model.own_scheduler),
            "num_inference_steps": options.num_inference_steps,
            "guidance_scale": scale,
            "guidance_interval": options.guidance_interval or own_interval(model),
            "num_prompts": options.num_prompts,
            "seed": options.seed,
            "dtype": options.dtype,
            "dataset": Path(options.dataset_name).name if own else options.dataset_name,
        },
        "weights": weights_hash(folder),
        "features": {"name": EFFICIENTNET, "weights": classifier_hash(network)},
        "real": dict(zip(("train", "test"), fingerprints, strict=True)),
    }


def table(rows: list[Row]) -> str:
    """The shares by guidance scale and kind of prompts, with what they are compared with."""
    lines = [["prompts", "images", *ASPECTS]]
    for row in rows:
        drawn = guided_by(row)
        lines += [_line(kind, drawn, row["measured"][kind]) for kind in KINDS]
    compared = rows[-1]["references"]
    for kind in KINDS:
        lines += [_line(kind, name, values) for name, values in compared[kind].items()]
    said = [_colours(row) for row in rows if "colours" in row["measured"]]
    return "\n".join([aligned(lines), *said])


def guided_by(row: Row) -> str:
    """The guidance of a row, as text."""
    settings = row["settings"]
    inside = settings.get("guidance_interval")
    return f"guidance {settings['guidance_scale']:g}" + (f" within {inside[0]:g} to {inside[1]:g}" if inside else "")


def _colours(row: Row) -> str:
    found, real = row["measured"]["colours"], row["references"]["colours"]["real images"]
    return (
        f"{guided_by(row)}: the hue of the name's colour in {found['own']:.0%} of {found['names']} images (real ones "
        f"{real:.0%}), of a changed one in {found['changed']:.0%}, of both in {found['both']:.0%} (without reading the "
        f"word: {found['chance']:.0%}); another hue than before in {found['different']:.0%}"
    )


def _is_whole(row: Row) -> bool:
    """Whether a row has all that is measured now; older ones lack some of the colours."""
    found = row["measured"].get("colours")
    return found is None or ("both" in found and "colours" in row["references"])


def _line(kind: str, images: str, values: dict[str, float]) -> list[str]:
    return [kind, images, *(f"{values[aspect]:.1%}" for aspect in ASPECTS)]


def parse(arguments: list[str]) -> tuple[str, Options]:
    """The model and the options of a command line.

    Raises:
        ValueError: an unknown flag, with the nearest known one, or a value out of range.
    """
    program = "python -m training.metrics.alignment"
    parser = HfArgumentParser(Options, prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("model", help=f"the folder or the Hub id of a pipeline that is told prompts. {OWN_CODE}")
    options, rest = parse_dataclasses(parser, arguments)
    return rest.model, options


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        location, options = parse(arguments)
        run(location, options, recorded("python -m training.metrics.alignment", arguments, options.dtype))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
