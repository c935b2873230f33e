"""Diffusion pipelines, one algorithm a file; each saves and loads with its own code."""

from .classifier_free_guidance import ClassifierFreeGuidancePipeline
from .ddim import DDIMPipeline
from .ddpm import DDPMPipeline
from .patched_unet import PatchedUNet2DModel
from .schedule import NoiseSchedule

__all__ = ["ClassifierFreeGuidancePipeline", "DDIMPipeline", "DDPMPipeline", "NoiseSchedule", "PatchedUNet2DModel"]
