"""SDEs and Langevin dynamics on ground truth: update rules, densities at the end, orders, and limits."""

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    ScoreSdeVeScheduler,
    UniPCMultistepScheduler,
)
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import kstest, norm
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from toys import CLASSES, calls_seen, quiet, score_sde, seeded, tiny_unet

from pipelines import VESDE, VPSDE, GaussianMixture, NoiseSchedule, ScoreSDEPipeline, SubVPSDE
from pipelines.ddim import ddim_steps
from pipelines.ddpm import ancestral_step
from pipelines.langevin import annealed_langevin_steps, langevin_corrector, langevin_step
from pipelines.score_sde import (
    SAMPLERS,
    adaptive_steps,
    euler_maruyama,
    heun_steps,
    reverse_diffusion,
    score_of,
    score_of_exploding,
    sde_steps,
)
from pipelines.sde import SDE

SDES = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE()}
WEIGHTS, MEANS, STDS = [0.4, 0.6], [-0.5, 0.6], [0.2, 0.15]
MIXTURE = GaussianMixture(torch.tensor(MEANS, dtype=torch.float64).reshape(2, 1, 1, 1), STDS, weights=WEIGHTS)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def noises(count: int, seed: int = 7) -> object:
    generator = seeded(seed)
    return lambda: torch.randn((count, 1, 1, 1), generator=generator, dtype=torch.float64)


def exact_score(sde: SDE) -> object:
    return lambda x, t, rows=None: MIXTURE.score(x, *sde.marginal(t))


def cdf(x: np.ndarray, a: float = 1.0, b: float = 0.0) -> np.ndarray:
    """Of the mixture under the marginal (a, b)."""
    parts = zip(WEIGHTS, MEANS, STDS, strict=True)
    return sum(w * norm.cdf(x, a * m, math.hypot(a * s, b)) for w, m, s in parts)


class WithoutFloat64(TorchDispatchMode):
    """The device "meta" as one that has no float64, as Apple's."""

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        made = func(*args, **kwargs or {})
        if isinstance(made, Tensor) and made.device.type == "meta":
            assert made.dtype != torch.float64, f"{func} makes float64 on the device"
        return made


@pytest.mark.parametrize("name", SDES)
def test_a_device_without_float64_is_enough(name: str) -> None:
    sde, schedule = SDES[name], NoiseSchedule.from_scheduler(DDPMScheduler())
    score = score_of_exploding(lambda x, sigma: x * sigma, sde)
    if name != "ve":
        score = score_of(lambda x, t: x * t, schedule, "epsilon", sde)
    x = torch.zeros(2, 1, 4, 4, device="meta")
    with WithoutFloat64():
        for steps in (
            sde_steps(score, x, sde, [1.0, 0.5, 1e-3], lambda: x, "reverse_diffusion"),
            sde_steps(score, x, sde, [1.0, 0.5, 1e-3], lambda: x, "euler_maruyama"),
            heun_steps(score, x, sde, [1.0, 0.5, 1e-3]),
        ):
            assert [step.prev_sample.device.type for step in steps] == ["meta"] * 2


def times(count: int, end: float) -> list[float]:
    return [1 + (end - 1) * i / count for i in range(count + 1)]


# -------------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("name", SDES)
def test_the_marginals_solve_the_equations_of_mean_and_variance(name: str) -> None:
    """a' = f a and (b^2)' = 2 f b^2 + g^2, by differences of what `marginal` says."""
    sde, h = SDES[name], 1e-6
    for t in (0.05, 0.3, 0.7, 0.99):
        (a0, b0), (a1, b1), (a, b) = sde.marginal(t - h), sde.marginal(t + h), sde.marginal(t)
        f, g = float(sde.drift_rate(t)), float(sde.diffusion(t))
        assert float(a1 - a0) / (2 * h) == pytest.approx(f * float(a), rel=1e-6, abs=1e-9)
        assert float(b1**2 - b0**2) / (2 * h) == pytest.approx(2 * f * float(b) ** 2 + g**2, rel=1e-6)
        rate_a, rate_b = sde.marginal_rate(t)
        assert float(rate_a) == pytest.approx(float(a1 - a0) / (2 * h), rel=1e-6, abs=1e-9)
        assert float(rate_b) == pytest.approx(float(b1 - b0) / (2 * h), rel=1e-6)


