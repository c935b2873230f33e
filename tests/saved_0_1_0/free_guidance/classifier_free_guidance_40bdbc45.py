"""Classifier-free guidance (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598).

    eps = eps(x_t) + s (eps(x_t, y) - eps(x_t))        s = 1: conditional only, s = 0: unconditional only

One network, trained with its label dropped now and then, gives both terms in one call. The combination is linear in
the output, so it holds for eps, x_0 and v alike. `guidance_interval` guides only at middle noise levels (Kynkaanniemi
et al. 2024, https://arxiv.org/abs/2404.07724); `guidance_rescale` brings the spread of the guided output back to that
of the conditional one (Lin et al. 2024, https://arxiv.org/abs/2305.08891, section 3.4).

The steps are DDIM's for any eta (Song et al. 2021, eq. 12; eta = 1 is DDPM), or those of any diffusers scheduler.
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
    check_number,
    clip_x0,
    drives_itself,
    scheduler_steps,
)
from .schedule_c8815c31 import NoiseSchedule


class ClassifierFreeGuidancePipeline(StepwisePipeline):
    """Class-conditional sampling whose agreement with the label is a slider.

    Args:
        unet: a class-conditional network whose last label means "no class"
        scheduler: states the noise schedule, the prediction type, clipping and spacing. DDIMScheduler means
            deterministic steps and DDPMScheduler means eta = 1; any other diffusers scheduler is driven.
        id2label: class names by index
        guidance_interval: where calls guide unless they say otherwise, shares (low, high) of the noise process in
            [0, 1]; saved with the model, for what is best is a property of it
    """

    model_cpu_offload_seq = "unet"

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        id2label: dict[str, str] | None = None,
        guidance_interval: tuple[float, float] | list[float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(id2label=id2label, guidance_interval=list(_check_interval(guidance_interval)))

    @property
    def null_label(self) -> int:
        """The label that stands for "no class": the network's last one."""
        embeds = self.unet.config.get("num_class_embeds")
        if embeds is None or embeds < 2:
            raise ValueError(f"unet must have num_class_embeds of at least 2 (the last is 'no class'), got {embeds}")
        return embeds - 1

    # ------------------------------------------------------------------------------------------------ the algorithm

    @staticmethod
    def combine(eps_cond: Tensor, eps_uncond: Tensor, scale: float) -> Tensor:
        """eps_uncond + scale (eps_cond - eps_uncond), all (N, ...)."""
        return eps_uncond + scale * (eps_cond - eps_uncond)

    @staticmethod
    def rescale(guided: Tensor, cond: Tensor, share: float) -> Tensor:
        """`guided` (N, ...) brought back, an image at a time, to the spread of `cond`, by `share` (eq. 15, 16)."""
        dims = tuple(range(1, guided.ndim))
        ratio = cond.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
        return guided * (share * ratio + (1 - share))

    @classmethod
    def guide(
        cls,
        denoiser: Denoiser,
        labels: Tensor,
        null_label: int,
        guidance_scale: float,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        num_train_timesteps: int = 1000,
    ) -> Denoiser:
        """A denoiser of (x_t, t) from one of (x_t, t, labels): both halves in one call, and none at scale 1 or 0."""
        low, high = guidance_interval
        null = torch.full_like(labels, null_label)

        def guided(x_t: Tensor, t: Tensor | float) -> Tensor:
            channels = x_t.shape[1]
            inside = low <= float(t) / max(num_train_timesteps - 1, 1) <= high
            scale = guidance_scale if inside else 1.0
            if scale in (0.0, 1.0):
                return denoiser(x_t, t, labels if scale else null)[:, :channels]
            both = denoiser(torch.cat([x_t, x_t]), t, torch.cat([labels, null]))[:, :channels]
            cond, uncond = both.chunk(2)
            output = cls.combine(cond, uncond, scale)
            return cls.rescale(output, cond, guidance_rescale) if guidance_rescale else output

        return guided

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
        """DDIM's loop over descending `timesteps` with a guided `denoiser(x_t, t)`, as `guide` makes it."""
        x_t = x_T
        for i, (t, s) in enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True)):
            output = denoiser(x_t, int(schedule.timesteps[t]))
            x0 = schedule.predict_x0(output, x_t, t, prediction_type)
            eps = schedule.predict_eps(output, x_t, t, prediction_type)
            if clip is not None:
                x0 = clip(x0)
                eps = schedule.predict_eps(x0, x_t, t, "sample")
            x_s = schedule.ddim_step(x0, eps, t, s, eta, noise)
            step = Step(i, len(timesteps), int(schedule.timesteps[t]), x_t, x0, eps, x_s)
            yield step
            x_t = step.prev_sample

    # ------------------------------------------------------------------------------------------------- the pipeline

    def stream(
        self,
        class_labels: Labels = None,
        batch_size: int | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        eta: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
    ) -> Iterator[Step]:
        """Check the arguments of `__call__`, draw x_T, and return the steps."""
        check_count("num_inference_steps", num_inference_steps)
        check_number("guidance_scale", guidance_scale, 0.0)
        check_number("guidance_rescale", guidance_rescale, 0.0, 1.0)
        own = self.config.guidance_interval
        low, high = _check_interval(own if guidance_interval is None else guidance_interval)
        labels, count = self.resolve_labels(class_labels, batch_size)
        schedule, config = NoiseSchedule.from_scheduler(self.scheduler), self.scheduler.config
        driven, eta = drives_itself(self.scheduler), self._eta(eta)
        timesteps = schedule.spaced_timesteps(
            num_inference_steps, config.get("timestep_spacing", "leading"), config.get("steps_offset", 0)
        )
        x_T, noise = self.streams(count, generator, latents)
        scale = 0.0 if class_labels is None else float(guidance_scale)
        denoiser = self.guide(
            self.network, labels, self.null_label, scale, (low, high), guidance_rescale, len(schedule)
        )
        if driven:
            tables = schedule.alphas_cumprod
            return scheduler_steps(denoiser, x_T, self.scheduler, num_inference_steps, tables, noise.generators)
        clip = (lambda x0: clip_x0(x0, config)) if config.get("clip_sample") or config.get("thresholding") else None
        kind = config.prediction_type
        return self.steps(denoiser, x_T, schedule, timesteps, eta=eta, noise=noise, prediction_type=kind, clip=clip)

    def _eta(self, eta: float | None) -> float:
        name = type(self.scheduler).__name__
        if eta is None:
            return 1.0 if name == "DDPMScheduler" else 0.0
        check_number("eta", eta, 0.0)
        if eta != 0 and drives_itself(self.scheduler):
            raise ValueError(f"eta must be 0 with {name}, which takes its own steps, got {eta}")
        return float(eta)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        batch_size: int | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        eta: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Draw pictures of the classes asked for.

        Args:
            class_labels: index, name, or a list with one an image; None draws without a class, and without guidance
            batch_size: how many pictures of a single label, or without one
            num_inference_steps: 1 to the length of the schedule
            guidance_scale: s >= 0; 1 is conditional only, 0 unconditional, larger follows the class more closely
            eta: share of DDPM's noise, at least 0; None: 1 with a DDPMScheduler, else 0
            guidance_interval: (low, high) in [0, 1]: shares of the noise process, t / (T - 1), between which to guide;
                outside, the conditional output alone is used, at half the cost; None: the model's own, (0, 1) unless
                it was saved with another
            guidance_rescale: share in [0, 1] of the rescaled output, against overexposure at large scales
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
        steps = self.stream(
            class_labels,
            batch_size,
            num_inference_steps,
            guidance_scale,
            eta,
            guidance_interval,
            guidance_rescale,
            generator,
            latents,
        )
        return self.drain(steps, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs)


def _check_interval(interval: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(interval, (tuple, list)) or len(interval) != 2:
        raise ValueError(f"guidance_interval must be a pair (low, high) in [0, 1], got {interval!r}")
    for bound in interval:
        check_number("guidance_interval", bound, 0.0, 1.0)
    if interval[0] > interval[1]:
        raise ValueError(f"guidance_interval must be a pair (low, high) with low <= high, got {interval!r}")
    return float(interval[0]), float(interval[1])
