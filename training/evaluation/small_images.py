"""Real images made small, for super-resolution to enlarge: training showed it such; in a cascade it gets drawn ones.

The smaller image is the mean of pixels, as in training, and no noise is put on it but what `conditioning_augmentation`
asks for.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from training.data import ImageData
from training.data.sources import evenly_spaced
from training.evaluation.options import Options
from training.evaluation.sampling import Model


def inputs_for(model: Model, options: Options, test: ImageData) -> Tensor | None:
    """Small images (M, C, h, w) in [0, 1], of which image k enlarges number k modulo M; None where it draws its own.

    They are of the test images whose captions are the prompts or, of a model of classes, one of each class in turn.

    Raises:
        ValueError: a model that enlarges nothing, or images that are no multiple of the size that it enlarges.
    """
    sizes = getattr(model.pipe, "sizes", None) or []
    if len(sizes) < 2:
        if options.real_inputs:
            raise ValueError(f"real_inputs must be False: {model.name} enlarges no images")
        return None
    if model.pipe.unet is not None and not options.real_inputs:
        return None
    (height, width), (low, narrow) = test.images.shape[2:], sizes[0]
    if height % low or width % narrow or height // low != width // narrow:
        raise ValueError(
            f"dataset_name must have images of a multiple of {narrow}x{low}, which {model.name} enlarges, got "
            f"{width}x{height}"
        )
    chosen = evenly_spaced(len(test.images), options.num_samples)
    if model.num_classes is not None and not model.is_told_prompts:
        chosen = of_each_class(test, model.num_classes, options.num_samples)
    images = torch.from_numpy(np.ascontiguousarray(test.images[np.asarray(chosen)])).float() / 255
    return avg_pool2d(images, height // low)


def of_each_class(test: ImageData, count: int, number: int) -> list[int]:
    """Images whose number k is of class k modulo `count`, as the samples are; again from the first when they run out.

    Raises:
        ValueError: a class without images.
    """
    if test.labels is None:
        raise ValueError("dataset_name must have labels, whose images a model of classes enlarges")
    rows = [np.flatnonzero(test.labels == label) for label in range(count)]
    missing = [label for label, some in enumerate(rows) if not len(some)]
    if missing:
        raise ValueError(f"dataset_name must have test images of each class, it has none of {missing[0]}")
    return [int(rows[k % count][k // count % len(rows[k % count])]) for k in range(number)]
