"""Denoising diffusion implicit models (Song et al. 2021, https://arxiv.org/abs/2010.02502), eq. 12:

    x_s = sqrt(abar_s) x_0(x_t) + sqrt(1 - abar_s - sigma^2) eps(x_t) + sigma z,         s < t, z ~ N(0, I)
    sigma = eta sqrt((1 - abar_s) / (1 - abar_t)) sqrt(1 - abar_t / abar_s)                            (eq. 16)

eta = 0 is deterministic, and can be run backwards (`invert`); eta = 1 over all steps is DDPM's ancestral sampling.
"""

from collections import deque
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
    check_number,
    clip_x0,
    drives_itself,
    scheduler_steps,
)
from .schedule_c8815c31 import NoiseSchedule


class DDIMPipeline(StepwisePipeline):
    """Sampling with any number of steps and any eta, and the inversion of a picture into its noise.

    Args:
        unet: a network of (x_t, t) and, where it has classes, labels
        scheduler: states the noise schedule, the prediction type, clipping and spacing. A DDIMScheduler or
            DDPMScheduler is only read; any other is driven, and then `eta` must be 0.
        id2label: class names by index
    """

    model_cpu_offload_seq = "unet"
    stock_class = "DDIMPipeline"

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
        t_prev: int,
        eta: float = 0.0,
        noise: Tensor | None = None,
    ) -> Tensor:
        """x at `t_prev` (-1: after the last step) from x_t and eps, both (N, ...); x_0 is not clipped (eq. 12).

        `t_prev` may lie above `t`: with eta = 0 that is a step of inversion.

        Raises:
            ValueError: eta > 0 without `noise`.
        """
        if eta > 0 and noise is None:
            raise ValueError(f"noise must be given when eta > 0, got eta {eta}")
        return schedule.ddim_step(schedule.predict_x0(eps, x_t, t), eps, t, t_prev, eta, lambda: noise)

    @classmethod
    @torch.no_grad()
    def steps(
        cls,
        denoiser: Denoiser,
        x_T: Tensor,
        schedule: NoiseSchedule,
        timesteps: list[int],
        *,
        eta: float = 0.0,
        noise: Callable[[], Tensor] | None = None,
        prediction_type: str = "epsilon",
        clip: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[Step]:
        """The sampling loop over descending `timesteps`; `denoiser(x_t, t)` may be a network or an exact one.

        `noise()` gives z for each step, (N, ...); `clip` maps the predicted x_0, and eps is made to agree with it.
        """
        x_t = x_T
        for i, (t, t_prev) in enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True)):
            output = denoiser(x_t, int(schedule.timesteps[t]))[:, : x_t.shape[1]]
            x0 = schedule.predict_x0(output, x_t, t, prediction_type)
            eps = schedule.predict_eps(output, x_t, t, prediction_type)
            if clip is not None:
                x0 = clip(x0)
                eps = schedule.predict_eps(x0, x_t, t, "sample")
            x_prev = schedule.ddim_step(x0, eps, t, t_prev, eta, noise)
            step = Step(i, len(timesteps), int(schedule.timesteps[t]), x_t, x0, eps, x_prev)
            yield step
            x_t = step.prev_sample

    @classmethod
    @torch.no_grad()
    def inversion_steps(
        cls,
        denoiser: Denoiser,
        x_0: Tensor,
        schedule: NoiseSchedule,
        timesteps: list[int],
        prediction_type: str = "epsilon",
    ) -> Iterator[Step]:
        """Run eq. 12 upwards, eta = 0: eps at the current point carries it to the next noise level (section 4.3).

        The first step leaves `x_0`, the end of the sampler's last step, where the network is asked at the lowest of
        `timesteps` (descending, as above).
        """
        x_t, end = x_0, schedule.final_alpha_cumprod
        upwards = timesteps[::-1]
        for i, (t, t_next) in enumerate(zip([-1, *upwards[:-1]], upwards, strict=True)):
            asked = max(t, upwards[0])
            output = denoiser(x_t, int(schedule.timesteps[asked]))[:, : x_t.shape[1]]
            eps = schedule.predict_eps(output, x_t, asked, prediction_type)
            x0 = (x_t - (1 - end) ** 0.5 * eps) / end**0.5 if t < 0 else schedule.predict_x0(eps, x_t, t)
            x_next = schedule.signal(t_next, x_t) * x0 + schedule.sigma(t_next, x_t) * eps
            step = Step(i, len(timesteps), int(schedule.timesteps[asked]), x_t, x0, eps, x_next)
            yield step
            x_t = step.prev_sample

    # ------------------------------------------------------------------------------------------------- the pipeline

    def stream(
        self,
        batch_size: int | None = None,
        class_labels: Labels = None,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
    ) -> Iterator[Step]:
        """Check the arguments of `__call__`, draw x_T, and return the steps."""
        check_count("num_inference_steps", num_inference_steps)
        check_number("eta", eta, 0.0)
        labels, count = self.resolve_labels(class_labels, batch_size)
        schedule, config = NoiseSchedule.from_scheduler(self.scheduler), self.scheduler.config
        driven = drives_itself(self.scheduler)
        if driven and eta != 0:
            raise ValueError(
                f"eta must be 0 with {type(self.scheduler).__name__}, which takes its own steps, got {eta}"
            )
        timesteps = self.timesteps(num_inference_steps)
        x_T, noise = self.streams(count, generator, latents)

        def denoiser(x_t: Tensor, t: Tensor | int) -> Tensor:
            return self.network(x_t, t, labels)

        if driven:
            tables = schedule.alphas_cumprod
            return scheduler_steps(denoiser, x_T, self.scheduler, num_inference_steps, tables, noise.generators)
        clip = (lambda x0: clip_x0(x0, config)) if config.get("clip_sample") or config.get("thresholding") else None
        kind = config.prediction_type
        return self.steps(denoiser, x_T, schedule, timesteps, eta=eta, noise=noise, prediction_type=kind, clip=clip)

    def timesteps(self, num_inference_steps: int) -> list[int]:
        """The descending timesteps of a run, in the spacing that the scheduler's config names."""
        config = self.scheduler.config
        spacing, offset = config.get("timestep_spacing", "leading"), config.get("steps_offset", 0)
        return NoiseSchedule.from_scheduler(self.scheduler).spaced_timesteps(num_inference_steps, spacing, offset)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        class_labels: Labels = None,
        num_inference_steps: int = 50,
        eta: float = 0.0,
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
            num_inference_steps: 1 to the length of the schedule
            eta: share of DDPM's noise, at least 0; 0 is deterministic, 1 is DDPM
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
        steps = self.stream(batch_size, class_labels, num_inference_steps, eta, generator, latents)
        return self.drain(steps, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs)

    @torch.no_grad()
    def invert(self, images: Tensor, num_inference_steps: int = 50, class_labels: Labels = None) -> Tensor:
        """The noise x_T, (N, C, H, W), from which `__call__(latents=x_T)` draws `images`, (N, C, H, W) in [-1, 1].

        The error of the return falls in first order with the number of steps.

        Raises:
            ValueError: images of another shape than the network's
        """
        if not isinstance(images, Tensor) or tuple(images.shape[1:]) != self.sample_shape:
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(
                f"images must be a tensor of shape (N, {', '.join(map(str, self.sample_shape))}), got {got}"
            )
        labels, _ = self.resolve_labels(class_labels, len(images))
        schedule, kind = NoiseSchedule.from_scheduler(self.scheduler), self.scheduler.config.prediction_type
        timesteps = self.timesteps(num_inference_steps)
        x_0 = images.to(self._execution_device, torch.promote_types(images.dtype, torch.float32))
        steps = self.inversion_steps(lambda x, t: self.network(x, t, labels), x_0, schedule, timesteps, kind)
        return deque(steps, maxlen=1).pop().prev_sample
