"""Images to train on: `load_images`, and `python -m training.data NAME` to prepare a built-in data set."""

from training.data.images import ImageData, load_images

__all__ = ["ImageData", "load_images"]
