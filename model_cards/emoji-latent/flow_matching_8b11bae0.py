"""Flow matching (Lipman et al. 2023, https://arxiv.org/abs/2210.02747; Liu et al. 2023, https://arxiv.org/abs/2209.03003).

    x_t = a(t) x_0 + b(t) eps,   t in [0, 1], noise at t = 1              u(x_t, t) = E[a'(t) x_0 + b'(t) eps | x_t]
    dx / dt = u(x, t)            carries noise at t = 1 to images at t = 0

The linear path (rectified flow) has a = 1 - t, b = t and u = E[eps - x_0 | x_t]; the variance-preserving one has
a = cos(pi t / 2), b = sin(pi t / 2), where u is pi/2 times the v of Salimans & Ho 2022. Times, and the `timestep` =
1000 t that the network is given, are those of diffusers' FlowMatch schedulers (there t is called sigma). `shift` moves
steps towards the noise: t -> shift t / (1 + (shift - 1) t) (Esser et al. 2024, https://arxiv.org/abs/2403.03206).
"""

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from diffusers import SchedulerMixin, UNet2DModel
from torch import Tensor

from .base_413f06f7 import Generators, ImagePipelineOutput, StepwisePipeline, check_count, check_number
from .classifier_free_guidance_a374c9d8 import check_interval, guided_network
from .conditions_5712ea1d import Labels
from .from_image_af70dd4e import keeping, known_velocity, steps_left_out
from .image_inputs_34f57068 import Images
from .process_713930e3 import Clock, Path, from_velocity, unit_time, up
from .repaint_2b0eba8e import JUMP_LENGTH, JUMP_N_SAMPLE, Inpainting, begun_with, levels_of, steps_from_image
from .run_32486b83 import Denoiser, Step

Velocity = Callable[[Tensor, float], Tensor]  # (x_t, t) -> dx/dt, (N, ...)
SAMPLERS = ("euler", "midpoint", "heun")
SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
# settings of a FlowMatchEulerDiscreteScheduler by which its times are others than even ones with a shift, and those by
# which its steps are others than Euler's
OTHER_TIMES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "shift_terminal")
OTHER_STEPS = ("stochastic_sampling", "invert_sigmas", "use_dynamic_shifting")
STOP_EARLY = ("DEISMultistepScheduler", "SASolverScheduler")  # with flow sigmas: their last step does nothing


