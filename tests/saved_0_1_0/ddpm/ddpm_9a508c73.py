"""Denoising diffusion probabilistic models: ancestral sampling (Ho et al. 2020, https://arxiv.org/abs/2006.11239).

    x_{t-1} = mu(x_t, x_0(x_t)) + sigma_t z,   z ~ N(0, I), none at the last step          algorithm 2
    mu      = mean of q(x_{t-1} | x_t, x_0)                                                eq. 7
    sigma^2 = beta_tilde_t ("fixed_small"), beta_t ("fixed_large"), or
              exp((v+1)/2 log beta_t + (1-v)/2 log beta_tilde_t) ("learned_range")         Nichol & Dhariwal 2021

With fewer steps the schedule is respaced: the same abar at the steps that are kept, betas recomputed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import SchedulerMixin, UNet2DModel
from torch import Tensor

from .base_fc4ad8dd import (
    Denoiser,
    Generators,
    ImagePipelineOutput,
    Labels,
    Step,
    StepwisePipeline,
    check_count,
    clip_x0,
    drives_itself,
    scheduler_steps,
)
from .schedule_c8815c31 import NoiseSchedule


class DDPMPipeline(StepwisePipeline):
    """Ancestral sampling with a fixed or a learned variance, over all steps or a respaced schedule.

    Args:
        unet: a network of (x_t, t) and, where it has classes, labels; 2C output channels where it learns the variance
        scheduler: states the noise schedule, the prediction type, clipping, spacing and `variance_type`. A
            DDPMScheduler or DDIMScheduler is only read; any other is driven.
        id2label: class names by index
    """

    model_cpu_offload_seq = "unet"
    stock_class = "DDPMPipeline"

    def __init__(self, unet: UNet2DModel, scheduler: SchedulerMixin, id2label: dict[str, str] | None = None) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(id2label=id2label)

    # ------------------------------------------------------------------------------------------------ the algorithm

    @staticmethod
    def step(
        schedule: NoiseSchedule,
        x_t: Tensor,
        eps: Tensor,
        t: int,
        noise: Tensor | None,
        variance: str = "fixed_small",
        v: Tensor | None = None,
    ) -> Tensor:
        """x_{t-1} from x_t and eps, both (N, ...); `t` indexes `schedule`, which is the respaced one.

        `noise` is (N, ...) and unused at t = 0; `v`, like eps and in [-1, 1], is the variance channel of
        "learned_range". x_0 is not clipped.

        Raises:
            ValueError: an unknown `variance`, "learned_range" without `v`, or no `noise` at t > 0.
        """
        if t > 0 and noise is None:
            raise ValueError(f"noise must be given at t > 0, got None at t = {t}")
        return DDPMPipeline.draw(schedule, schedule.predict_x0(eps, x_t, t), x_t, t, noise, variance, v)

    @staticmethod
    def draw(
        schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: int, noise: Tensor | None, variance: str, v: Tensor | None
    ) -> Tensor:
        """A draw of x_{t-1} from q(x_{t-1} | x_t, x_0), all (N, ...): x_0 as predicted, for abar_t may be tiny."""
        mean = schedule.posterior_mean(x0, x_t, t)
        log_variance = schedule.reverse_log_variance(variance, t, x_t, v)
        return mean if t == 0 else mean + (0.5 * log_variance).exp() * noise.to(mean.dtype)

    @classmethod
    @torch.no_grad()
    def steps(
        cls,
        denoiser: Denoiser,
        x_T: Tensor,
        schedule: NoiseSchedule,
        *,
        noise: Callable[[], Tensor],
        variance: str = "fixed_small",
        prediction_type: str = "epsilon",
        clip: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[Step]:
        """Algorithm 2 over every entry of `schedule`, which is respaced for fewer steps.

        `denoiser(x_t, t)` may be a network or an exact one, and gets t of the original process; `noise()` gives z for
        each step, (N, ...); `clip` maps the predicted x_0, and eps is made to agree with it.
        """
        x_t, channels = x_T, x_T.shape[1]
        for i, t in enumerate(reversed(range(len(schedule)))):
            output = denoiser(x_t, int(schedule.timesteps[t]))
            output, v = output[:, :channels], output[:, channels:]
            x0 = schedule.predict_x0(output, x_t, t, prediction_type)
            eps = schedule.predict_eps(output, x_t, t, prediction_type)
            if clip is not None:
                x0 = clip(x0)
                eps = schedule.predict_eps(x0, x_t, t, "sample")
            x_prev = cls.draw(schedule, x0, x_t, t, noise() if t > 0 else None, variance, v)
            step = Step(i, len(schedule), int(schedule.timesteps[t]), x_t, x0, eps, x_prev)
            yield step
            x_t = step.prev_sample

    # ------------------------------------------------------------------------------------------------- the pipeline

    def stream(
        self,
        batch_size: int | None = None,
        class_labels: Labels = None,
        num_inference_steps: int = 1000,
        generator: Generators = None,
        latents: Tensor | None = None,
    ) -> Iterator[Step]:
        """Check the arguments of `__call__`, draw x_T, and return the steps."""
        check_count("num_inference_steps", num_inference_steps)
        labels, count = self.resolve_labels(class_labels, batch_size)
        schedule, config = NoiseSchedule.from_scheduler(self.scheduler), self.scheduler.config
        driven = drives_itself(self.scheduler)
        timesteps = schedule.spaced_timesteps(
            num_inference_steps, config.get("timestep_spacing", "leading"), config.get("steps_offset", 0)
        )
        x_T, noise = self.streams(count, generator, latents)

        def denoiser(x_t: Tensor, t: Tensor | int) -> Tensor:
            return self.network(x_t, t, labels)

        if driven:
            tables = schedule.alphas_cumprod
            return scheduler_steps(denoiser, x_T, self.scheduler, num_inference_steps, tables, noise.generators)
        clip = (lambda x0: clip_x0(x0, config)) if config.get("clip_sample") or config.get("thresholding") else None
        return self.steps(
            denoiser,
            x_T,
            schedule.respace(timesteps),
            noise=noise,
            variance=self.variance_type,
            prediction_type=config.prediction_type,
            clip=clip,
        )

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        class_labels: Labels = None,
        num_inference_steps: int = 1000,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Draw pictures.

        Args:
            batch_size: how many, 1 unless `class_labels` says otherwise
            class_labels: index, name, or a list with one an image, for a class-conditional network
            num_inference_steps: 1 to the length of the schedule, which is respaced
            generator: one generator, or a list with one an image
            latents: x_T, (N, C, H, W) unit noise, instead of drawing it
            output_type: "pil", "np" (N, H, W, C) in [0, 1], "pt" (N, C, H, W) in [0, 1], or "latent"
            return_dict: False gives a tuple
            callback_on_step_end: called as f(pipeline, index, timestep, tensors) after each step
            callback_on_step_end_tensor_inputs: which of "latents", "pred_original_sample", "eps" it is given

        Returns:
            `ImagePipelineOutput` with `images` and `nfe`

        Raises:
            ValueError: an argument out of its range, by name, before any work
        """
        self.check_output(output_type, callback_on_step_end_tensor_inputs)
        steps = self.stream(batch_size, class_labels, num_inference_steps, generator, latents)
        return self.drain(steps, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs)
