"""The Python that draws the images of a run, to be pasted and run as it stands."""

import json
from typing import Any

from .adapters import CALLED
from .catalogue import ModelInfo
from .device import Placement
from .fields import NOISE
from .samplers import scheduler_config, scheduler_of
from .settings import Settings


def snippet(settings: Settings, info: ModelInfo, placement: Placement) -> str:
    """Source text that ends with `images`, a list of PIL images, and saves them."""
    parts = (
        _imports(settings, info),
        _pipeline(settings, info, placement),
        _start(settings, info),
        _call(settings, info),
    )
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _own_class(settings: Settings, info: ModelInfo) -> str | None:
    """The class of this project that has to be named, because the folder does not contain its code."""
    other = info.swaps.get(settings.sampler) if info.samplers else None
    return other or (None if info.carries_code else info.pipeline)


def _imports(settings: Settings, info: ModelInfo) -> list[str]:
    own = _own_class(settings, info)
    names = [] if own else ["DiffusionPipeline"]
    names += [scheduler_of(settings.sampler, info.flow)] if info.samplers else []
    lines = ["import torch"]
    lines += [f"from diffusers import {', '.join(sorted(names))}"] if names else []
    lines += ["from PIL import Image, ImageOps"] if _given(settings, info) else []
    lines += [f"from pipelines import {own}  # of the Stepwise repository"] if own else []
    return lines


def _given(settings: Settings, info: ModelInfo) -> dict[str, str]:
    """By argument of the pipeline: the file of each image that the run begins with."""
    if not settings.has("start", info) or settings.start == NOISE:
        return {}
    return {"image": "image.png"} | ({"mask_image": "mask.png"} if settings.start == "mask" else {})


def _start(settings: Settings, info: ModelInfo) -> list[str]:
    """What opens these files, which may also be of another size."""
    height, width, _ = info.start_shape(settings.start == "mask")
    opened = [
        f'{name} = ImageOps.fit(ImageOps.exif_transpose(Image.open({_literal(file)})).convert("RGBA"), {width, height})'
        for name, file in _given(settings, info).items()
    ]
    said = "to be put beside this file" + ("; what is white in the mask is drawn anew" if len(opened) > 1 else "")
    return [f"# {said}", *opened] if opened else []


def _pipeline(settings: Settings, info: ModelInfo, placement: Placement) -> list[str]:
    own = _own_class(settings, info)
    dtype = f"dtype=torch.{placement.dtype}"
    load = f"{own}.from_pretrained({_literal(info.source)}, {dtype})"
    if not own:
        load = f"DiffusionPipeline.from_pretrained({_literal(info.source)}, trust_remote_code=True, {dtype})"
    lines = [f"pipe = {load}" + (f".to({_literal(placement.device)})" if placement.device != "cpu" else "")]
    if placement.channels_last:
        there = [name for name in ("unet", "unet_2", "unet_3", "transformer", "vae") if (info.folder / name).is_dir()]
        lines += [f"pipe.{name}.to(memory_format=torch.channels_last)" for name in there or ["unet"]]
    lines += _adapter(settings, info)
    if info.samplers:
        config = scheduler_config(settings.sampler, settings.steps, info.num_train_timesteps, info.flow)
        given = "".join(f", {key}={_literal(value)}" for key, value in config.items())
        name = scheduler_of(settings.sampler, info.flow)
        lines.append(f"pipe.scheduler = {name}.from_config(pipe.scheduler.config{given})")
    return lines


def _adapter(settings: Settings, info: ModelInfo) -> list[str]:
    """What loads the adapter of a run, if it has one."""
    if not settings.has("adapter_strength", info):
        return []
    source, name = _literal(info.adapters[settings.adapter].source), _literal(CALLED)
    return [
        f"pipe.load_lora_weights({source}, adapter_name={name})",
        f"pipe.set_adapters({name}, {settings.adapter_strength:g})",
    ]


def _call(settings: Settings, info: ModelInfo) -> list[str]:
    lines = [f"    {name}={_literal(value)}," for name, value in settings.stream_arguments(info).items()]
    lines += [f"    {name}={name}," for name in _given(settings, info)]
    return [
        f"seeds = range({settings.seed}, {settings.seed + settings.count})  # an image depends on its own seed alone",
        "images = pipe(",
        *lines,
        "    generator=[torch.Generator().manual_seed(seed) for seed in seeds],",
        ").images",
        "for seed, image in zip(seeds, images, strict=True):",
        '    image.save(f"{seed}.png")',
    ]


def _literal(value: Any) -> str:
    """A Python literal, strings in double quotes and a list of equal parts as a product."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        equal = len(set(value)) == 1
        return f"[{_literal(value[0])}] * {len(value)}" if equal else f"[{', '.join(map(_literal, value))}]"
    return repr(value)
