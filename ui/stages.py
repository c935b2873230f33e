"""What the files of a cascade say about the page: which images it enlarges, whether they may be painted on, and how
noisy they may be made.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipelines.about import config_in

NOISE, IMAGE, MASK = "noise", "image", "mask"


def enlarged_size(folder: Path, index: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the images that a cascade enlarges, or draws first; None for a model of one stage."""
    if not any(index.get("unet_2") or ()):
        return None
    size = index.get("base_size") or config_in(folder, "unet").get("sample_size")
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def stage_limits(index: Mapping[str, Any], arguments: Collection[str]) -> dict[str, dict[str, Any]]:
    """What follows for settings of the page; {} for a model that is no cascade.

    `arguments` are those of its pipeline: an older one cannot inpaint, and one that only enlarges images does not.
    """
    if "max_augmentations" not in index:
        return {}
    highest, usual = index["max_augmentations"] or [], index.get("augmentations") or [0.0]
    most, inpaints = min(highest, default=0.0), any(index.get("unet") or ()) and "mask_image" in arguments
    return {
        "conditioning_augmentation": {"range": (0.0, most), "value": min(usual[0], most), "visible": most > 0},
        "start": {"visible": bool(highest), "choices": (NOISE, IMAGE, MASK) if inpaints else (NOISE, IMAGE)},
        **({} if inpaints else {"jump_length": {"visible": False}, "jump_n_sample": {"visible": False}}),
    }
