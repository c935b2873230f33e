"""Diffusion pipelines, one algorithm a file; each saves and loads with its own code."""

from .classifier_free_guidance import ClassifierFreeGuidancePipeline
from .classifier_guidance import ClassifierGuidancePipeline
from .clip_guidance import CLIPGuide
from .ddim import DDIMPipeline
from .ddpm import DDPMPipeline
from .exact import GaussianMixture
from .noisy_classifier import NoisyClassifier
from .patched_unet import PatchedUNet2DModel
from .schedule import NoiseSchedule

__all__ = [
    "CLIPGuide",
    "ClassifierFreeGuidancePipeline",
    "ClassifierGuidancePipeline",
    "DDIMPipeline",
    "DDPMPipeline",
    "GaussianMixture",
    "NoiseSchedule",
    "NoisyClassifier",
    "PatchedUNet2DModel",
]
