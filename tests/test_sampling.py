"""DDPM and DDIM on data whose denoiser is known: independent float64 recursions, and the moments of a mixture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import mixture_denoiser, tables

from pipelines import DDIMPipeline, DDPMPipeline, NoiseSchedule
from pipelines.classifier_free_guidance import guide
from pipelines.ddim import ddim_steps
from pipelines.ddpm import ancestral_steps
from pipelines.run import Step

M, S = 0.4, 0.3  # the Gaussian that the data are drawn from
SUBSETS = {
    "all": list(range(250)),
    "trailing": [24, 49, 74, 99, 124, 149, 174, 199, 224, 249],
    "uneven": [0, 1, 7, 100, 110, 248],
}
PROCESSES = {"linear": lambda: NoiseSchedule.linear(250, 4e-4, 8e-2), "cosine": lambda: NoiseSchedule.cosine(250)}
MIXTURE = dict(weights=[0.25, 0.75], means=[-0.2, 0.8], stds=[0.2, 0.25])
SAMPLES = 64_000


def draws(count: int, size: int = 6) -> np.ndarray:
    """x_T and the noise of `count` steps, (count + 1, size, 1, 1, 1)."""
    return np.random.default_rng(0).standard_normal((count + 1, size, 1, 1, 1))


def stream_of(noise: np.ndarray) -> Callable[[], Tensor]:
    """The noise source that a sampler takes: one entry a call, and an error past the last."""
    entries: Iterator[np.ndarray] = iter(noise)
    return lambda: torch.from_numpy(next(entries))


def last(steps: Iterator[Step]) -> Tensor:
    for step in steps:
        sample = step.prev_sample
    return sample


def run_ddim(schedule: NoiseSchedule, kept: list[int], noise: np.ndarray, eta: float, kind: str = "epsilon") -> Tensor:
    denoiser = mixture_denoiser([1.0], [M], [S], schedule.alphas_cumprod, kind)
    x_T, z = torch.from_numpy(noise[0]), stream_of(noise[1:])
    return last(ddim_steps(denoiser, x_T, schedule.respace(kept), eta=eta, noise=z, prediction_type=kind))


def run_ddpm(
    schedule: NoiseSchedule, kept: list[int], noise: np.ndarray, kind: str = "epsilon", variance: str = "fixed_small"
) -> Tensor:
    denoiser = mixture_denoiser([1.0], [M], [S], schedule.alphas_cumprod, kind)
    x_T, z = torch.from_numpy(noise[0]), stream_of(noise[1:])
    short = schedule.respace(kept)
    return last(ancestral_steps(denoiser, x_T, short, noise=z, prediction_type=kind, variance=variance))


# --- a Gaussian: every sampler is an affine recursion ---


def ddim_reference(abar: np.ndarray, kept: list[int], noise: np.ndarray, eta: float) -> np.ndarray:
    """x_s - a_s m = k (x_t - a_t m) + sigma z, with k from the covariances of x_t with x_0 and with eps."""
    x, draw = noise[0], iter(noise[1:])
    for t, s in zip(kept[::-1], [*kept[-2::-1], -1], strict=True):
        at2, as2 = abar[t], abar[s] if s >= 0 else 1.0
        sigma = eta * math.sqrt((1 - as2) / (1 - at2) * (1 - at2 / as2))
        spread = at2 * S**2 + 1 - at2
        k = (math.sqrt(as2 * at2) * S**2 + math.sqrt(max(1 - as2 - sigma**2, 0) * (1 - at2))) / spread
        x = math.sqrt(as2) * M + k * (x - math.sqrt(at2) * M)
        if sigma > 0:
            x = x + sigma * next(draw)
    return x


def ddpm_reference(abar: np.ndarray, kept: list[int], noise: np.ndarray, variance: str) -> np.ndarray:
    """x_{t-1} = E[x_{t-1} | x_t] + sigma z for Gaussian data: regression of one marginal on the next.

    The mean of q(x_{t-1} | x_t, x_0), averaged over p(x_0 | x_t), is E[x_{t-1} | x_t]; no posterior formula is used.
    """
    x, draw = noise[0], iter(noise[1:])
    for t, s in zip(kept[::-1], [*kept[-2::-1], -1], strict=True):
        at2, as2 = abar[t], abar[s] if s >= 0 else 1.0
        step2 = at2 / as2  # alpha of the step from s to t
        var_s, var_t = as2 * S**2 + 1 - as2, at2 * S**2 + 1 - at2
        x = math.sqrt(as2) * M + math.sqrt(step2) * var_s / var_t * (x - math.sqrt(at2) * M)
        if s >= 0:
            small = 1 / (1 / (1 - as2) + step2 / (1 - step2))  # precisions of x_{t-1} given x_0 and given x_t add up
            x = x + math.sqrt(small if variance == "fixed_small" else 1 - step2) * next(draw)
    return x


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kept", SUBSETS)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_equals_the_closed_form(process: str, kept: str, eta: float) -> None:
    schedule, steps = PROCESSES[process](), SUBSETS[kept]
    noise = draws(len(steps))
    expected = ddim_reference(tables(schedule), steps, noise, eta)
    np.testing.assert_allclose(run_ddim(schedule, steps, noise, eta), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kept", SUBSETS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_equals_the_closed_form(process: str, kept: str, variance: str) -> None:
    schedule, steps = PROCESSES[process](), SUBSETS[kept]
    noise = draws(len(steps))
    expected = ddpm_reference(tables(schedule), steps, noise, variance)
    np.testing.assert_allclose(run_ddpm(schedule, steps, noise, variance=variance), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kept", SUBSETS)
def test_ddim_with_eta_one_is_ddpm(process: str, kept: str) -> None:
    schedule, steps = PROCESSES[process](), SUBSETS[kept]
    noise = draws(len(steps))
    torch.testing.assert_close(
        run_ddim(schedule, steps, noise, eta=1.0), run_ddpm(schedule, steps, noise), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_guidance_without_conditions_leaves_the_steps_as_they_are(eta: float) -> None:
    schedule, steps = PROCESSES["cosine"](), SUBSETS["uneven"]
    noise, denoiser = draws(len(steps)), mixture_denoiser([1.0], [M], [S], schedule.alphas_cumprod)
    x_T = torch.from_numpy(noise[0])
    unconditional = guide(denoiser, {}, {}, 2.0)
    ours = last(ddim_steps(unconditional, x_T, schedule.respace(steps), eta=eta, noise=stream_of(noise[1:])))
    np.testing.assert_allclose(ours, ddim_reference(tables(schedule), steps, noise, eta), rtol=0, atol=1e-9)


def test_ddim_with_eta_one_is_ddpm_over_a_thousand_steps() -> None:
    schedule, noise = NoiseSchedule.linear(), draws(1000)
    every = list(range(1000))
    one, other = run_ddim(schedule, every, noise, eta=1.0), run_ddpm(schedule, every, noise)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    np.testing.assert_allclose(one, ddpm_reference(tables(schedule), every, noise, "fixed_small"), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
@pytest.mark.parametrize("run", [run_ddpm, lambda *args: run_ddim(*args[:3], 0.4, args[3])], ids=["ddpm", "ddim"])
def test_what_the_network_predicts_changes_nothing(kind: str, run: Callable[..., Tensor]) -> None:
    for process in PROCESSES.values():
        schedule, noise = process(), draws(10)
        one, other = (run(schedule, SUBSETS["trailing"], noise, k) for k in ("epsilon", kind))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_the_single_steps_of_the_contract_are_the_loop() -> None:
    schedule, kept = PROCESSES["linear"](), SUBSETS["uneven"]
    noise, denoiser = draws(len(kept)), mixture_denoiser([1.0], [M], [S], schedule.alphas_cumprod)
    short, a, b = schedule.respace(kept), torch.from_numpy(noise[0]), torch.from_numpy(noise[0])
    for i in reversed(range(len(kept))):
        z = torch.from_numpy(noise[len(kept) - i]) if i else None
        t_prev = kept[i - 1] if i else -1
        a = DDPMPipeline.step(short, a, denoiser(a, kept[i]), i, z)
        b = DDIMPipeline.step(schedule, b, denoiser(b, kept[i]), kept[i], t_prev, eta=0.4 if i else 0.0, noise=z)
    torch.testing.assert_close(a, run_ddpm(schedule, kept, noise), rtol=0, atol=1e-9)
    torch.testing.assert_close(b, run_ddim(schedule, kept, noise, 0.4), rtol=0, atol=1e-9)


def test_learned_variance_lies_between_the_fixed_ones() -> None:
    schedule, x = NoiseSchedule.linear(), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    for t in (1, 10, 999):
        small, large = float(schedule.posterior_variance[t]), float(schedule.betas[t])
        for v in (-1.0, -0.2, 1.0):
            got = DDPMPipeline.step(schedule, x, x, t, x + 1, "learned_range", x + v)
            expected = math.sqrt(large ** ((v + 1) / 2) * small ** ((1 - v) / 2))
            assert float(got) == pytest.approx(expected, rel=1e-9), (t, v)


def test_a_zero_terminal_snr_is_survived() -> None:
    """abar_T = 0: x_0 cannot be had from eps by division, so the loops must go on from the x_0 that v gave."""
    abar = NoiseSchedule.cosine(50).alphas_cumprod
    root = (abar.sqrt() - abar[-1].sqrt()) / (abar[0].sqrt() - abar[-1].sqrt()) * abar[0].sqrt()
    kept = root**2
    schedule = NoiseSchedule(1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]]))
    assert schedule.alphas_cumprod[-1] == 0
    noise, steps = draws(50), list(range(50))
    one = run_ddim(schedule, steps, noise, 1.0, "v_prediction")
    other = run_ddpm(schedule, steps, noise, "v_prediction")
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    np.testing.assert_allclose(one, ddim_reference(tables(schedule), steps, noise, 1.0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("sampler", [ddim_steps, ancestral_steps])
def test_float32_loses_nothing_where_the_signal_is_faint(sampler: Callable[..., Iterator[Step]]) -> None:
    """At abar_T = 2e-9 a detour from v over eps back to x_0 would cost three of seven digits."""
    schedule, results = NoiseSchedule.cosine(), []
    for dtype in (torch.float32, torch.float64):
        denoiser = mixture_denoiser([1.0], [M], [S], schedule.alphas_cumprod, "v_prediction")
        x_T = torch.from_numpy(draws(1)[0]).to(dtype)
        steps = sampler(denoiser, x_T, schedule.respace([999]), noise=lambda: None, prediction_type="v_prediction")
        results.append(last(steps).double())
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)


# --- a mixture: the moments of the samples ---


def mixture_moments() -> tuple[float, float]:
    w, m, s = (np.array(MIXTURE[key]) for key in ("weights", "means", "stds"))
    mean = float(w @ m)
    return mean, float(w @ (s**2 + m**2) - mean**2)


def quantiles_of_noise(count: int) -> Tensor:
    """`count` points that fill a standard normal evenly: a deterministic sampler then has no statistical error."""
    shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.special.ndtri(shares).reshape(-1, 1, 1, 1)


def test_ddpm_recovers_the_mean_and_variance_of_a_mixture() -> None:
    schedule, generator = NoiseSchedule.cosine(), torch.Generator().manual_seed(0)
    denoiser = mixture_denoiser(**MIXTURE, alphas_cumprod=schedule.alphas_cumprod)

    def noise() -> Tensor:
        return torch.randn((SAMPLES, 1, 1, 1), generator=generator)

    x = last(ancestral_steps(denoiser, noise(), schedule, noise=noise))
    x = x.flatten().double()
    mean, variance, fourth = float(x.mean()), float(x.var()), float(((x - x.mean()) ** 4).mean())
    mean_error = 4 * math.sqrt(variance / SAMPLES)
    variance_error = 4 * math.sqrt((fourth - variance**2) / SAMPLES)
    true_mean, true_variance = mixture_moments()
    print(f"mean {mean:.4f} ({true_mean:.4f}), variance {variance:.4f} ({true_variance:.4f})")
    assert mean_error < 0.02 * true_mean and variance_error < 0.02 * true_variance  # the bars would show a 2 % bias
    assert abs(mean - true_mean) < mean_error
    assert abs(variance - true_variance) < variance_error


def test_ddim_recovers_the_mean_and_variance_of_a_mixture() -> None:
    schedule = NoiseSchedule.cosine()
    denoiser = mixture_denoiser(**MIXTURE, alphas_cumprod=schedule.alphas_cumprod)
    x = last(ddim_steps(denoiser, quantiles_of_noise(4000), schedule))
    true_mean, true_variance = mixture_moments()
    print(f"mean {x.mean():.4f} ({true_mean:.4f}), variance {x.var():.4f} ({true_variance:.4f})")
    assert float(x.mean()) == pytest.approx(true_mean, rel=0.01)
    assert float(x.var()) == pytest.approx(true_variance, rel=0.01)


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_guidance_at_one_samples_the_class_and_at_zero_all_of_them(scale: float) -> None:
    schedule, half = NoiseSchedule.cosine(4000), 1000
    denoiser = mixture_denoiser(**MIXTURE, alphas_cumprod=schedule.alphas_cumprod)
    labels = torch.tensor([0, 1]).repeat_interleave(half)
    guided = guide(denoiser, {"class_labels": labels}, {"class_labels": 2}, scale)
    x_T, short = quantiles_of_noise(half).repeat(2, 1, 1, 1), schedule.respace(schedule.spaced_timesteps(1000))
    x = last(ddim_steps(guided, x_T, short))
    for part, mean, std in zip(x.split(half), MIXTURE["means"], MIXTURE["stds"], strict=True):
        if scale == 0:
            mean, std = mixture_moments()[0], math.sqrt(mixture_moments()[1])
        assert float(part.mean()) == pytest.approx(mean, rel=0.01)
        assert float(part.std()) == pytest.approx(std, rel=0.02)
