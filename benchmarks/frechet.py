"""The Frechet distance between the images that a contestant draws and the test images."""

from collections.abc import Callable

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from training.data import load_images
from training.data.cache import default_cache_dir
from training.evaluation.cached_features import extract_cached
from training.metrics.feature_nets import open_classifier
from training.metrics.sample_quality import NEIGHBOURS, SampleEvaluator

FEWEST = NEIGHBOURS + 1  # samples that can be measured


def open_evaluator(features: str, dataset_name: str, samples: int) -> SampleEvaluator:
    """An evaluator against the split "test" of the data.

    Raises:
        ValueError: no such classifier or data, or images that the classifier does not take.
    """
    classifier = open_classifier(features)
    test = load_images(dataset_name=dataset_name, split="test")
    shape = (classifier.config.in_channels, *(classifier.config.sample_size,) * 2)
    if test.images.shape[1:] != shape:
        raise ValueError(
            f"features must take images like those of dataset_name: {features} takes (channels, height, width) "
            f"{shape}, {dataset_name} has {test.images.shape[1:]}"
        )
    found, _ = extract_cached(classifier, test.images, test.fingerprint, default_cache_dir(), "test images")
    return SampleEvaluator(classifier, found, samples)


def frechet_of(
    evaluator: SampleEvaluator,
    draw: Callable[[int, int, int | None], list[Image.Image]],
    classes: int,
    samples: int,
    name: str,
) -> float:
    """Frechet distance of `samples` images, equally many of each class, drawn by `draw(count, seed, class or None)`."""
    images = []
    with tqdm(total=samples, desc=f"Drawing {name}", unit="img", disable=None, leave=False) as bar:
        for label, count in portions(samples, classes):
            images += draw(count, len(images), label)
            bar.update(count)
    return evaluator.measure(to_pixels(images), None, name)["frechet_distance"]


def portions(samples: int, classes: int, most: int = 50) -> list[tuple[int | None, int]]:
    """(class, count) of each batch, with counts of at most `most`. If `classes` is 0 the class is None."""
    kinds = max(classes, 1)
    parts = []
    for kind in range(kinds):
        left = samples // kinds + (kind < samples % kinds)
        while left:
            count = min(left, most)
            parts.append((kind if classes else None, count))
            left -= count
    return parts


def to_pixels(images: list[Image.Image]) -> np.ndarray:
    """PIL images of one size -> uint8 (N, C, H, W)."""
    stack = np.stack([np.asarray(image) for image in images])
    return stack[:, None] if stack.ndim == 3 else stack.transpose(0, 3, 1, 2)