def test_the_constants_are_those_of_the_papers() -> None:
    """By integrating beta, and by the published formulas of the sub-VP and VE processes."""
    integral = quad(lambda s: 0.1 + s * 19.9, 0, 0.4)[0]
    a = math.exp(-0.5 * integral)
    assert [float(v) for v in VPSDE().marginal(0.4)] == pytest.approx([a, math.sqrt(1 - a * a)], rel=1e-12)
    assert [float(v) for v in SubVPSDE().marginal(0.4)] == pytest.approx([a, 1 - a * a], rel=1e-12)
    assert float(SubVPSDE().diffusion(0.4)) ** 2 == pytest.approx((0.1 + 0.4 * 19.9) * (1 - math.exp(-2 * integral)))
    assert [float(v) for v in VESDE().marginal(0.5)] == pytest.approx([1, math.sqrt(0.01 * 50)], rel=1e-12)
    assert VESDE(0.02, 30.0).prior_std == 30.0 and VPSDE().prior_std == 1.0


@pytest.mark.parametrize("wrong", [lambda: VPSDE(0.0, 1.0), lambda: VPSDE(2.0, 1.0), lambda: VESDE(0.1, 0.1)])
def test_constants_that_make_no_process_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="must be 0 < "):
        wrong()


# ----------------------------------------------------------------------------------------------------- single steps


@pytest.mark.parametrize("name", SDES)
def test_euler_maruyama_is_the_published_rule(name: str) -> None:
    """x - (f x - g^2 s) dt + g sqrt(dt) z, with f and g written out."""
    sde, t, dt = SDES[name], 0.6, 0.01
    x, s, z = normals(3, 2, seed=1), normals(3, 2, seed=2), normals(3, 2, seed=3)
    beta = 0.1 + t * 19.9
    integral = 0.1 * t + 19.9 * t * t / 2
    f = 0.0 if name == "ve" else -beta / 2
    sigma = 0.01 * 5000**t
    g2 = {"vp": beta, "subvp": beta * (1 - math.exp(-2 * integral)), "ve": sigma**2 * 2 * math.log(5000)}[name]
    mean = x - (f * x - g2 * s) * dt
    found = euler_maruyama(sde, x, s, t, dt, z)
    torch.testing.assert_close(found, (mean + math.sqrt(g2 * dt) * z, mean), rtol=0, atol=1e-9)
    assert ScoreSDEPipeline.euler_maruyama is euler_maruyama


def test_reverse_diffusion_of_ve_is_ncsn_s_ancestral_step() -> None:
    """x + (sigma_i^2 - sigma_{i-1}^2) s + sqrt(sigma_i^2 - sigma_{i-1}^2) z (Song et al. 2021, eq. 46 and 47)."""
    sde, t, dt = VESDE(), 0.6, 1 / 999
    x, s, z = normals(3, 2, seed=1), normals(3, 2, seed=2), normals(3, 2, seed=3)
    difference = (0.01 * 5000**t) ** 2 - (0.01 * 5000 ** (t - dt)) ** 2
    mean = x + difference * s
    found = reverse_diffusion(sde, x, s, t, dt, z)
    torch.testing.assert_close(found, (mean + math.sqrt(difference) * z, mean), rtol=0, atol=1e-9)
    stock = ScoreSdeVeScheduler(1000, sigma_min=0.01, sigma_max=50.0)
    stock.set_timesteps(1000)
    stock.set_sigmas(1000)
    step = stock.step_pred(s.float(), 599 / 999, x.float(), generator=seeded())
    mean = reverse_diffusion(sde, x, s, 599 / 999, 1 / 999, z)[1]
    torch.testing.assert_close(step.prev_sample_mean.double(), mean, rtol=1e-4, atol=1e-5)


