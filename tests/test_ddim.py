"""DDIM inversion, and the order of its error; the arguments of a single step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import ddim, mixture_denoiser, patched_unet, seeded, tiny_unet

from pipelines import DDIMPipeline, DDPMPipeline, NoiseSchedule
from pipelines.ddim import ddim_inversion_steps, ddim_steps


def round_trip(x_0: torch.Tensor, schedule: NoiseSchedule, count: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """x_T of `x_0`, and the image drawn from it."""
    denoiser = mixture_denoiser([0.4, 0.6], [-0.5, 0.6], [0.2, 0.15], schedule.alphas_cumprod, kind)
    short = schedule.respace(schedule.spaced_timesteps(count))
    for step in ddim_inversion_steps(denoiser, x_0, short, prediction_type=kind):
        x_T = step.prev_sample
    for step in ddim_steps(denoiser, x_T, short, prediction_type=kind):
        back = step.prev_sample
    return x_T, back


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_error_of_inversion_and_return_is_of_first_order(kind: str) -> None:
    schedule = NoiseSchedule.cosine(4000)
    x_0 = torch.linspace(-0.8, 0.9, 64, dtype=torch.float64).reshape(-1, 1, 1, 1)
    counts = np.array([25, 50, 100, 200, 400])
    errors = [float((round_trip(x_0, schedule, int(n), kind)[1] - x_0).square().mean().sqrt()) for n in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    print("errors", dict(zip(counts.tolist(), errors, strict=True)), "slope", slope)
    assert errors[0] > 1e-3  # there is something to lose
    assert -1.2 < slope < -0.8
    assert all(later < 0.65 * earlier for earlier, later in zip(errors, errors[1:], strict=False))


def test_inversion_finds_the_noise_that_draws_the_image() -> None:
    """Monotone in one dimension: the probability flow carries the quantiles of the data to those of the noise."""
    schedule = NoiseSchedule.cosine()
    mean, std = 0.3, 0.2
    denoiser = mixture_denoiser([1.0], [mean], [std], schedule.alphas_cumprod)
    quantiles = torch.tensor([-2.0, -1.0, 0.0, 0.5, 2.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
    for step in ddim_inversion_steps(denoiser, mean + std * quantiles, schedule):
        x_T = step.prev_sample
    torch.testing.assert_close(x_T, quantiles, rtol=0, atol=0.02)


def test_invert_and_call_return_the_image_of_a_network() -> None:
    pipe = ddim(clip_sample=False, beta_schedule="linear")
    pipe.unet.conv_out.weight.data *= 0.1
    x_0 = torch.rand(2, 1, 8, 8, generator=seeded()) * 2 - 1
    errors = []
    for count in (8, 32):
        x_T = pipe.invert(x_0, num_inference_steps=count)
        back = pipe(2, num_inference_steps=count, latents=x_T, output_type="latent").images
        errors.append(float((back - x_0).abs().mean()))
    print("errors", errors)
    assert errors[1] < 0.4 * errors[0]
    assert errors[1] < 0.06


def test_invert_takes_labels() -> None:
    pipe = ddim(tiny_unet(3))
    x_0 = torch.zeros(2, 1, 8, 8)
    one, other = pipe.invert(x_0, 5, class_labels=[0, 1])
    assert not torch.equal(one, other)
    with pytest.raises(ValueError, match="^class_labels"):
        pipe.invert(x_0, 5)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 28, 28), torch.zeros(2, 3, 28, 28), np.zeros((1, 1, 28, 28)), None, "cat.png"]
)
def test_invert_names_a_wrong_image(images: object) -> None:
    with pytest.raises(ValueError, match="^images must"):
        ddim(patched_unet()).invert(images, 5)


def test_a_step_with_noise_must_be_given_it() -> None:
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="^noise must"):
        DDIMPipeline.step(NoiseSchedule.linear(), x, x, 500, 400, eta=0.5)
    with pytest.raises(ValueError, match="^noise must"):
        DDPMPipeline.step(NoiseSchedule.linear(), x, x, 500, None)
    with pytest.raises(ValueError, match="^variance must"):
        DDPMPipeline.step(NoiseSchedule.linear(), x, x, 500, x, variance="learned")
    with pytest.raises(ValueError, match="^v must"):
        DDPMPipeline.step(NoiseSchedule.linear(), x, x, 500, x, variance="learned_range")


def test_a_step_in_half_precision_is_worked_in_float32() -> None:
    generator = seeded()
    x, eps, noise = (torch.randn(2, 1, 4, 4, generator=generator).bfloat16() for _ in range(3))
    schedule = NoiseSchedule.linear()
    exact = DDIMPipeline.step(schedule, x.double(), eps.double(), 500, 400, 0.5, noise.double())
    got = DDIMPipeline.step(schedule, x, eps, 500, 400, 0.5, noise)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=1e-5)
    exact = DDPMPipeline.step(schedule, x.double(), eps.double(), 500, noise.double())
    torch.testing.assert_close(DDPMPipeline.step(schedule, x, eps, 500, noise).double(), exact, rtol=0, atol=1e-5)
