"""The worse version of a model that guides it (Karras et al. 2024, https://arxiv.org/abs/2406.02507)."""

import inspect
import logging
import os
import shutil
from pathlib import Path

from diffusers import DiffusionPipeline

from training.data.staging import staged

logger = logging.getLogger(__name__)

GUIDE = "guide"  # the folder in output_dir of the pipeline that `guide_step` keeps


def bring_guide(earlier: Path, output_dir: Path) -> None:
    """Copy the guide that a run has kept in the folder `earlier` to where it goes on, if that is another."""
    if (earlier / GUIDE).is_dir() and not (output_dir / GUIDE).exists():
        with staged(output_dir / GUIDE) as copied:
            shutil.copytree(earlier / GUIDE, copied)
            os.replace(copied, output_dir / GUIDE)


def add_guide(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Give `pipeline` the U-Net of an earlier one, saved in `folder`, as its `guide_unet`, if it takes one."""
    if "guide_unet" not in inspect.signature(type(pipeline).__init__).parameters:
        logger.warning("%s takes no guide_unet: %s stays beside it", type(pipeline).__name__, folder)
    elif not folder.is_dir():
        logger.warning("there is no guide_unet: %s was not written", folder)
    else:
        pipeline.register_modules(guide_unet=type(pipeline.unet).from_pretrained(folder, subfolder="unet"))