def test_reverse_diffusion_of_vp_is_the_published_rule() -> None:
    """(2 - sqrt(1 - beta)) x + beta s + sqrt(beta) z."""
    t, dt = 0.6, 1e-3
    x, s, z = normals(3, 2, seed=1), normals(3, 2, seed=2), normals(3, 2, seed=3)
    beta = (0.1 + t * 19.9) * dt
    mean = (2 - math.sqrt(1 - beta)) * x + beta * s
    found = reverse_diffusion(VPSDE(), x, s, t, dt, z)
    torch.testing.assert_close(found, (mean + math.sqrt(beta) * z, mean), rtol=0, atol=1e-12)


def test_the_corrector_is_the_published_rule_with_norms_of_each_image() -> None:
    x, s, z = normals(3, 1, 4, 4, seed=1), 5 * normals(3, 1, 4, 4, seed=2), normals(3, 1, 4, 4, seed=3)
    found = langevin_corrector(x, s, z, 0.16, alpha=0.9)
    for i in range(3):
        size = 2 * 0.9 * (0.16 * float(z[i].norm()) / float(s[i].norm())) ** 2
        torch.testing.assert_close(found[i], x[i] + size * s[i] + math.sqrt(2 * size) * z[i], rtol=0, atol=1e-12)


def test_the_corrector_of_one_image_is_the_stock_scheduler_s() -> None:
    x, s = normals(1, 1, 4, 4, seed=1).float(), normals(1, 1, 4, 4, seed=2).float()
    stock = ScoreSdeVeScheduler(1000, snr=0.16)
    expected = stock.step_correct(s, x, generator=seeded(3)).prev_sample
    z = torch.randn(x.shape, generator=seeded(3))
    torch.testing.assert_close(langevin_corrector(x, s, z, 0.16), expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------- the density at the end


@pytest.mark.parametrize(
    ("name", "predictor", "steps", "corrector_steps"),
    [
        ("vp", "euler_maruyama", 500, 0),
        ("vp", "reverse_diffusion", 500, 0),
        ("subvp", "euler_maruyama", 500, 0),
        ("ve", "reverse_diffusion", 500, 0),
        ("ve", "euler_maruyama", 1000, 0),
    ],
)
def test_the_reverse_sde_ends_in_the_mixture(name: str, predictor: str, steps: int, corrector_steps: int) -> None:
    sde, count = SDES[name], 20_000
    x = sde.prior_std * normals(count, 1, 1, 1, seed=3)
    grid = times(steps, 1e-3 if name != "ve" else 1e-5)
    *_, last = sde_steps(exact_score(sde), x, sde, grid, noises(count), predictor, corrector_steps)
    distance = kstest(last.prev_sample.flatten().numpy(), cdf).statistic
    print(name, predictor, "Kolmogorov-Smirnov", distance)
    assert distance < 0.02


@pytest.mark.parametrize("name", SDES)
def test_the_probability_flow_ends_in_the_mixture(name: str) -> None:
    sde, count = SDES[name], 20_000
    x = sde.prior_std * normals(count, 1, 1, 1, seed=4)
    *_, last = heun_steps(exact_score(sde), x, sde, times(200, 1e-3 if name != "ve" else 1e-5))
    assert kstest(last.prev_sample.flatten().numpy(), cdf).statistic < 0.02


def test_langevin_dynamics_keeps_the_density_that_it_is_at() -> None:
    """Unadjusted Langevin at one level, from anywhere; of a narrow step the bias is small."""
    sde, count = VESDE(0.3, 3.0), 20_000
    a, b = (float(v) for v in sde.marginal(0.0))
    x, noise = 2 * normals(count, 1, 1, 1, seed=5), noises(count)
    for _ in range(400):
        x = langevin_step(x, MIXTURE.score(x, a, b), noise(), 0.02)
    assert kstest(x.flatten().numpy(), lambda v: cdf(v, a, b)).statistic < 0.02


def test_annealed_langevin_ends_in_the_mixture_and_denoises_last() -> None:
    """NCSN's algorithm 1: both modes get their share, from a start that has forgotten them."""
    sde, count = VESDE(0.05, 5.0), 20_000
    x = sde.prior_std * normals(count, 1, 1, 1, seed=6)
    levels = torch.linspace(1, 0, 40, dtype=torch.float64).tolist()
    steps = list(annealed_langevin_steps(exact_score(sde), x, sde, levels, noises(count), 20, 0.2 * 0.05**2))
    assert len(steps) == 40
    last = steps[-1]
    sigma = 0.05
    denoised = last.x_t + sigma**2 * MIXTURE.score(last.x_t, 1.0, sigma)
    torch.testing.assert_close(last.prev_sample, denoised, rtol=0, atol=1e-12)
    assert kstest(last.x_t.flatten().numpy(), lambda v: cdf(v, 1.0, sigma)).statistic < 0.02


def test_correctors_mend_what_few_steps_leave() -> None:
    """Predictor and corrector against the predictor alone, at as many steps (Song et al. 2021, table 1).

    Of many pixels, each from the mixture: the step of the corrector is set by norms, which mean nothing for one number.
    """
    sde, shape = VESDE(), (300, 1, 8, 8)
    generator = seeded(7)

    def score(x: Tensor, t: float) -> Tensor:
        return MIXTURE.score(x.reshape(-1, 1, 1, 1), *sde.marginal(t)).reshape(shape)

    def noise() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    found, x = [], sde.prior_std * normals(*shape, seed=3)
    for corrector_steps in (0, 2):
        *_, last = sde_steps(score, x, sde, times(30, 1e-5), noise, "reverse_diffusion", corrector_steps)
        found.append(kstest(last.prev_sample.flatten().numpy(), cdf).statistic)
    print("Kolmogorov-Smirnov without and with correctors", found)
    assert found[1] < found[0]


@pytest.mark.parametrize(
    ("name", "predictor"), [("vp", "euler_maruyama"), ("vp", "reverse_diffusion"), ("ve", "reverse_diffusion")]
)
def test_predictor_and_corrector_end_in_the_mixture(name: str, predictor: str) -> None:
    """Of images of 8x8 pixels, each from the mixture, as the corrector's step is set by the norms of an image."""
    sde, shape, generator = SDES[name], (320, 1, 8, 8), seeded(9)

    def score(x: Tensor, t: float) -> Tensor:
        return MIXTURE.score(x.reshape(-1, 1, 1, 1), *sde.marginal(t)).reshape(shape)

    def noise() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, grid = sde.prior_std * normals(*shape, seed=3), times(300, 1e-3 if name != "ve" else 1e-5)
    *_, last = sde_steps(score, x, sde, grid, noise, predictor, corrector_steps=1, snr=0.16)
    distance = kstest(last.prev_sample.flatten().numpy(), cdf).statistic
    print(name, predictor, "with a corrector: Kolmogorov-Smirnov", distance)
    assert distance < 0.02


# ------------------------------------------------------------------------------------------------------ the ODE's map


def transported(z: float, sde: SDE, end: float) -> float:
    """Where the monotone map takes z from p(x_1) to p(x_end): equal quantiles."""
    a1, b1 = (float(v) for v in sde.marginal(1.0))
    a, b = (float(v) for v in sde.marginal(end))
    wanted = cdf(z, a1, b1)
    return brentq(lambda x: cdf(x, a, b) - wanted, -20, 20, xtol=1e-13)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("solver", ["heun", "adaptive"])
def test_the_ode_is_the_monotone_transport(name: str, solver: str) -> None:
    sde, end = SDES[name], 1e-3
    z = sde.prior_std * torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)
    if solver == "heun":
        *_, last = heun_steps(exact_score(sde), z, sde, times(2000, end))
    else:
        *_, last = adaptive_steps(exact_score(sde), z, sde, end, 1e-7, 1e-7, 10_000)
    expected = torch.tensor([transported(float(v), sde, end) for v in z]).double()
    torch.testing.assert_close(last.prev_sample.flatten(), expected, rtol=0, atol=1e-4)


