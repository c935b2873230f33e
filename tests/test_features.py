"""The classifier that measures: saved and trained on whole images, its features taken once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_runs import tiny_feature_classifier
from training_runs import noise

from training.evaluation import cached_features
from training.evaluation.cached_features import extract_cached
from training.feature_classifier import augment
from training.metrics.features import FeatureClassifier, classifier_hash, extract, to_input


def test_the_classifier_is_the_same_after_saving(tmp_path: Path) -> None:
    classifier = tiny_feature_classifier()
    classifier.save_pretrained(tmp_path)
    again = FeatureClassifier.from_pretrained(tmp_path)
    x = torch.randn(3, 1, 8, 8)
    assert list(tmp_path.glob("*.safetensors"))
    assert again.features(x).shape == (3, 8) and torch.equal(again(x), classifier(x))
    assert classifier_hash(again) == classifier_hash(classifier)
    with torch.no_grad():
        again.head.bias[0] += 1
    assert classifier_hash(again) != classifier_hash(classifier)


def test_pixels_become_minus_one_to_one() -> None:
    pixels = np.array([0, 51, 255], dtype=np.uint8).reshape(1, 1, 1, 3)
    torch.testing.assert_close(to_input(pixels).flatten(), torch.tensor([-1.0, -0.6, 1.0]))


def test_features_are_cached_by_content_and_a_damaged_entry_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(cached_features, "extract", lambda *args: calls.append(1) or extract(*args))
    classifier = tiny_feature_classifier()
    pixels = noise(5, 1, 8, 8)
    first = extract_cached(classifier, pixels, "a", tmp_path, "images")
    second = extract_cached(classifier, pixels, "a", tmp_path, "images")
    assert len(calls) == 1 and np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    extract_cached(classifier, pixels[:4], "b", tmp_path, "images")
    with torch.no_grad():
        classifier.head.bias[0] += 1
    extract_cached(classifier, pixels, "a", tmp_path, "images")
    assert len(calls) == 3
    for entry in tmp_path.iterdir():
        entry.write_bytes(entry.read_bytes()[:100])
    again = extract_cached(classifier, pixels, "a", tmp_path, "images")
    assert len(calls) == 4 and np.array_equal(again[0], first[0])
    assert len(list(tmp_path.iterdir())) == 3  # and nothing temporary is left


def test_shifts_and_flips_move_whole_images() -> None:
    pixels = torch.arange(1.0, 26.0).reshape(1, 1, 5, 5).repeat(64, 1, 1, 1)
    moved = augment(pixels, 1, torch.Generator().manual_seed(0))
    centres = {float(value) for value in moved[:, 0, 2, 2]}
    assert centres == {7.0, 8.0, 9.0, 12.0, 13.0, 14.0, 17.0, 18.0, 19.0}
    steps = {float(row[3] - row[2]) for row in moved[:, 0, 2]}
    assert steps == {1.0, -1.0}
    assert torch.equal(augment(pixels, 0, torch.Generator().manual_seed(0)).sort(-1).values, pixels)
