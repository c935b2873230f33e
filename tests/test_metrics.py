"""The measures against closed forms, brute force and extremes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from training.evaluation import cached_features
from training.evaluation.batches import draw
from training.evaluation.cached_features import extract_cached
from training.evaluation.results import find_done, grid, key_of, merge, on_one_line, read_rows
from training.evaluation.sampling import draw_batch, open_model
from training.feature_classifier import augment
from training.files import weights_hash
from training.metrics.features import FeatureClassifier, classifier_hash, extract, to_input
from training.metrics.frechet import frechet_distance, square_root, statistics
from training.metrics.kernel import kernel_distance, mean_within
from training.metrics.memorization import Memorization, nearest_distances
from training.metrics.precision_recall import precision_recall
from training.metrics.sample_quality import entropy_bits

CARDS = Path(__file__).resolve().parent.parent / "model_cards"


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


# ------------------------------------------------------------------------------------------------------- features


def tiny_classifier() -> FeatureClassifier:
    torch.manual_seed(0)
    return FeatureClassifier(sample_size=8, block_out_channels=(8, 8), layers_per_block=(1, 1)).eval()


def test_the_classifier_is_the_same_after_saving(tmp_path: Path) -> None:
    classifier = tiny_classifier()
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
    classifier = tiny_classifier()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
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


# --------------------------------------------------------------------------------------------------------- reports


def row(weights: str, value: float, **settings: object) -> dict:
    return {"settings": {"model": "m", **settings}, "weights": weights, "measured": {"frechet_distance": value}}


def test_rows_merge_by_settings_and_rows_of_other_weights_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    assert merge(path, row("a", 1.0, seed=0)) == []
    assert merge(path, row("a", 2.0, seed=1)) == []
    assert merge(path, row("a", 3.0, seed=0)) == []
    values = {key: found["measured"]["frechet_distance"] for key, found in read_rows(path).items()}
    assert values == {"m seed=0": 3.0, "m seed=1": 2.0}
    assert merge(path, row("b", 4.0, seed=1)) == ["m seed=0", "m seed=1"]
    assert list(read_rows(path)) == [key_of({"model": "m", "seed": 1})]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_the_sections_of_metrics_json_keep_each_other_and_age_together(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    merge(path, row("a", 1.0, seed=0))
    assert json.loads(path.read_text()).keys() == {"results"}
    merge(path, row("a", 2.0, variance="fixed_small") | {"curve": {"t": [0, 1, 2]}}, "likelihood")
    merge(path, row("a", 3.0, seed=1))
    assert len(read_rows(path)) == 2 and len(read_rows(path, "likelihood")) == 1
    assert '"t": [0, 1, 2]' in path.read_text()
    assert merge(path, row("b", 3.0, seed=0)) == ["m seed=0", "m seed=1", "m variance=fixed_small"]


def test_lists_of_numbers_stand_on_one_line_and_mean_the_same() -> None:
    content = {"a": [1, -2.5e-7, 3], "b": [], "c": ["x, 1", [1, 2]], "d": "[ 1, 2 ]", "e": [{"f": [0]}]}
    text = on_one_line(json.dumps(content, indent=2))
    assert json.loads(text) == content and '"a": [1, -2.5e-07, 3]' in text


@pytest.mark.parametrize(
    "changed", [{"weights": "b"}, {"real": {"test": 2}}, {"features": {"weights": "g"}}, {"settings": {"model": "n"}}]
)
def test_a_row_is_done_only_if_all_that_decides_it_is_the_same(tmp_path: Path, changed: dict) -> None:
    path = tmp_path / "metrics.json"
    written = row("a", 1.0, seed=0) | {"features": {"weights": "f", "name": "x"}, "real": {"test": 1}}
    merge(path, written)
    wanted = {key: written[key] for key in ("settings", "weights", "real")} | {"features": {"weights": "f"}}
    assert find_done(path, wanted, {"frechet_distance"}) == written
    assert find_done(path, wanted, {"frechet_distance", "recall"}) is None
    assert find_done(path, wanted | changed, {"frechet_distance"}) is None


def test_a_config_is_part_of_what_a_row_is_true_of(tmp_path: Path) -> None:
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, norm_num_groups=4, layers_per_block=1, **blocks)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    first, path = weights_hash(tmp_path), tmp_path / "scheduler" / "scheduler_config.json"
    for change, same in (({"_diffusers_version": "0"}, True), ({"timestep_spacing": "trailing"}, False)):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert (weights_hash(tmp_path) == first) is same


def test_another_kind_of_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"test_accuracy": 0.9}')
    with pytest.raises(ValueError, match="output must be a metrics.json"):
        merge(path, row("a", 1.0))
    assert path.read_text() == '{"test_accuracy": 0.9}'


def test_the_grid_has_a_class_a_column() -> None:
    pixels = np.zeros((25, 1, 2, 3), dtype=np.uint8) + np.arange(25, dtype=np.uint8).reshape(25, 1, 1, 1) % 10
    image = grid(pixels, columns=10)
    assert image.size == (10 * 3 * 3, 2 * 2 * 3) and image.mode == "L"
    assert (np.asarray(image) == np.repeat(np.arange(10), 9)).all()
    assert grid(np.zeros((4, 3, 2, 3), dtype=np.uint8), columns=10).mode == "RGB"


# --------------------------------------------------------------------------------------------------------- drawing


def test_a_stock_pipeline_is_drawn_from_and_its_network_calls_are_counted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, norm_num_groups=4, layers_per_block=1, **blocks)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "stock")
    model = open_model(str(tmp_path / "stock"), torch.float32)
    model.use_scheduler("DDIM")
    assert (model.name, model.scheduler, model.shape, model.num_classes) == ("stock", "DDIM", (1, 8, 8), None)
    drawn = draw(model, 5, batch_size=3, seed=0, name="images", num_inference_steps=2)
    assert drawn.pixels.shape == (5, 1, 8, 8) and drawn.nfe == 2.0
    assert not np.array_equal(drawn.pixels[0], drawn.pixels[1])


def test_heun_draws_without_blowing_up() -> None:
    """From t = T - 1 of a cosine schedule its images are black and white."""
    model = open_model(str(CARDS / "fashion-cfg"), torch.float32)
    model.use_scheduler("Heun", 8)
    pixels = draw_batch(model, range(4), seed=0, num_inference_steps=8).pixels
    assert ((pixels > 25) & (pixels < 230)).mean() > 0.15


def test_a_model_that_draws_nan_is_an_error(tmp_path: Path) -> None:
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, norm_num_groups=4, layers_per_block=1, **blocks)
    torch.nn.init.constant_(unet.conv_out.bias, float("nan"))
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "broken")
    model = open_model(str(tmp_path / "broken"), torch.float32)
    with pytest.raises(ValueError, match="broken drew values that are not finite"):
        draw(model, 2, batch_size=2, seed=0, name="images", num_inference_steps=1)