def test_orders_of_the_flow_s_steps() -> None:
    """Heun's second order, and DDIM, a step of first order of the same flow."""
    sde, end = VPSDE(), 1e-3
    z = normals(64, 1, 1, 1, seed=8)
    exact = torch.tensor([transported(float(v), sde, end) for v in z]).double().reshape_as(z)
    counts, heun = np.array([50, 100, 200, 400]), []
    for count in counts:
        *_, last = heun_steps(exact_score(sde), z, sde, times(int(count), end))
        heun.append(float((last.prev_sample - exact).square().mean().sqrt()))
    slope = -np.polyfit(np.log(counts), np.log(heun), 1)[0]
    print("heun", heun, slope)
    assert 1.7 < slope < 2.4


# ---------------------------------------------------------------------------------------- what DDPM and NCSN are


def test_ddpm_becomes_the_vp_sde_as_its_steps_grow() -> None:
    """The same noise, the same score: the means of one step differ by the square of the step."""
    x, z, t, differences = normals(64, 1, 1, 1, seed=1), normals(64, 1, 1, 1, seed=2), 0.5, []
    for T in (100, 200, 400, 800):
        sde = VPSDE()
        schedule = NoiseSchedule(torch.tensor([(0.1 + 19.9 * (i + 1) / T) / T for i in range(T)]).double())
        i = T // 2 - 1
        score = MIXTURE.score(x, *schedule.marginal(i))
        a, b = schedule.marginal(i)
        x0 = (x + b**2 * score) / a
        ddpm = ancestral_step(schedule, x0, x, i, lambda: z, "fixed_large")
        euler, _ = euler_maruyama(sde, x, score, t, 1 / T, z)
        differences.append(float((ddpm - euler).abs().max()) * T)
    slope = -np.polyfit(np.log([100, 200, 400, 800]), np.log(differences), 1)[0]
    print("differences per dt", differences, slope)
    assert 0.9 < slope < 1.1, "per unit of time, in first order"


