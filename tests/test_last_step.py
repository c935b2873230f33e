"""Where DDIM's last step ends: at x_0, or at the least noisy step of the process, as the scheduler's config says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor
from toys import ddim, guided, latent, seeded, steered

from pipelines import NoiseSchedule
from pipelines.base import StepwisePipeline
from pipelines.ddim import ddim_inversion_steps, ddim_steps

PLAIN = dict(beta_schedule="linear", prediction_type="epsilon", clip_sample=False, timestep_spacing="leading")
PIPELINES = {"ddim": ddim, "guided": guided, "steered": steered, "latent": latent}


@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("make", PIPELINES.values(), ids=PIPELINES)
def test_every_step_to_the_end_is_the_stock_step(
    make: Callable[..., StepwisePipeline], eta: float, offset: int, to_one: bool
) -> None:
    """From the eps of each step: how it is guided is another matter."""
    pipe = make(**PLAIN, set_alpha_to_one=to_one, steps_offset=offset)
    stock, (ours, theirs) = DDIMScheduler.from_config(pipe.scheduler.config), ([seeded(0), seeded(1)] for _ in range(2))
    stock.set_timesteps(5)
    x = torch.cat([torch.randn(1, *pipe.sample_shape, generator=generator) for generator in theirs])
    stream = pipe.stream(batch_size=2, num_inference_steps=5, eta=eta, generator=ours)
    for step, t in zip(stream, stock.timesteps, strict=True):
        assert int(t) == step.timestep and torch.equal(step.x_t, x)
        expected = stock.step(step.eps, t, x, eta=eta, generator=theirs).prev_sample
        torch.testing.assert_close(step.prev_sample, expected, rtol=1e-5, atol=1e-5)
        x = step.prev_sample = torch.randn(x.shape, generator=seeded(100 + step.index))  # of a size that shows noise
    gap = float((expected - step.pred_original_sample).abs().max())
    assert gap < 1e-5 if to_one else gap > 1e-3


def test_a_run_of_ddim_ends_with_the_stock_run() -> None:
    pipe = ddim(**PLAIN, set_alpha_to_one=False, steps_offset=1)
    stock, x = DDIMScheduler.from_config(pipe.scheduler.config), torch.randn(2, 1, 8, 8, generator=seeded())
    images = pipe(2, num_inference_steps=10, latents=x, output_type="latent").images
    stock.set_timesteps(10)
    for t in stock.timesteps:
        with torch.no_grad():
            x = stock.step(pipe.unet(x, t).sample, t, x).prev_sample
    torch.testing.assert_close(images, x, rtol=1e-5, atol=1e-5)


def test_ancestral_steps_end_at_x_0_whatever_their_scheduler_was_made_from() -> None:
    made_from = DDIMScheduler(**PLAIN, set_alpha_to_one=False)
    pipe = guided(scheduler=DDPMScheduler.from_config(made_from.config))
    assert pipe.scheduler.config.set_alpha_to_one is False
    *_, step = pipe.stream(batch_size=2, num_inference_steps=5, generator=[seeded(0), seeded(1)])
    assert torch.equal(step.prev_sample, step.pred_original_sample)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("to_one", [True, False])
def test_inversion_begins_where_sampling_ends(to_one: bool, offset: int) -> None:
    """With the same eps everywhere both are exact."""
    schedule = NoiseSchedule.from_scheduler(DDIMScheduler(**PLAIN, set_alpha_to_one=to_one))
    x_T, eps = torch.randn(2, 2, 1, 4, 4, generator=seeded(), dtype=torch.float64)
    short = schedule.respace(schedule.spaced_timesteps(5, "leading", offset))

    def denoiser(x_t: Tensor, t: Tensor | int) -> Tensor:
        return eps

    *_, last = ddim_steps(denoiser, x_T, short)
    *_, first = ddim_inversion_steps(denoiser, last.prev_sample, short)
    torch.testing.assert_close(first.prev_sample, x_T, rtol=1e-9, atol=1e-9)


def test_a_respaced_process_ends_where_the_whole_one_does() -> None:
    schedule = NoiseSchedule.from_scheduler(DDIMScheduler(**PLAIN, set_alpha_to_one=False))
    assert schedule.final_alpha_cumprod == pytest.approx(1 - 1e-4, rel=1e-12)
    assert schedule.respace([500, 999]).final_alpha_cumprod == schedule.final_alpha_cumprod
    assert NoiseSchedule.from_scheduler(DDPMScheduler()).final_alpha_cumprod == 1
