"""Seconds per batch of images: the app with its defaults against the stock DDIM loop, with the same weights.

    python -m benchmarks.sampling --model model_cards/fashion-cfg --images 16 --repeats 5 [--frechet]

The peer is the code that a user of diffusers writes: 50 steps of the stock DDIMScheduler in float32, with two calls of
the network per step, because diffusers has no pipeline with class guidance. The next rows are the `__call__` of the
stock pipeline, without classes, and our pipeline with the peer's settings and one change per row, which shows where
the speed comes from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from diffusers import DDIMPipeline, DDIMScheduler
from PIL import Image

from benchmarks.frechet import FEWEST, frechet_of, open_evaluator
from benchmarks.stock import guided_ddim, without_classes
from benchmarks.table import Row, check_at_least, command_line, table
from benchmarks.timing import alternate, network_time, now
from training.recipes import flag
from ui import device
from ui.catalogue import Catalogue, ModelInfo, load
from ui.device import Placement
from ui.fields import FIELDS
from ui.run import draw as app_draw
from ui.samplers import with_sampler
from ui.settings import Settings

Drawn = tuple[list[Image.Image], float | None]


@dataclass
class Options:
    """The flags of the command."""

    model: str = flag("model_cards/fashion-cfg", "a pipeline's folder or a Hub id")
    images: int = flag(16, "images per batch")
    repeats: int = flag(5, "timed turns of each contestant; medians are shown")
    steps: int = flag(50, "DDIM steps of the peer")
    guidance_scale: float = flag(2.0, "guidance scale of the peer")
    timestep_spacing: str = flag(
        "leading", "timesteps of the peer's scheduler: leading (the stock default) or trailing"
    )
    frechet: bool = flag(False, "also draw --samples images with each and show the Frechet distance to the test images")
    samples: int = flag(1000, "images for the Frechet distance")
    dataset_name: str = flag("data/fashion", "the data set with the test images")
    features: str = flag("model_cards/fashion-features", "the classifier whose features the distance is computed in")
    json: str | None = flag(None, "write the numbers to this file")

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot work, naming the flag."""
        check_at_least(self, images=1, repeats=1, steps=1, guidance_scale=0, samples=FEWEST)
        if self.timestep_spacing not in ("leading", "trailing"):
            raise ValueError(f"timestep_spacing must be leading or trailing, got {self.timestep_spacing!r}")


@dataclass(frozen=True)
class Contestant:
    """A way to draw.

    `draw(count, seed, class or None)` returns images and network evaluations per image (None: counted by a hook).
    Without a class it takes all classes in turn. `measured`: whether to compute its Frechet distance.
    """

    network: torch.nn.Module
    draw: Callable[[int, int, int | None], Drawn]
    measured: bool = False


@dataclass(frozen=True)
class Timing:
    """One run: seconds, those inside the network, and network evaluations per image."""

    seconds: float
    network_seconds: float
    evaluations: float


# ---------------------------------------------------------------------------------------------------- the contestants


def contestants(options: Options) -> dict[str, Contestant]:
    """The contestants by name; the first is the peer that the others are compared with."""
    catalogue = Catalogue({"model": options.model})
    info, best = catalogue["model"], device.detect()
    if info.class_names and "guidance_scale" not in info.accepts:
        raise ValueError(f"model must be unconditional or take guidance_scale, {options.model} does neither")
    plain, last = Placement(best.device, "float32", False), Placement(best.device, "bfloat16", True)
    variants = {
        "float32": plain,
        "channels_last": Placement(best.device, "float32", True),
        "bf16": Placement(best.device, "bfloat16", False),
        "bf16, channels_last": last,
    }
    found = stock_contestants(options, info, plain)
    for name, placement in variants.items():
        found[f"ours, DDIM-{options.steps}, {name}"] = our_contestant(
            options, info, placement, measured=placement == plain
        )
    pipe = catalogue.pipeline("model")
    found[f"the app: {app_name(info, best)}"] = Contestant(pipe.unet, partial(from_app, catalogue), measured=True)
    return found


def app_name(info: ModelInfo, placement: Placement) -> str:
    """The app's defaults as text."""
    sampler = FIELDS["sampler"].default if info.samplers else "its own sampler"
    layout = ", channels_last" if placement.channels_last else ""
    return f"{sampler}, {FIELDS['steps'].default} steps, {placement.dtype}{layout}"


def stock_contestants(options: Options, info: ModelInfo, placement: Placement) -> dict[str, Contestant]:
    """The stock loop with guidance, if the model has classes, and the stock pipeline without classes."""
    pipe = load(info, placement)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing=options.timestep_spacing)
    found = {}
    if info.class_names:
        draw = partial(from_stock_loop, options, info, pipe, scheduler)
        found[f"stock DDIM-{options.steps}, float32, guided"] = Contestant(pipe.unet, draw, measured=True)
    stock = DDIMPipeline(unet=without_classes(pipe.unet, pipe.null_label), scheduler=scheduler)
    stock.set_progress_bar_config(disable=True)
    draw = partial(from_stock_pipeline, options, stock)
    found[f"stock DDIM-{options.steps}, float32, no classes"] = Contestant(stock.unet, draw, measured=not found)
    return found