class LinearPath:
    """a = 1 - t, b = t: straight lines from noise to images (rectified flow)."""

    def marginal(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(1 - t, t), float64, of the shape of `t`."""
        t = unit_time(t)
        return 1 - t, t

    def marginal_rate(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(-1, 1), float64, of the shape of `t`."""
        one = torch.ones_like(unit_time(t))
        return -one, one

    def time_of(self, a: Tensor, b: Tensor) -> Tensor:
        """The t with the signal-to-noise ratio of (a, b), of the shape of `a`."""
        return b / (a + b)


class VariancePreservingPath:
    """a = cos(pi t / 2), b = sin(pi t / 2): a^2 + b^2 = 1, the cosine schedule of DDPM in continuous time."""

    def marginal(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(cos, sin) of pi t / 2, float64, of the shape of `t`."""
        angle = unit_time(t) * (math.pi / 2)
        return angle.cos(), angle.sin()

    def marginal_rate(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """pi / 2 times (-sin, cos) of pi t / 2, float64, of the shape of `t`."""
        a, b = self.marginal(t)
        return -b * (math.pi / 2), a * (math.pi / 2)

    def time_of(self, a: Tensor, b: Tensor) -> Tensor:
        """The t with the signal-to-noise ratio of (a, b), of the shape of `a`."""
        return torch.atan2(b, a) / (math.pi / 2)


PATHS: dict[str, type[Path]] = {"linear": LinearPath, "variance_preserving": VariancePreservingPath}


def find_path(name: str) -> Path:
    """The path of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PATHS:
        raise ValueError(f"path must be one of {', '.join(PATHS)}, got {name!r}")
    return PATHS[name]()


def shifted_times(num_inference_steps: int, shift: float = 1.0) -> list[float]:
    """The times of a run, from 1 down to 0, one more than steps."""
    even = [1 - i / num_inference_steps for i in range(num_inference_steps)]
    return [shift * t / (1 + (shift - 1) * t) for t in even] + [0.0]


def euler_step(velocity: Velocity, x: Tensor, u: Tensor, t: float, s: float) -> Tensor:
    """x at s from x and u = velocity(x, t), all (N, ...): first order."""
    return x + (s - t) * u


def midpoint_step(velocity: Velocity, x: Tensor, u: Tensor, t: float, s: float) -> Tensor:
    """x at s by the velocity half a step on: second order."""
    middle = t + (s - t) / 2
    return x + (s - t) * velocity(x + (middle - t) * u, middle)


def heun_step(velocity: Velocity, x: Tensor, u: Tensor, t: float, s: float) -> Tensor:
    """x at s by the mean of the velocities at both ends: second order. The step to s = 0 is Euler's."""
    ahead = x + (s - t) * u
    return x + (s - t) / 2 * (u + velocity(ahead, s)) if s > 0 else ahead


STEPS = {"euler": euler_step, "midpoint": midpoint_step, "heun": heun_step}


@torch.no_grad()
def flow_steps(
    velocity: Velocity, x_1: Tensor, times: list[float], path: Path, sampler: str = "euler", time_scale: float = 1000.0
) -> Iterator[Step]:
    """dx/dt = velocity(x, t) over `times`, descending from 1, from noise `x_1` (N, ...).

    `sampler` is euler, midpoint or heun. Each Step holds what the first evaluation of the step says of x_0 and eps, and
    its `timestep` is time_scale t.
    """
    x = x_1
    for i, (t, s) in enumerate(zip(times, times[1:], strict=False)):
        u = up(velocity(x, t))
        x0, eps = from_velocity(path, u, x, t)
        step = Step(i, len(times) - 1, time_scale * t, x, x0, eps, STEPS[sampler](velocity, x, u, t, s))
        yield step
        x = step.prev_sample


def is_of_flows(scheduler: Any) -> bool:
    """Whether a scheduler of diffusers takes the network's output for a velocity."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas"))


def states_its_steps(scheduler: Any) -> bool:
    """Whether Euler's steps over even times with the scheduler's `shift` are its own; if not, it has to be driven.

    Raises:
        ValueError: a setting with which an image would not depend on its own seed alone, or would not be one.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    for name in OTHER_STEPS:
        if config.get(name):
            raise ValueError(f"scheduler must have {name}=False, got {config[name]!r}")
    if config.get("use_flow_sigmas"):
        _check_flow_sigmas(kind, config)
    return kind == "FlowMatchEulerDiscreteScheduler" and not any(config.get(name) for name in OTHER_TIMES)


def _check_flow_sigmas(kind: str, config: Mapping[str, Any]) -> None:
    """Raise ValueError for a solver with flow sigmas, of class `kind`, that would not draw images of a flow."""
    predicts, algorithm = config.get("prediction_type"), config.get("algorithm_type")
    if predicts != "flow_prediction":
        raise ValueError(f"prediction_type must be flow_prediction with use_flow_sigmas, got {predicts!r} with {kind}")
    if kind in STOP_EARLY:
        raise ValueError(f"scheduler must be one whose steps end in an image, {kind} with use_flow_sigmas leaves noise")
    if str(algorithm).startswith("sde"):
        raise ValueError(f"algorithm_type must be that of an ODE for a flow, got {algorithm!r} with {kind}")


@torch.no_grad()
def scheduler_steps(
    velocity: Velocity,
    x: Tensor,
    scheduler: Any,
    num_inference_steps: int,
    left_out: int = 0,
    generators: list[torch.Generator] | None = None,
) -> Iterator[Step]:
    """The steps that a scheduler of diffusers takes itself on the linear path: one for flows, or with flow sigmas.

    `x`, (N, ...), is the sample where the first `left_out` steps would have ended. A scheduler that adds noise draws
    it from `generators`, one per image.
    """
    takes_generator = generators is not None and "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": generators} if takes_generator else {}
    scheduler, path = _ready(scheduler, num_inference_steps, x.device), LinearPath()
    begin = left_out * getattr(scheduler, "order", 1)
    scheduler.set_begin_index(begin)
    timesteps, sigmas = scheduler.timesteps[begin:], scheduler.sigmas[begin:]  # some round their timesteps
    scale = scheduler.config.num_train_timesteps
    for i, timestep in enumerate(timesteps):
        t = float(sigmas[i])
        u = up(velocity(x, t))
        x0, eps = from_velocity(path, u, x, t)
        after = scheduler.step(u, timestep, x, **extra).prev_sample
        step = Step(i, len(timesteps), scale * t, x, x0, eps, after)
        yield step
        x = step.prev_sample


def _ready(scheduler: Any, num_inference_steps: int, device: torch.device) -> Any:
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_inference_steps, device=device)
    return scheduler


