"""Classifier-free guidance (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598).

    eps = eps(x_t) + s (eps(x_t, y) - eps(x_t))        s = 1: conditional only, s = 0: unconditional only

One network, trained with its label dropped now and then, gives both terms in one call. The combination is linear in
the output, so it holds for eps, x_0 and v alike. `guidance_interval` guides only at middle noise levels (Kynkaanniemi
et al. 2024, https://arxiv.org/abs/2404.07724); `guidance_rescale` brings the spread of the guided output back to that
of the conditional one (Lin et al. 2024, https://arxiv.org/abs/2305.08891, section 3.4).

Autoguidance (Karras et al. 2024, https://arxiv.org/abs/2406.02507) puts a worse network in the place of the one without
a class: an early checkpoint of the same run, or a smaller network, given the same label,

    eps = eps_guide(x_t, y) + s (eps(x_t, y) - eps_guide(x_t, y))            s = 1: unguided, s = 0: the guide alone

which costs no label dropout and keeps the variety of a class. A pipeline does so where it has a `guide_unet`.

The steps are DDIM's for any eta (Song et al. 2021, eq. 12; eta = 1 is DDPM), or those of any diffusers scheduler.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin, UNet2DModel
from torch import Tensor

from .base import Generators, ImagePipelineOutput, StepwisePipeline, check_number
from .conditions import Conditions, Labels, Nulls, joined, nulls_for
from .ddim import check_eta, ddim_steps
from .image_inputs import Images
from .process import Clock
from .repaint import JUMP_LENGTH, JUMP_N_SAMPLE, begun_with
from .run import Denoiser, Step, evaluate, scale_now
from .solvers import PROCESS_SCHEDULERS, DefaultSteps, Solver


def combine(eps_cond: Tensor, eps_uncond: Tensor, scale: float) -> Tensor:
    """eps_uncond + scale (eps_cond - eps_uncond), all (N, ...)."""
    return eps_uncond + scale * (eps_cond - eps_uncond)


def rescale(guided: Tensor, cond: Tensor, share: float) -> Tensor:
    """`guided` (N, ...) brought back, per image, to the spread of `cond`, by `share` (Lin et al. 2024, eq. 15, 16)."""
    dims = tuple(range(1, guided.ndim))
    ratio = cond.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
    return guided * (share * ratio + (1 - share))


def guide(
    denoiser: Denoiser,
    conditions: Conditions,
    nulls: Nulls,
    guidance_scale: float,
    process: Clock | None = None,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    guidance_rescale: float = 0.0,
) -> Denoiser:
    """A denoiser of (x_t, t) from one of (x_t, t, **conditions).

    Both halves go in one call; at scale 1 or 0, one half is enough. The mean alone is guided: channels after those of
    x_t, a learned variance, are those of the conditional half. `process` says how far t has come in the interval.
    """
    dropped, (low, high) = nulls_for(conditions, nulls), guidance_interval

    def guided(x_t: Tensor, t: Tensor | float) -> Tensor:
        inside = True if process is None else _inside(process.share(t), low, high)
        scale = _scale_at(_scale_now(guidance_scale, conditions, dropped), inside)
        if scale in (0.0, 1.0) or not conditions:
            return denoiser(x_t, t, **(conditions if scale else dropped))
        times = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        both = denoiser(torch.cat([x_t, x_t]), times, **joined(conditions, dropped))
        (cond, variance), (uncond, _) = (half.tensor_split([x_t.shape[1]], dim=1) for half in both.chunk(2))
        return _mixed(cond, uncond, variance, scale, inside, guidance_rescale)

    return guided


def autoguide(
    denoiser: Denoiser,
    guide_denoiser: Denoiser,
    conditions: Conditions,
    guidance_scale: float,
    process: Clock | None = None,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    guidance_rescale: float = 0.0,
) -> Denoiser:
    """A denoiser of (x_t, t) from two of (x_t, t, **conditions), the second of which is the worse one.

    The other arguments are those of `guide`.
    """
    low, high = guidance_interval

    def guided(x_t: Tensor, t: Tensor | float) -> Tensor:
        inside = True if process is None else _inside(process.share(t), low, high)
        scale = _scale_at(scale_now(guidance_scale), inside)
        if scale == 1.0:
            return denoiser(x_t, t, **conditions)
        if scale == 0.0:
            return guide_denoiser(x_t, t, **conditions)
        outputs = (ask(x_t, t, **conditions) for ask in (denoiser, guide_denoiser))
        (good, variance), (bad, _) = (output.tensor_split([x_t.shape[1]], dim=1) for output in outputs)
        return _mixed(good, bad, variance, scale, inside, guidance_rescale)

    return guided


def guided_network(
    pipeline: StepwisePipeline,
    conditions: Conditions,
    nulls: Nulls,
    guidance_scale: float,
    process: Clock | None = None,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    guidance_rescale: float = 0.0,
) -> Denoiser:
    """The network of a pipeline, guided by its `guide_unet` if it has one, else free of a classifier."""
    options = (guidance_scale, process, guidance_interval, guidance_rescale)
    worse = getattr(pipeline, "guide_unet", None)
    if worse is None:
        return guide(pipeline.network, conditions, nulls, *options)
    return autoguide(pipeline.network, lambda x_t, t, **given: evaluate(worse, x_t, t, given), conditions, *options)


def _scale_now(asked: float, conditions: Conditions, dropped: Conditions) -> float:
    """`asked`, or what a callback has changed it to, unless no class was asked for and there is nothing to guide to."""
    scale = scale_now(asked)
    guided = scale == asked or any(not torch.equal(value, dropped[name]) for name, value in conditions.items())
    return scale if guided else asked


def _scale_at(scale: float, inside: Tensor | bool) -> float:
    """`scale`, or 1 outside of the interval, which is about guidance above 1: less of the class is less throughout."""
    return min(scale, 1.0) if inside is False else scale


def _mixed(
    cond: Tensor, other: Tensor, variance: Tensor, scale: float, inside: Tensor | bool, guidance_rescale: float
) -> Tensor:
    """The guided mean with the channels that follow it; `cond` for the images (N,) outside of the interval, if it is
    about them."""
    mean = combine(cond, other, scale)
    mean = rescale(mean, cond, guidance_rescale) if guidance_rescale else mean
    if isinstance(inside, Tensor) and scale > 1.0:
        mean = torch.where(inside.to(cond.device).reshape(-1, *(1,) * (cond.ndim - 1)), mean, cond)
    return torch.cat([mean, variance], dim=1) if variance.shape[1] else mean


def _inside(share: Tensor | float, low: float, high: float) -> Tensor | bool:
    """Whether a share of the process lies in [low, high]; (N,) where images are at different times, and not alike."""
    inside = (low <= share) & (share <= high) if isinstance(share, Tensor) else low <= share <= high
    if isinstance(inside, Tensor) and (bool(inside.all()) or not bool(inside.any())):
        return bool(inside.all())
    return inside


class ClassifierFreeGuidancePipeline(StepwisePipeline):
    """Class-conditional sampling whose agreement with the label is a slider.

    Args:
        unet: a class-conditional network whose last label means "no class"
        scheduler: states the noise schedule, the prediction type, clipping and spacing. DDIMScheduler means
            deterministic steps and DDPMScheduler means eta = 1; any other diffusers scheduler is driven.
        id2label: class names by index
        guidance_interval: where calls guide unless they say otherwise, shares (low, high) of the noise process in
            [0, 1]; saved with the model, for what is best is a property of it
        guide_unet: a worse network of the same kind, for autoguidance; None: classifier-free guidance
    """

    model_cpu_offload_seq = "unet->guide_unet"
    _optional_components = ["guide_unet"]
    about = {
        "summary": "Draws {subject}, with classifier-free guidance "
        "([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598)).",
        "paper": "https://arxiv.org/abs/2207.12598",
        "last_label_is_null": True,
        "example": {"num_inference_steps": 20, "guidance_scale": 2.0},
        "page": {
            "model": {"info": "Predicts each image with and without the class, and goes further where the two differ."}
        },
    }

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        id2label: dict[str, str] | None = None,
        guidance_interval: tuple[float, float] | list[float] = (0.0, 1.0),
        guide_unet: UNet2DModel | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, guide_unet=guide_unet)
        self.register_to_config(id2label=id2label, guidance_interval=list(check_interval(guidance_interval)))

    @property
    def null_label(self) -> int:
        """The label that stands for "no class": the network's last one."""
        embeds = self.num_class_embeds
        if embeds is None or embeds < 2:
            raise ValueError(f"unet must have num_class_embeds of at least 2 (the last is 'no class'), got {embeds}")
        return embeds - 1

    combine, rescale = staticmethod(combine), staticmethod(rescale)

    def start(
        self,
        class_labels: Labels,
        batch_size: int | None,
        num_inference_steps: int,
        guidance_scale: float,
        eta: float | None,
        guidance_interval: tuple[float, float] | None,
        guidance_rescale: float,
        generator: Generators,
        latents: Tensor | None,
        image: Images | None,
        strength: float | None,
        mask_image: Images | None,
        jump_length: int,
        jump_n_sample: int,
    ) -> Iterator[Step]:
        check_number("guidance_scale", guidance_scale, 0.0)
        check_number("guidance_rescale", guidance_rescale, 0.0, 1.0)
        eta = float(type(self.scheduler).__name__ == "DDPMScheduler") if eta is None else eta
        check_eta(eta, self.scheduler, PROCESS_SCHEDULERS)
        own = self.config.guidance_interval
        interval = check_interval(own if guidance_interval is None else guidance_interval)
        conditions, count = self.conditions(class_labels, batch_size)
        y, strength, kept = begun_with(
            image, strength, mask_image, jump_length, jump_n_sample, self.sample_shape, count
        )
        solver = Solver(self.scheduler, num_inference_steps, strength)
        x_T, noise = self.streams(count, generator, latents)
        scale = self.scale_of(class_labels, guidance_scale)
        denoiser = guided_network(self, conditions, self.nulls, scale, solver.process, interval, guidance_rescale)
        return solver.steps(ddim_steps, denoiser, x_T, noise, y, kept, eta=eta)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        batch_size: int | None = None,
        num_inference_steps: int = DefaultSteps(20),
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
        image: Images | None = None,
        strength: float | None = None,
        mask_image: Images | None = None,
        jump_length: int = JUMP_LENGTH,
        jump_n_sample: int = JUMP_N_SAMPLE,
    ) -> ImagePipelineOutput | tuple:
        """Draw images of the classes asked for.

        Args:
            class_labels: index, name, or a list with one per image; None draws without a class, and without guidance
            batch_size: how many images of a single label, or without one
            num_inference_steps: 1 to the length of the schedule; unless given, at most that
            guidance_scale: s >= 0; 1 is conditional only, 0 unconditional, larger follows the class more closely
            eta: share of DDPM's noise, at least 0; None: 1 with a DDPMScheduler, else 0
            guidance_interval: (low, high) in [0, 1]: shares of the noise process, t / (T - 1), between which to guide;
                outside, a scale above 1 is 1, at half the cost; None: the model's own, (0, 1) unless it was saved with
                another
            guidance_rescale: share in [0, 1] of the rescaled output, against overexposure at large scales
            generator: one generator, or a list with one per image
            latents: x_T, (N, C, H, W) unit noise, instead of drawing it
            output_type: "pil", "np" (N, H, W, C) in [0, 1], "pt" (N, C, H, W) in [0, 1], or "latent"
            return_dict: False gives a tuple
            callback_on_step_end: called as f(pipeline, index, timestep, tensors) after each step
            callback_on_step_end_tensor_inputs: which of "latents", "pred_original_sample", "eps" it is given
            image: begin with this image, or these, one per image drawn: PIL images or their paths, an array
                (N, H, W, C) or a tensor (N, C, H, W) in [0, 1], of the size of the images drawn
            strength: share of the steps to take from `image` on, in (0, 1]: the less, the more of it stays; None: 0.8,
                and 1 with a mask
            mask_image: white where `image` is to be drawn anew, black where it keeps its pixels (RePaint)
            jump_length: with a mask, how many steps each jump back towards the noise goes; at most to the first step
            jump_n_sample: with a mask, how often each stretch of `jump_length` steps is run; 1 never jumps back

        Returns:
            `ImagePipelineOutput` with `images` and `nfe`

        Raises:
            ValueError: an argument out of its range, by name, before any work
        """
        self.check_output(output_type, callback_on_step_end_tensor_inputs)
        run = self.stream(
            class_labels,
            batch_size,
            num_inference_steps,
            guidance_scale,
            eta,
            guidance_interval,
            guidance_rescale,
            generator,
            latents,
            image,
            strength,
            mask_image,
            jump_length,
            jump_n_sample,
        )
        return self.drain(run, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs)


def check_interval(interval: tuple[float, float] | list[float]) -> tuple[float, float]:
    """`interval` as a pair of floats; ValueError unless it is (low, high) with 0 <= low <= high <= 1."""
    if isinstance(interval, (np.ndarray, Tensor)):
        interval = interval.tolist()
    if not isinstance(interval, (tuple, list)) or len(interval) != 2:
        raise ValueError(f"guidance_interval must be a pair (low, high) in [0, 1], got {interval!r}")
    for bound in interval:
        check_number("guidance_interval", bound, 0.0, 1.0)
    if interval[0] > interval[1]:
        raise ValueError(f"guidance_interval must be a pair (low, high) with low <= high, got {interval!r}")
    return float(interval[0]), float(interval[1])
