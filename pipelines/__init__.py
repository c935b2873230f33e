"""Diffusion pipelines, one algorithm per file; each saves and loads with its own code."""

from .adm_unet import ADMUNet2DModel
from .classifier_free_guidance import ClassifierFreeGuidancePipeline
from .classifier_guidance import ClassifierGuidancePipeline
from .clip_guidance import CLIPGuide
from .ddim import DDIMPipeline
from .ddpm import DDPMPipeline
from .exact import GaussianMixture
from .latent_diffusion import LatentDiffusionPipeline
from .noisy_classifier import NoisyClassifier
from .patched_unet import PatchedUNet2DModel
from .schedule import NoiseSchedule

__all__ = [
    "ADMUNet2DModel",
    "CLIPGuide",
    "ClassifierFreeGuidancePipeline",
    "ClassifierGuidancePipeline",
    "DDIMPipeline",
    "DDPMPipeline",
    "GaussianMixture",
    "LatentDiffusionPipeline",
    "NoiseSchedule",
    "NoisyClassifier",
    "PatchedUNet2DModel",
]
