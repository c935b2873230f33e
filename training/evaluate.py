"""Measure a model: a folder or a Hub id -> metrics.json.

    python -m training.evaluate model_cards/fashion-cfg --dataset_name data/fashion --guidance_scale 1 1.5 2

Draws pictures, the same number of each class, and measures them in the features of a classifier that trains no
generator: class accuracy, Frechet distance to all test pictures, precision and recall. Beside each stands the floor,
what as many real training pictures score. Several values of a setting make a sweep; a row is written as soon as it is
measured, over an older row of the same settings.
"""

from __future__ import annotations

import itertools
import math
import platform
import shlex
import sys
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from transformers import HfArgumentParser

from training.data import ImageData, load_images
from training.data.cache import default_cache_dir
from training.metrics.features import FeatureClassifier, classifier_hash, extract, extract_cached
from training.metrics.frechet import Statistics, frechet_distance, statistics
from training.metrics.precision_recall import precision_recall
from training.metrics.report import Row, key_of, merge, read_rows, table, write_grid
from training.metrics.samples import SCHEDULERS, Model, draw, find_folder, open_model, weights_hash

NEIGHBOURS = 3
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass
class Options:
    """What to measure."""

    dataset_name: str = field(metadata={"help": "the real pictures: a Hub id, or a folder of parquet"})
    num_samples: int = field(default=1000, metadata={"help": "pictures to draw"})
    batch_size: int = field(default=100, metadata={"help": "pictures drawn at a time"})
    guidance_scale: list[float] | None = field(default=None, metadata={"help": "one or more; default 2, if it has one"})
    num_inference_steps: list[int] = field(default_factory=lambda: [20], metadata={"help": "one or more"})
    scheduler: str | None = field(default=None, metadata={"help": f"{', '.join(SCHEDULERS)}; default: the model's own"})
    guidance_interval: list[float] | None = field(default=None, metadata={"help": "LOW HIGH, shares of the noise process"})
    seed: int = field(default=0, metadata={"help": "picture k is drawn from the seed + k"})
    dtype: str = field(default="bfloat16", metadata={"help": "of the network: bfloat16 or float32"})
    resolution: int | None = field(default=None, metadata={"help": "side of the real pictures; default: as they are"})
    test_split: str = field(default="test", metadata={"help": "the split to measure against"})
    train_split: str = field(default="train", metadata={"help": "the split that gives the floor"})
    features: str = field(default="model_cards/fashion-features", metadata={"help": "the classifier to measure with"})
    output: str | None = field(default=None, metadata={"help": "default: metrics.json in the model's folder"})
    grid: bool = field(default=True, metadata={"help": "write samples.png of the first setting beside metrics.json"})

    def __post_init__(self) -> None:
        """Raises ValueError for what can be seen to be wrong without opening anything."""
        if self.scheduler is not None:
            self.scheduler = one_of("scheduler", self.scheduler, list(SCHEDULERS))
        self.dtype = one_of("dtype", self.dtype, list(DTYPES))
        lowest = {"num_samples": NEIGHBOURS + 1, "batch_size": 1, "seed": 0}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for steps in self.num_inference_steps:
            if steps < 1:
                raise ValueError(f"num_inference_steps must be at least 1, got {steps}")
        for scale in self.guidance_scale or []:
            if not (math.isfinite(scale) and scale >= 0):
                raise ValueError(f"guidance_scale must be a finite number of at least 0, got {scale}")
        interval = self.guidance_interval
        if interval is not None and not (len(interval) == 2 and 0 <= interval[0] <= interval[1] <= 1):
            raise ValueError(f"guidance_interval must be LOW HIGH with 0 <= LOW <= HIGH <= 1, got {interval}")


def one_of(name: str, value: str, allowed: list[str]) -> str:
    """`value` as it is spelled in `allowed`, in any case; else a ValueError with the nearest."""
    spelled = {word.lower(): word for word in allowed}
    if value.lower() in spelled:
        return spelled[value.lower()]
    near = get_close_matches(value.lower(), spelled, n=1, cutoff=0.4)
    hint = f" (did you mean {spelled[near[0]]}?)" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}{hint}")


@dataclass
class Real:
    """The real pictures as features: the test split, as many of it as precision and recall are to see, and the floor."""

    test: ImageData
    test_statistics: Statistics
    subset: np.ndarray  # (M, D)
    floor: Row


class Judge:
    """Measures sets of pictures against the test split, in the features of one classifier."""

    def __init__(self, options: Options, classifier: FeatureClassifier, test: ImageData, train: ImageData) -> None:
        self.classifier, self.count = classifier, options.num_samples
        cache = default_cache_dir()
        features, recognised = extract_cached(classifier, test.images, test.fingerprint, cache, "test pictures")
        self.test = statistics(features)
        # as many as samples, since both numbers depend on that; more than 5,000 would only take longer
        size = min(len(features), min(max(options.num_samples, 1000), 5000))
        self.subset = features[np.random.default_rng(0).permutation(len(features))[:size]]
        chosen = np.sort(np.random.default_rng(options.seed).permutation(len(train.images))[: options.num_samples])
        labels = None if train.labels is None else train.labels[chosen]
        self.floor = {"num_samples": len(chosen)} | self.measure(train.images[chosen], labels, "training pictures")
        if test.labels is not None:
            self.floor["test_class_accuracy"] = float(np.mean(recognised == test.labels))

    def measure(self, pixels: np.ndarray, labels: np.ndarray | None, name: str) -> Row:
        """The numbers of 8-bit pictures (N, C, H, W); class accuracy where `labels` (N,) say what was asked for."""
        features, recognised = extract(self.classifier, pixels, name)
        found = statistics(features)
        precision, recall = precision_recall(self.subset, features, NEIGHBOURS)
        row = {} if labels is None else {"class_accuracy": float(np.mean(recognised == labels))}
        return row | {
            "class_entropy_bits": entropy_bits(recognised),
            "frechet_distance": frechet_distance(
                found.mean, found.covariance, self.test.mean, self.test.covariance
            ),
            "precision": precision,
            "recall": recall,
        }


def entropy_bits(classes: np.ndarray) -> float:
    """Entropy of the histogram of classes (N,): log2 of their number if all are drawn alike, 0 if only one is."""
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    return float(-(shares * np.log2(shares)).sum()) + 0.0
