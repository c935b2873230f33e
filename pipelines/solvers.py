"""From a scheduler to steps: where they lie, how x_0 is clipped, and how any diffusers scheduler is driven.

A DDPMScheduler or DDIMScheduler only states the noise schedule, and our own loops take the steps; any other scheduler
takes them itself.
"""

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .from_image import steps_left_out
from .process import PREDICTION_TYPES, Process, check_prediction_type, predict_eps, predict_x0
from .repaint import Inpainting, Level, levels_of, repaint_steps, steps_from_image
from .run import Denoiser, Step, plain
from .schedule import NoiseSchedule

PROCESS_SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")
# these take several slopes per step, the first of them at its beginning
SLOPES = ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "PNDMScheduler")
# the schedulers of diffusers that draw from a network of eps, x_0 or v, and which of these they take
TAKEN = dict.fromkeys(
    (
        *PROCESS_SCHEDULERS,
        "DDIMParallelScheduler",
        "DDPMParallelScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LCMScheduler",
        "LMSDiscreteScheduler",
        "SASolverScheduler",
        "TCDScheduler",
        "UniPCMultistepScheduler",
    ),
    PREDICTION_TYPES,
) | dict.fromkeys(
    (
        "EulerAncestralDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "PNDMScheduler",
    ),
    ("epsilon", "v_prediction"),
)
FEWEST = {"PNDMScheduler": 4}  # steps: it is of fourth order
LEARNED = ("learned", "learned_range")  # a variance_type: the network has twice the channels
Clip = Callable[[Tensor], Tensor]


class DefaultSteps(int):
    """The number of steps of a call that names none: as many, or all that the process has where those are fewer."""


class Solver:
    """What takes the steps of one run; `process` is the whole noise schedule and `schedule` the run's part of it.

    A run from an image takes the last steps alone, a share `strength` of them.

    Raises:
        ValueError: `num_inference_steps` outside [1, T] or what the scheduler takes, or a scheduler that cannot draw
            here, cannot begin with an image, or whose noise schedule is not known.
    """

    def __init__(self, scheduler: Any, num_inference_steps: int, strength: float = 1.0) -> None:
        check_scheduler(scheduler)
        num_inference_steps = plain(num_inference_steps)
        self.scheduler, config = scheduler, scheduler.config
        self.process = NoiseSchedule.from_scheduler(scheduler)
        if isinstance(num_inference_steps, DefaultSteps):
            num_inference_steps = min(int(num_inference_steps), len(self.process))
        spacing, offset = config.get("timestep_spacing", "leading"), config.get("steps_offset", 0)
        whole = self.process.respace(self.process.spaced_timesteps(num_inference_steps, spacing, offset))
        self.num_steps, self.left_out = len(whole), steps_left_out(len(whole), strength)
        self.schedule = whole.respace(range(len(whole) - self.left_out))
        self.clip = clipping(config)
        self.prediction_type = config.prediction_type
        self.driven = drives_itself(scheduler)
        if self.driven:
            _check_steps(scheduler, num_inference_steps)
        if self.driven and self.left_out and not begins_anywhere(scheduler):
            raise ValueError(f"strength must be 1 with {type(scheduler).__name__}, got {strength:g}")

    def steps(
        self,
        own_steps: Callable[..., Iterator[Step]],
        denoiser: Denoiser,
        x_T: Tensor,
        noise: Any,
        image: Tensor | None = None,
        kept: Inpainting | None = None,
        **options: Any,
    ) -> Iterator[Step]:
        """`own_steps(denoiser, x_T, schedule, ...)`, an algorithm's loop, or those of a scheduler that is driven.

        `x_T` is unit noise, to which `image`, (N, ...) too, is taken as far as the first step wants it; `kept`, the
        part of it that stays.

        Raises:
            ValueError: `kept` asks for jumps, and the scheduler cannot begin at each of its steps.
        """
        if self.driven:
            return self._driven_steps(denoiser, x_T, noise, image, kept)
        count = len(self.schedule)
        options |= {"noise": noise, "prediction_type": self.prediction_type, "clip": self.clip}

        def begin(x: Tensor, taken: int) -> Iterator[Step]:
            rest = self.schedule.respace(range(count - taken)) if taken else self.schedule
            return own_steps(denoiser, x, rest, **options)

        levels = levels_of(self.schedule, torch.arange(count).flip(0))
        return steps_from_image(begin, x_T, levels, noise, image, kept)

    def _driven_steps(
        self, denoiser: Denoiser, x_T: Tensor, noise: Any, image: Tensor | None, kept: Inpainting | None
    ) -> Iterator[Step]:
        parts = self.scheduler, self.num_steps, self.process, noise.generators
        if kept is None:
            return scheduler_steps(denoiser, x_T, *parts, image=image, left_out=self.left_out)
        if kept.jump_n_sample > 1 and not begins_anywhere(self.scheduler):
            name = type(self.scheduler).__name__
            raise ValueError(f"jump_n_sample must be 1 with {name}, whose steps need those before")
        x = sample_to_begin_with(self.scheduler, self.num_steps, x_T, image, self.left_out)
        levels, order = sample_levels(*parts[:3]), getattr(self.scheduler, "order", 1)

        def begin(x: Tensor, taken: int) -> Iterator[Step]:
            return scheduler_steps(denoiser, x, *parts, left_out=self.left_out + taken, resumed=True)

        return repaint_steps(begin, x, levels[self.left_out * order :], noise, kept, order)


