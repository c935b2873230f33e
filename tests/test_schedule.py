"""NoiseSchedule against direct formulas, numerical conditioning of Gaussians, and diffusers' tables."""

from __future__ import annotations

import math
from collections.abc import Callable

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from pipelines import NoiseSchedule

KINDS = ("epsilon", "sample", "v_prediction")
SCHEDULES = {
    "linear": NoiseSchedule.linear,
    "cosine": NoiseSchedule.cosine,
    "respaced": lambda: NoiseSchedule.cosine().respace([0, 3, 50, 400, 998]),
}


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    return SCHEDULES[request.param]()


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- tables ---


def test_linear_tables_are_the_formula() -> None:
    betas = [1e-4 + (2e-2 - 1e-4) * t / 999 for t in range(1000)]
    abar = [math.exp(math.fsum(math.log1p(-beta) for beta in betas[: t + 1])) for t in range(1000)]
    schedule = NoiseSchedule.linear()
    np.testing.assert_allclose(schedule.betas, betas, rtol=1e-12)
    np.testing.assert_allclose(schedule.alphas_cumprod, abar, rtol=1e-12)
    assert schedule.betas.dtype == schedule.alphas_cumprod.dtype == torch.float64
    assert schedule.timesteps.tolist() == list(range(1000))


@pytest.mark.parametrize("T", [10, 1000])
def test_cosine_keeps_the_share_of_the_formula_until_betas_are_capped(T: int) -> None:
    t = np.arange(T + 1)
    f = np.cos((t / T + 0.008) / 1.008 * np.pi / 2) ** 2
    schedule = NoiseSchedule.cosine(T)
    np.testing.assert_allclose(schedule.alphas_cumprod[:-1], f[1:-1] / f[0], rtol=1e-10)
    assert schedule.betas[-1] == 0.999
    assert (schedule.betas[:-1] < 0.999).all()


@pytest.mark.parametrize(
    "config",
    [
        {"beta_schedule": "linear"},
        {"beta_schedule": "linear", "num_train_timesteps": 250, "beta_start": 1e-3, "beta_end": 0.05},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "sigmoid"},
        {"trained_betas": [0.01, 0.02, 0.05, 0.4]},
    ],
    ids=lambda config: config.get("beta_schedule", "trained_betas"),
)
def test_from_scheduler_rebuilds_what_diffusers_holds(config: dict) -> None:
    stock = DDPMScheduler(**config)
    ours = NoiseSchedule.from_scheduler(stock)
    np.testing.assert_allclose(ours.betas, stock.betas, rtol=2e-4)  # float32 cosine betas are off by 1e-4 at t = 0
    np.testing.assert_allclose(ours.alphas_cumprod, stock.alphas_cumprod, rtol=2e-4, atol=1e-7)
    assert ours.betas.dtype == torch.float64


def test_from_scheduler_rescales_to_zero_terminal_snr() -> None:
    stock = DDIMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
    ours = NoiseSchedule.from_scheduler(stock)
    np.testing.assert_allclose(ours.alphas_cumprod, stock.alphas_cumprod, rtol=1e-3, atol=1e-6)
    plain = NoiseSchedule.from_scheduler(DDIMScheduler(beta_schedule="scaled_linear")).alphas_cumprod
    assert ours.alphas_cumprod[-1] == 0.0
    assert ours.alphas_cumprod[0] == pytest.approx(float(plain[0]), rel=1e-12)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler"])
def test_from_scheduler_reads_other_schedulers_too(name: str) -> None:
    stock = getattr(diffusers, name)(beta_schedule="scaled_linear")
    ours = NoiseSchedule.from_scheduler(stock)
    np.testing.assert_allclose(ours.alphas_cumprod, stock.alphas_cumprod, rtol=1e-4)


# --- q(x_t | x_0) ---


def test_single_steps_composed_are_the_closed_form(schedule: NoiseSchedule) -> None:
    mean, variance, one = 1.0, 0.0, torch.ones(1, 1, dtype=torch.float64)
    for t, beta in enumerate(schedule.betas.tolist()):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        assert float(schedule.add_noise(one, 0 * one, t)) == pytest.approx(mean, rel=1e-10)
        assert float(schedule.add_noise(0 * one, one, t)) ** 2 == pytest.approx(variance, rel=1e-10)


