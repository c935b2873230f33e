"""The Python that draws the images of a run, to be pasted and run as it stands."""

import json

from .fastpath import FastPath
from .models import ModelInfo
from .samplers import SCHEDULERS, options
from .settings import Settings


def snippet(settings: Settings, info: ModelInfo, path: FastPath) -> str:
    """Source text that ends with `images`, a list of PIL images, and saves them."""
    return "\n".join([*_imports(settings, info), "", *_pipeline(settings, info, path), "", *_call(settings, info), ""])


def _own_class(settings: Settings, info: ModelInfo) -> str | None:
    """The class of this project that has to be named, because the folder does not bring it."""
    other = info.swaps.get(settings.sampler) if info.samplers else None
    return other or (None if info.carries_code else info.pipeline)


def _imports(settings: Settings, info: ModelInfo) -> list[str]:
    own = _own_class(settings, info)
    names = [] if own else ["DiffusionPipeline"]
    names += [SCHEDULERS[settings.sampler]] if info.samplers else []
    lines = ["import torch", f"from diffusers import {', '.join(sorted(names))}" if names else ""]
    lines += [f"from pipelines import {own}  # of the Stepwise repository"] if own else []
    return [line for line in lines if line]


def _pipeline(settings: Settings, info: ModelInfo, path: FastPath) -> list[str]:
    own = _own_class(settings, info)
    dtype = f"dtype=torch.{path.dtype}"
    load = f"{own}.from_pretrained({_literal(info.source)}, {dtype})"
    if not own:
        load = f"DiffusionPipeline.from_pretrained({_literal(info.source)}, trust_remote_code=True, {dtype})"
    lines = [f"pipe = {load}" + (f".to({_literal(path.device)})" if path.device != "cpu" else "")]
    if path.channels_last:
        lines.append("pipe.unet.to(memory_format=torch.channels_last)")
    if info.samplers:
        spacing = options(settings.sampler, settings.steps, info.max_steps)
        given = "".join(f", {key}={_literal(value)}" for key, value in spacing.items())
        lines.append(f"pipe.scheduler = {SCHEDULERS[settings.sampler]}.from_config(pipe.scheduler.config{given})")
    return lines


def _call(settings: Settings, info: ModelInfo) -> list[str]:
    arguments = settings.stream_arguments(info)
    labels = arguments.get("class_labels")
    if labels and len(set(labels)) == 1:
        arguments["class_labels"] = f"[{_literal(labels[0])}] * {len(labels)}"
    elif labels:
        arguments["class_labels"] = f"[{', '.join(map(_literal, labels))}]"
    lines = [f"    {name}={value}," for name, value in arguments.items()]
    return [
        f"seeds = range({settings.seed}, {settings.seed + settings.count})  # an image depends on its own seed alone",
        "images = pipe(",
        *lines,
        "    generator=[torch.Generator().manual_seed(seed) for seed in seeds],",
        ").images",
        "for seed, image in zip(seeds, images, strict=True):",
        '    image.save(f"{seed}.png")',
    ]


def _literal(value: str | int) -> str:
    """A Python literal, strings in double quotes."""
    return json.dumps(value, ensure_ascii=False)