def drives_itself(scheduler: Any) -> bool:
    """Whether `scheduler` has to be driven, rather than read as the statement of a noise schedule."""
    return type(scheduler).__name__ not in PROCESS_SCHEDULERS


def check_scheduler(scheduler: Any) -> None:
    """Raise ValueError, by its name, for a scheduler of diffusers that cannot draw from a network of this config.

    Among them are those of flows and of EDM's networks, whose images would be grey, those that need arguments of their
    own, and those that add noise. A scheduler from elsewhere is taken at its word.
    """
    name, config = type(scheduler).__name__, scheduler.config
    theirs = [cls.__name__ for cls in type(scheduler).__mro__ if cls.__module__.startswith("diffusers.schedulers.")]
    known = next((parent for parent in theirs if parent in TAKEN), None)
    if known is None and any(parent.endswith("Scheduler") for parent in theirs):
        raise ValueError(f"scheduler must be one of {', '.join(TAKEN)}, got {name}")
    kind = config.get("prediction_type")
    check_prediction_type(kind)
    if known is not None and kind not in TAKEN[known]:
        able = [other for other, kinds in TAKEN.items() if kind in kinds]
        raise ValueError(
            f"scheduler must be one of {', '.join(able)} for a network of prediction_type {kind!r}, got {name}"
        )
    if config.get("use_flow_sigmas", False):
        raise ValueError(
            f"use_flow_sigmas must be False for a network of prediction_type {kind!r}, got True with {name}"
        )


def _check_steps(scheduler: Any, num_inference_steps: int) -> None:
    """Raise ValueError for a number of steps that a scheduler that is driven does not take."""
    name = type(scheduler).__name__
    if num_inference_steps < FEWEST.get(name, 1):
        raise ValueError(f"num_inference_steps must be at least {FEWEST[name]} with {name}, got {num_inference_steps}")
    try:
        _ready(scheduler, num_inference_steps, torch.device("cpu"))
    except Exception as error:  # each class has its own
        raise ValueError(
            f"num_inference_steps must be a number that {name} takes, got {num_inference_steps}: {error}"
        ) from error


def clipping(config: dict) -> Clip | None:
    """How a config clips the predicted x_0 (N, ...): dynamic thresholds per image, a fixed range, or not at all."""
    if config.get("thresholding", False):
        return lambda x0: _thresholded(x0, config["dynamic_thresholding_ratio"], config["sample_max_value"])
    if config.get("clip_sample", False):
        limit = config.get("clip_sample_range", 1.0)
        return lambda x0: x0.clamp(-limit, limit)
    return None


def _thresholded(x0: Tensor, ratio: float, highest: float) -> Tensor:
    limits = torch.quantile(x0.flatten(1).abs(), ratio, dim=1)
    limits = limits.clamp(1.0, highest).reshape(-1, *(1,) * (x0.ndim - 1))
    return x0.clamp(-limits, limits) / limits


def predict(
    denoiser: Denoiser, x_t: Tensor, schedule: NoiseSchedule, t: int, prediction_type: str, clip: Clip | None
) -> tuple[Tensor, Tensor, Tensor]:
    """x_0 and eps (N, C, ...) at entry `t` of `schedule`, and the channels that follow the first C, if there are any.

    The denoiser gets the timestep of the original process. Where x_0 is clipped, eps is made to agree with it.
    """
    output = denoiser(x_t, int(schedule.timesteps[t]))
    output, others = output[:, : x_t.shape[1]], output[:, x_t.shape[1] :]
    x0 = schedule.predict_x0(output, x_t, t, prediction_type)
    if clip is None:
        return x0, schedule.predict_eps(output, x_t, t, prediction_type), others
    x0 = clip(x0)
    return x0, schedule.predict_eps(x0, x_t, t, "sample"), others


