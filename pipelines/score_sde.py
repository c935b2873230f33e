"""Score-based models through stochastic differential equations (Song et al. 2021, https://arxiv.org/abs/2011.13456).

    dx = (f x - g^2 score) dt + g dw      backwards in time        eq. 6    Euler-Maruyama, or reverse diffusion
    dx / dt = f x - g^2 score / 2         probability-flow ODE     eq. 13   Heun's steps, or adaptive ones (ode.py)

The processes are in sde.py; langevin.py has the corrector of the reverse SDE, and annealed Langevin dynamics.

A network that was trained as DDPM (eps, x_0 or v at discrete steps) runs under any of them: it is asked at the step
with the same signal-to-noise ratio, about x / sqrt(a^2 + b^2), and score = -eps / b.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from diffusers import SchedulerMixin, UNet2DModel
from torch import Tensor

from .base import Generators, ImagePipelineOutput, StepwisePipeline, check_count, check_number
from .classifier_free_guidance import guided_network
from .conditions import Conditions, Labels, rows_of
from .from_image import steps_left_out
from .image_inputs import Images
from .langevin import Noise, Score, annealed_langevin_steps, langevin_corrector
from .ode import dormand_prince
from .process import broadcast, on, predict_eps, up
from .repaint import JUMP_LENGTH, JUMP_N_SAMPLE, begun_with, levels_of, steps_from_image
from .run import Denoiser, Step
from .schedule import NoiseSchedule
from .sde import SDE, VESDE, VPSDE, SubVPSDE, Time, step_at

SDES = {"vp": VPSDE, "subvp": SubVPSDE, "ve": VESDE}
SAMPLERS = ("euler_maruyama", "reverse_diffusion", "annealed_langevin", "ode_heun", "ode_adaptive")
ENDS = {"vp": 1e-3, "subvp": 1e-3, "ve": 1e-5}  # where a run ends: the score has no limit at t = 0


# --------------------------------------------------------------------------------------------------------- one step


def euler_maruyama(sde: SDE, x: Tensor, score: Tensor, t: Time, dt: float, noise: Tensor) -> tuple[Tensor, Tensor]:
    """x at t - dt, and its mean before noise is added, both (N, ...): one step of the reverse SDE, dt > 0."""
    g = broadcast(sde.diffusion(t), x)
    mean = up(x) - (broadcast(sde.drift_rate(t), x) * up(x) - g.square() * score) * dt
    return mean + g * math.sqrt(dt) * noise, mean


def reverse_diffusion(sde: SDE, x: Tensor, score: Tensor, t: Time, dt: float, noise: Tensor) -> tuple[Tensor, Tensor]:
    """x at t - dt, and its mean, (N, ...): the forward process's own discrete step, reversed (eq. 46)."""
    factor, std = (broadcast(value, x) for value in sde.reverse_step_coefficients(t, dt))
    mean = (2 - factor) * up(x) + std.square() * score
    return mean + std * noise, mean


PREDICTORS = {"euler_maruyama": euler_maruyama, "reverse_diffusion": reverse_diffusion}


# -------------------------------------------------------------------------------------------------------- the loops


@torch.no_grad()
def sde_steps(
    score: Score,
    x_1: Tensor,
    sde: SDE,
    times: list[float],
    noise: Noise,
    predictor: str = "euler_maruyama",
    corrector_steps: int = 0,
    snr: float = 0.16,
) -> Iterator[Step]:
    """The reverse SDE over `times`, descending from 1, from x_1 (N, ...), corrected `corrector_steps` times per step.

    No noise is added in the last step.
    """
    x, num_steps = x_1, len(times) - 1
    for i, (t, s) in enumerate(zip(times, times[1:], strict=False)):
        dt = t - s
        for _ in range(corrector_steps):
            alpha = sde.reverse_step_coefficients(t, dt)[0].square()
            x = langevin_corrector(x, score(x, t), noise(), snr, alpha)
        slope = score(x, t)
        after, mean = PREDICTORS[predictor](sde, x, slope, t, dt, noise())
        step = step_at(sde, x, slope, t, i, num_steps, after if i + 1 < num_steps else mean)
        yield step
        x = step.prev_sample


@torch.no_grad()
def heun_steps(score: Score, x_1: Tensor, sde: SDE, times: list[float]) -> Iterator[Step]:
    """The probability-flow ODE over `times` by Heun's method: second order, two evaluations per step."""
    x, num_steps = x_1, len(times) - 1
    for i, (t, s) in enumerate(zip(times, times[1:], strict=False)):
        slope = score(x, t)
        first = sde.probability_flow_drift(x, slope, t)
        ahead = up(x) + (s - t) * first
        second = sde.probability_flow_drift(ahead, score(ahead, s), s)
        step = step_at(sde, x, slope, t, i, num_steps, up(x) + (s - t) / 2 * (first + second))
        yield step
        x = step.prev_sample


