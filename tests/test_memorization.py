"""Memorization in features, and the Monge distance (MIND): closed forms, brute force, SciPy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from latent_folders import tiny_vae
from scipy.stats import wasserstein_distance
from training_runs import noise

from training.evaluation.measuring import copies_of
from training.metrics.feature_memorization import memorization, two_nearest
from training.metrics.frechet import frechet_distance
from training.metrics.monge import monge_distance, wasserstein
from training.metrics.reconstruction import reconstruct


def test_the_two_nearest_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.metrics.feature_memorization.CHUNK", 7)  # several chunks, the last one short
    rng = np.random.default_rng(0)
    features, train = rng.normal(size=(9, 5)).astype(np.float32), rng.normal(size=(29, 5)).astype(np.float32)
    found = two_nearest(features, train)
    for row, (index, distance) in enumerate(zip(found.index, found.distance, strict=True)):
        all_distances = np.array([np.linalg.norm(features[row].astype(np.float64) - y) for y in train])
        assert index.tolist() == np.argsort(all_distances)[:2].tolist()
        np.testing.assert_allclose(distance, np.sort(all_distances)[:2], rtol=1e-12)


def test_the_ratio_is_the_one_of_a_line() -> None:
    """Training images at 0, 1 and 10: of a point at t it is t / (1 - t) up to a half, and 0 of a copy."""
    train = np.array([[0.0], [1.0], [10.0]])
    points = np.array([[0.0], [0.1], [0.2], [0.5], [5.5]])
    np.testing.assert_allclose(two_nearest(points, train).ratio, [0, 0.1 / 0.9, 0.25, 1, 1], rtol=1e-12)
    found = memorization(two_nearest(points, train))
    assert found == pytest.approx({
        "nearest_feature_distance": 0.2, "nearest_to_second_ratio": 0.25, "copied_share": 0.6
    })  # fmt: skip


def test_a_copy_of_an_image_that_stands_there_twice_is_a_copy() -> None:
    train = np.array([[0.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    found = two_nearest(train[:1], train)
    assert found.ratio.tolist() == [0.0] and set(found.index[0].tolist()) == {0, 1}
    assert memorization(found)["copied_share"] == 1.0


def test_new_images_of_the_same_kind_have_the_ratio_of_held_back_ones_and_copies_do_not() -> None:
    rng = np.random.default_rng(1)
    train, held_back, new = (rng.normal(size=(400, 32)) for _ in range(3))
    floor, drawn = (memorization(two_nearest(some, train)) for some in (held_back, new))
    assert floor["copied_share"] == drawn["copied_share"] == 0 and floor["nearest_to_second_ratio"] > 0.9
    assert drawn["nearest_to_second_ratio"] == pytest.approx(floor["nearest_to_second_ratio"], abs=0.02)
    copies = memorization(two_nearest(train[:100] + 0.1 * rng.normal(size=(100, 32)), train))
    assert copies["copied_share"] == 1 and copies["nearest_to_second_ratio"] < 0.2


class Pixels(torch.nn.Module):
    """Features that are the pixels."""

    chunk = 7

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * self.weight


def test_beside_a_latent_model_stand_copies_that_went_through_its_autoencoder() -> None:
    images = noise(9, 3, 16, 16)
    vae = tiny_vae()
    options = SimpleNamespace(seed=0, nearest=5, batch_size=2)
    evaluation = SimpleNamespace(
        model=SimpleNamespace(pipe=SimpleNamespace(vae=vae)),
        train=SimpleNamespace(images=images),
        options=options,
        network=Pixels(),
    )
    known = images.reshape(9, -1) / np.float32(127.5) - 1
    chosen = np.sort(np.random.default_rng(0).permutation(9)[:5])
    made = reconstruct(vae, images[chosen], 1).reshape(5, -1) / np.float32(127.5) - 1
    expected = {"num_samples": 5} | memorization(two_nearest(made, known))
    assert copies_of(evaluation, known) == pytest.approx(expected, rel=1e-4)
    evaluation.model.pipe.vae = None
    assert copies_of(evaluation, known) == {}


@pytest.mark.parametrize("bad", [np.zeros((1, 4)), np.zeros((5, 3)), np.full((5, 4), np.nan)])
def test_neighbours_refuse_what_has_none(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="features and train must be"):
        two_nearest(np.zeros((5, 4)), bad)


# ----------------------------------------------------------------------------------------------------- Monge distance


def by_linear_program(a: np.ndarray, b: np.ndarray) -> float:
    """W_2^2 of two sets of equally heavy numbers by the definition: the cheapest plan."""
    from scipy.optimize import linprog

    n, m = len(a), len(b)
    cost = (a[:, None] - b[None]) ** 2
    sums = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    masses = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return linprog(cost.ravel(), A_eq=sums, b_eq=masses).fun


@pytest.mark.parametrize("sizes", [(6, 6), (4, 6), (7, 3), (1, 5)])
def test_the_distance_of_numbers_is_that_of_the_cheapest_plan(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.normal(size=(size, 2)) for size in sizes)
    found = wasserstein(torch.from_numpy(a), torch.from_numpy(b))
    expected = [by_linear_program(a[:, i], b[:, i]) for i in range(2)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_of_a_shift_along_a_line_it_is_the_square_of_scipys_distance() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(size=(50, 1))
    assert monge_distance(a, a + 3) == pytest.approx(wasserstein_distance(a[:, 0], a[:, 0] + 3) ** 2) == 9


def test_of_a_shift_it_is_the_squared_length_as_the_frechet_distance() -> None:
    rng = np.random.default_rng(4)
    x, shift = rng.normal(size=(10, 4)), np.array([1.0, -2.0, 0.5, 3.0])
    covariance = np.cov(x, rowvar=False)
    expected = frechet_distance(x.mean(0), covariance, x.mean(0) + shift, covariance)
    assert expected == pytest.approx(shift @ shift)
    assert monge_distance(x, x + shift, directions=10_000) == pytest.approx(expected, rel=0.03)


def test_of_isotropic_gaussians_it_is_the_closed_form_of_both() -> None:
    """The second one is the first, twice as wide and moved: along any line, that map keeps the order."""
    x = np.random.default_rng(5).normal(size=(300, 3))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False, bias=True))).T  # exactly N(0, I)
    shift = np.array([0.5, -0.5, 1.0])
    expected = shift @ shift + 3 * (2 - 1) ** 2
    assert frechet_distance(np.zeros(3), np.eye(3), shift, 4 * np.eye(3)) == pytest.approx(expected)
    assert monge_distance(x, 2 * x + shift, directions=2000) == pytest.approx(expected, rel=0.05)


def test_it_does_not_depend_on_order_and_tells_apart_what_mean_and_covariance_do_not() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(500, 2))
    assert monge_distance(x, x[::-1]) == pytest.approx(0, abs=1e-20)
    assert monge_distance(x, np.repeat(x, 3, axis=0)) == pytest.approx(0, abs=1e-20)
    two = np.sign(rng.normal(size=(500, 2)))  # mean 0 and variance 1, as x
    assert monge_distance(x, two) > 10 * monge_distance(x, rng.normal(size=(500, 2)))


@pytest.mark.parametrize("bad", [np.zeros((0, 4)), np.zeros((5, 3)), np.full((5, 4), np.nan)])
def test_the_distance_refuses_what_it_cannot_compare(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="real and samples must"):
        monge_distance(np.zeros((5, 4)), bad)