def test_add_noise_and_velocity_agree_with_diffusers() -> None:
    stock, ours = DDPMScheduler(), NoiseSchedule.linear()
    x0, noise, t = rand(5, 3, 4, 4).float(), rand(5, 3, 4, 4, seed=1).float(), torch.tensor([0, 1, 10, 500, 999])
    torch.testing.assert_close(ours.add_noise(x0, noise, t), stock.add_noise(x0, noise, t), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.velocity(x0, noise, t), stock.get_velocity(x0, noise, t), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_invert_the_forward_process(schedule: NoiseSchedule, kind: str) -> None:
    count = len(schedule)
    x0, noise = rand(count, 2, 3, 3), rand(count, 2, 3, 3, seed=1)
    t = torch.arange(count)
    x_t = schedule.add_noise(x0, noise, t)
    output = {"epsilon": noise, "sample": x0, "v_prediction": schedule.velocity(x0, noise, t)}[kind]
    torch.testing.assert_close(schedule.predict_x0(output, x_t, t, kind), x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(schedule.predict_eps(output, x_t, t, kind), noise, rtol=0, atol=1e-10)


def test_an_integer_t_means_all_images(schedule: NoiseSchedule) -> None:
    x0, noise = rand(3, 1, 2, 2), rand(3, 1, 2, 2, seed=1)
    each = schedule.add_noise(x0, noise, torch.full((3,), 2))
    assert torch.equal(schedule.add_noise(x0, noise, 2), each)
    assert torch.equal(schedule.add_noise(x0, noise, torch.tensor(2)), each)


def test_snr_is_signal_over_noise_variance(schedule: NoiseSchedule) -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    for t in (0, 2, len(schedule) - 1):
        ratio = schedule.add_noise(one, 0 * one, t) ** 2 / schedule.add_noise(0 * one, one, t) ** 2
        assert float(schedule.snr(t)) == pytest.approx(float(ratio), rel=1e-10)
    assert schedule.snr(torch.tensor([0, 1])).shape == (2,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_worked_on_in_float32(dtype: torch.dtype) -> None:
    schedule, t = NoiseSchedule.linear(), torch.tensor([0, 400, 999])
    x0, noise = rand(3, 1, 8, 8).to(dtype), rand(3, 1, 8, 8, seed=1).to(dtype)
    exact = schedule.add_noise(x0.double(), noise.double(), t)
    assert torch.equal(schedule.add_noise(x0, noise, t), exact.float().to(dtype))  # rounded once, at the end
    for kind in KINDS:
        x_half = schedule.predict_x0(noise, x0, t, kind)
        assert x_half.dtype == torch.float32
        x_exact = schedule.predict_x0(noise.double(), x0.double(), t, kind)
        torch.testing.assert_close(x_half.double(), x_exact, rtol=1e-5, atol=1e-5)
    assert schedule.posterior_mean(x0, noise, t).dtype == torch.float32


# --- q(x_{t-1} | x_t, x_0) ---


def test_posterior_is_the_conditioned_joint_gaussian(schedule: NoiseSchedule) -> None:
    """(x_{t-1}, x_t) given x_0 is a linear map of two independent draws: condition it by Schur's complement."""
    x0, x_t = 0.7, -1.3
    abar, betas = schedule.alphas_cumprod.numpy(), schedule.betas.numpy()
    tensor = torch.tensor([[x0]], dtype=torch.float64), torch.tensor([[x_t]], dtype=torch.float64)
    for t in [1, 2, len(schedule) // 2, len(schedule) - 1]:
        drift = math.sqrt(1 - betas[t])
        root = np.array([[math.sqrt(1 - abar[t - 1]), 0.0], [drift * math.sqrt(1 - abar[t - 1]), math.sqrt(betas[t])]])
        covariance = root @ root.T
        before = math.sqrt(abar[t - 1]) * x0
        gain = np.linalg.solve(covariance[1:, 1:], covariance[1:, :1])[0, 0]
        assert float(schedule.posterior_mean(*tensor, t)) == pytest.approx(
            before + gain * (x_t - drift * before), rel=1e-9
        )
        left = covariance[0, 0] - gain * covariance[1, 0]
        assert float(schedule.posterior_variance[t]) == pytest.approx(left, rel=1e-9)
        assert float(schedule.posterior_log_variance_clipped[t]) == pytest.approx(math.log(left), rel=1e-9)


def test_posterior_at_the_first_step_is_x0_itself(schedule: NoiseSchedule) -> None:
    x0, x_t = rand(2, 3), rand(2, 3, seed=1)
    torch.testing.assert_close(schedule.posterior_mean(x0, x_t, 0), x0, rtol=0, atol=1e-12)
    assert schedule.posterior_variance[0] == 0
    clipped = schedule.posterior_log_variance_clipped
    assert clipped[0] == clipped[1]
    assert clipped.isfinite().all()


# --- respacing ---


def test_respace_keeps_the_marginals_and_the_names_of_the_steps() -> None:
    schedule, kept = NoiseSchedule.cosine(), [999, 0, 17, 500]
    short = schedule.respace(kept)
    assert short.timesteps.tolist() == [0, 17, 500, 999]
    torch.testing.assert_close(short.alphas_cumprod, schedule.alphas_cumprod[sorted(kept)], rtol=0, atol=0)
    # the variance of several small steps, one after the other
    passed = 1 - torch.prod(1 - schedule.betas[18:501])
    assert float(short.betas[2]) == pytest.approx(float(passed), rel=1e-12)
    twice = short.respace([1, 3])
    assert twice.timesteps.tolist() == [17, 999]
    torch.testing.assert_close(twice.alphas_cumprod, schedule.alphas_cumprod[[17, 999]], rtol=0, atol=0)


def test_respace_to_all_steps_changes_nothing(schedule: NoiseSchedule) -> None:
    same = schedule.respace(range(len(schedule)))
    torch.testing.assert_close(same.betas, schedule.betas, rtol=1e-9, atol=1e-15)


# --- spacing ---


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("offset", [0, 1])
def test_spacing_is_strictly_descending_at_every_count(spacing: str, offset: int) -> None:
    schedule = NoiseSchedule.linear()
    for count in range(1, 1001):
        steps = np.array(schedule.spaced_timesteps(count, spacing, offset))
        assert len(steps) == count
        assert steps[0] <= 999 and steps[-1] >= 0
        assert (np.diff(steps) < 0).all(), (spacing, count)
        if spacing == "trailing":
            assert steps[0] == 999, count
        if spacing == "linspace" and count > 1:
            assert (steps[0], steps[-1]) == (999, 0), count
        if spacing == "leading" and count < 1000:
            assert steps[-1] == offset, count
        gaps = -np.diff(steps)
        assert count < 3 or gaps.max() - gaps.min() <= 1, (spacing, count)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_spacing_is_that_of_the_stock_scheduler(spacing: str) -> None:
    schedule, stock = NoiseSchedule.linear(), DDIMScheduler(timestep_spacing=spacing)
    for count in [1, 2, 4, 5, 7, 8, 10, 15, 20, 25, 30, 49, 50, 99, 100, 128, 250, 333, 500, 999, 1000]:
        stock.set_timesteps(count)
        assert schedule.spaced_timesteps(count, spacing) == stock.timesteps.tolist(), count


# --- errors ---


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: NoiseSchedule([]), "betas"),
        (lambda: NoiseSchedule([[0.1]]), "betas"),
        (lambda: NoiseSchedule([0.1, 0.0]), "betas"),
        (lambda: NoiseSchedule([0.1, 1.5]), "betas"),
        (lambda: NoiseSchedule([0.1, math.nan]), "betas"),
        (lambda: NoiseSchedule([0.1, 0.2], timesteps=[1]), "timesteps"),
        (lambda: NoiseSchedule.linear(10).respace([]), "timesteps"),
        (lambda: NoiseSchedule.linear(10).respace([3, 3]), "timesteps"),
        (lambda: NoiseSchedule.linear(10).respace([10]), "timesteps"),
        (lambda: NoiseSchedule.linear(10).respace([-1]), "timesteps"),
        (lambda: NoiseSchedule.linear(10).spaced_timesteps(0), "num_inference_steps"),
        (lambda: NoiseSchedule.linear(10).spaced_timesteps(11), "num_inference_steps"),
        (lambda: NoiseSchedule.linear(10).spaced_timesteps(2.0), "num_inference_steps"),
        (lambda: NoiseSchedule.linear(10).spaced_timesteps(True), "num_inference_steps"),
        (lambda: NoiseSchedule.linear(10).spaced_timesteps(5, "even"), "timestep_spacing"),
        (lambda: NoiseSchedule.linear(10).predict_x0(rand(1), rand(1), 1, "x0"), "prediction_type"),
        (lambda: NoiseSchedule.linear(10).predict_eps(rand(1), rand(1), 1, "x0"), "prediction_type"),
        (lambda: NoiseSchedule.from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler()), "beta_schedule"),
    ],
)
def test_errors_name_the_parameter(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} must"):
        make()
