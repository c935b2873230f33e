"""Flow matching on ground truth: exact velocities, the transport in one dimension, orders, stock schedulers, DDIM."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor
from toys import calls_seen, flow, seeded, tiny_unet

from pipelines import GaussianMixture, LinearPath, NoiseSchedule, VariancePreservingPath
from pipelines.ddim import ddim_step, ddim_steps
from pipelines.flow_matching import SAMPLERS, flow_steps, shifted_times
from pipelines.process import Path, from_velocity, path_velocity

PATHS = [LinearPath(), VariancePreservingPath()]
WEIGHTS, MEANS, STDS = [0.4, 0.6], [-0.5, 0.6], [0.2, 0.15]
MIXTURE = GaussianMixture(torch.tensor(MEANS, dtype=torch.float64).reshape(2, 1, 1, 1), STDS, weights=WEIGHTS)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def carried(z: Tensor, path: Path, steps: int, solver: str) -> Tensor:
    """Noise (N, 1, 1, 1) carried to t = 0 by the exact velocity."""
    velocity = MIXTURE.denoiser(path, "flow_prediction")
    *_, last = flow_steps(velocity, z, shifted_times(steps), path, solver)
    return last.prev_sample


def transported(z: float) -> float:
    """Where the monotone map from N(0, 1) to the mixture takes z: equal quantiles."""
    weights = list(zip(WEIGHTS, MEANS, STDS, strict=True))
    return brentq(lambda x: sum(w * norm.cdf(x, m, s) for w, m, s in weights) - norm.cdf(z), -5, 5, xtol=1e-12)


# ------------------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize("path", PATHS)
def test_the_velocity_is_the_derivative_of_the_path(path: Path) -> None:
    x0, eps, t, h = normals(6, 2, seed=1), normals(6, 2, seed=2), torch.linspace(0.05, 0.95, 6).double(), 1e-5

    def at(t: Tensor) -> Tensor:
        a, b = path.marginal(t)
        return a[:, None] * x0 + b[:, None] * eps

    slope = (at(t + h) - at(t - h)) / (2 * h)
    torch.testing.assert_close(path_velocity(path, x0, eps, t), slope, rtol=0, atol=1e-9)
    back = from_velocity(path, path_velocity(path, x0, eps, t), at(t), t)
    torch.testing.assert_close(back, (x0, eps), rtol=0, atol=1e-12)
    ends = path.marginal(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(torch.stack(ends), torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double(), rtol=0, atol=1e-15)


def test_the_variance_preserving_velocity_is_half_pi_times_v() -> None:
    path, x0, eps, t = VariancePreservingPath(), normals(4, 3, seed=1), normals(4, 3, seed=2), torch.rand(4).double()
    a, b = (level[:, None] for level in path.marginal(t))
    torch.testing.assert_close(path_velocity(path, x0, eps, t), torch.pi / 2 * (a * eps - b * x0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_the_velocity_of_a_mixture_is_the_mean_over_what_could_have_been(path: Path) -> None:
    """By numerical integration over x_0 of the velocity of each line through x_t, weighted by its posterior."""
    t, x = 0.4, 0.3
    (a, b), (rate_a, rate_b) = path.marginal(t), path.marginal_rate(t)
    x0 = np.linspace(-3, 3, 60001)
    eps = (x - float(a) * x0) / float(b)
    prior = sum(w * norm.pdf(x0, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))
    posterior = prior * norm.pdf(eps)
    expected = (posterior * (float(rate_a) * x0 + float(rate_b) * eps)).sum() / posterior.sum()
    found = MIXTURE.denoiser(path, "flow_prediction")(torch.full((1, 1, 1, 1), x, dtype=torch.float64), t)
    assert float(found) == pytest.approx(expected, abs=1e-9)


# ---------------------------------------------------------------------------------------------------------- solvers


@pytest.mark.parametrize("path", PATHS)
def test_the_flow_carries_noise_to_equal_quantiles(path: Path) -> None:
    """In one dimension the probability flow keeps the order of points: it is the monotone map, in closed form."""
    z = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64).reshape(-1, 1, 1, 1)
    expected = torch.tensor([transported(float(v)) for v in z]).double()
    found = carried(z, path, 2000, "midpoint").flatten()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_the_error_falls_with_the_order_of_the_solver(path: Path, solver: str, order: int) -> None:
    z, counts = normals(64, 1, 1, 1), np.array([40, 80, 160, 320])
    exact = torch.tensor([transported(float(v)) for v in z]).double()
    errors = [float((carried(z, path, int(n), solver).flatten() - exact).square().mean().sqrt()) for n in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    print(solver, type(path).__name__, "errors", errors, "slope", slope)
    assert abs(slope - order) < 0.25


def test_a_step_along_the_straight_line_is_a_step_of_ddim() -> None:
    """DDIM between levels with the same signal-to-noise ratios, and x divided by the size that DDIM gives it."""
    x0, eps = normals(3, 2, seed=1), normals(3, 2, seed=2)
    path, t, s = LinearPath(), 0.7, 0.45
    x = 0.3 * x0 + 0.7 * eps
    euler = x + (s - t) * path_velocity(path, x0, eps, t)
    shares = [(1 - u) ** 2 / ((1 - u) ** 2 + u**2) for u in (s, t)]
    schedule = NoiseSchedule(torch.tensor([1 - shares[0], 1 - shares[1] / shares[0]], dtype=torch.float64))
    ddim = ddim_step(schedule, x0, eps, 1, 0) * math.hypot(1 - s, s)
    torch.testing.assert_close(euler, ddim, rtol=0, atol=1e-12)


def test_ddim_becomes_the_flow_as_its_steps_shrink() -> None:
    """Both carry noise to the same images; DDIM's difference falls in first order."""
    z = normals(64, 1, 1, 1)
    exact = torch.tensor([transported(float(v)) for v in z]).double().reshape_as(z)
    schedule, counts, errors = NoiseSchedule.cosine(4000), [50, 100, 200, 400], []
    for count in counts:
        short = schedule.respace(schedule.spaced_timesteps(count))
        denoiser = MIXTURE.denoiser(schedule, "epsilon")
        *_, last = ddim_steps(denoiser, z, short)
        errors.append(float((last.prev_sample - exact).square().mean().sqrt()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    print("errors", errors, "slope", slope)
    assert 0.8 < slope < 1.2 and errors[-1] < 0.01


# --------------------------------------------------------------------------------------------------- the pipeline


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_steps_are_those_of_the_stock_euler_scheduler(shift: float) -> None:
    pipe = flow(shift=shift)
    x = torch.randn(2, 1, 8, 8, generator=seeded())
    found = pipe(batch_size=2, num_inference_steps=6, latents=x, output_type="latent").images
    stock = FlowMatchEulerDiscreteScheduler(shift=shift)
    stock.set_timesteps(sigmas=[1 - i / 6 for i in range(6)])
    labels = torch.full((2,), 3)
    for t in stock.timesteps:
        with torch.no_grad():
            output = pipe.unet(x, t, labels).sample
        x = stock.step(output, t, x).prev_sample
    torch.testing.assert_close(found, x, rtol=0, atol=1e-5)


def test_the_stock_heun_scheduler_can_be_swapped_in() -> None:
    pipe = flow(scheduler=FlowMatchHeunDiscreteScheduler())
    x = torch.randn(2, 1, 8, 8, generator=seeded())
    out = pipe(batch_size=2, num_inference_steps=4, latents=x, output_type="latent")
    assert out.nfe == 7
    stock = FlowMatchHeunDiscreteScheduler()
    stock.set_timesteps(4)
    for t in stock.timesteps:
        with torch.no_grad():
            output = pipe.unet(x, t, torch.full((2,), 3)).sample
        x = stock.step(output, t, x).prev_sample
    torch.testing.assert_close(out.images, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("setting", [{"use_karras_sigmas": True}, {"use_beta_sigmas": True}, {"shift_terminal": 0.1}])
def test_a_stock_euler_scheduler_with_times_of_its_own_keeps_them(setting: dict) -> None:
    pipe, stock = flow(**setting), FlowMatchEulerDiscreteScheduler(**setting)
    x = torch.randn(2, 1, 8, 8, generator=seeded())
    out = pipe(batch_size=2, num_inference_steps=4, latents=x, output_type="latent")
    stock.set_timesteps(4)
    for t in stock.timesteps:
        with torch.no_grad():
            output = pipe.unet(x, t, torch.full((2,), 3)).sample
        x = stock.step(output, t, x).prev_sample
    assert out.nfe == 4
    torch.testing.assert_close(out.images, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["stochastic_sampling", "invert_sigmas", "use_dynamic_shifting"])
def test_a_stock_scheduler_whose_steps_are_others_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^scheduler must have {name}=False, got True$"):
        flow(**{name: True})("Cat")


@pytest.mark.parametrize(("solver", "evaluations"), [("euler", 5), ("midpoint", 10), ("heun", 9)])
def test_evaluations_are_counted_and_the_network_is_asked_at_a_thousand_t(solver: str, evaluations: int) -> None:
    pipe = flow()
    with calls_seen(pipe) as seen:
        out = pipe(1, num_inference_steps=5, guidance_scale=1.0, sampler=solver, generator=seeded())
    assert out.nfe == evaluations == len(seen)
    times = [float(call[1].flatten()[0]) for call in seen]
    assert times[0] == 1000 and min(times) == {"euler": 200, "midpoint": 100, "heun": 200}[solver]


def test_guidance_moves_the_velocity_away_from_that_without_a_class() -> None:
    pipe = flow()
    with calls_seen(pipe) as seen:
        (step,) = pipe.stream("Dog", num_inference_steps=1, guidance_scale=3.0, generator=seeded())
    x, _, labels, output = seen[0]
    half = len(x) // 2
    assert labels[0] == 1 and labels[half] == 3
    guided = output[half] + 3.0 * (output[0] - output[half])
    torch.testing.assert_close(step.prev_sample[0], x[0] - guided, rtol=0, atol=1e-5)


def test_guidance_inside_an_interval_of_times() -> None:
    out = flow()("Cat", num_inference_steps=4, guidance_scale=2.0, guidance_interval=(0.4, 0.8), generator=seeded())
    assert out.nfe == 6  # t = 1, 0.75, 0.5, 0.25


def test_a_flow_without_classes_draws() -> None:
    pipe = flow(tiny_unet(), id2label=None)
    assert pipe(batch_size=3, num_inference_steps=2, output_type="np").images.shape == (3, 8, 8, 1)


@pytest.mark.parametrize("solver", SAMPLERS)
def test_an_image_does_not_depend_on_the_batch(solver: str) -> None:
    pipe = flow(path="variance_preserving")
    options = dict(num_inference_steps=3, sampler=solver, output_type="latent")
    alone = [pipe(i % 3, generator=seeded(i), **options).images[0] for i in range(5)]
    together = pipe([0, 1, 2, 0, 1], generator=[seeded(i) for i in range(5)], **options).images
    assert torch.equal(torch.stack(alone), together)


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("sampler must be one of euler, midpoint, heun, got 'rk4'", {"sampler": "rk4"}),
        ("num_inference_steps must be an integer of at least 1, got 0", {"num_inference_steps": 0}),
        (r"shift must be a finite number in \[0.001, 1000\], got 0", {"shift": 0}),
        ("guidance_interval must be a pair", {"guidance_interval": (0.5, 0.2)}),
        ("guidance_scale must be a finite number", {"guidance_scale": -1.0}),
    ],
)
def test_a_bad_argument_is_named_before_any_work(said: str, arguments: dict) -> None:
    pipe = flow()
    with calls_seen(pipe) as seen, pytest.raises(ValueError, match=said):
        pipe("Cat", **arguments)
    assert not seen


def test_a_scheduler_of_another_family_and_an_unknown_path_are_refused() -> None:
    with pytest.raises(ValueError, match="scheduler must be one of FlowMatchEuler.*, got DDIMScheduler"):
        flow(scheduler=DDIMScheduler())("Cat")
    with pytest.raises(ValueError, match="path must be one of linear, variance_preserving, got 'bent'"):
        flow(path="bent")
    heun = flow(scheduler=FlowMatchHeunDiscreteScheduler(), path="variance_preserving")
    with pytest.raises(ValueError, match="sampler must be one of .* with path 'variance_preserving'"):
        heun("Cat")
    assert heun("Cat", num_inference_steps=2, sampler="heun").nfe == 6
