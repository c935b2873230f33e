"""Measures the samples of one evaluation, and real images for comparison (the floor)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from training.data import ImageData
from training.data.cache import default_cache_dir
from training.evaluation.cached_features import extract_cached
from training.evaluation.prepare import Evaluation
from training.metrics.feature_memorization import Neighbours, memorization, two_nearest
from training.metrics.features import extract
from training.metrics.memorization import Memorization
from training.metrics.reconstruction import reconstruct
from training.metrics.sample_quality import SampleEvaluator, class_measures, sees_copies

MOST_RECONSTRUCTED = 25  # images at once


@dataclass(frozen=True)
class Measured:
    """The metrics of a set of samples by name, and the training images nearest to the first ones where they count."""

    numbers: dict[str, Any]
    neighbours: Neighbours | None


class Measuring:
    """The metrics of an evaluation; the features of its real images are cached.

    `floor` holds the metrics of as many training images; of memorization those of test images, which were not seen.
    `copies` is what memorization is of training images that went through the model's autoencoder, as copies do; empty
    for a model without one, whose copies score 0. `test_accuracy` is that of the network on the test images, None if it
    predicts no classes or they have no labels.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        options, network, test = evaluation.options, evaluation.network, evaluation.test
        cached = extract_cached(network, test.images, test.fingerprint, default_cache_dir(), "test images")
        features, recognised = cached
        self.test_accuracy = class_measures(recognised, test.labels).get("class_accuracy")
        self.evaluator = SampleEvaluator(network, features, options.num_samples)
        self.floor = floor_of(self.evaluator, evaluation.train, options.num_samples, options.seed)
        self.memorization, self.train_features, self.count, self.copies = None, None, options.nearest, {}
        if options.nearest:
            images = evaluation.train.images
            self.memorization = Memorization(images, test.images, options.nearest, options.seed)
            self.floor |= self.memorization.floor()
        if options.nearest and sees_copies(network):
            train = evaluation.train
            self.train_features, _ = extract_cached(
                network, train.images, train.fingerprint, default_cache_dir(), "training images"
            )
            if test.fingerprint != train.fingerprint:  # else each of them is its own copy
                chosen = np.sort(np.random.default_rng(options.seed).permutation(len(features))[: options.nearest])
                self.floor |= memorization(two_nearest(features[chosen], self.train_features))
            self.copies = copies_of(evaluation, self.train_features)

    def measure(self, pixels: np.ndarray, num_classes: int | None) -> Measured:
        """The metrics of 8-bit images (N, C, H, W), where image k has class k modulo `num_classes`."""
        asked = None if num_classes is None else np.arange(len(pixels)) % num_classes
        features, predicted = self.evaluator.extract(pixels, "samples")
        found = self.evaluator.compare(features, predicted, asked)
        found |= self.memorization.measure(pixels) if self.memorization else {}
        if self.train_features is None:
            return Measured(found, None)
        neighbours = two_nearest(features[: self.count], self.train_features)
        return Measured(found | memorization(neighbours), neighbours)


def copies_of(evaluation: Evaluation, train_features: np.ndarray) -> dict[str, float]:
    """Memorization of reconstructed training images; empty for a model that draws pixels."""
    vae, images, options = getattr(evaluation.model.pipe, "vae", None), evaluation.train.images, evaluation.options
    if vae is None:
        return {}
    chosen = np.sort(np.random.default_rng(options.seed).permutation(len(images))[: options.nearest])
    made = reconstruct(vae, images[chosen], min(options.batch_size, MOST_RECONSTRUCTED))
    features, _ = extract(evaluation.network, made, "reconstructed training images")
    return {"num_samples": len(chosen)} | memorization(two_nearest(features, train_features))


def floor_of(evaluator: SampleEvaluator, train: ImageData, count: int, seed: int) -> dict[str, Any]:
    """The metrics of `count` random training images: what a perfect model would score."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train.images))[:count])
    labels = None if train.labels is None else train.labels[chosen]
    which = f"{train.fingerprint} {count} {seed}"
    cache_dir = default_cache_dir()
    found = extract_cached(evaluator.network, train.images[chosen], which, cache_dir, "training images")
    return {"num_samples": len(chosen)} | evaluator.compare(*found, labels)
