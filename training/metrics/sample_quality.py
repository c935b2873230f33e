"""All metrics of a set of samples against a test split, in the features of one network."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from training.metrics.feature_memorization import MEASURES
from training.metrics.features import extract
from training.metrics.frechet import frechet_distance, statistics
from training.metrics.kernel import kernel_distance, mean_within
from training.metrics.monge import monge_distance
from training.metrics.precision_recall import precision_recall

NEIGHBOURS = 3  # k of precision and recall


class SampleEvaluator:
    """Measures sets of `count` samples.

    The Frechet, kernel and Monge distances are taken to the whole test split. Precision and recall depend on the
    number of real images, so they use as many real images as samples, but at least 1,000 (if the split has them) and at
    most 5,000 (more would only take longer).

    Args:
        network: gives the features, and predicts classes if it has a `head` (training.metrics.feature_nets)
        features: (N, D), features of the real images
        count: number of samples in a set
    """

    def __init__(self, network: nn.Module, features: np.ndarray, count: int) -> None:
        self.network, self.features = network, features
        self.test = statistics(features)
        self.within_test = mean_within(features)
        size = subset_size(count, len(features))
        self.subset = features[np.random.default_rng(0).permutation(len(features))[:size]]

    def measure(self, pixels: np.ndarray, labels: np.ndarray | None, name: str) -> dict[str, Any]:
        """The metrics of 8-bit images (N, C, H, W), by name.

        If the network predicts classes, they include the entropy of the predicted classes (log2 of their number if all
        are equally frequent, 0 if there is only one), and class accuracy if `labels` (N,) say which were asked for.
        """
        return self.compare(*self.extract(pixels, name), labels)

    def extract(self, pixels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """The features (M, D) of 8-bit images (M, C, H, W), and their predicted classes (M,) if there are any."""
        return extract(self.network, pixels, name)

    def compare(self, features: np.ndarray, predicted: np.ndarray | None, labels: np.ndarray | None) -> dict[str, Any]:
        """`measure` for images whose features (M, D) and predicted classes (M,) are known already."""
        found = statistics(features)
        precision, recall = precision_recall(self.subset, features, NEIGHBOURS)
        distance = frechet_distance(found.mean, found.covariance, self.test.mean, self.test.covariance)
        return class_measures(predicted, labels) | {
            self.network.frechet_name: distance,
            self.network.kernel_name: kernel_distance(self.features, features, self.within_test),
            self.network.monge_name: monge_distance(self.features, features),
            "precision": precision,
            "recall": recall,
        }


def subset_size(count: int, available: int) -> int:
    """The number of real images that precision and recall of `count` samples use."""
    return min(max(count, 1000), 5000, available)


def measure_names(network: nn.Module, nearest: bool) -> set[str]:
    """The names of the metrics that every set of samples gets with `network`, with or without memorization."""
    names = {network.frechet_name, network.kernel_name, network.monge_name, "precision", "recall"}
    names |= {"class_entropy_bits"} if hasattr(network, "head") else set()
    copies = {"nearest_train_distance"} | (set(MEASURES) if sees_copies(network) else set())
    return names | (copies if nearest else set())


def sees_copies(network: nn.Module) -> bool:
    """Whether memorization is measured in the features of `network`: not in those of a classifier of the same images,
    which may know those that it was trained on apart from others."""
    return not hasattr(network, "head")


def class_measures(predicted: np.ndarray | None, labels: np.ndarray | None) -> dict[str, float]:
    """Accuracy and entropy of predicted classes (N,), as far as there are classes and `labels` (N,)."""
    if predicted is None:
        return {}
    agree = {} if labels is None else {"class_accuracy": float(np.mean(predicted == labels))}
    return agree | {"class_entropy_bits": entropy_bits(predicted)}


def entropy_bits(classes: np.ndarray) -> float:
    """Entropy in bits of the histogram of classes (N,)."""
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # + 0.0: no "-0.0"
