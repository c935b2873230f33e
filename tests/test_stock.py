"""A step of ours is the step of the stock scheduler, wherever the stock one is right."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from toys import ddim, ddpm, seeded, tiny_unet

from pipelines import DDIMPipeline, DDPMPipeline, NoiseSchedule

SHAPE = (3, 1, 4, 4)


def randn(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=seeded(seed))


@pytest.mark.parametrize("count", [1, 4, 10, 100, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_step_is_the_stock_step(count: int, eta: float) -> None:
    """Trailing spacing and a count that divides T: there the stock scheduler knows the right previous step."""
    stock = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    stock.set_timesteps(count)
    schedule = NoiseSchedule.from_scheduler(stock)
    times = schedule.spaced_timesteps(count)
    for i in {0, count // 2, count - 1}:
        t, t_prev = times[i], ([*times, -1])[i + 1]
        x, eps, noise = randn(1), randn(2), randn(3)
        expected = stock.step(eps, t, x, eta=eta, variance_noise=noise).prev_sample
        got = DDIMPipeline.step(schedule, x, eps, t, t_prev, eta, noise)
        torch.testing.assert_close(got, expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clip", [{"clip_sample": True}, {"clip_sample": True, "clip_sample_range": 0.5}, {}])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_images_are_those_of_the_stock_scheduler(kind: str, clip: dict, eta: float) -> None:
    """eps has to agree with the clipped x_0, as in the paper's code: `use_clipped_model_output` of the stock step."""
    pipe = ddim(**{"clip_sample": False, "prediction_type": kind, "beta_schedule": "linear"} | clip)
    x = torch.randn(4, 1, 8, 8, generator=seeded())
    generators = [seeded(i) for i in range(4)]
    ours = pipe(4, num_inference_steps=10, eta=eta, generator=generators, latents=x, output_type="latent").images
    stock, generators = DDIMScheduler.from_config(pipe.scheduler.config), [seeded(i) for i in range(4)]
    stock.set_timesteps(10)
    for t in stock.timesteps:
        with torch.no_grad():
            output = pipe.unet(x, t).sample
        x = stock.step(output, t, x, eta=eta, use_clipped_model_output=bool(clip), generator=generators).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_step_is_the_stock_step(variance: str) -> None:
    stock = DDPMScheduler(variance_type=variance, clip_sample=False)
    schedule = NoiseSchedule.from_scheduler(stock)
    for t in (0, 1, 2, 500, 999):
        x, eps = randn(1), randn(2)
        expected = stock.step(eps, t, x, generator=seeded(3)).prev_sample
        got = DDPMPipeline.step(schedule, x, eps, t, randn(3), variance)
        torch.testing.assert_close(got, expected, rtol=2e-4, atol=1e-5)


def test_ddpm_step_with_learned_variance_is_the_stock_step() -> None:
    stock = DDPMScheduler(variance_type="learned_range", clip_sample=False)
    schedule = NoiseSchedule.from_scheduler(stock)
    for t in (0, 1, 2, 500, 999):
        x, eps, v = randn(1), randn(2), randn(4).clamp(-1, 1)
        expected = stock.step(torch.cat([eps, v], dim=1), t, x, generator=seeded(3)).prev_sample
        got = DDPMPipeline.step(schedule, x, eps, t, randn(3), "learned_range", v)
        torch.testing.assert_close(got, expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "channels"),
    [
        ({}, 1),
        ({"variance_type": "fixed_large", "timestep_spacing": "leading"}, 1),
        ({"prediction_type": "epsilon", "clip_sample": False, "beta_schedule": "linear"}, 1),
        ({"prediction_type": "sample", "thresholding": True, "clip_sample": False, "sample_max_value": 1.5}, 1),
        ({"variance_type": "learned_range", "beta_schedule": "linear"}, 2),
    ],
    ids=["shipped", "fixed_large", "epsilon", "thresholding", "learned_range"],
)
def test_ddpm_images_are_those_of_the_stock_scheduler(config: dict, channels: int) -> None:
    pipe = ddpm(tiny_unet(out_channels=channels), **config)
    pipe.unet.conv_out.weight.data *= 0.2  # a variance channel within [-1, 1]
    generators = [seeded(i) for i in range(4)]
    ours = pipe(4, num_inference_steps=20, generator=generators, output_type="latent").images
    stock = DDPMScheduler.from_config(pipe.scheduler.config)
    stock.set_timesteps(20)
    generators = [seeded(i) for i in range(4)]
    x = torch.cat([torch.randn(1, 1, 8, 8, generator=g) for g in generators])
    for t in stock.timesteps:
        with torch.no_grad():
            output = pipe.unet(x, t).sample
        x = stock.step(output, t, x, generator=generators).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3 * float(x.abs().max()))