@torch.no_grad()
def adaptive_steps(
    score: Score, x_1: Tensor, sde: SDE, end: float, rtol: float, atol: float, max_evaluations: int
) -> Iterator[Step]:
    """The probability-flow ODE from t = 1 to `end` by Dormand & Prince's method, each image with steps of its own.

    `score(x, t, rows)` is asked about the images `rows`. A Step shows where the images stand after an attempt;
    `num_steps` is a forecast, and a `prev_sample` that a consumer replaces is not gone on from.
    """

    def slope(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        return sde.probability_flow_drift(x, score(x, t, rows), t)

    for i, state in enumerate(dormand_prince(slope, up(x_1), 1.0, end, rtol, atol, max_evaluations)):
        half = sde.diffusion(state.t).square() / 2  # the slope holds the score, which need not be asked for again
        known = (sde.drift(state.x, state.t) - state.slope) / broadcast(half, state.x)
        left = ((state.t - end) / state.size).clamp(min=0).max()
        count = i + 1 + math.ceil(float(left))
        yield step_at(sde, state.x, known, state.t, i, count, state.x)


@torch.no_grad()
def denoised_at_last(steps: Iterator[Step], score: Score, sde: SDE, end: float) -> Iterator[Step]:
    """The same steps; the last one's sample, at t = `end`, becomes the x_0 that the score there says (Tweedie)."""
    for step in steps:
        if step.index + 1 == step.num_steps:
            x = step.prev_sample
            a, b = (broadcast(level, x) for level in sde.marginal(end))
            step.prev_sample = (up(x) + b.square() * score(x, end)) / a
        yield step


# ----------------------------------------------------------------------------------------------------- the pipeline


class Steps(Protocol):
    """At which steps a network was trained."""

    def time_of(self, a: Tensor, b: Tensor) -> Tensor:
        """The step with the signal-to-noise ratio of (a, b), (N,) or (): NoiseSchedule's are those of DDPM."""


class SubVPSteps:
    """Step i at t = (i + 1) / num_steps of the sub-VP process, which begins with less noise than DDPM's first step."""

    def __init__(self, sde: SubVPSDE, num_steps: int) -> None:
        self.sde, self.num_steps = sde, num_steps

    def time_of(self, a: Tensor, b: Tensor) -> Tensor:
        """The fractional step with the signal-to-noise ratio of (a, b), in [0, num_steps - 1]."""
        return (self.num_steps * self.sde.time_of(a, b) - 1).clamp(min=0)


def score_of(network: Denoiser, trained: Steps, prediction_type: str, sde: SDE) -> Score:
    """The score under `sde` from a network of (x_t, t) that was trained on the steps of `trained`."""

    def score(x: Tensor, t: Time) -> Tensor:
        a, b = sde.marginal(torch.as_tensor(t, dtype=torch.float64).cpu())
        size = (a.square() + b.square()).sqrt()
        x_t = up(x) / broadcast(size, x)
        output = network(x_t, on(x, trained.time_of(a, b)))[:, : x.shape[1]]
        return -predict_eps(output, x_t, a / size, b / size, prediction_type) / broadcast(b, x)

    return score


def score_of_exploding(network: Denoiser, sde: SDE) -> Score:
    """The score under `sde` from a network of (x, sigma) that answers the score of the VE process (NCSN++)."""

    def score(x: Tensor, t: Time) -> Tensor:
        a, b = sde.marginal(torch.as_tensor(t, dtype=torch.float64).cpu())
        inside = up(x) / broadcast(a, x)
        return up(network(inside, on(x, b / a))[:, : x.shape[1]]) / broadcast(a, x)

    return score


class ScoreSDEPipeline(StepwisePipeline):
    """Sampling by a stochastic differential equation, or by the ordinary one with the same marginals.

    Args:
        unet: a network of (x_t, t) and, where it has classes, labels, the last of which means "no class"
        scheduler: states what the network was trained on. A DDPMScheduler or DDIMScheduler: discrete steps, with its
            prediction type. A ScoreSdeVeScheduler: the score of the VE process, asked by (x, sigma).
        id2label: class names by index
        guide_unet: a worse network of the same kind, for autoguidance; None: classifier-free guidance
        sde: "subvp" for a network that was trained on that process, with the scheduler's first and last beta; None for
            one of DDPM's steps or of the VE process, as its scheduler says
    """

    model_cpu_offload_seq = "unet->guide_unet"
    _optional_components = ["guide_unet"]
    about = {
        "summary": "Draws {subject} by reversing a stochastic differential equation "
        "([Song et al. 2021](https://arxiv.org/abs/2011.13456)).",
        "paper": "https://arxiv.org/abs/2011.13456",
        "last_label_is_null": True,
        "example": {"num_inference_steps": 100, "sampler": "ode_heun"},
        "page": {
            "model": {"info": "Follows, from noise on, the direction in which an image becomes more likely."},
            "steps": {"value": 50},
            "guidance_scale": {"value": 1.0},
            "sampler": {
                "choices": ("reverse_diffusion", "euler_maruyama", "annealed_langevin", "ode_heun", "ode_adaptive"),
                "value": "ode_heun",
                "info": "the first three add noise; ode_heun evaluates the network twice per step",
            },
            "sde": {"choices": ("vp", "subvp", "ve"), "value": "vp"},
        },
    }

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        id2label: dict[str, str] | None = None,
        guide_unet: UNet2DModel | None = None,
        sde: str | None = None,
    ) -> None:
        super().__init__()
        if sde not in (None, "subvp"):
            raise ValueError(f"sde must be subvp or None, got {sde!r}")
        self.register_modules(unet=unet, scheduler=scheduler, guide_unet=guide_unet)
        self.register_to_config(id2label=id2label, sde=sde)

    euler_maruyama, reverse_diffusion = staticmethod(euler_maruyama), staticmethod(reverse_diffusion)

    @property
    def explodes(self) -> bool:
        """Whether the network was trained on the VE process."""
        return type(self.scheduler).__name__ == "ScoreSdeVeScheduler"

    def make_sde(self, name: str | None = None) -> SDE:
        """The process of that name with the constants of the scheduler; None: the one that the network was trained on.

        Raises:
            ValueError: an unknown name, or a scheduler of another family.
        """
        name, config = self._sde_name(name), self.scheduler.config
        if not self.explodes and (config.get("beta_schedule") is None or config.get("use_flow_sigmas")):
            kind = type(self.scheduler).__name__
            raise ValueError(f"scheduler must be a ScoreSdeVeScheduler or have a beta_schedule, got {kind}")
        if name == "ve":
            return VESDE(config.sigma_min, config.sigma_max) if self.explodes else VESDE()
        if self.explodes or config.get("beta_schedule") != "linear":
            return SDES[name]()
        T = config.num_train_timesteps
        return SDES[name](config.beta_start * T, config.beta_end * T)

    def _sde_name(self, name: str | None) -> str:
        own = "ve" if self.explodes else self.config.sde or "vp"
        name = own if name is None else name
        if name not in SDES:
            raise ValueError(f"sde must be one of {', '.join(SDES)}, got {name!r}")
        return name

    @property
    def trained(self) -> Steps:
        """The steps at which the network was trained, unless that was on the VE process."""
        if self.config.sde == "subvp":
            return SubVPSteps(self.make_sde("subvp"), self.scheduler.config.num_train_timesteps)
        return NoiseSchedule.from_scheduler(self.scheduler)

    def score(self, sde: SDE, conditions: Conditions, guidance_scale: float) -> Score:
        """grad log p(x_t), guided, as a function of x (N, ...), t and the images `rows` that it is asked about."""
        trained = None if self.explodes else self.trained

        def score_given(conditions: Conditions) -> Score:
            network = guided_network(self, conditions, self.nulls, guidance_scale)
            if trained is None:
                return score_of_exploding(network, sde)
            return score_of(network, trained, self.scheduler.config.prediction_type, sde)

        of_all = score_given(conditions)

        def score(x: Tensor, t: Time, rows: Tensor | None = None) -> Tensor:
            return (of_all if rows is None else score_given(rows_of(conditions, rows)))(x, t)

        return score

    def start(
        self,
        class_labels: Labels,
        batch_size: int | None,
        num_inference_steps: int,
        guidance_scale: float,
        sde: str | None,
        sampler: str,
        corrector_steps: int,
        snr: float,
        langevin_step_size: float,
        rtol: float,
        atol: float,
        max_evaluations: int,
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
        check_count("corrector_steps", corrector_steps, 0)
        for name, value in (("snr", snr), ("langevin_step_size", langevin_step_size), ("rtol", rtol), ("atol", atol)):
            check_number(name, value, 1e-12)
        check_count("max_evaluations", max_evaluations, 8)
        process, end = self.make_sde(sde), ENDS[self._sde_name(sde)]
        _check_sampler(sampler, process, corrector_steps)
        if sampler == "ode_adaptive" and image is not None:
            raise ValueError(f"image must be None with sampler {sampler}, in which each image has steps of its own")
        conditions, count = self.conditions(class_labels, batch_size)
        y, strength, kept = begun_with(
            image, strength, mask_image, jump_length, jump_n_sample, self.sample_shape, count
        )
        unit, noise = self.streams(count, generator, latents)
        x_1 = process.prior_std * unit
        score = self.score(process, conditions, self.scale_of(class_labels, guidance_scale))
        if sampler == "ode_adaptive":
            steps = adaptive_steps(score, x_1, process, end, rtol, atol, max_evaluations)
            return denoised_at_last(steps, score, process, end)
        times = [1 + (end - 1) * i / num_inference_steps for i in range(num_inference_steps + 1)]
        if sampler == "annealed_langevin":
            times = torch.linspace(1, end, num_inference_steps, dtype=torch.float64).tolist()
        times = times[steps_left_out(num_inference_steps, strength) :]

        def begin(x: Tensor, taken: int) -> Iterator[Step]:
            left = times[taken:]
            if sampler == "ode_heun":
                return denoised_at_last(heun_steps(score, x, process, left), score, process, end)
            if sampler == "annealed_langevin":
                steps = max(corrector_steps, 1)
                return annealed_langevin_steps(score, x, process, left, noise, steps, langevin_step_size)
            return sde_steps(score, x, process, left, noise, sampler, corrector_steps, snr)

        levels = levels_of(process, times if sampler == "annealed_langevin" else times[:-1])
        return steps_from_image(begin, unit if y is not None else x_1, levels, noise, y, kept)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        batch_size: int | None = None,
        num_inference_steps: int = 100,
        guidance_scale: float = 1.0,
        sde: str | None = None,
        sampler: str = "reverse_diffusion",
        corrector_steps: int = 0,
        snr: float = 0.16,
        langevin_step_size: float = 2e-5,
        rtol: float = 1e-4,
        atol: float = 1e-4,
        max_evaluations: int = 1000,
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
            class_labels: index, name, or a list with one per image; None draws without a class, and without guidance
            batch_size: how many images of a single label, or without one
            num_inference_steps: at least 1: steps, or noise levels of annealed_langevin; not used by ode_adaptive
            guidance_scale: s >= 0; 1 is conditional only, 0 unconditional, larger follows the class more closely
            sde: vp, subvp or ve; None: what the network was trained on
            sampler: euler_maruyama and reverse_diffusion reverse the SDE; ode_heun and ode_adaptive follow the
                probability-flow ODE, and denoise at its end; annealed_langevin is NCSN's, for ve alone
            corrector_steps: Langevin steps before each step of the reverse SDE, or at each level of annealed_langevin
                (there at least 1)
            snr: signal-to-noise ratio of the corrector's steps, above 0
            langevin_step_size: of annealed_langevin at the lowest noise level, above 0
            rtol, atol: error that ode_adaptive allows per step, relative and absolute, above 0
            max_evaluations: at which ode_adaptive gives up
            generator: one generator, or a list with one per image
            latents: unit noise (N, C, H, W), instead of drawing it; it is multiplied by the prior's std
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
            `ImagePipelineOutput` with `images` and `nfe`, the mean over the images where their steps differ

        Raises:
            ValueError: an argument out of its range, by name, before any work
            RuntimeError: ode_adaptive did not reach its end within `max_evaluations`
        """
        self.check_output(output_type, callback_on_step_end_tensor_inputs)
        run = self.stream(
            class_labels,
            batch_size,
            num_inference_steps,
            guidance_scale,
            sde,
            sampler,
            corrector_steps,
            snr,
            langevin_step_size,
            rtol,
            atol,
            max_evaluations,
            generator,
            latents,
            image,
            strength,
            mask_image,
            jump_length,
            jump_n_sample,
        )
        return self.drain(run, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs)


def _check_sampler(sampler: str, sde: SDE, corrector_steps: int) -> None:
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
    if sampler == "annealed_langevin" and not isinstance(sde, VESDE):
        raise ValueError("sde must be ve with sampler annealed_langevin, whose noise levels those are")
    if corrector_steps and sampler.startswith("ode"):
        raise ValueError(f"corrector_steps must be 0 with sampler {sampler}, got {corrector_steps}")
