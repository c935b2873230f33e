"""All measures of a set of images against a test split, in the features of one network."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from training.metrics.features import extract
from training.metrics.frechet import frechet_distance, statistics
from training.metrics.kernel import kernel_distance, mean_within
from training.metrics.precision_recall import precision_recall

NEIGHBOURS = 3


class SampleEvaluator:
    """Measures sets of `count` images.

    The Frechet and the kernel distance are to the whole test split. Precision and recall depend on the number of real
    images, so those are as many as samples, but from 1,000 to 5,000 (more would only take longer), where the split
    has them.

    Args:
        classifier: gives the features, and names classes if it has a `head` (training.metrics.feature_nets)
        features: (N, D), those of the images to measure against
        count: how many samples a set will have
    """

    def __init__(self, classifier: nn.Module, features: np.ndarray, count: int) -> None:
        self.classifier, self.features = classifier, features
        self.test = statistics(features)
        self.within_test = mean_within(features)
        size = subset_size(count, len(features))
        self.subset = features[np.random.default_rng(0).permutation(len(features))[:size]]

    def measure(self, pixels: np.ndarray, labels: np.ndarray | None, name: str) -> dict[str, Any]:
        """The numbers of 8-bit images (N, C, H, W).

        Class accuracy where `labels` (N,) say what was asked for, and the entropy of the classes that were recognised,
        log2 of their number if all are drawn alike and 0 if only one is; neither, where the network names no classes.
        """
        return self.compare(*extract(self.classifier, pixels, name), labels)

    def compare(self, features: np.ndarray, recognised: np.ndarray | None, labels: np.ndarray | None) -> dict[str, Any]:
        """`measure` of images whose features (M, D) and classes (M,) were taken already."""
        found = statistics(features)
        precision, recall = precision_recall(self.subset, features, NEIGHBOURS)
        distance = frechet_distance(found.mean, found.covariance, self.test.mean, self.test.covariance)
        return class_measures(recognised, labels) | {
            self.classifier.frechet_name: distance,
            self.classifier.kernel_name: kernel_distance(self.features, features, self.within_test),
            "precision": precision,
            "recall": recall,
        }


def subset_size(count: int, available: int) -> int:
    """How many real images precision and recall of `count` samples are against."""
    return min(max(count, 1000), 5000, available)


def measure_names(network: nn.Module, nearest: bool) -> set[str]:
    """The numbers that every set of images gets in the features of `network`, with or without `Memorization`."""
    names = {network.frechet_name, network.kernel_name, "precision", "recall"}
    names |= {"class_entropy_bits"} if hasattr(network, "head") else set()
    return names | ({"nearest_train_distance"} if nearest else set())


def class_measures(recognised: np.ndarray | None, labels: np.ndarray | None) -> dict[str, float]:
    """Accuracy and entropy of recognised classes (N,), as far as there are classes and `labels` (N,)."""
    if recognised is None:
        return {}
    agree = {} if labels is None else {"class_accuracy": float(np.mean(recognised == labels))}
    return agree | {"class_entropy_bits": entropy_bits(recognised)}


def entropy_bits(classes: np.ndarray) -> float:
    """Entropy in bits of the histogram of classes (N,)."""
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # + 0.0: no "-0.0"