def test_ddim_becomes_the_probability_flow_of_vp_as_its_steps_grow() -> None:
    z, errors, counts = normals(64, 1, 1, 1, seed=1), [], [100, 200, 400, 800]
    for T in counts:
        schedule = NoiseSchedule(torch.tensor([(0.1 + 19.9 * (i + 1) / T) / T for i in range(T)]).double())
        *_, last = ddim_steps(MIXTURE.denoiser(schedule), z, schedule)
        exact = torch.tensor([transported(float(v), VPSDE(), 1e-9) for v in z]).double().reshape_as(z)
        errors.append(float((last.prev_sample - exact).square().mean().sqrt()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    print("errors", errors, slope)
    assert 0.7 < slope < 1.3


# -------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SDES)
def test_a_discrete_network_gives_the_score_of_any_process(kind: str, name: str) -> None:
    """Asked at the same signal-to-noise ratio, whatever its schedule and prediction type."""
    sde, schedule = SDES[name], NoiseSchedule.cosine(1000)
    score = score_of(MIXTURE.denoiser(schedule, kind), schedule, kind, sde)
    for t in (0.1, 0.4, 0.8):
        x = normals(5, 1, 1, 1, seed=1) * float(sde.marginal(t)[1])
        expected = MIXTURE.score(x, *sde.marginal(t))
        torch.testing.assert_close(score(x, t), expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(score(x, torch.full((5,), t).double()), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", SDES)
def test_a_ve_network_gives_the_score_of_any_process(name: str) -> None:
    sde = SDES[name]
    network = lambda x, sigma: MIXTURE.score(x, 1.0, sigma)  # noqa: E731
    score = score_of_exploding(network, sde)
    x = normals(5, 1, 1, 1, seed=1)
    torch.testing.assert_close(score(x, 0.3), MIXTURE.score(x, *sde.marginal(0.3)), rtol=1e-9, atol=1e-12)


def ve() -> ScoreSDEPipeline:
    network = tiny_unet(4, time_embedding_type="fourier")
    return quiet(ScoreSDEPipeline(network, ScoreSdeVeScheduler(sigma_max=20.0), CLASSES))


@pytest.mark.parametrize("make", [score_sde, ve])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_from_either_network_and_no_image_depends_on_the_batch(make: object, sampler: str) -> None:
    pipe = make()
    options = dict(sampler=sampler, num_inference_steps=4, output_type="latent", rtol=1e-2, atol=1e-2)
    options |= {"sde": "ve"} if sampler == "annealed_langevin" else {}
    options |= {} if sampler.startswith("ode") else {"corrector_steps": 1}
    together = pipe([0, 1, 2], guidance_scale=2.0, generator=[seeded(i) for i in range(3)], **options)
    assert together.images.isfinite().all() and together.nfe > 2
    for i in range(3):
        alone = pipe(i, guidance_scale=2.0, generator=seeded(i), **options).images
        assert torch.equal(alone[0], together.images[i])


def test_an_ode_run_ends_with_the_x0_of_its_last_score() -> None:
    pipe = score_sde()
    with calls_seen(pipe) as seen:
        *_, last = pipe.stream(1, num_inference_steps=3, sampler="ode_heun", generator=seeded())
    assert len(seen) == 7, "two evaluations per step and one at the end"
    x_t, _, _, eps = (value[:1] if isinstance(value, Tensor) and value.ndim else value for value in seen[-1])
    a, b = (float(v) for v in VPSDE().marginal(1e-3))
    torch.testing.assert_close(last.prev_sample, (x_t - b * eps) / a, rtol=0, atol=1e-5)


def test_the_schedule_states_the_process() -> None:
    sde = score_sde(beta_start=2e-4, beta_end=1e-2).make_sde()
    assert (sde.beta_min, sde.beta_max) == (0.2, 10.0)
    assert (ve().make_sde().sigma_max, score_sde().make_sde("ve").sigma_max) == (20.0, 50.0)
    assert isinstance(score_sde().make_sde("subvp"), SubVPSDE)


def test_a_step_by_a_network_is_the_rule_with_its_eps() -> None:
    pipe = score_sde()
    with calls_seen(pipe) as seen:
        step = next(pipe.stream(1, num_inference_steps=10, sampler="euler_maruyama", generator=seeded()))
    x, time, _, eps = (value[:1] if isinstance(value, Tensor) else value for value in seen[0])
    assert float(time) == pytest.approx(999, abs=5)  # the step with as much signal
    a, b = (float(v) for v in VPSDE().marginal(1.0))
    beta, dt = 20.0, (1 - 1e-3) / 10
    mean = x - (-beta / 2 * x + beta * eps / b) * dt
    z = (step.prev_sample - mean) / math.sqrt(beta * dt)
    assert 0.5 < float(z.std()) < 1.5
    torch.testing.assert_close(step.eps, eps, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("sde must be one of vp, subvp, ve, got 'vpp'", {"sde": "vpp"}),
        ("sampler must be one of euler_maruyama", {"sampler": "heun"}),
        ("snr must be a finite number in", {"snr": 0}),
        ("rtol must be a finite number in", {"rtol": 0.0}),
        ("sde must be ve with sampler annealed_langevin", {"sampler": "annealed_langevin"}),
        ("corrector_steps must be 0 with sampler ode_heun, got 1", {"sampler": "ode_heun", "corrector_steps": 1}),
        ("num_inference_steps must be an integer of at least 1", {"num_inference_steps": 0}),
    ],
)
def test_a_bad_argument_is_named_before_any_work(said: str, arguments: dict) -> None:
    pipe = score_sde()
    with calls_seen(pipe) as seen, pytest.raises(ValueError, match=said):
        pipe(1, **arguments)
    assert not seen


def test_an_adaptive_run_that_does_not_arrive_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"not at 0.001, after 20 evaluations \(max_evaluations\), for image 0"):
        score_sde()(1, sampler="ode_adaptive", rtol=1e-9, atol=1e-9, max_evaluations=20)
    with pytest.raises(ValueError, match="scheduler must be a ScoreSdeVeScheduler .*, got FlowMatchEuler"):
        quiet(ScoreSDEPipeline(tiny_unet(4), FlowMatchEulerDiscreteScheduler(), CLASSES))(1)
    of_flows = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="scheduler must be a ScoreSdeVeScheduler .*, got UniPC"):
        quiet(ScoreSDEPipeline(tiny_unet(4), of_flows, CLASSES))(1)
    with pytest.raises(ValueError, match="^sde must be subvp or None, got 've'$"):
        ScoreSDEPipeline(tiny_unet(4), DDPMScheduler(), CLASSES, sde="ve")