def our_contestant(options: Options, info: ModelInfo, placement: Placement, measured: bool) -> Contestant:
    """Our pipeline with the peer's sampler, steps, scale and spacing."""
    pipe = with_sampler(load(info, placement), "DDIM")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing=options.timestep_spacing)
    pipe.set_progress_bar_config(disable=True)
    return Contestant(pipe.unet, partial(from_our_pipeline, options, info, pipe), measured)


def class_labels(info: ModelInfo, count: int, label: int | None) -> list[int]:
    """`count` times the class `label`, or all classes in turn if it is None."""
    return [k % len(info.class_names) if label is None else label for k in range(count)]


def seeded(seed: int) -> torch.Generator:
    """A CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)


def from_stock_loop(
    options: Options, info: ModelInfo, pipe: Any, scheduler: DDIMScheduler, count: int, seed: int, label: int | None
) -> Drawn:
    """Draw with the peer."""
    labels, scale = torch.tensor(class_labels(info, count, label)), options.guidance_scale
    return guided_ddim(pipe.unet, scheduler, labels, pipe.null_label, options.steps, scale, seeded(seed)), None


def from_stock_pipeline(options: Options, pipe: DDIMPipeline, count: int, seed: int, label: int | None) -> Drawn:
    """Draw with `DDIMPipeline.__call__`, which knows no classes."""
    return pipe(batch_size=count, num_inference_steps=options.steps, generator=seeded(seed)).images, None


def from_our_pipeline(options: Options, info: ModelInfo, pipe: Any, count: int, seed: int, label: int | None) -> Drawn:
    """Draw with the `__call__` of our pipeline."""
    chosen = {"batch_size": count}
    if info.class_names:
        chosen = {"class_labels": class_labels(info, count, label), "guidance_scale": options.guidance_scale}
        chosen |= {"guidance_interval": (0.0, 1.0)} if "guidance_interval" in info.accepts else {}  # as the peer guides
    output = pipe(**chosen, num_inference_steps=options.steps, generator=seeded(seed))
    return output.images, output.nfe


def from_app(catalogue: Catalogue, count: int, seed: int, label: int | None) -> Drawn:
    """Draw as the page does with its defaults, previews included; only count and class are given."""
    chosen = {} if label is None else {"class_name": catalogue["model"].class_names[label]}
    *_, last = app_draw(Settings(model="model", count=count, seed=seed, **chosen), catalogue)
    return last.images, last.evaluations


# ---------------------------------------------------------------------------------------------------------- the table


def timed(contestant: Contestant, count: int) -> Timing:
    """Draw `count` images once."""
    with network_time(contestant.network) as network:
        began = now()
        _, evaluations = contestant.draw(count, FIELDS["seed"].default, None)
        seconds = now() - began
    return Timing(seconds, network.seconds, network.rows / count if evaluations is None else evaluations)


def run(options: Options) -> list[Row]:
    """Time all contestants, and measure the Frechet distance of some if requested. The first row is the peer's."""
    evaluator = open_evaluator(options.features, options.dataset_name, options.samples) if options.frechet else None
    found = contestants(options)
    runs = {name: partial(timed, contestant, options.images) for name, contestant in found.items()}
    timings = alternate(runs, options.repeats, warmups=1, description="Sampling")
    rows = [summary(name, results) for name, results in timings.items()]
    classes = len(Catalogue({"model": options.model})["model"].class_names)
    for row in rows:
        contestant = found[row["name"]]
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
        if evaluator is not None and contestant.measured:
            draw = partial(images_only, contestant)
            row["frechet_distance"] = frechet_of(evaluator, draw, classes, options.samples, row["name"])
    return rows


def images_only(contestant: Contestant, count: int, seed: int, label: int | None) -> list[Image.Image]:
    """The images that a contestant draws, as `frechet_of` takes them."""
    return contestant.draw(count, seed, label)[0]


def summary(name: str, results: list[Timing]) -> Row:
    """The medians over the turns. The share of time outside the network is the median of the shares of the turns."""
    seconds = [result.seconds for result in results]
    return {
        "name": name,
        "seconds": median(seconds),
        "all_seconds": seconds,
        "evaluations": results[0].evaluations,
        "outside_network": median(1 - result.network_seconds / result.seconds for result in results),
    }


def show(rows: list[Row]) -> str:
    """The rows as a table."""
    heads = ["", "seconds", "range", "times faster", "evaluations per image", "outside the network"]
    measured = any("frechet_distance" in row for row in rows)
    lines = [
        [
            row["name"],
            f"{row['seconds']:.3f}",
            f"{min(row['all_seconds']):.3f} to {max(row['all_seconds']):.3f}",
            f"{row['ratio']:.2f}",
            f"{row['evaluations']:g}",
            f"{row['outside_network']:.1%}",
            *([f"{row['frechet_distance']:.3f}" if "frechet_distance" in row else ""] if measured else []),
        ]
        for row in rows
    ]
    return table([*heads, *(["Frechet distance"] if measured else [])], lines)


def main(arguments: list[str] | None = None) -> list[Row]:
    """The command line; returns the rows of the table."""
    return command_line(Options, run, show, "benchmarks.sampling", __doc__, arguments)


if __name__ == "__main__":
    main()
