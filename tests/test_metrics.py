"""The measures against closed forms, brute force and extremes."""

import math

import numpy as np
import pytest
import torch

from training.metrics.frechet import frechet_distance, square_root, statistics
from training.metrics.kernel import kernel_distance, mean_within
from training.metrics.memorization import Memorization, nearest_distances
from training.metrics.precision_recall import precision_recall
from training.metrics.sample_quality import entropy_bits


def covariance(rng: np.random.Generator, width: int, rank: int | None = None) -> np.ndarray:
    root = rng.normal(size=(width, rank or width))
    return root @ root.T


# ------------------------------------------------------------------------------------------------- Frechet distance


def test_frechet_distance_of_commuting_covariances_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    mu1, mu2, var1, var2 = rng.normal(size=6), rng.normal(size=6), rng.uniform(0, 3, 6), rng.uniform(0, 3, 6)
    found = frechet_distance(mu1, (basis * var1) @ basis.T, mu2, (basis * var2) @ basis.T)
    expected = ((mu1 - mu2) ** 2).sum() + ((np.sqrt(var1) - np.sqrt(var2)) ** 2).sum()
    assert found == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_any_two_by_two_covariances_is_the_closed_form() -> None:
    rng = np.random.default_rng(1)
    s1, s2 = covariance(rng, 2), covariance(rng, 2)
    # tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) for a 2x2 matrix with eigenvalues of at least 0
    cross = math.sqrt(np.trace(s1 @ s2) + 2 * math.sqrt(np.linalg.det(s1 @ s2)))
    found = frechet_distance(np.zeros(2), s1, np.ones(2), s2)
    assert found == pytest.approx(2 + np.trace(s1) + np.trace(s2) - 2 * cross, rel=1e-12)


def test_frechet_distance_agrees_with_the_matrix_square_root() -> None:
    import scipy.linalg

    rng = np.random.default_rng(2)
    s1, s2 = covariance(rng, 20), covariance(rng, 20)
    cross = np.trace(scipy.linalg.sqrtm(s1 @ s2)).real
    found = frechet_distance(np.zeros(20), s1, np.zeros(20), s2)
    assert found == pytest.approx(np.trace(s1) + np.trace(s2) - 2 * cross, rel=1e-8)


@pytest.mark.parametrize("rank", [None, 3])
def test_frechet_distance_is_symmetric_and_zero_for_equals(rank: int | None) -> None:
    rng = np.random.default_rng(3)
    mu1, mu2, s1, s2 = rng.normal(size=10), rng.normal(size=10), covariance(rng, 10, rank), covariance(rng, 10, rank)
    assert frechet_distance(mu1, s1, mu2, s2) == pytest.approx(frechet_distance(mu2, s2, mu1, s1), rel=1e-12)
    assert frechet_distance(mu1, s1, mu1, s1) < 1e-11 * np.trace(s1)
    assert frechet_distance(mu1, s1, mu1 + 1, s1) == pytest.approx(10, rel=1e-9)
    np.testing.assert_allclose(square_root(s1) @ square_root(s1), s1, atol=1e-9)


def test_statistics_are_those_of_the_features() -> None:
    features = np.random.default_rng(4).normal(size=(50, 3)).astype(np.float32)
    found = statistics(features)
    centred = features.astype(np.float64) - features.astype(np.float64).mean(0)
    np.testing.assert_allclose(found.covariance, centred.T @ centred / 49, rtol=1e-12)
    assert found.count == 50 and found.mean.dtype == np.float64
    assert statistics(features[:, :1]).covariance.shape == (1, 1)


class Given(torch.nn.Module):
    """Features that are the input."""

    num_features = 6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_frechet_distance_is_that_of_torchmetrics_in_the_same_features() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    rng = np.random.default_rng(7)
    real, samples = rng.normal(size=(80, 6)), rng.normal(0.3, 1.4, size=(50, 6))
    theirs = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(real), real=True)
    theirs.update(torch.from_numpy(samples), real=False)
    one, other = statistics(real), statistics(samples)
    found = frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
    assert found == pytest.approx(theirs.compute().item(), rel=1e-6) and found > 0.5


# -------------------------------------------------------------------------------------------------- kernel distance


def test_kernel_distance_is_that_of_torchmetrics_over_one_subset_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    monkeypatch.setattr("training.metrics.kernel.CHUNK", 7)  # several chunks, the last one short
    rng = np.random.default_rng(8)
    real, samples = rng.normal(size=(40, 6)), rng.normal(0.3, 1.4, size=(40, 6))
    theirs = KernelInceptionDistance(feature=Given(), subsets=1, subset_size=40).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(real), real=True)
    theirs.update(torch.from_numpy(samples), real=False)
    found = kernel_distance(real, samples)
    assert found == pytest.approx(theirs.compute()[0].item(), rel=1e-6) and found > 0.05


