"""Images and masks that are given to a pipeline, as tensors."""

from os import PathLike

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Images = Image.Image | str | PathLike | list[Image.Image | str | PathLike] | np.ndarray | Tensor


def pixels_of(images: Images, channels: int, name: str = "images") -> Tensor:
    """Images as float32 (N, C, H, W) in [-1, 1].

    Args:
        images: one or a list of PIL images of any mode or their paths, transparent ones put on white; an array
            (N, H, W, C), in [0, 1] or of 8 bits; or a tensor (N, C, H, W) in [0, 1]
        channels: 1 (grey) or 3 (colour)
        name: of the argument, for errors

    Raises:
        ValueError: no image, images of several sizes or of other channels, or values outside [0, 1].
    """
    x = images if isinstance(images, Tensor) else _from_array(_array(images, channels, name))
    if x.ndim != 4 or x.shape[1] != channels or not len(x):
        raise ValueError(f"{name} must have {channels} channel(s), got the shape {tuple(x.shape)} (N, C, H, W)")
    x = x.float()
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(f"{name} must have values in [0, 1], got {float(x.min()):g} to {float(x.max()):g}")
    return x * 2 - 1


def mask_of(masks: Images, name: str = "mask_image") -> Tensor:
    """Masks as bool (N, 1, H, W): True, from a grey of a half upwards, is to be drawn, and False to be kept.

    Raises:
        ValueError: as `pixels_of`, or a mask that lets nothing be drawn.
    """
    if isinstance(masks, np.ndarray) and masks.ndim in (2, 3):  # (H, W) and (N, H, W)
        masks = masks.reshape(-1, *masks.shape[-2:], 1)
    if isinstance(masks, Tensor) and masks.ndim in (2, 3):
        masks = masks.reshape(-1, 1, *masks.shape[-2:])
    mask = pixels_of(masks, 1, name) >= 0
    if not mask.flatten(1).any(1).all():
        raise ValueError(f"{name} must be white where the image is to be drawn anew, got one that is black all over")
    return mask


def given_pixels(
    image: Images | None, mask_image: Images | None, shape: tuple[int, int, int], count: int
) -> tuple[Tensor | None, Tensor | None]:
    """The image that a run of `count` begins with, and its mask, as `pixels_of` and `mask_of`; None where not given.

    One of each may stand for all; `shape` is (C, H, W).

    Raises:
        ValueError: a mask without an image, or images and masks of another size or number.
    """
    if image is None:
        if mask_image is not None:
            raise ValueError("mask_image must be None without an image")
        return None, None
    y, mask = pixels_of(image, shape[0], "image"), None if mask_image is None else mask_of(mask_image)
    height, width = shape[1:]
    for name, value in (("image", y), ("mask_image", mask)):
        if value is None:
            continue
        number, _, *size = value.shape
        if size != [height, width] or number not in (1, count):
            got = f"{number} of {size[1]}x{size[0]}"
            raise ValueError(f"{name} must be 1 or {count} of {width}x{height} pixels, got {got}")
    return y, mask


def _array(images: Images, channels: int, name: str) -> np.ndarray:
    """PIL images, paths or an array as (N, H, W, C), 8-bit or in [0, 1]; ValueError for images of several sizes."""
    if isinstance(images, np.ndarray):
        return images
    listed = list(images) if isinstance(images, (list, tuple)) else [images]
    opened = [Image.open(one) if isinstance(one, (str, PathLike)) else one for one in listed]
    if not opened or any(not isinstance(one, Image.Image) for one in opened):
        raise ValueError(f"{name} must be PIL images, paths, an array or a tensor, got {images!r}")
    deep = [one.mode for one in opened if one.mode in ("I", "F")]
    if deep:
        raise ValueError(f"{name} must have 8 or 16 bits per channel, got 32 in an image of mode {deep[0]!r}")
    if len({one.size for one in opened}) > 1:
        raise ValueError(f"{name} must be of one size, got {sorted({one.size for one in opened})}")
    pixels = np.stack([np.asarray(_flat(one, "L" if channels == 1 else "RGB")) for one in opened])
    return pixels.reshape(*pixels.shape[:3], -1)


def _from_array(array: np.ndarray) -> Tensor:
    """(N, H, W, C), 8-bit or in [0, 1] -> (N, C, H, W) in [0, 1]."""
    scaled = array.astype(np.float32) / 255 if array.dtype == np.uint8 else array.astype(np.float32)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2) if scaled.ndim == 4 else torch.from_numpy(scaled)


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """An image of any mode as "L" or "RGB": of 16 bits the upper 8, and transparent parts on white."""
    if image.mode.startswith("I;16"):  # `convert` would make white of all above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
