"""The denoising objective against formulas written out here, and the randomness that it draws from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor
from training_runs import noise_images, small_settings

from training.networks.open import load_pipeline
from training.objectives.denoising import Denoising, hybrid_loss
from training.objectives.importance import LossHistory
from training.randomness import BatchRandom, DataOrder

KINDS = ("epsilon", "sample", "v_prediction")
NAMES = ("bird", "cat", "dog")
T = 1000


def cosine_abar() -> np.ndarray:
    """abar of the cosine schedule, float64 (T,), from Nichol & Dhariwal 2021, eq. 17."""
    f = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)]
    return np.cumprod([1 - min(1 - f[t + 1] / f[t], 0.999) for t in range(T)])


class Fake(torch.nn.Module):
    """A network whose output is known, and which keeps what it was shown."""

    def __init__(self, answer: Tensor | None = None) -> None:
        super().__init__()
        self.answer, self.seen = answer, {}
        self.config = FrozenDict(in_channels=1, out_channels=1 if answer is None else answer.shape[1])

    def forward(
        self, x: Tensor, t: Tensor, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> tuple[Tensor]:
        assert not return_dict
        self.seen = {"x": x, "t": t, "labels": class_labels}
        return (0.3 * x - 0.1 if self.answer is None else self.answer,)


def objective(folder: Path, network: Fake, names: tuple[str, ...] | None = NAMES, **changes: object) -> Denoising:
    _, options = small_settings(folder / "run", ddpm_num_steps=T, **changes)
    return Denoising(options, network, names)


def batch_of(count: int) -> dict[str, Tensor]:
    """float64 images in [-1, 1] and labels."""
    data = noise_images(count, classes=3)
    return {"images": torch.from_numpy(data.images).double() / 127.5 - 1, "labels": torch.from_numpy(data.labels)}


def drawn(rng: BatchRandom, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The noise (N, 1, 8, 8), and abar, as (N, 1, 1, 1), at the timesteps (N,) that a stratified loss draws."""
    t = (rng.stratified("t").numpy() * T).astype(int)
    return rng.normal("noise", (1, 8, 8)).double().numpy(), cosine_abar()[t].reshape(count, 1, 1, 1), t


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_mean_squared_error_of_what_is_predicted(kind: str, tmp_path: Path) -> None:
    network, batch, rng = Fake(), batch_of(16), BatchRandom(0, 3, 0, 16, 16)
    task = objective(tmp_path, network, prediction_type=kind)
    losses = task.losses(batch, rng)
    x0, (eps, abar, t) = batch["images"].numpy(), drawn(rng, 16)
    x_t = np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps
    target = {"epsilon": eps, "sample": x0, "v_prediction": np.sqrt(abar) * eps - np.sqrt(1 - abar) * x0}[kind]
    expected = ((0.3 * x_t - 0.1 - target) ** 2).mean((1, 2, 3))
    assert np.array_equal(network.seen["t"].numpy(), t)
    np.testing.assert_allclose(network.seen["x"].numpy(), x_t, rtol=0, atol=1e-12)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-12)
    assert float(task.loss(batch, rng)) == pytest.approx(expected.mean(), rel=1e-12)


@pytest.mark.parametrize("gamma", [5.0, 0.3])
def test_min_snr_weights_are_the_papers_whatever_is_predicted(gamma: float, tmp_path: Path) -> None:
    """The same error in x_0 costs min(SNR, gamma) times its square, be it made through eps, x_0 or v."""
    batch, rng = batch_of(64), BatchRandom(0, 3, 0, 64, 64)
    x0, (eps, abar, _) = batch["images"].numpy(), drawn(rng, 64)
    a, b = np.sqrt(abar), np.sqrt(1 - abar)
    x_t, wrong = a * x0 + b * eps, x0 + np.random.default_rng(1).standard_normal(x0.shape)
    answers = {"sample": wrong, "epsilon": (x_t - a * wrong) / b, "v_prediction": (a * x_t - wrong) / b}
    snr = (abar / (1 - abar)).reshape(64)
    assert (snr < gamma).any() and (snr > gamma).any()
    expected = np.minimum(snr, gamma) * ((wrong - x0) ** 2).mean((1, 2, 3))
    for kind, answer in answers.items():
        task = objective(tmp_path, Fake(torch.from_numpy(answer)), prediction_type=kind, snr_gamma=gamma)
        np.testing.assert_allclose(task.losses(batch, rng).numpy(), expected, rtol=1e-7, err_msg=kind)