def steps_of_flow(
    velocity: Velocity,
    x_1: Tensor,
    scheduler: Any,
    path: Path,
    num_inference_steps: int,
    sampler: str,
    shift: float,
    strength: float = 1.0,
    image: Tensor | None = None,
    noise: Callable[[], Tensor] | None = None,
    kept: Inpainting | None = None,
) -> Iterator[Step]:
    """The last steps, a share `strength`, from noise x_1 (N, ...), or from an `image`, of which some may be `kept`.

    `sampler` is one of SAMPLERS, whose times take the `shift`, or "scheduler" for the steps that it takes itself;
    `noise` is what `kept` is put back with.
    """
    left_out, order, scale = steps_left_out(num_inference_steps, strength), 1, scheduler.config.num_train_timesteps
    if sampler == "scheduler":
        ready = _ready(scheduler, num_inference_steps, x_1.device)
        order = getattr(scheduler, "order", 1)
        times = ready.sigmas[: len(ready.timesteps)].tolist()[left_out * order :]
    else:
        times = shifted_times(num_inference_steps, shift)[left_out:-1]

    def begin(x: Tensor, taken: int) -> Iterator[Step]:
        if sampler == "scheduler":
            return scheduler_steps(
                velocity, x, scheduler, num_inference_steps, left_out + taken, getattr(noise, "generators", None)
            )
        return flow_steps(velocity, x, [*times[taken:], 0.0], path, sampler, scale)

    return steps_from_image(begin, x_1, levels_of(path, times), noise, image, kept, order)


def run_of_flow(
    guided: Callable[[Clock], Denoiser],
    x_1: Tensor,
    scheduler: Any,
    path_name: str,
    num_inference_steps: int,
    image: Tensor | None = None,
    strength: float = 1.0,
    mask: Tensor | None = None,
    noise: Callable[[], Tensor] | None = None,
    kept: Inpainting | None = None,
) -> Iterator[Step]:
    """The steps that a scheduler states, or takes itself, from noise x_1 (N, ...), or from an `image`.

    A FlowMatchEulerDiscreteScheduler states Euler's steps and their `shift`; any other is driven. `guided` gives the
    denoiser of a clock. A run from an image takes a share `strength` of the steps; where `mask` is False, the image is
    the denoiser's answer (from_image.py), and what is `kept` is put back after each step (repaint.py).

    Raises:
        ValueError: a scheduler that takes the steps of another path.
    """
    name, config, path = type(scheduler).__name__, scheduler.config, find_path(path_name)
    scale, states = config.num_train_timesteps, states_its_steps(scheduler)
    if not states and path_name != "linear":
        only = "FlowMatchEulerDiscreteScheduler with times of its shift alone"
        raise ValueError(f"scheduler must be a {only} on the path {path_name!r}, got {name}")
    denoiser = guided(TimeShare(scale))
    if mask is not None:
        denoiser = keeping(denoiser, mask, known_velocity(image, path, scale))

    def velocity(x_t: Tensor, t: float) -> Tensor:
        return denoiser(x_t, scale * t)

    sampler, shift = ("euler", config.shift) if states else ("scheduler", 1.0)
    return steps_of_flow(
        velocity, x_1, scheduler, path, num_inference_steps, sampler, shift, strength, image, noise, kept
    )