def half_step_spacing(num_inference_steps: int, num_train_timesteps: int) -> dict[str, str | int]:
    """Options of a scheduler of higher order that begin and end a run half a step in.

    Heun averages the slopes at both ends of a step (Karras et al. 2022, algorithm 1). From t = T - 1 of a schedule that
    ends in pure noise, the first slope is taken where sigma is almost infinite, and the run blows up.
    """
    return {"timestep_spacing": "leading", "steps_offset": num_train_timesteps // num_inference_steps // 2}


def _ready(scheduler: Any, num_inference_steps: int, device: torch.device, left_out: int = 0) -> Any:
    """A copy of `scheduler` at the beginning of a run that goes without the first `left_out` steps."""
    scheduler = copy.deepcopy(scheduler)  # solvers keep a history, which set_timesteps clears: each run has its own
    if scheduler.config.get("variance_type") in LEARNED:  # they get the mean alone, and some would cut it once more
        scheduler = type(scheduler).from_config(scheduler.config, variance_type="fixed_small")
    if type(scheduler).__name__ in SLOPES:
        scheduler.register_to_config(**half_step_spacing(num_inference_steps, scheduler.config.num_train_timesteps))
    scheduler.set_timesteps(num_inference_steps, device=device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(
            left_out * getattr(scheduler, "order", 1)
        )  # else it searches for t, and starts too late where rounded timesteps repeat
    return scheduler


@torch.no_grad()
def scheduler_steps(
    denoiser: Denoiser,
    x_T: Tensor,
    scheduler: Any,
    num_inference_steps: int,
    process: Process,
    generators: list[torch.Generator],
    image: Tensor | None = None,
    left_out: int = 0,
    resumed: bool = False,
) -> Iterator[Step]:
    """Drive any diffusers scheduler, also those that scale the model's input (Heun, Euler).

    `x_T` is unit noise, which is added to `image`, if there is one, where the first `left_out` steps would have ended,
    or, `resumed`, the sample there; `denoiser(x_t, t)` gets the scaled input, and x_t, x_0 and eps of each Step refer
    to it. A learned variance, the second half of the channels, is of no use to these solvers.
    """
    x = x_T if resumed else sample_to_begin_with(scheduler, num_inference_steps, x_T, image, left_out)
    scheduler = _ready(scheduler, num_inference_steps, x_T.device, left_out)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": generators} if takes_generator else {}
    kind, begin = scheduler.config.prediction_type, left_out * getattr(scheduler, "order", 1)
    timesteps, is_lms = scheduler.timesteps[begin:], type(scheduler).__name__ == "LMSDiscreteScheduler"
    for i, t in enumerate(timesteps):
        if is_lms:  # by itself it takes its order from the place of the step, also where no slopes are known before
            extra["order"] = min(i + 1, 4)
        x_in = scheduler.scale_model_input(x, t)
        output = denoiser(x_in, t)[:, : x_in.shape[1]]
        a, b = _marginal_at(scheduler, begin + i, t, process)
        x0, eps = predict_x0(output, x_in, a, b, kind), predict_eps(output, x_in, a, b, kind)
        x = scheduler.step(output, t, x, **extra).prev_sample
        step = Step(i, len(timesteps), float(t), x_in, x0, eps, x)
        yield step
        x = step.prev_sample


def sample_to_begin_with(
    scheduler: Any, num_inference_steps: int, x_T: Tensor, image: Tensor | None, left_out: int
) -> Tensor:
    """What a scheduler goes on from after its first `left_out` steps: `image` with that much of the unit noise x_T."""
    scheduler = _ready(scheduler, num_inference_steps, x_T.device, left_out)
    if image is None:
        return x_T * scheduler.init_noise_sigma
    first = scheduler.timesteps[left_out * getattr(scheduler, "order", 1)]
    return scheduler.add_noise(image.to(x_T).expand_as(x_T), x_T, first.expand(len(x_T)))


def sample_levels(scheduler: Any, num_inference_steps: int, process: Process) -> list[Level]:
    """(a, b) of a scheduler's own sample before each of its calls and after the last; a = 1 where it scales inputs."""
    scheduler = _ready(scheduler, num_inference_steps, torch.device("cpu"))
    levels = [_marginal_at(scheduler, i, t, process) for i, t in enumerate(scheduler.timesteps)]
    scales = float(scheduler.scale_model_input(torch.ones(1), scheduler.timesteps[0])) != 1
    return [(1.0, b / a) if scales else (a, b) for a, b in levels] + [(1.0, 0.0)]


def begins_anywhere(scheduler: Any) -> bool:
    """Whether a scheduler that is driven can begin at each of its steps: PNDM takes its first ones otherwise."""
    return type(scheduler).__name__ != "PNDMScheduler"


def _marginal_at(scheduler: Any, index: int, t: Tensor, process: Process) -> tuple[float, float]:
    """(a, b) of the network's input at a step, a^2 + b^2 = 1, from the scheduler's sigmas = b / a if it has any."""
    sigmas = getattr(scheduler, "sigmas", None)
    if index % 2 and hasattr(scheduler, "sigmas_interpol"):
        sigmas = scheduler.sigmas_interpol  # KDPM2 asks the network at half steps between its sigmas
    if sigmas is None or len(sigmas) <= len(scheduler.timesteps):
        a, b = process.marginal(int(t))
        return float(a), float(b)
    sigma = max(float(sigmas[index]), 1e-12)  # eps is a quotient by it
    return 1.0 / math.sqrt(1.0 + sigma**2), sigma / math.sqrt(1.0 + sigma**2)
