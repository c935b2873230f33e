"""Seconds for images of a prompt: the page with its defaults against the loop that a user of diffusers writes.

    python -m benchmarks.prompts --model model_cards/emoji-latent --images 4 --repeats 5

The peer encodes the prompt and the empty one, takes Euler's steps of the stock FlowMatchEulerDiscreteScheduler with
guidance in each, and decodes, in float32. Both have the same weights, and both are timed from the prompt to PIL images.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from benchmarks.table import Row, check_at_least, command_line, table
from benchmarks.timing import alternate, network_time, now
from pipelines.text import conditions_of, embed
from training.recipes import flag
from ui import device
from ui.catalogue import Catalogue, load
from ui.device import Placement
from ui.run import draw as app_draw
from ui.settings import Settings

PARTS = ("text_encoder", "unet", "decoder")


@dataclass
class Options:
    """The flags of the command."""

    model: str = flag("model_cards/emoji-latent", "the folder or Hub id of a flow that is told prompts")
    prompt: str = flag("a red apple, 3d style", "what to draw")
    images: int = flag(4, "images per batch")
    repeats: int = flag(5, "timed turns of each contestant; medians are shown")
    steps: int = flag(20, "Euler steps of the peer")
    guidance_scale: float = flag(4.0, "guidance scale of the peer")
    json: str | None = flag(None, "write the numbers to this file")

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot work, naming the flag."""
        check_at_least(self, images=1, repeats=1, steps=1, guidance_scale=0)


def from_stock_loop(options: Options, pipe: Any, seed: int = 0) -> list[Image.Image]:
    """Draw with the peer."""
    unet, vae = pipe.unet, pipe.vae
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(options.steps)
    texts = embed(pipe.text_encoder, pipe.tokenizer, [options.prompt, ""], padded=False)
    given = conditions_of(unet.config, texts)
    given = {name: value.repeat_interleave(options.images, dim=0) for name, value in given.items()}
    shape = (options.images, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    for t in scheduler.timesteps:
        both = unet(torch.cat([latents, latents]), t, **given).sample
        cond, uncond = both.chunk(2)
        velocity = uncond + options.guidance_scale * (cond - uncond)
        latents = scheduler.step(velocity, t, latents).prev_sample
    pixels = vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample
    return pipe.numpy_to_pil((pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())


def from_app(options: Options, catalogue: Catalogue) -> list[Image.Image]:
    """Draw as the page does with its defaults, previews included; only prompt and count are given."""
    settings = Settings.checked({"model": "model", "prompt": options.prompt, "count": options.images}, catalogue)
    *_, last = app_draw(settings, catalogue)
    return last.images


def timed(draw: Callable[[], list[Image.Image]], pipe: Any) -> Row:
    """Seconds of one run, those inside each network, and network evaluations per image."""
    networks = {"text_encoder": pipe.text_encoder, "unet": pipe.unet, "decoder": pipe.vae.decoder}
    with ExitStack() as hooks, torch.no_grad():
        spent = {name: hooks.enter_context(network_time(network)) for name, network in networks.items()}
        began = now()
        images = draw()
        seconds = now() - began
    inside = {name: time.seconds for name, time in spent.items()}
    return {"seconds": seconds, "evaluations": spent["unet"].rows / len(images)} | inside


def run(options: Options) -> list[Row]:
    """Time both; the first row is the peer's."""
    catalogue = Catalogue({"model": options.model})
    info = catalogue["model"]
    if "prompt" not in info.accepts or info.class_names or not info.flow:
        raise ValueError(f"model must be a flow that is told prompts, {options.model} is not")
    plain, app = load(info, Placement(device.detect().device, "float32", False)), catalogue.pipeline("model")
    runs = {
        f"stock loop, Euler, {options.steps} steps, float32": partial(
            timed, partial(from_stock_loop, options, plain), plain
        ),
        "the page, its defaults": partial(timed, partial(from_app, options, catalogue), app),
    }
    found = alternate(runs, options.repeats, warmups=1, description="Drawing")
    rows = [{"name": name} | _medians(results) for name, results in found.items()]
    return [row | {"ratio": rows[0]["seconds"] / row["seconds"]} for row in rows]


def _medians(results: list[Row]) -> Row:
    middle = {name: median(result[name] for result in results) for name in results[0]}
    outside = median(1 - sum(result[part] for part in PARTS) / result["seconds"] for result in results)
    return middle | {"all_seconds": [result["seconds"] for result in results], "outside": outside}


def show(rows: list[Row]) -> str:
    """The rows as a table."""
    heads = ["", "seconds", "range", "times faster", "evaluations per image", *PARTS, "outside the networks"]
    lines = [
        [
            row["name"],
            f"{row['seconds']:.2f}",
            f"{min(row['all_seconds']):.2f} to {max(row['all_seconds']):.2f}",
            f"{row['ratio']:.2f}",
            f"{row['evaluations']:g}",
            *(f"{row[part]:.2f}" for part in PARTS),
            f"{row['outside']:.1%}",
        ]
        for row in rows
    ]
    return table(heads, lines)


def main(arguments: list[str] | None = None) -> list[Row]:
    """The command line; returns the rows of the table."""
    return command_line(Options, run, show, "benchmarks.prompts", __doc__, arguments)


if __name__ == "__main__":
    main()