class TimeShare:
    """How far a network's time has come, for guidance intervals: 0 is an image, 1 is noise."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def share(self, timestep: Tensor | float) -> Tensor | float:
        """timestep / scale, in [0, 1]."""
        return timestep / self.scale


class FlowMatchingPipeline(StepwisePipeline):
    """Sampling along the velocity field of a flow, with classifier-free guidance where the network knows classes.

    Args:
        unet: predicts the velocity from (x_t, 1000 t) and, where it has classes, labels, the last of which means "no
            class"
        scheduler: a FlowMatchEulerDiscreteScheduler states `num_train_timesteps`, by which times are multiplied for
            the network, and `shift`; a FlowMatchHeunDiscreteScheduler takes its own steps
        id2label: class names by index
        path: linear or variance_preserving, what the network was trained on
        guidance_interval: where calls guide unless they say otherwise, times (low, high) in [0, 1]
        guide_unet: a worse network of the same kind, for autoguidance; None: classifier-free guidance
    """

    model_cpu_offload_seq = "unet->guide_unet"
    _optional_components = ["guide_unet"]
    about = {
        "summary": "Draws {subject} by flow matching ([Lipman et al. 2023](https://arxiv.org/abs/2210.02747)).",
        "paper": "https://arxiv.org/abs/2210.02747",
        "last_label_is_null": True,
        "example": {"num_inference_steps": 20, "guidance_scale": 2.0},
        "page": {
            "model": {
                "info": "Moves noise to an image along lines that are nearly straight, so that few steps are enough."
            },
            "sampler": {
                "choices": ("euler", "midpoint", "heun"),
                "value": "heun",
                "info": "midpoint and heun evaluate the network twice per step",
            },
        },
    }

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        id2label: dict[str, str] | None = None,
        path: str = "linear",
        guidance_interval: tuple[float, float] | list[float] = (0.0, 1.0),
        guide_unet: UNet2DModel | None = None,
    ) -> None:
        super().__init__()
        find_path(path)
        self.register_modules(unet=unet, scheduler=scheduler, guide_unet=guide_unet)
        self.register_to_config(id2label=id2label, path=path, guidance_interval=list(check_interval(guidance_interval)))

    def velocity(self, denoiser: Callable[..., Tensor]) -> Velocity:
        """dx/dt as a function of x_t and t in [0, 1] from a network, which is given 1000 t."""
        scale = self.scheduler.config.num_train_timesteps
        return lambda x_t, t: denoiser(x_t, scale * t)

    def start(
        self,
        class_labels: Labels,
        batch_size: int | None,
        num_inference_steps: int,
        guidance_scale: float,
        sampler: str | None,
        shift: float | None,
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
        check_count("num_inference_steps", num_inference_steps)
        check_number("guidance_scale", guidance_scale, 0.0)
        check_number("guidance_rescale", guidance_rescale, 0.0, 1.0)
        own = self.config.guidance_interval
        interval = check_interval(own if guidance_interval is None else guidance_interval)
        sampler = self._sampler(sampler, shift)
        conditions, count = self.conditions(class_labels, batch_size)
        y, strength, kept = begun_with(
            image, strength, mask_image, jump_length, jump_n_sample, self.sample_shape, count
        )
        x_1, noise = self.streams(count, generator, latents)
        scale = self.scale_of(class_labels, guidance_scale)
        config, path = self.scheduler.config, find_path(self.config.path)
        process = TimeShare(config.num_train_timesteps)
        velocity = self.velocity(
            guided_network(self, conditions, self.nulls, scale, process, interval, guidance_rescale)
        )
        shift = config.shift if shift is None else float(shift)
        return steps_of_flow(
            velocity, x_1, self.scheduler, path, num_inference_steps, sampler, shift, strength, y, noise, kept
        )

    def _sampler(self, sampler: str | None, shift: float | None) -> str:
        """One of SAMPLERS, or "scheduler" for steps that the scheduler takes itself.

        Raises:
            ValueError: an unknown sampler, a scheduler of another family, or one whose steps do not go with the path.
        """
        name = type(self.scheduler).__name__
        if name not in SCHEDULERS:
            raise ValueError(f"scheduler must be one of {', '.join(SCHEDULERS)} for a flow, got {name}")
        if sampler is not None and sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        chosen = sampler or ("euler" if states_its_steps(self.scheduler) else "scheduler")
        if shift is not None:
            check_number("shift", shift, 1e-3, 1e3)
        if chosen == "scheduler" and (self.config.path != "linear" or shift is not None):
            given = f"path {self.config.path!r}" if shift is None else f"shift {shift}"
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)} with {given}: {name} takes its own steps")
        return chosen

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        batch_size: int | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        sampler: str | None = None,
        shift: float | None = None,
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
        """Draw images, of the classes asked for where the network knows classes.

        Args:
            class_labels: index, name, or a list with one per image; None draws without a class, and without guidance
            batch_size: how many images of a single label, or without one
            num_inference_steps: at least 1; midpoint and heun evaluate the network twice per step
            guidance_scale: s >= 0; 1 is conditional only, 0 unconditional, larger follows the class more closely
            sampler: euler, midpoint or heun; None: what the scheduler stands for
            shift: above 1 spends more steps near the noise; None: that of the scheduler
            guidance_interval: (low, high) in [0, 1]: times between which to guide; outside, a scale above 1 is 1, at
                half the cost; None: the model's own
            guidance_rescale: share in [0, 1] of the rescaled output, against overexposure at large scales
            generator: one generator, or a list with one per image
            latents: x_1, (N, C, H, W) unit noise, instead of drawing it
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
            sampler,
            shift,
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


# what the imports above import: diffusers' loader fetches only the files that this one names
from .facts_c265849c import __doc__ as _  # noqa: E402, F401
from .lora_462a865d import __doc__ as _  # noqa: E402, F401
from .packaging_51c09d16 import __doc__ as _  # noqa: E402, F401
from .saved_files_ce9a389c import __doc__ as _  # noqa: E402, F401
from .staging_5ca18f0b import __doc__ as _  # noqa: E402, F401
from .ddim_73614dd6 import __doc__ as _  # noqa: E402, F401
from .schedule_a630c80b import __doc__ as _  # noqa: E402, F401
from .solvers_e8ffdf50 import __doc__ as _  # noqa: E402, F401
