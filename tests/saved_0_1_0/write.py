"""Writes the folders beside this file: `PYTHONPATH=.:tests python tests/saved_0_1_0/write.py`, at the root of ad35888.

It runs with the code of that commit only, and is kept to show how they came about: they are never written again.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, DiTTransformer2DModel, UNet2DModel
from training_runs import run_here

from pipelines import (
    ADMUNet2DModel,
    ClassifierFreeGuidancePipeline,
    ClassifierGuidancePipeline,
    DDIMPipeline,
    DDPMPipeline,
    LatentDiffusionPipeline,
    NoisyClassifier,
    PatchedUNet2DModel,
)
from runs import FOLDER, RUNS, SAVED_AT, arguments, place

NAMES = {"0": "dots", "1": "lines", "2": "noise"}
COSINE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
# a hundred steps of the linear schedule leave a third of the picture: eps of an untrained network gives a finite x_0
LINEAR = {"num_train_timesteps": 100, "beta_schedule": "linear"}


def unet(kind: type[UNet2DModel] = UNet2DModel, classes: int | None = None, **changes: object) -> UNet2DModel:
    """A few thousand weights over 8 x 8 grey pixels."""
    torch.manual_seed(0)
    shape = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (4, 4),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "norm_num_groups": 2,
        "num_class_embeds": classes,
    }
    return kind(**shape | changes)


def adm(classes: int | None = None) -> ADMUNet2DModel:
    """Heads of two widths, time counted in tenths, resampling without weights."""
    heads, attention = {"attention_head_dim": (4, 2), "up_attention_head_dim": (2, 4)}, {"attn_norm_num_groups": 2}
    return unet(ADMUNet2DModel, classes, **heads, **attention, timestep_scale=0.1, conv_resample=False)


def classifier() -> NoisyClassifier:
    """Of the three classes, behind a pixel-unshuffle."""
    torch.manual_seed(1)
    shape = {"block_out_channels": (4, 4), "layers_per_block": 1, "attention_head_dim": 4, "norm_num_groups": 2}
    return NoisyClassifier(sample_size=8, in_channels=1, num_classes=3, patch_size=2, **shape)


def vae() -> AutoencoderKL:
    """Pictures of 8 x 8 from latents of 4 x 4 in two channels."""
    torch.manual_seed(2)
    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        latent_channels=2,
        norm_num_groups=2,
        scaling_factor=0.5,
    )


def latent_unet(classes: int | None = None) -> UNet2DModel:
    """A U-Net over the latents of `vae`."""
    return unet(classes=classes, sample_size=4, in_channels=2, out_channels=2)


def dit() -> DiTTransformer2DModel:
    """A transformer over the latents of `vae`, with a learned variance."""
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=2,
        out_channels=4,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=3,
    )


def save_pipelines() -> None:
    """One folder for each pipeline with each of its optional parts, with and without classes."""
    learned = unet(PatchedUNet2DModel, out_channels=2)
    large = {"variance_type": "fixed_large", "prediction_type": "sample"}
    thresholds = {"thresholding": True, "sample_max_value": 1.5, "clip_sample": False}
    made = {
        "ddpm": DDPMPipeline(unet(), DDPMScheduler(**COSINE)),
        "ddpm_classes": DDPMPipeline(unet(classes=3), DDPMScheduler(**LINEAR | large), NAMES),
        "ddpm_learned": DDPMPipeline(learned, DDPMScheduler(**LINEAR)),
        "ddim": DDIMPipeline(adm(), DDIMScheduler(**LINEAR | thresholds)),
        "ddim_classes": DDIMPipeline(unet(classes=3), DDIMScheduler(steps_offset=1, **LINEAR)),
        "free_guidance": ClassifierFreeGuidancePipeline(
            unet(PatchedUNet2DModel, 4), DDIMScheduler(**COSINE), NAMES, guidance_interval=(0.2, 0.8)
        ),
        "guidance": ClassifierGuidancePipeline(unet(), DDPMScheduler(**COSINE), classifier(), NAMES),
        "guidance_classes": ClassifierGuidancePipeline(adm(classes=3), DDIMScheduler(**COSINE), classifier(), NAMES),
        "guidance_alone": ClassifierGuidancePipeline(unet(), DDIMScheduler(**LINEAR)),
        "latent": LatentDiffusionPipeline(vae(), DDPMScheduler(**COSINE | {"clip_sample": False}), latent_unet()),
        "latent_classes": LatentDiffusionPipeline(
            vae(), DDIMScheduler(**COSINE | {"clip_sample": False}), latent_unet(4), id2label=NAMES
        ),
        "latent_dit": LatentDiffusionPipeline(
            vae(), DDPMScheduler(timestep_spacing="linspace", clip_sample=False, **LINEAR), transformer=dit()
        ),
    }
    for name, pipe in made.items():
        pipe.save_pretrained(FOLDER / name)


def save_checkpoints() -> None:
    """The checkpoint that each run leaves before its end."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["STEPWISE_CACHE"] = f"{scratch}/cache"
        os.chdir(scratch)
        place(Path(scratch))
        for name in RUNS:
            run_here(arguments(name, output_dir=name))
            shutil.copytree(f"{name}/checkpoint-{SAVED_AT}", FOLDER / name / f"checkpoint-{SAVED_AT}")


if __name__ == "__main__":
    if (FOLDER / "ddpm").exists():
        sys.exit("error: the folders are there, and are never written again")
    save_pipelines()
    save_checkpoints()
