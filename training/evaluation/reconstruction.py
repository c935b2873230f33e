"""How well an autoencoder reconstructs images that it was not trained on.

    python -m training.metrics.reconstruction runs/emoji-autoencoder --dataset_name data/emoji

measures PSNR, SSIM and the Frechet distance of reconstructed test images to the images themselves, with that of as many
training images beside it, and the seconds that four images take to decode. The numbers go to metrics.json beside the
model, which its card shows, and are not measured again; reconstructions.png shows test images beside what became of
them.
"""

from __future__ import annotations

import io
import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import nn
from transformers import HfArgumentParser

from pipelines.facts import spatial_factor
from training.command_line import parse_dataclasses
from training.data import ImageData
from training.data.cache import default_cache_dir
from training.data.sources import evenly_spaced
from training.evaluation.cached_features import extract_cached
from training.evaluation.options import DTYPES, OWN_CODE, flag, one_of
from training.evaluation.prepare import default_output
from training.evaluation.real_images import RealImages, load_real
from training.evaluation.results import Row, aligned, find_done, merge, read_rows
from training.evaluation.sampling import find_folder
from training.files import weights_hash, write_whole
from training.machine import versions
from training.metrics.feature_nets import EFFICIENTNET, NAMED, open_features
from training.metrics.features import classifier_hash, extract
from training.metrics.frechet import frechet_distance, statistics
from training.metrics.reconstruction import WINDOW, psnr, reconstruct, seconds_to_decode, ssim
from training.sample_grid import beside

SECTION = "reconstruction"  # of metrics.json
DECODED = 4  # images at once, whose decoding is timed
SHOWN = 32


@dataclass
class Options:
    """The options of the command."""

    dataset_name: str = field(metadata={"help": "the images: a folder of image files or of parquet, or a Hub id"})
    test_split: str | None = flag(
        None, "the split to measure on [test, or validation, or else the images that the run held back]"
    )
    train_split: str = flag("train", "the split whose images are measured for comparison")
    resolution: int | None = flag(None, "side in pixels that the images are resized to [that of the model]")
    max_samples: int | None = flag(None, "use only this many test images")
    batch_size: int = flag(50, "images per batch")
    features: str = flag(
        EFFICIENTNET, f"the network whose features are compared: {', '.join(NAMED)}, or a classifier's folder or Hub id"
    )
    dtype: str = flag("float32", "number format of the autoencoder: float32 or bfloat16")
    seed: int = flag(0, "chooses the training images for comparison")
    output: str | None = flag(None, "the file to write [metrics.json in the model's folder]")
    overwrite: bool = flag(False, "measure again what metrics.json already holds")

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is not allowed."""
        self.dtype = one_of("dtype", self.dtype, list(DTYPES))
        for name, low in {"batch_size": 1, "seed": 0, "max_samples": 2, "resolution": WINDOW}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} must be at least {low}, got {value}")

    @property
    def dataset(self) -> str:
        """The data set's Hub id, or the name of its folder without the path."""
        return Path(self.dataset_name).name if Path(self.dataset_name).is_dir() else self.dataset_name


def parse(arguments: list[str]) -> tuple[str, Options]:
    """The model and the options of a command line.

    Raises:
        ValueError: an unknown flag, with the nearest known one, or a value out of range.
    """
    program = "python -m training.metrics.reconstruction"
    parser = HfArgumentParser(Options, prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("model", help=f"the folder or the Hub id of a pipeline with an autoencoder. {OWN_CODE}")
    options, rest = parse_dataclasses(parser, arguments)
    return rest.model, options


def open_autoencoder(folder: Path, dtype: torch.dtype) -> AutoencoderKL:
    """The `vae` of a pipeline, with its own code, on the GPU if there is one.

    Raises:
        ValueError: the pipeline has none, or one without a posterior.
    """
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, use_safetensors=True, dtype=dtype)
    vae = getattr(pipe, "vae", None)
    if not isinstance(vae, AutoencoderKL):
        raise ValueError(f"model must be a pipeline with an AutoencoderKL as vae, {str(folder)!r} has a {_kind(vae)}")
    vae = vae.eval().requires_grad_(False)
    return vae.to("cuda" if torch.cuda.is_available() else "cpu", memory_format=torch.channels_last)


def _kind(part: object) -> str | None:
    return None if part is None else type(part).__name__


def load(options: Options, folder: Path, vae: AutoencoderKL) -> RealImages:
    """Load images in the channels and, unless asked for another, the size of the autoencoder.

    Raises:
        ValueError: no such data or split, a size that it cannot halve, or too few images.
    """
    own = vae.config.sample_size
    size, channels = options.resolution or (own if isinstance(own, int) else None), vae.config.in_channels
    real = load_real(options.dataset_name, options.test_split, options.train_split, size, folder, channels)
    real = replace(real, test=some_of(real.test, options.max_samples))
    for split, data in ((real.split, real.test), (options.train_split, real.train)):
        _check_images(split, data, vae)
    return real


def some_of(data: ImageData, max_samples: int | None) -> ImageData:
    """At most `max_samples` of the images, evenly spaced, without labels and captions."""
    chosen = evenly_spaced(len(data.images), max_samples)
    if len(chosen) == len(data.images):
        return data
    fingerprint = f"{data.fingerprint} {len(chosen)}"
    return replace(data, images=data.images[chosen], labels=None, captions=None, fingerprint=fingerprint)


