"""The variational bound and L_hybrid against closed forms for Gaussian data, in float64.

L_t is quadratic in (x_0, eps) for t > 0, so that a three-point Gauss-Hermite rule takes its expectation exactly.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import ddpm, seeded, tables, tiny_unet
from training_runs import noise

from pipelines import GaussianMixture, NoiseSchedule
from training.metrics.bits_per_dim import bits_per_dim, slices_of
from training.metrics.likelihood import VariationalBound, decoder_log_likelihood, variational_bound
from training.objectives.denoising import hybrid_loss
from training.randomness import seeded as seeded_by

M, S = 0.2, 0.5
PROCESSES = {"linear": lambda: NoiseSchedule.linear(60, 1e-3, 0.2), "cosine": lambda: NoiseSchedule.cosine(60)}
SUBSETS = {"all": list(range(60)), "trailing": [5, 11, 17, 23, 29, 35, 41, 47, 53, 59], "uneven": [0, 1, 7, 40, 58]}
VARIANCES = ("fixed_small", "fixed_large", "learned_range")
V = 0.3  # what the network says of its variance
LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def quadrature() -> tuple[Tensor, Tensor, np.ndarray]:
    """x_0 (9, 1, 1, 1) ~ N(M, S^2), eps alike ~ N(0, 1), and their weights (9,)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weights = weights / weights.sum()
    z, eps = (torch.from_numpy(grid.reshape(-1, 1, 1, 1)) for grid in np.meshgrid(nodes, nodes, indexing="ij"))
    return M + S * z, eps, np.outer(weights, weights).ravel()


def bound(kept: list[int], process: str, variance: str, kind: str = "epsilon") -> tuple[VariationalBound, np.ndarray]:
    full = PROCESSES[process]()
    schedule = full.respace(kept)
    exact = GaussianMixture([[[[M]]]], S).denoiser(full, kind)  # asked at the timesteps of the full process
    x0, eps, weights = quadrature()

    def denoiser(x_t: Tensor, t: int) -> Tensor:
        output = exact(x_t, t)
        return torch.cat([output, torch.full_like(output, V)], 1) if variance == "learned_range" else output

    noise = eps.expand(len(kept), *eps.shape)
    return variational_bound(denoiser, x0, schedule, variance, noise, prediction_type=kind), weights