def test_labels_are_dropped_at_the_rate_asked_for(tmp_path: Path) -> None:
    count, rate = 20_000, 0.15
    network, labels = Fake(), torch.arange(count) % 3
    batch = {"images": torch.zeros(count, 1, 2, 2), "labels": labels}
    task = objective(tmp_path, network, label_dropout=rate)
    task.loss(batch, BatchRandom(0, 0, 0, count, count))
    dropped = network.seen["labels"] == 3
    assert torch.equal(network.seen["labels"][~dropped], labels[~dropped])
    assert abs(float(dropped.double().mean()) - rate) < 4 * math.sqrt(rate * (1 - rate) / count)
    by_class = torch.stack([dropped[labels == i].double().mean() for i in range(3)])
    assert float((by_class - rate).abs().max()) < 5 * math.sqrt(rate * (1 - rate) / (count / 3))


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_no_label_or_every_label_can_be_dropped(rate: float, tmp_path: Path) -> None:
    network, batch = Fake(), batch_of(50)
    objective(tmp_path, network, label_dropout=rate).loss(batch, BatchRandom(0, 0, 0, 50, 50))
    assert torch.equal(network.seen["labels"], torch.full((50,), 3) if rate else batch["labels"])


def test_without_classes_the_network_is_given_no_label(tmp_path: Path) -> None:
    network = Fake()
    objective(tmp_path, network, names=None).loss(batch_of(4), BatchRandom(0, 0, 0, 4, 4))
    assert network.seen["labels"] is None


def test_the_loss_of_one_example_does_not_depend_on_the_others(tmp_path: Path) -> None:
    task, batch = objective(tmp_path, Fake()), batch_of(12)
    whole = task.losses(batch, BatchRandom(7, 5, 0, 12, 12))
    parts = [
        task.losses({k: v[i : i + 3] for k, v in batch.items()}, BatchRandom(7, 5, i, 3, 12)) for i in range(0, 12, 3)
    ]
    assert torch.equal(torch.cat(parts), whole)


# --- timesteps ---


@pytest.mark.parametrize("total", [1, 4, 64, 96])
def test_stratified_timesteps_hit_every_slice_once(total: int) -> None:
    for step in range(20):
        share = BatchRandom(0, step, 0, total, total).stratified("t")
        assert torch.equal((share * total).long().sort().values, torch.arange(total))
        assert share.dtype == torch.float64 and bool(((share >= 0) & (share < 1)).all())


@pytest.mark.parametrize("sampling", ["stratified", "uniform"])
def test_the_timestep_of_one_place_in_the_batch_is_uniform(sampling: str, tmp_path: Path) -> None:
    task, draws, bins = objective(tmp_path, Fake(), timestep_sampling=sampling), 4000, 20
    t = torch.cat([task._timesteps(BatchRandom(0, step, 2, 1, 8))[0] for step in range(draws)])
    assert int(t.min()) >= 0 and int(t.max()) < T
    counts = torch.bincount(t * bins // T, minlength=bins).double()
    chi_square = float(((counts - draws / bins) ** 2 / (draws / bins)).sum())
    assert chi_square < 50  # 19 degrees of freedom: 1 in 8,000


def test_uniform_timesteps_are_independent(tmp_path: Path) -> None:
    task = objective(tmp_path, Fake(), timestep_sampling="uniform")
    drawn_t = [task._timesteps(BatchRandom(0, s, 0, 8, 8))[0] for s in range(50)]
    collisions = [len(t.mul(8).div(T).long().unique()) < 8 for t in drawn_t]
    assert sum(collisions) > 40  # eight independent draws hit eight slices once each in 0.24 % of cases


# --- random numbers ---


def test_slices_of_the_batch_agree_with_the_whole() -> None:
    whole = BatchRandom(3, 11, 0, 12, 12)
    for count in (1, 3, 4, 6):
        parts = [BatchRandom(3, 11, start, count, 12) for start in range(0, 12, count)]
        for draw in (
            lambda rng: rng.normal("noise", (1, 4, 4)),
            lambda rng: rng.uniform("flip"),
            lambda rng: rng.stratified("t"),
        ):
            assert torch.equal(torch.cat([draw(part) for part in parts]), draw(whole))


def test_every_seed_step_and_stream_has_numbers_of_its_own() -> None:
    draws = [
        BatchRandom(seed, step, 0, 4, 4).uniform(stream)
        for seed in (0, 1, 2)
        for step in (0, 1, 12)
        for stream in ("flip", "label dropout")
    ]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws)
    again = BatchRandom(0, 0, 0, 4, 4).uniform("flip")
    assert torch.equal(again, draws[0])


