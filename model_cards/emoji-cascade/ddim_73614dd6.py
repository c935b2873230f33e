"""Denoising diffusion implicit models (Song et al. 2021, https://arxiv.org/abs/2010.02502), eq. 12:

    x_s = sqrt(abar_s) x_0(x_t) + sqrt(1 - abar_s - sigma^2) eps(x_t) + sigma z,         s < t, z ~ N(0, I)
    sigma = eta sqrt((1 - abar_s) / (1 - abar_t)) sqrt(1 - abar_t / abar_s)                            (eq. 16)

eta = 0 is deterministic, and can be run backwards (`invert`); eta = 1 over all steps is DDPM's ancestral sampling.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from diffusers import SchedulerMixin, UNet2DModel
from torch import Tensor

from .base_413f06f7 import Generators, ImagePipelineOutput, StepwisePipeline, check_number
from .conditions_5712ea1d import Labels
from .image_inputs_34f57068 import Images
from .process_713930e3 import broadcast
from .repaint_2b0eba8e import JUMP_LENGTH, JUMP_N_SAMPLE, begun_with
from .run_32486b83 import Denoiser, Step
from .schedule_a630c80b import NoiseSchedule
from .solvers_e8ffdf50 import PROCESS_SCHEDULERS, Clip, DefaultSteps, Solver, drives_itself, predict


def ddim_step(
    schedule: NoiseSchedule,
    x0: Tensor,
    eps: Tensor,
    t: int,
    s: int,
    eta: float = 0.0,
    noise: Callable[[], Tensor] | None = None,
) -> Tensor:
    """x_s from what x_t says of x_0 and eps, all (N, ...); s = -1 is the end (eq. 12, sigma of eq. 16).

    `noise` is asked for z only where sigma is above 0. s may lie above t: with eta = 0 that is a step of inversion.
    """
    abar_t = float(schedule.alphas_cumprod[t])
    abar_s = float(schedule.alphas_cumprod[s]) if s >= 0 else schedule.final_alpha_cumprod
    sigma = eta * max((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s), 0.0) ** 0.5 if eta else 0.0
    x_s = abar_s**0.5 * x0 + max(1 - abar_s - sigma**2, 0.0) ** 0.5 * eps.to(x0.dtype)
    return x_s + sigma * noise().to(x0.dtype) if sigma > 0 else x_s


@torch.no_grad()
def ddim_steps(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    eta: float = 0.0,
    noise: Callable[[], Tensor] | None = None,
    prediction_type: str = "epsilon",
    clip: Clip | None = None,
) -> Iterator[Step]:
    """The sampling loop over every entry of `schedule`, which is respaced for fewer steps.

    `denoiser(x_t, t)`, a network or an exact one, gets t of the original process; `noise()` gives z for each step,
    (N, ...); `clip` maps the predicted x_0, and eps is made to agree with it.
    """
    x_t = x_T
    for i, t in enumerate(reversed(range(len(schedule)))):
        x0, eps, _ = predict(denoiser, x_t, schedule, t, prediction_type, clip)
        x_s = ddim_step(schedule, x0, eps, t, t - 1, eta, noise)
        step = Step(i, len(schedule), int(schedule.timesteps[t]), x_t, x0, eps, x_s)
        yield step
        x_t = step.prev_sample


@torch.no_grad()
def ddim_inversion_steps(
    denoiser: Denoiser, x_0: Tensor, schedule: NoiseSchedule, *, prediction_type: str = "epsilon"
) -> Iterator[Step]:
    """Eq. 12 upwards over every entry of `schedule`, eta = 0: eps here carries x to the next noise level (section 4.3).

    The first step leaves `x_0`, the end of the sampler's last step, where the network is asked at the least noisy one.
    """
    x_t, end = x_0, schedule.final_alpha_cumprod
    for t_next in range(len(schedule)):
        t, asked = t_next - 1, max(t_next - 1, 0)
        output = denoiser(x_t, int(schedule.timesteps[asked]))[:, : x_t.shape[1]]
        eps = schedule.predict_eps(output, x_t, asked, prediction_type)
        x0 = (x_t - (1 - end) ** 0.5 * eps) / end**0.5 if t < 0 else schedule.predict_x0(eps, x_t, t)
        a, b = (broadcast(level, x_t) for level in schedule.marginal(t_next))
        step = Step(t_next, len(schedule), int(schedule.timesteps[asked]), x_t, x0, eps, a * x0 + b * eps)
        yield step
        x_t = step.prev_sample


def check_eta(eta: float, scheduler: Any, takes: tuple[str, ...] = ("DDIMScheduler",)) -> None:
    """Raise ValueError unless `eta` is a number of at least 0 and, with a scheduler of another class, 0."""
    check_number("eta", eta, 0.0)
    name = type(scheduler).__name__
    if eta != 0 and name not in takes:
        why = "which takes its own steps" if drives_itself(scheduler) else "whose steps are ancestral"
        raise ValueError(f"eta must be 0 with {name}, {why}, got {eta}")


class DDIMPipeline(StepwisePipeline):
    """Sampling with any number of steps and any eta, and the inversion of an image into its noise.

    Args:
        unet: a network of (x_t, t) and, where it has classes, labels
        scheduler: states the noise schedule, the prediction type, clipping and spacing. A DDIMScheduler or
            DDPMScheduler is only read; any other is driven, and then `eta` must be 0.
        id2label: class names by index
    """

    model_cpu_offload_seq = "unet"
    about = {
        "summary": "Draws {subject} in few steps ([Song et al. 2021](https://arxiv.org/abs/2010.02502)).",
        "paper": "https://arxiv.org/abs/2010.02502",
        "stock": "DDIMPipeline",
        "samplers": {"DDPM": "DDPMPipeline"},
        "page": {
            "model": {"info": "Takes noise away in few, large steps: the same noise always becomes the same image."}
        },
    }

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
        return ddim_step(schedule, schedule.predict_x0(eps, x_t, t), eps, t, t_prev, eta, lambda: noise)

    def start(
        self,
        batch_size: int | None,
        class_labels: Labels,
        num_inference_steps: int,
        eta: float,
        generator: Generators,
        latents: Tensor | None,
        image: Images | None,
        strength: float | None,
        mask_image: Images | None,
        jump_length: int,
        jump_n_sample: int,
    ) -> Iterator[Step]:
        check_eta(eta, self.scheduler, PROCESS_SCHEDULERS)
        conditions, count = self.conditions(class_labels, batch_size)
        y, strength, kept = begun_with(
            image, strength, mask_image, jump_length, jump_n_sample, self.sample_shape, count
        )
        solver = Solver(self.scheduler, num_inference_steps, strength)
        x_T, noise = self.streams(count, generator, latents)
        return solver.steps(ddim_steps, partial(self.network, **conditions), x_T, noise, y, kept, eta=eta)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        class_labels: Labels = None,
        num_inference_steps: int = DefaultSteps(50),
        eta: float = 0.0,
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
        """Draw images.

        Args:
            batch_size: how many, 1 unless `class_labels` says otherwise
            class_labels: index, name, or a list with one per image, for a class-conditional network
            num_inference_steps: 1 to the length of the schedule; unless given, at most that
            eta: share of DDPM's noise, at least 0; 0 is deterministic, 1 is DDPM
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
            batch_size,
            class_labels,
            num_inference_steps,
            eta,
            generator,
            latents,
            image,
            strength,
            mask_image,
            jump_length,
            jump_n_sample,
        )
        return self.drain(run, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs)

    @torch.no_grad()
    def invert(
        self, images: Tensor, num_inference_steps: int = DefaultSteps(50), class_labels: Labels = None
    ) -> Tensor:
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
        conditions, _ = self.conditions(class_labels, len(images))
        solver = Solver(self.scheduler, num_inference_steps)
        x_0 = images.to(self._execution_device, torch.promote_types(images.dtype, torch.float32))
        denoiser, kind = partial(self.network, **conditions), solver.prediction_type
        steps = ddim_inversion_steps(denoiser, x_0, solver.schedule, prediction_type=kind)
        return deque(steps, maxlen=1).pop().prev_sample


# what the imports above import: diffusers' loader fetches only the files that this one names
from .facts_c265849c import __doc__ as _  # noqa: E402, F401
from .lora_462a865d import __doc__ as _  # noqa: E402, F401
from .packaging_51c09d16 import __doc__ as _  # noqa: E402, F401
from .saved_files_ce9a389c import __doc__ as _  # noqa: E402, F401
from .staging_5ca18f0b import __doc__ as _  # noqa: E402, F401
from .from_image_af70dd4e import __doc__ as _  # noqa: E402, F401