def reverse_variances(abar: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """beta_tilde_t and the variances by name, entry 0 left out; beta_tilde by adding up precisions."""
    before, now = abar[:-1], abar[1:]
    alpha = now / before
    small, large = 1 / (1 / (1 - before) + alpha / (1 - alpha)), 1 - alpha
    learned = np.exp((V + 1) / 2 * np.log(large) + (1 - V) / 2 * np.log(small))
    return small, {"fixed_small": small, "fixed_large": large, "learned_range": learned}


def expected_terms(abar: np.ndarray, variance: str) -> np.ndarray:
    """E[L_t], t > 0, in bits: the posterior means differ by the error of E[x_0 | x_t] times their slope in x_0."""
    small, sigma2 = reverse_variances(abar)
    before, now = abar[:-1], abar[1:]
    slope = small * np.sqrt(before) / (1 - before)  # of the mean of q(x_{t-1} | x_t, x_0) in x_0, by precisions
    error = 1 / (1 / S**2 + now / (1 - now))  # Var[x_0 | x_t]
    ratio = small / sigma2[variance]
    return 0.5 * (ratio - 1 - np.log(ratio) + slope**2 * error / sigma2[variance]) / math.log(2)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kept", SUBSETS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_expected_terms_of_gaussian_data_are_the_closed_form(process: str, kept: str, variance: str) -> None:
    found, weights = bound(SUBSETS[kept], process, variance)
    abar = tables(PROCESSES[process]())[SUBSETS[kept]]
    np.testing.assert_allclose(weights @ found.vb.numpy()[:, 1:], expected_terms(abar, variance), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_what_the_network_predicts_changes_nothing(kind: str) -> None:
    ours, _ = bound(SUBSETS["all"], "linear", "fixed_small", kind)
    plain, _ = bound(SUBSETS["all"], "linear", "fixed_small")
    torch.testing.assert_close(ours.vb, plain.vb, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_prior_the_error_and_the_total(process: str) -> None:
    found, weights = bound(SUBSETS["all"], process, "fixed_small")
    abar, (x0, _, _) = tables(PROCESSES[process]()), quadrature()
    left = abar[-1]
    prior = 0.5 * (left * x0.numpy().ravel() ** 2 + (1 - left) - 1 - math.log(1 - left)) / math.log(2)
    np.testing.assert_allclose(found.prior.numpy(), prior, rtol=1e-9, atol=1e-15)
    error = abar / (1 - abar) / (1 / S**2 + abar / (1 - abar))  # of eps: a^2 / b^2 Var[x_0 | x_t]
    np.testing.assert_allclose(weights @ found.mse.numpy(), error, rtol=1e-9)
    torch.testing.assert_close(found.total, found.vb.sum(1) + found.prior, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("kept", SUBSETS)
def test_the_decoder_is_the_mass_of_the_bin_under_the_mean_and_variance_of_the_first_step(
    variance: str, kept: str
) -> None:
    """At t = 0 the mean is the predicted x_0; fixed variances are beta_tilde_1, as in the published code."""
    full = PROCESSES["linear"]()
    schedule, x0 = full.respace(SUBSETS[kept]), LEVELS[[0, 1, 100, 255]].reshape(4, 1, 1, 1)
    noise = torch.randn((len(schedule), 4, 1, 1, 1), generator=seeded(), dtype=torch.float64)
    shift = 0.004

    def denoiser(x_t: Tensor, t: int) -> Tensor:
        a, b = math.sqrt(float(full.alphas_cumprod[t])), math.sqrt(1 - float(full.alphas_cumprod[t]))
        eps = (x_t - a * (x0 + shift)) / b
        return torch.cat([eps, torch.full_like(eps, V)], 1) if variance == "learned_range" else eps

    found = variational_bound(denoiser, x0, schedule, variance, noise)
    abar = tables(schedule)
    small = float(reverse_variances(abar)[0][0])
    log_variance = (
        (V + 1) / 2 * math.log(1 - abar[0]) + (1 - V) / 2 * math.log(small) if V and variance == "learned_range"
        else math.log(small)
    )  # fmt: skip
    expected = [-tanh_bin(float(x), float(x) + shift, math.exp(log_variance / 2)) / math.log(2) for x in x0.ravel()]
    np.testing.assert_allclose(found.vb[:, 0].numpy(), expected, rtol=1e-9, atol=1e-9)


def tanh_bin(x: float, mean: float, std: float) -> float:
    """log mass of a bin, with the published c.d.f."""

    def cdf(z: float) -> float:
        return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    upper = 1.0 if x > 0.999 else cdf((x + 1 / 255 - mean) / std)
    lower = 0.0 if x < -0.999 else cdf((x - 1 / 255 - mean) / std)
    return math.log(max(upper - lower, 1e-12))


@pytest.mark.parametrize("cdf", ["tanh", "normal"])
@pytest.mark.parametrize("std", [0.002, 0.05, 2.0])
def test_the_masses_of_all_levels_sum_to_one(cdf: str, std: float) -> None:
    for mean in (-1.2, -1.0, 0.013, 0.7, 1.0):
        log_mass = decoder_log_likelihood(
            LEVELS, torch.tensor(mean).double(), torch.tensor(math.log(std)).double(), cdf
        )
        assert float(log_mass.exp().sum()) == pytest.approx(1.0, abs=1e-9)


def test_the_normal_cdf_is_that_of_the_error_function() -> None:
    x, mean, std = LEVELS[100], 0.0, 0.3
    mass = 0.5 * (
        math.erf((float(x) + 1 / 255 - mean) / std / math.sqrt(2))
        - math.erf((float(x) - 1 / 255 - mean) / std / math.sqrt(2))
    )
    found = decoder_log_likelihood(
        x, torch.zeros(()).double(), torch.tensor(math.log(std), dtype=torch.float64), "normal"
    )
    assert float(found) == pytest.approx(math.log(mass), rel=1e-9)


def test_what_is_wrong_is_named() -> None:
    x0, schedule = torch.zeros(2, 1, 1, 1), NoiseSchedule.linear(4)
    with pytest.raises(ValueError, match=r"noise must be of shape \(4, 2, 1, 1, 1\), got \(2, 1, 1, 1\)"):
        variational_bound(lambda x, t: x, x0, schedule, noise=torch.zeros(2, 1, 1, 1))
    for flag, value in (("variance", "learned"), ("prediction_type", "score"), ("cdf", "logistic")):
        with pytest.raises(ValueError, match=f"{flag} must be one of .*got '{value}'"):
            variational_bound(lambda x, t: x, x0, schedule, **{flag: value})
    with pytest.raises(ValueError, match="learned_range"):
        variational_bound(lambda x, t: x, x0, schedule, "learned_range")


def test_a_predicted_image_can_be_clipped() -> None:
    x0, schedule = torch.full((1, 1, 1, 1), 0.9, dtype=torch.float64), NoiseSchedule.linear(20)
    noise = torch.zeros(20, 1, 1, 1, 1, dtype=torch.float64)

    def vb(value: float, clip: bool) -> Tensor:
        options = {"noise": noise, "prediction_type": "sample", "clip_denoised": clip}
        return variational_bound(lambda x, t: torch.full_like(x, value), x0, schedule, **options).vb

    assert torch.equal(vb(7.0, True), vb(1.0, False))
    assert not torch.equal(vb(7.0, True), vb(7.0, False))


# --- L_hybrid ---


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kept", SUBSETS)
def test_hybrid_loss_and_its_gradient_are_the_closed_form(process: str, kept: str) -> None:
    schedule = PROCESSES[process]().respace(SUBSETS[kept])
    abar, T = tables(schedule), len(schedule)
    generator = seeded()
    x0 = LEVELS[torch.randint(256, (T, 2, 3, 3), generator=generator)]
    noise, prediction = (torch.randn((T, 2, 3, 3), generator=generator, dtype=torch.float64) for _ in range(2))
    v = torch.rand((T, 2, 3, 3), generator=generator, dtype=torch.float64) * 2 - 1
    t = torch.arange(T)
    output = torch.cat([prediction, v], 1).requires_grad_()
    losses = hybrid_loss(output, x0, noise, t, schedule)
    (gradient,) = torch.autograd.grad(losses.sum(), output)

    now = abar[1:].reshape(-1, 1, 1, 1)
    before = abar[:-1].reshape(-1, 1, 1, 1)
    small = 1 / (1 / (1 - before) + (now / before) / (1 - now / before))
    large = 1 - now / before
    share = (v[1:].numpy() + 1) / 2
    log_sigma2 = share * np.log(large) + (1 - share) * np.log(small)
    # both means at the same x_t: they differ by the slope in x_0 times b / a (eps - prediction)
    gap = small * np.sqrt(before) / (1 - before) * np.sqrt((1 - now) / now) * (noise - prediction)[1:].numpy()
    kl = 0.5 * (small / np.exp(log_sigma2) - 1 - np.log(small) + log_sigma2 + gap**2 / np.exp(log_sigma2))
    squared = ((noise - prediction) ** 2).flatten(1).mean(1).numpy()
    expected = squared[1:] + T / 1000 * kl.reshape(T - 1, -1).mean(1) / math.log(2)
    np.testing.assert_allclose(losses.detach().numpy()[1:], expected, rtol=1e-9)

    of_mean = 2 * (prediction - noise) / 18
    np.testing.assert_allclose(gradient[:, :2].numpy(), of_mean.numpy(), rtol=1e-9, atol=1e-12)  # none from L_vlb
    by_log = 0.5 * (1 - (small + gap**2) / np.exp(log_sigma2)) / 18 / math.log(2) * T / 1000
    of_v = by_log * 0.5 * (np.log(large) - np.log(small))
    np.testing.assert_allclose(gradient[1:, 2:].numpy(), of_v, rtol=1e-8, atol=1e-12)


def test_hybrid_loss_at_zero_is_the_decoders() -> None:
    schedule = NoiseSchedule.linear(50)
    x0, eps = LEVELS[[3, 255]].reshape(2, 1, 1, 1), torch.tensor([0.4, -0.2], dtype=torch.float64).reshape(2, 1, 1, 1)
    guess, v = 0.9 * eps, torch.full((2, 1, 1, 1), -0.5, dtype=torch.float64)
    output = torch.cat([guess, v], 1).requires_grad_()
    losses = hybrid_loss(output, x0, eps, torch.zeros(2, dtype=torch.int64), schedule)
    abar = tables(schedule)
    small = float(reverse_variances(abar)[0][0])
    a, b = math.sqrt(abar[0]), math.sqrt(1 - abar[0])

    def by_hand(v: float, index: int) -> float:
        std = math.exp(((v + 1) / 2 * math.log(1 - abar[0]) + (1 - v) / 2 * math.log(small)) / 2)
        mean = float(x0[index]) + b / a * float(eps[index] - guess[index])
        bits = -tanh_bin(float(x0[index]), mean, std) / math.log(2)
        return float((eps[index] - guess[index]) ** 2) + 50 / 1000 * bits

    np.testing.assert_allclose(losses.detach().numpy(), [by_hand(-0.5, 0), by_hand(-0.5, 1)], rtol=1e-9)
    (gradient,) = torch.autograd.grad(losses.sum(), output)
    slopes = [(by_hand(-0.5 + 1e-5, i) - by_hand(-0.5 - 1e-5, i)) / 2e-5 for i in range(2)]
    np.testing.assert_allclose(gradient[:, 1].ravel().numpy(), slopes, rtol=1e-5)
    np.testing.assert_allclose(gradient[:, 0].ravel().numpy(), (2 * (guess - eps)).ravel().numpy(), rtol=1e-9)


# --- bits/dim of a saved model ---


@pytest.mark.parametrize(("length", "count"), [(1000, 100), (1000, 1000), (50, 20), (10, 2), (7, 7)])
def test_slices_cover_the_schedule_once_and_begin_with_the_decoder(length: int, count: int) -> None:
    slices = slices_of(length, count)
    assert len(slices) == count and slices[0] == range(0, 1)
    assert [t for part in slices for t in part] == list(range(length))


@pytest.mark.parametrize(("channels", "variance"), [(1, "fixed_small"), (1, "fixed_large"), (2, "learned_range")])
def test_all_timesteps_give_the_bound_itself(channels: int, variance: str) -> None:
    pipe = ddpm(tiny_unet(out_channels=channels), num_train_timesteps=12)
    images = noise(3, 1, 8, 8)
    found = bits_per_dim(pipe, images, num_inference_steps=6, variances=[variance], timesteps_per_image=6, seed=4)
    schedule = NoiseSchedule.from_scheduler(pipe.scheduler).respace([1, 3, 5, 7, 9, 11])
    drawn = torch.stack(
        [
            torch.cat([torch.randn((1, 1, 8, 8), generator=seeded_by(4, i, t, "noise")) for i in range(3)])
            for t in range(6)
        ]
    )
    x0 = torch.from_numpy(images).float() / 127.5 - 1
    expected = variational_bound(
        lambda x, t: pipe.network(x, t), x0, schedule, variance, drawn, True, prediction_type="v_prediction"
    )
    assert found[variance].total == pytest.approx(float(expected.total.mean()), rel=1e-4)
    assert found[variance].standard_error == pytest.approx(float(expected.total.std()) / math.sqrt(3), rel=1e-3)
    assert found[variance].decoder == pytest.approx(float(expected.vb[:, 0].mean()), rel=1e-4)
    np.testing.assert_allclose(found[variance].terms, expected.vb.mean(0).numpy(), rtol=1e-3, atol=1e-4)
    assert found[variance].timesteps.tolist() == [1, 3, 5, 7, 9, 11]


def test_fewer_timesteps_estimate_the_same_whatever_the_batch() -> None:
    pipe, images = ddpm(num_train_timesteps=40), noise(3, 1, 8, 8)
    full = bits_per_dim(pipe, images, num_inference_steps=40, timesteps_per_image=40)["fixed_small"]
    few = [
        bits_per_dim(pipe, images, num_inference_steps=40, timesteps_per_image=8, seed=seed)["fixed_small"].total
        for seed in range(12)
    ]
    assert np.std(few) > 0
    assert abs(np.mean(few) - full.total) < 4 * np.std(few, ddof=1) / math.sqrt(12)
    small = bits_per_dim(pipe, images, num_inference_steps=40, timesteps_per_image=8, batch_size=4)["fixed_small"]
    assert small.total == pytest.approx(few[0], rel=1e-5)


def test_bad_arguments_are_named_before_any_work() -> None:
    pipe = ddpm(num_train_timesteps=4)
    with pytest.raises(ValueError, match="images must be at least 2 of shape"):
        bits_per_dim(pipe, noise(3, 1, 8, 8)[:1], num_inference_steps=4)
    with pytest.raises(ValueError, match="variances must be fixed_small or fixed_large for this network"):
        bits_per_dim(pipe, noise(3, 1, 8, 8), num_inference_steps=4, variances=["learned_range"])
    with pytest.raises(ValueError, match=r"num_inference_steps must be an integer in \[1, 4\], got 5"):
        bits_per_dim(pipe, noise(3, 1, 8, 8), num_inference_steps=5)
    with pytest.raises(ValueError, match="timesteps_per_image must be at least 2, got 1"):
        bits_per_dim(pipe, noise(3, 1, 8, 8), num_inference_steps=4, timesteps_per_image=1)