def test_kernel_distance_of_sets_of_any_sizes_is_brute_force_and_without_bias() -> None:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / len(x) + 1) ** 3

    rng = np.random.default_rng(9)
    real, samples = rng.normal(size=(9, 4)), rng.normal(1, 1, size=(5, 4))
    within = [
        np.mean([kernel(x, y) for i, x in enumerate(points) for j, y in enumerate(points) if i != j])
        for points in (real, samples)
    ]
    across = np.mean([kernel(x, y) for x in real for y in samples])
    assert kernel_distance(real, samples) == pytest.approx(sum(within) - 2 * across, rel=1e-12)
    assert kernel_distance(real, samples, mean_within(real)) == kernel_distance(real, samples)
    draws = [kernel_distance(rng.normal(size=(20, 3)), rng.normal(size=(10, 3))) for _ in range(400)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 20 and min(draws) < 0 < max(draws)


@pytest.mark.parametrize("bad", [np.zeros((1, 4)), np.zeros((5, 3)), np.full((5, 4), np.nan)])
def test_kernel_distance_refuses_what_it_cannot_compare(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="real and samples must"):
        kernel_distance(np.zeros((5, 4)), bad)


# ----------------------------------------------------------------------------------------------------- memorisation


def bytes_of(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape, dtype=np.uint8)


def test_the_nearest_training_image_is_that_of_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.metrics.memorization.CHUNK", 7)
    rng = np.random.default_rng(10)
    pixels, train = bytes_of(rng, 9, 3, 4, 4), bytes_of(rng, 30, 3, 4, 4)
    pairs = [[np.sqrt(np.mean((x / 255 - y / 255) ** 2)) for y in train] for x in pixels]
    np.testing.assert_allclose(nearest_distances(pixels, train), np.min(pairs, axis=1), rtol=1e-12)


def test_copies_have_a_distance_of_zero_and_new_images_a_ratio_of_one() -> None:
    rng = np.random.default_rng(11)
    train, test, new = (bytes_of(rng, 200, 1, 6, 6) for _ in range(3))
    memorisation = Memorization(train, test, 100, seed=0)
    copied = memorisation.measure(train[:50])
    assert copied == {"nearest_train_distance": 0.0, "nearest_train_ratio": 0.0}
    ratio = memorisation.measure(new)["nearest_train_ratio"]
    assert 0.95 < ratio < 1.05 and memorisation.floor()["nearest_train_ratio"] == 1.0
    near = np.clip(train[:50].astype(int) + rng.integers(-9, 10, (50, 1, 6, 6)), 0, 255).astype(np.uint8)
    assert 0 < memorisation.measure(near)["nearest_train_ratio"] < 0.2


def test_without_held_back_images_there_is_no_ratio() -> None:
    train, new = (bytes_of(np.random.default_rng(seed), 20, 1, 6, 6) for seed in (1, 2))
    memorisation = Memorization(train, train, 10, seed=0)
    assert memorisation.floor() == {"nearest_train_distance": 0.0}
    assert [*memorisation.measure(new)] == ["nearest_train_distance"]


def test_only_as_many_samples_as_asked_are_compared() -> None:
    rng = np.random.default_rng(12)
    train = bytes_of(rng, 40, 1, 4, 4)
    pixels = np.concatenate([train[:10], bytes_of(rng, 90, 1, 4, 4)])
    assert Memorization(train, bytes_of(rng, 40, 1, 4, 4), 10, 0).measure(pixels)["nearest_train_distance"] == 0.0
    assert Memorization(train, bytes_of(rng, 40, 1, 4, 4), 100, 0).measure(pixels)["nearest_train_distance"] > 0.1


def test_images_of_another_shape_have_no_distance() -> None:
    with pytest.raises(ValueError, match="images of one shape"):
        nearest_distances(np.zeros((2, 1, 4, 4), np.uint8), np.zeros((2, 1, 4, 5), np.uint8))


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.zeros(3), np.full((4, 3), np.nan)])
def test_statistics_refuse_what_has_none(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="features must"):
        statistics(bad)


def test_frechet_distance_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="must have the shapes"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), np.eye(3))


# --------------------------------------------------------------------------------------------- precision and recall


def brute_force(real: np.ndarray, samples: np.ndarray, k: int) -> tuple[float, float]:
    def share(points: np.ndarray, centres: np.ndarray) -> float:
        hits = 0
        for point in points:
            for i, centre in enumerate(centres):
                others = sorted(np.linalg.norm(centre - other) for j, other in enumerate(centres) if j != i)
                if np.linalg.norm(point - centre) <= others[k - 1]:
                    hits += 1
                    break
        return hits / len(points)

    return share(samples, real), share(real, samples)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_equal_brute_force(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.metrics.precision_recall.CHUNK", 7)  # several chunks, the last one short
    rng = np.random.default_rng(k)
    real, samples = rng.normal(size=(40, 4)), rng.normal(0.5, 0.7, size=(30, 4))
    found = precision_recall(real, samples, k)
    assert found == brute_force(real, samples, k)
    assert 0 < found[1] < found[0] < 1  # samples are narrower than the real set: the numbers are not the trivial ones


def test_precision_and_recall_at_the_extremes() -> None:
    points = np.random.default_rng(5).normal(size=(60, 8)).astype(np.float32)
    assert precision_recall(points, points) == (1.0, 1.0)
    assert precision_recall(points, points + 1000) == (0.0, 0.0)
    assert precision_recall(np.repeat(points, 4, axis=0), points) == (1.0, 1.0)  # balls of radius 0 hold their centre


def test_a_model_that_draws_one_image_has_precision_and_no_recall() -> None:
    rng = np.random.default_rng(6)
    real = rng.normal(size=(200, 4))
    collapsed = real.mean(0) + 1e-6 * rng.normal(size=(50, 4))
    precision, recall = precision_recall(real, collapsed)
    assert precision > 0.9 and recall == 0.0


@pytest.mark.parametrize("k", [0, 5])
def test_precision_and_recall_refuse_a_neighbour_that_does_not_exist(k: int) -> None:
    with pytest.raises(ValueError, match="k must be from 1 to 4"):
        precision_recall(np.zeros((9, 2)), np.zeros((5, 2)), k)


def test_entropy_of_recognised_classes() -> None:
    assert entropy_bits(np.arange(80) % 8) == pytest.approx(3.0)
    assert entropy_bits(np.full(80, 4)) == 0.0
