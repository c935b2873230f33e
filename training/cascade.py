"""Put trained stages into one folder: `python -m training.cascade OUTPUT BASE SUPER_RESOLUTION [SUPER_RESOLUTION]`.

Each stage is the folder of a run, or a Hub id: the first draws small images (a run with --text_encoder and without a
vae, or with classes), and each of the others was trained with --low_resolution of the size of the one before it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from pipelines import CascadePipeline
from training.files import write_json
from training.networks.open import load_pipeline
from training.run_record import record_of


def joined(stages: list[DiffusionPipeline], **usual: list[Any] | None) -> CascadePipeline:
    """One pipeline of the first stage's `unet` and the others' `unet_2`, from small to large.

    `usual` are its `augmentations`, `enlarging_steps` and `enlarging_guidance_scales`.

    Raises:
        ValueError: stages that are in the wrong order, or do not fit one another, by name.
    """
    first, others = stages[0], stages[1:]
    if getattr(first, "unet", None) is None or hasattr(first, "vae") or len(sizes(first)) > 1:
        raise ValueError(f"the first stage must draw small images from noise, a {type(first).__name__} does not")
    parts: dict[str, Any] = {"unet": first.unet, "scheduler": first.scheduler}
    paths, highest = {"unet": _path(first)}, []
    for number, stage in enumerate(others, 2):
        if not isinstance(stage, CascadePipeline) or stage.unet is not None or stage.unet_3 is not None:
            raise ValueError(f"stage {number} must be of a run with --low_resolution, and of that alone")
        expected, got = sizes(stages[number - 2])[-1], stage.sizes[0]
        if expected != got:
            raise ValueError(
                f"stage {number} must enlarge images of {expected[1]}x{expected[0]}, it enlarges {_told(got)}"
            )
        parts |= {f"unet_{number}": stage.unet_2, f"scheduler_{number}": stage.scheduler_2}
        paths[f"unet_{number}"] = stage.config.paths.get("unet_2")
        highest.append(stage.config.max_augmentations[0])
    for name in ("text_encoder", "tokenizer"):
        parts[name] = next((found for stage in stages if (found := getattr(stage, name, None)) is not None), None)
    names = first.config.get("id2label")
    for number, stage in enumerate(others, 2):
        if stage.config.id2label not in (None, names):
            raise ValueError(f"stage {number} must have the classes of the first stage")
    nulls = {stage.facts.null_label is not None for stage in stages if stage.num_class_embeds is not None}
    if len(nulls) > 1:
        raise ValueError("stages must all have a label for no class, or none of them")
    paths = {name: path for name, path in paths.items() if path is not None}
    config = {"id2label": names, "paths": paths, "max_augmentations": highest} | usual
    config |= {name: first.config.get(name) for name in ("example_prompts", "prompt_styles")}
    config |= {"last_label_is_null": nulls != {False}}
    return CascadePipeline(**parts, **config)


def sizes(stage: DiffusionPipeline) -> list[tuple[int, int]]:
    """(H, W) of what a stage draws, last."""
    return stage.sizes if isinstance(stage, CascadePipeline) else [stage.sample_shape[1:]]


def _path(first: DiffusionPipeline) -> str | None:
    return first.config.get("paths", {}).get("unet") or first.config.get("path")


def _told(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def record(stages: list[str]) -> dict[str, Any] | None:
    """The training.json of the cascade: the runs of all stages, the first one innermost."""
    whole: dict[str, Any] | None = None
    for stage in stages:
        own = record_of(stage)
        if own is None:
            continue
        innermost = own
        while innermost.get("continues"):
            innermost = innermost["continues"]
        innermost["continues"] = whole
        whole = own
    return whole


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m training.cascade", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the folder to write")
    parser.add_argument("stages", nargs="+", help="folders or Hub ids, from small images to large")
    parser.add_argument(
        "--augmentations", type=float, nargs="+", help="the level of each stage but the first, where a call names none"
    )
    parser.add_argument(
        "--enlarging_steps",
        type=int,
        nargs="+",
        help="steps of each stage but the first, if a call names one number",
    )
    parser.add_argument(
        "--enlarging_guidance_scales", type=float, nargs="+", help="guidance of each stage but the first, likewise"
    )
    given = parser.parse_args(arguments)
    usual = {name: getattr(given, name) for name in ("augmentations", "enlarging_steps", "enlarging_guidance_scales")}
    try:
        if len(given.stages) not in (2, 3):
            raise ValueError(f"stages must be two or three, got {len(given.stages)}")
        pipeline = joined([load_pipeline(stage) for stage in given.stages], **usual)
        pipeline.save_pretrained(given.output)
        runs = record(given.stages)
        if runs is not None:
            write_json(given.output / "training.json", runs)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"The cascade is in {given.output}")


if __name__ == "__main__":
    main()
