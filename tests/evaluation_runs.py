"""What `python -m training.evaluate` needs, tiny: models, classifiers and data sets in a folder."""

import json
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from image_files import parquet_folder
from toys import patched_unet
from training_runs import noise

from pipelines import (
    CascadePipeline,
    ClassifierFreeGuidancePipeline,
    DDPMPipeline,
    PatchedUNet2DConditionModel,
    PatchedUNet2DModel,
)
from training.metrics.features import FeatureClassifier

NAMES = ("dots", "lines", "noise")


def tiny_feature_classifier(names: tuple[str, ...] = NAMES, size: int = 8) -> FeatureClassifier:
    """The classifier that measures, of a few thousand weights, the same ones every time."""
    torch.manual_seed(0)
    shape = {"block_out_channels": (8, 8), "layers_per_block": (1, 1)}
    return FeatureClassifier(num_classes=len(names), sample_size=size, class_names=names, **shape).eval()


def network(classes: int | None) -> PatchedUNet2DModel:
    """Of 8 x 8 pixels and a few hundred weights."""
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "mid_block_type": None}
    return patched_unet(classes, sample_size=8, block_out_channels=(8,), norm_num_groups=4, **blocks)


def fill(place: Path) -> Path:
    """A conditional and an unconditional model, classifiers and data sets in a folder."""
    scheduler = DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=True)
    names = {str(i): name for i, name in enumerate(NAMES)}
    ClassifierFreeGuidancePipeline(network(4), scheduler, names).save_pretrained(place / "cfg")
    DDPMPipeline(network(None), scheduler).save_pretrained(place / "plain")
    tiny_feature_classifier().save_pretrained(place / "features")
    tiny_feature_classifier(("a", "b", "c")).save_pretrained(place / "others")
    for name, size, classes in (("images", 8, NAMES), ("unnamed", 8, ()), ("large", 12, NAMES)):
        pixels = noise(60, size, size, seed=size)
        parquet_folder(place / name, {"train": pixels[:30], "test": pixels[30:]}, classes)
    return place


def tiny_stages(names: tuple[str, ...], told: bool = True) -> tuple[CascadePipeline, CascadePipeline]:
    """A cascade that draws grey images of 4 pixels and enlarges them to 8, and its second stage alone.

    `told` says whether it is told the level of augmentation.
    """
    parts = {"id2label": {str(i): name for i, name in enumerate(names)}, "max_augmentations": [0.5 if told else 0.0]}
    shape = dict(out_channels=1, block_out_channels=(16, 16), attention_head_dim=8, norm_num_groups=4)
    shape |= dict(class_embed_type=None, num_class_embeds=len(names) + 1)
    torch.manual_seed(0)
    base = PatchedUNet2DConditionModel(sample_size=4, in_channels=1, **shape)
    larger = PatchedUNet2DConditionModel(sample_size=8, in_channels=2, time_cond_proj_dim=16 if told else None, **shape)
    second = {"unet_2": larger, "scheduler_2": DDIMScheduler(timestep_spacing="trailing")}
    whole = CascadePipeline(base, DDIMScheduler(timestep_spacing="trailing"), **second, **parts)
    return whole, CascadePipeline(**second, **parts, base_size=4)


def command(*more: str, model: str = "cfg", data: str = "images", features: str = "features") -> list[str]:
    """A command line that takes a moment; what is said again in `more` wins."""
    settings = ["--num_samples", "12", "--batch_size", "5", "--num_inference_steps", "2", "--dtype", "float32"]
    return [model, "--dataset_name", data, "--features", features, *settings, *more]


def measured(path: Path) -> list[dict[str, float]]:
    """The measured numbers of every row but the speed."""
    rows = json.loads(path.read_text())["results"].values()
    return [{key: value for key, value in row["measured"].items() if key != "images_per_second"} for row in rows]
