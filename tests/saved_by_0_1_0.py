"""The folders that version 0.1.0 saved, and all of them on the page."""

from __future__ import annotations

from typing import Any

from saved_0_1_0.runs import FOLDER

from ui.catalogue import Catalogue

NAMES = ("dots", "lines", "noise")
MIXED = {"class_labels": ["noise", "dots", "lines"]}
PLAIN = {"batch_size": 3}
# by folder: its class, and the calls that are compared
FOLDERS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "ddpm": ("DDPMPipeline", [PLAIN]),
    "ddpm_classes": ("DDPMPipeline", [MIXED, {"class_labels": 1, "batch_size": 2}]),
    "ddpm_learned": ("DDPMPipeline", [PLAIN]),
    "ddim": ("DDIMPipeline", [PLAIN]),
    "ddim_classes": ("DDIMPipeline", [{"class_labels": [2, 0, 1]}]),
    "free_guidance": (
        "ClassifierFreeGuidancePipeline",
        [
            PLAIN,
            MIXED,
            MIXED | {"guidance_scale": 5.0, "guidance_rescale": 0.5},
            MIXED | {"guidance_scale": 3.0, "guidance_interval": (0.0, 0.6)},
        ],
    ),
    "guidance": ("ClassifierGuidancePipeline", [PLAIN, MIXED, MIXED | {"guidance_scale": 30.0}]),
    "guidance_classes": ("ClassifierGuidancePipeline", [MIXED, MIXED | {"guidance_scale": 30.0}]),
    "guidance_alone": ("ClassifierGuidancePipeline", [PLAIN]),
    "latent": ("LatentDiffusionPipeline", [PLAIN]),
    "latent_classes": ("LatentDiffusionPipeline", [PLAIN, MIXED, MIXED | {"guidance_scale": 1.0}]),
    "latent_dit": ("LatentDiffusionPipeline", [PLAIN, {"class_labels": [2, 0, 1]}]),
}


def on_the_page() -> Catalogue:
    """All of the folders."""
    return Catalogue({name: FOLDER / name for name in FOLDERS})
