"""All measures of a set of pictures against a test split, in the features of one classifier, and their floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from training.data import ImageData
from training.metrics.features import FeatureClassifier, extract, extract_cached
from training.metrics.frechet import frechet_distance, statistics
from training.metrics.precision_recall import precision_recall

NEIGHBOURS = 3


class Judge:
    """Measures sets of `count` pictures.

    The Frechet distance is to the whole test split. Precision and recall depend on the number of real pictures, so
    those are as many as samples, but from 1,000 to 5,000 (more would only take longer), where the split has them.

    Args:
        classifier: gives the features
        test: the pictures to measure against
        count: how many samples a set will have
        cache_dir: where the features of the test split are kept
    """

    def __init__(self, classifier: FeatureClassifier, test: ImageData, count: int, cache_dir: Path) -> None:
        self.classifier = classifier
        features, recognised = extract_cached(classifier, test.images, test.fingerprint, cache_dir, "test pictures")
        self.test = statistics(features)
        size = min(max(count, 1000), 5000, len(features))
        self.subset = features[np.random.default_rng(0).permutation(len(features))[:size]]
        self.test_accuracy = None if test.labels is None else float(np.mean(recognised == test.labels))

    def measure(self, pixels: np.ndarray, labels: np.ndarray | None, name: str) -> dict[str, Any]:
        """The numbers of 8-bit pictures (N, C, H, W).

        Class accuracy where `labels` (N,) say what was asked for; else the entropy of the classes that were
        recognised, log2 of their number if all are drawn alike and 0 if only one is.
        """
        features, recognised = extract(self.classifier, pixels, name)
        found = statistics(features)
        precision, recall = precision_recall(self.subset, features, NEIGHBOURS)
        agree = {} if labels is None else {"class_accuracy": float(np.mean(recognised == labels))}
        return agree | {
            "class_entropy_bits": entropy_bits(recognised),
            "frechet_distance": frechet_distance(found.mean, found.covariance, self.test.mean, self.test.covariance),
            "precision": precision,
            "recall": recall,
        }

    def floor(self, train: ImageData, count: int, seed: int) -> dict[str, Any]:
        """The same of `count` training pictures, chosen at random: what a perfect model would score."""
        order = np.random.default_rng(seed).permutation(len(train.images))
        chosen = np.sort(order[:count])
        labels = None if train.labels is None else train.labels[chosen]
        return {"num_samples": len(chosen)} | self.measure(train.images[chosen], labels, "training pictures")


def entropy_bits(classes: np.ndarray) -> float:
    """Entropy in bits of the histogram of classes (N,)."""
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # + 0.0: no "-0.0"