def test_noise_is_standard_normal_and_float32() -> None:
    noise = BatchRandom(0, 0, 0, 1000, 1000).normal("noise", (1, 10, 10))
    assert noise.dtype == torch.float32 and noise.shape == (1000, 1, 10, 10)
    moments = [float((noise.double() ** k).mean()) for k in (1, 2, 4)]
    np.testing.assert_allclose(moments, [0, 1, 3], atol=0.1)
    assert abs(moments[0]) < 5 / math.sqrt(1e5) and abs(moments[1] - 1) < 5 * math.sqrt(2 / 1e5)


@pytest.mark.parametrize("size", [1, 3, 10, 64])
def test_each_epoch_is_a_permutation_and_a_restart_goes_on_with_the_same(size: int) -> None:
    whole = DataOrder(5, size).indices(0, 7 * size)
    epochs = whole.reshape(7, size)
    assert torch.equal(epochs.sort(1).values, torch.arange(size).expand(7, size))
    if size >= 10:
        assert len({tuple(epoch.tolist()) for epoch in epochs}) == 7
    for first in (0, 1, size - 1, size, 3 * size + size // 2, 5 * size):
        assert torch.equal(DataOrder(5, size).indices(first, 2 * size), whole[first : first + 2 * size])
    one = DataOrder(5, size)  # one order, read in small steps, back and forth
    assert torch.equal(torch.cat([one.indices(k, 1) for k in range(3 * size)]), whole[: 3 * size])
    assert torch.equal(one.indices(0, size), whole[:size])
    if size >= 10:
        assert not torch.equal(DataOrder(6, size).indices(0, size), whole[:size])


# --- a learned variance ---


def test_a_learned_variance_trains_the_hybrid_loss(tmp_path: Path) -> None:
    answer = torch.randn(8, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    task, batch = objective(tmp_path, Fake(answer), variance_type="learned_range"), batch_of(8)
    rng = BatchRandom(0, 1, 0, 8, 8)
    noise, _, t = drawn(rng, 8)
    expected = hybrid_loss(
        answer, batch["images"], torch.from_numpy(noise), torch.from_numpy(t), task.schedule, "v_prediction"
    )
    torch.testing.assert_close(task.losses(batch, rng), expected, rtol=1e-12, atol=1e-12)


def test_importance_weighs_the_loss_of_each_example(tmp_path: Path) -> None:
    """Each is divided by T p_t, which makes the mean over examples that of t drawn evenly."""
    answer = torch.randn(8, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flags = {"variance_type": "learned_range", "timestep_sampling": "importance"}
    task, batch = objective(tmp_path, Fake(answer), **flags), batch_of(8)
    steps = torch.arange(len(task.schedule))
    for _ in range(10):
        task.history.note(steps, 1.0 + steps.double())
        task.history.update(task.history.take())
    rng = BatchRandom(0, 1, 0, 8, 8)
    t, weights = task._timesteps(rng)
    torch.testing.assert_close(weights.double(), (1.0 + steps.double()).mean() / (1.0 + t.double()), rtol=0.01, atol=0)
    noise = torch.from_numpy(drawn(rng, 8)[0])
    expected = weights * hybrid_loss(answer, batch["images"], noise, t, task.schedule, "v_prediction")
    torch.testing.assert_close(task.losses(batch, rng), expected, rtol=1e-12, atol=1e-12)


def test_importance_goes_by_the_root_mean_square_of_a_steps_terms() -> None:
    """Of terms 0, 0, ..., 4 it is sqrt(16 / 10), of ten ones 1 (Nichol & Dhariwal 2021, eq. 18)."""
    history = LossHistory(2)
    for last in range(10):
        history.note(torch.arange(2), torch.tensor([4.0 if last == 9 else 0.0, 1.0], dtype=torch.float64))
        history.update(history.take())
    t, _ = history.timesteps((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
    root = (16 / 10) ** 0.5
    assert torch.bincount(t, minlength=2)[0] == pytest.approx(1000 * root / (root + 1), abs=3)


def test_a_network_that_learned_its_variance_is_drawn_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe, options = small_settings(tmp_path / "run", variance_type="learned_range", class_conditional=False)
    task = Denoising.build(recipe, options, noise_images(classes=None))
    assert task.network.config.out_channels == 2 and task.scheduler.config.variance_type == "learned_range"
    task.pipeline(task.network).save_pretrained(tmp_path / "folder")
    pipe = load_pipeline(str(tmp_path / "folder"))
    assert pipe.variance_type == "learned_range" and len(pipe(batch_size=2, num_inference_steps=3).images) == 2
    again, fixed = small_settings(
        tmp_path / "run", class_conditional=False, pretrained_model_name_or_path=str(tmp_path / "folder")
    )
    assert fixed.variance_type == "fixed_small"
    with caplog.at_level("INFO"):  # what a network has learned, it goes on learning
        assert Denoising.build(again, fixed, noise_images(classes=None)).learned
    assert "variance_type is learned_range" in caplog.text


def test_a_plain_network_can_be_given_variance_channels(tmp_path: Path) -> None:
    recipe, options = small_settings(tmp_path / "run", class_conditional=False)
    plain = Denoising.build(recipe, options, noise_images(classes=None))
    plain.pipeline(plain.network).save_pretrained(tmp_path / "folder")
    more = replace(recipe, pretrained_model_name_or_path=str(tmp_path / "folder"))
    task = Denoising.build(more, replace(options, variance_type="learned_range"), noise_images(classes=None))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 3])
    before, after = plain.network(x, t).sample, task.network(x, t).sample
    torch.testing.assert_close(after[:, :1], before, rtol=0, atol=1e-6)
    assert after.shape == (2, 2, 8, 8) and not after[:, 1:].any()
    assert task.scheduler.config.variance_type == "learned_range"


def test_importance_prefers_large_terms_and_weighs_them_down() -> None:
    history, size = LossHistory(4), torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    shares = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    t, weights = history.timesteps(shares)
    assert torch.bincount(t).tolist() == [250] * 4 and torch.equal(weights, torch.ones(1000, dtype=torch.float64))
    for _ in range(10):
        history.note(torch.arange(4), size)
        history.update(history.take())
    t, weights = history.timesteps(shares)
    counts = torch.bincount(t, minlength=4) / 1000
    torch.testing.assert_close(counts.double(), size / 15, rtol=0, atol=0.002)
    mean = float((weights * size[t]).mean())  # unbiased for the mean over all t
    assert mean == pytest.approx(float(size.mean()), rel=0.01)
    for _ in range(10):  # only the last ten count
        history.note(torch.arange(4), size.flip(0))
        history.update(history.take())
    torch.testing.assert_close(history.probabilities(), 0.999 * size.flip(0) / 15 + 0.00025, rtol=1e-9, atol=0)
    fresh = LossHistory(4)
    fresh.load_state_dict(history.state_dict())
    assert torch.equal(fresh.probabilities(), history.probabilities())