def _check_images(split: str, data: ImageData, vae: AutoencoderKL) -> None:
    """Raise ValueError for images of a size that it cannot halve, or too few."""
    (count, _, height, width), factor = data.images.shape, spatial_factor(vae.config)
    if height % factor or width % factor:
        nearest = max(factor, round(min(height, width) / factor) * factor)
        raise ValueError(
            f"resolution must be a multiple of {factor} for this autoencoder (try {nearest}), got {width}x{height}"
        )
    if count < 2 or min(height, width) < WINDOW:
        raise ValueError(
            f"split {split!r} must hold at least 2 images with sides of at least {WINDOW} pixels, got {count} of "
            f"{width}x{height}"
        )


def measure(vae: AutoencoderKL, network: nn.Module, test: ImageData, made: np.ndarray) -> dict[str, float]:
    """The measures of reconstructed test images."""
    return {
        "psnr": float(psnr(made, test.images).mean()),
        "ssim": float(ssim(made, test.images).mean()),
        network.frechet_name: _distance(network, test, extract(network, made, "reconstructions")[0]),
        "seconds_to_decode_4": round(seconds_to_decode(vae, test.images[:DECODED]), 4),
    }


def floor(network: nn.Module, test: ImageData, train: ImageData, seed: int) -> dict[str, float]:
    """The Frechet distance of as many random training images: that of other images of the same kind."""
    count = min(len(test.images), len(train.images))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train.images))[:count])
    which = f"{train.fingerprint} {count} {seed}"
    found, _ = extract_cached(network, train.images[chosen], which, default_cache_dir(), "training images")
    return {"num_samples": count, network.frechet_name: _distance(network, test, found)}


def _distance(network: nn.Module, test: ImageData, features: np.ndarray) -> float:
    known, _ = extract_cached(network, test.images, test.fingerprint, default_cache_dir(), "test images")
    ours, theirs = statistics(features), statistics(known)
    return frechet_distance(ours.mean, ours.covariance, theirs.mean, theirs.covariance)


def run(location: str, options: Options, command: str) -> Row:
    """Measure, print and write; returns the row of metrics.json."""
    folder = find_folder(location)
    output = Path(options.output) if options.output else default_output(location)
    read_rows(output, SECTION)  # raises for another kind of file now, not after the work
    network, vae = open_features(options.features), open_autoencoder(folder, DTYPES[options.dtype])
    real = load(options, folder, vae)
    test, train = real.test, real.train
    row = unmeasured(folder, location, options, real)
    row |= {
        "features": {"name": Path(options.features).name, "weights": classifier_hash(network)},
        "device": next(vae.parameters()).device.type,
        "threads": torch.get_num_threads(),
        "command": command,
        "versions": versions(),
    }
    done = None if options.overwrite else find_done(output, row, {"psnr", network.frechet_name}, SECTION)
    if done is not None:
        print(f"{output} holds these numbers already\n{table(done)}")
        return done
    made = reconstruct(vae, test.images, options.batch_size)
    row |= {"measured": measure(vae, network, test, made), "floor": floor(network, test, train, options.seed)}
    for key in merge(output, row, SECTION):
        print(f"dropped from {output}, because the weights or configs have changed since: {key}")
    image = output.with_name("reconstructions.png")
    write_pairs(image, test.images, made)
    print(f"{table(row)}\nwritten to {output}, {image}")
    return row


def unmeasured(folder: Path, location: str, options: Options, real: RealImages) -> Row:
    """What decides the numbers of a row: its settings, which are its key, its weights and the real images."""
    return {
        "settings": {
            "model": folder.resolve().name if Path(location).is_dir() else location,
            "num_samples": len(real.test.images),
            "resolution": real.test.images.shape[2],
            "seed": options.seed,
            "dtype": options.dtype,
            "dataset": options.dataset,
            "features": Path(options.features).name,
        },
        "weights": weights_hash(folder),
        "real": {
            "test": {"split": real.split, "fingerprint": real.test.fingerprint},
            "train": {"split": options.train_split, "fingerprint": real.train.fingerprint},
        },
    }


def write_pairs(path: Path, images: np.ndarray, made: np.ndarray) -> None:
    """Write up to SHOWN images, spread over all, each beside its reconstruction."""
    chosen = np.linspace(0, len(made) - 1, min(SHOWN, len(made))).astype(int)
    buffer = io.BytesIO()
    beside(images[chosen], made[chosen]).save(buffer, format="png")
    write_whole(path, buffer.getvalue())


def table(row: Row) -> str:
    """The numbers of a row, and those of real images, as aligned text."""
    names = list(row["measured"])
    real = [f"{row['floor'][name]:.4f}" if name in row["floor"] else "" for name in names]
    ours = [f"{row['measured'][name]:.4f}" for name in names]
    return aligned([["", *names], ["reconstructions", *ours], ["training images", *real]])


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        location, options = parse(arguments)
        run(location, options, shlex.join(["python", "-m", "training.metrics.reconstruction", *arguments]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
