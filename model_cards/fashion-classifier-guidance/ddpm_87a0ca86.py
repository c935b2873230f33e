"""Denoising diffusion probabilistic models: ancestral sampling (Ho et al. 2020, https://arxiv.org/abs/2006.11239).

    x_{t-1} = mu(x_t, x_0(x_t)) + sigma_t z,   z ~ N(0, I), none at the last step          algorithm 2
    mu      = mean of q(x_{t-1} | x_t, x_0)                                                eq. 7
    sigma^2 = beta_tilde_t ("fixed_small"), beta_t ("fixed_large"), or
              exp((v+1)/2 log beta_t + (1-v)/2 log beta_tilde_t) ("learned_range")         Nichol & Dhariwal 2021

With fewer steps the schedule is respaced: the same abar at the steps that are kept, betas recomputed.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from diffusers import SchedulerMixin, UNet2DModel
from torch import Tensor

from .base_413f06f7 import Generators, ImagePipelineOutput, StepwisePipeline
from .conditions_5712ea1d import Labels
from .image_inputs_34f57068 import Images
from .repaint_2b0eba8e import JUMP_LENGTH, JUMP_N_SAMPLE, begun_with
from .run_32486b83 import Denoiser, Step
from .schedule_a630c80b import NoiseSchedule
from .solvers_e8ffdf50 import Clip, DefaultSteps, Solver, predict

VARIANCES = ("fixed_small", "fixed_large", "learned_range")
MeanShift = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # (mean, variance, x_t, timestep) -> mean


def reverse_log_variance(
    schedule: NoiseSchedule, variance: str, t: Tensor | int, like: Tensor, v: Tensor | None = None
) -> Tensor:
    """log sigma_t^2 of the reverse step p(x_{t-1} | x_t), broadcastable over `like` (N, ...).

    "fixed_small" is beta_tilde_t, "fixed_large" beta_t, and "learned_range" lies between the two, in logarithms,
    at (v + 1) / 2, v (N, ...) in [-1, 1] being the network's (Nichol & Dhariwal, eq. 15). At t = 0, where nothing
    is drawn and only a likelihood asks, fixed variances are both beta_tilde_1, as in Ho et al.'s code.

    Raises:
        ValueError: an unknown `variance`, or "learned_range" without `v`.
    """
    if variance not in VARIANCES:
        raise ValueError(f"variance must be one of {', '.join(VARIANCES)}, got {variance!r}")
    clipped = schedule.posterior_log_variance_clipped
    if variance == "fixed_small":
        return schedule.gather(clipped, t, like)
    if variance == "fixed_large":
        return schedule.gather(torch.cat([clipped[:1], schedule.betas[1:].log()]), t, like)
    if v is None:
        raise ValueError("v must be given with variance 'learned_range', got None")
    small, large = schedule.gather(clipped, t, like), schedule.gather(schedule.betas.log(), t, like)
    share = (v.to(large.dtype) + 1) / 2
    return share * large + (1 - share) * small


def ancestral_step(
    schedule: NoiseSchedule,
    x0: Tensor,
    x_t: Tensor,
    t: int,
    noise: Callable[[], Tensor],
    variance: str = "fixed_small",
    v: Tensor | None = None,
    shift: MeanShift | None = None,
) -> Tensor:
    """A draw of x_{t-1} from q(x_{t-1} | x_t, x_0), all (N, ...), the mean at t = 0; x_0 as predicted at x_t.

    `noise` is asked for z where t > 0; `v` is the variance channel of "learned_range"; `shift` moves the mean.
    """
    mean, log_variance = schedule.posterior_mean(x0, x_t, t), reverse_log_variance(schedule, variance, t, x_t, v)
    if shift is not None:
        mean = shift(mean, log_variance.exp(), x_t, int(schedule.timesteps[t]))
    return mean if t == 0 else mean + (0.5 * log_variance).exp() * noise().to(mean.dtype)


@torch.no_grad()
def ancestral_steps(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    noise: Callable[[], Tensor],
    variance: str = "fixed_small",
    shift: MeanShift | None = None,
    prediction_type: str = "epsilon",
    clip: Clip | None = None,
) -> Iterator[Step]:
    """Algorithm 2 over every entry of `schedule`, which is respaced for fewer steps.

    `denoiser(x_t, t)`, a network or an exact one, gets t of the original process; `noise()` gives z for each step but
    the last, (N, ...); `shift` moves the mean of each; `clip` maps the predicted x_0, and eps is made to agree with it.
    """
    x_t = x_T
    for i, t in enumerate(reversed(range(len(schedule)))):
        x0, eps, v = predict(denoiser, x_t, schedule, t, prediction_type, clip)
        x_prev = ancestral_step(schedule, x0, x_t, t, noise, variance, v, shift)
        step = Step(i, len(schedule), int(schedule.timesteps[t]), x_t, x0, eps, x_prev)
        yield step
        x_t = step.prev_sample


class DDPMPipeline(StepwisePipeline):
    """Ancestral sampling with a fixed or a learned variance, over all steps or a respaced schedule.

    Args:
        unet: a network of (x_t, t) and, where it has classes, labels; 2C output channels where it learns the variance
        scheduler: states the noise schedule, the prediction type, clipping, spacing and `variance_type`. A
            DDPMScheduler or DDIMScheduler is only read; any other is driven.
        id2label: class names by index
    """

    model_cpu_offload_seq = "unet"
    about = {
        "summary": "Draws {subject} ([Ho et al. 2020](https://arxiv.org/abs/2006.11239)).",
        "paper": "https://arxiv.org/abs/2006.11239",
        "stock": "DDPMPipeline",
        "samplers": {"DDIM": "DDIMPipeline"},
        "example": {"num_inference_steps": 100},
        "page": {
            "model": {
                "info": "Begins with pure noise and takes a little of it away in each step, until an image is left."
            }
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
        return ancestral_step(schedule, schedule.predict_x0(eps, x_t, t), x_t, t, lambda: noise, variance, v)

    def start(
        self,
        batch_size: int | None,
        class_labels: Labels,
        num_inference_steps: int,
        generator: Generators,
        latents: Tensor | None,
        image: Images | None,
        strength: float | None,
        mask_image: Images | None,
        jump_length: int,
        jump_n_sample: int,
    ) -> Iterator[Step]:
        conditions, count = self.conditions(class_labels, batch_size)
        y, strength, kept = begun_with(
            image, strength, mask_image, jump_length, jump_n_sample, self.sample_shape, count
        )
        solver = Solver(self.scheduler, num_inference_steps, strength)
        variance = None if solver.driven else self.variance_type
        x_T, noise = self.streams(count, generator, latents)
        return solver.steps(
            ancestral_steps, partial(self.network, **conditions), x_T, noise, y, kept, variance=variance
        )

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        class_labels: Labels = None,
        num_inference_steps: int = DefaultSteps(1000),
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
            num_inference_steps: 1 to the length of the schedule, which is respaced; unless given, at most that
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
            generator,
            latents,
            image,
            strength,
            mask_image,
            jump_length,
            jump_n_sample,
        )
        return self.drain(run, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs)


# what the imports above import: diffusers' loader fetches only the files that this one names
from .facts_c265849c import __doc__ as _  # noqa: E402, F401
from .lora_462a865d import __doc__ as _  # noqa: E402, F401
from .packaging_51c09d16 import __doc__ as _  # noqa: E402, F401
from .saved_files_ce9a389c import __doc__ as _  # noqa: E402, F401
from .staging_5ca18f0b import __doc__ as _  # noqa: E402, F401
from .from_image_af70dd4e import __doc__ as _  # noqa: E402, F401
from .process_713930e3 import __doc__ as _  # noqa: E402, F401
