"""Classifier guidance (Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233): a classifier steers the sampler.

    grad log p(x_t | y) = grad log p(x_t) + s grad log p(y | x_t)                        s = 0: off

    algorithm 1, ancestral steps:      mu  <- mu + s Sigma grad log p(y | x_t)            the mean is shifted
    algorithm 2, any other sampler:    eps <- eps - s sqrt(1 - abar_t) grad log p(y | x_t)

The gradient is that of a classifier of noisy images, or of any object with `log_prob(x_t, t, condition)`, and is taken
where the network looks, at the scaled input of schedulers that scale it. A DDPMScheduler means algorithm 1, a
DDIMScheduler algorithm 2 with DDIM's steps; any other diffusers scheduler is driven with the eps of algorithm 2.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import ModelMixin, SchedulerMixin, UNet2DModel
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
    padded_rows,
    scheduler_steps,
)
from .schedule_c8815c31 import NoiseSchedule

LogProb = Callable[[Tensor, Tensor | float, Any], Tensor]  # (x_t, t, condition) -> (N,)
Gradient = Callable[[Tensor, Tensor | float], Tensor]  # (x_t, t) -> grad of the log-probability, like x_t


class ClassifierGuidancePipeline(StepwisePipeline):
    """Class-conditional pictures from a network that need not know classes, steered by a classifier.

    Args:
        unet: an unconditional network, or a class-conditional one, which then gets the labels too
        scheduler: states the noise schedule, the prediction type, clipping and spacing, and chooses the algorithm
        classifier: a NoisyClassifier trained on the same noise schedule; None where `guide` is given to each call
        id2label: class names by index
    """

    model_cpu_offload_seq = "unet->classifier"
    _optional_components = ["classifier"]

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        classifier: ModelMixin | None = None,
        id2label: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, classifier=classifier)
        self.register_to_config(id2label=id2label)

    @property
    def num_classes(self) -> int | None:
        """How many classes the classifier knows, or without one the network."""
        return super().num_classes if self.classifier is None else self.classifier.config.num_classes

    def predict_x0(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        """The network's x_0 at x_t (N, C, H, W), differentiable: what a guide that knows no noise should look at.

        A class-conditional network is asked without a class.

        Raises:
            ValueError: a class-conditional network that cannot be asked so.
        """
        schedule, kind = NoiseSchedule.from_scheduler(self.scheduler), self.scheduler.config.prediction_type
        labels = None
        if self.num_class_embeds is not None:
            if self.null_label is None:
                raise ValueError('unet must know a label for "no class" to predict x_0 without one, it has none')
            labels = torch.full((len(x_t),), self.null_label, device=x_t.device)
        output = self.network(x_t, t, labels)[:, : x_t.shape[1]]
        return schedule.predict_x0(output, x_t, round(float(t)), kind)

    # ------------------------------------------------------------------------------------------------ the algorithm

    @staticmethod
    def guide_mean(mean: Tensor, variance: Tensor | float, gradient: Tensor, scale: float) -> Tensor:
        """mean + scale variance gradient, all (N, ...) (algorithm 1)."""
        return mean + scale * variance * gradient

    @staticmethod
    def guide_eps(eps: Tensor, gradient: Tensor, alpha_bar_t: Tensor | float, scale: float) -> Tensor:
        """eps - scale sqrt(1 - abar_t) gradient, all (N, ...) (algorithm 2).

        The published code clips x_0 before the shift; here the shifted one is clipped, so that it stays in range.
        """
        return eps - scale * (1 - alpha_bar_t) ** 0.5 * gradient

    @staticmethod
    def gradient(log_prob: LogProb, x_t: Tensor, t: Tensor | float, condition: Any) -> Tensor:
        """grad log p(condition | x_t) at x_t (N, ...), in at least float32, also where autograd is switched off."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.detach().clone().to(torch.promote_types(x_t.dtype, torch.float32)).requires_grad_()
            return torch.autograd.grad(log_prob(x, t, condition).sum(), x)[0]

    @classmethod
    def guide(
        cls,
        denoiser: Denoiser,
        gradient: Gradient,
        scale: float,
        schedule: NoiseSchedule,
        prediction_type: str,
        clip: Callable[[Tensor], Tensor] | None = None,
    ) -> Denoiser:
        """A denoiser of (x_t, t) whose eps is shifted; what it predicts, eps, x_0 or v, it still predicts.

        `t` is of the process that `schedule` states in full, and may lie between two of its steps. `clip` maps the
        shifted x_0, for solvers that clip nothing: where all is noise, a small shift of eps is a huge one of x_0.
        """

        def guided(x_t: Tensor, t: Tensor | float) -> Tensor:
            output = denoiser(x_t, t)[:, : x_t.shape[1]]
            abar = _alpha_bar(schedule, float(t))
            if scale == 0 or abar == 0:  # where x_t is all noise (zero terminal SNR), no shift of eps can move x_0
                return output
            shift = cls.guide_eps(torch.zeros_like(output), gradient(x_t, t), abar, scale)
            a, b = math.sqrt(abar), math.sqrt(1 - abar)
            rate = {"epsilon": 1.0, "sample": -b / a, "v_prediction": 1 / a}[prediction_type]  # by d eps, at fixed x_t
            output = output + rate * shift
            return output if clip is None else _clipped(output, x_t, a, b, prediction_type, clip)

        return guided

    @classmethod
    @torch.no_grad()
    def ancestral_steps(
        cls,
        denoiser: Denoiser,
        gradient: Gradient,
        scale: float,
        x_T: Tensor,
        schedule: NoiseSchedule,
        *,
        noise: Callable[[], Tensor],
        variance: str = "fixed_small",
        prediction_type: str = "epsilon",
        clip: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[Step]:
        """Algorithm 1 over every entry of `schedule`, which is respaced for fewer steps."""
        x_t, channels = x_T, x_T.shape[1]
        for i, t in enumerate(reversed(range(len(schedule)))):
            original = int(schedule.timesteps[t])
            output = denoiser(x_t, original)
            output, v = output[:, :channels], output[:, channels:]
            x0 = schedule.predict_x0(output, x_t, t, prediction_type)
            eps = schedule.predict_eps(output, x_t, t, prediction_type)
            if clip is not None:
                x0 = clip(x0)
                eps = schedule.predict_eps(x0, x_t, t, "sample")
            log_variance = schedule.reverse_log_variance(variance, t, x_t, v)
            mean = schedule.posterior_mean(x0, x_t, t)
            if scale != 0:
                mean = cls.guide_mean(mean, log_variance.exp(), gradient(x_t, original), scale)
            x_prev = mean if t == 0 else mean + (0.5 * log_variance).exp() * noise().to(mean.dtype)
            step = Step(i, len(schedule), original, x_t, x0, eps, x_prev)
            yield step
            x_t = step.prev_sample

    @classmethod
    @torch.no_grad()
    def ddim_steps(
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
        """Algorithm 2 over descending `timesteps`, with a `denoiser(x_t, t)` as `guide` makes it."""
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
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
        guide: Any = None,
        condition: Any = None,
        generator: Generators = None,
        latents: Tensor | None = None,
    ) -> Iterator[Step]:
        """Check the arguments of `__call__`, draw x_T, and return the steps."""
        check_count("num_inference_steps", num_inference_steps)
        check_number("guidance_scale", guidance_scale, 0.0)
        self._check_eta(eta)
        labels, count = self.resolve_labels(class_labels, batch_size)
        gradient = self._gradient(guide, condition, labels if class_labels is not None else None)
        scale = 0.0 if gradient is None else float(guidance_scale)
        schedule, config = NoiseSchedule.from_scheduler(self.scheduler), self.scheduler.config
        timesteps = schedule.spaced_timesteps(
            num_inference_steps, config.get("timestep_spacing", "leading"), config.get("steps_offset", 0)
        )
        x_T, noise = self.streams(count, generator, latents)
        own = labels if self.unet.config.get("num_class_embeds") is not None else None

        def denoiser(x_t: Tensor, t: Tensor | float) -> Tensor:
            return self.network(x_t, t, own)

        kind = config.prediction_type
        clip = (lambda x0: clip_x0(x0, config)) if config.get("clip_sample") or config.get("thresholding") else None
        options = {"noise": noise, "prediction_type": kind, "clip": clip}
        if type(self.scheduler).__name__ == "DDPMScheduler":
            respaced, variance = schedule.respace(timesteps), self.variance_type
            return self.ancestral_steps(denoiser, gradient, scale, x_T, respaced, variance=variance, **options)
        driven = drives_itself(self.scheduler)
        guided = self.guide(denoiser, gradient, scale, schedule, kind, clip if driven else None)
        if driven:
            tables = schedule.alphas_cumprod
            return scheduler_steps(guided, x_T, self.scheduler, num_inference_steps, tables, noise.generators)
        return self.ddim_steps(guided, x_T, schedule, timesteps, eta=eta, **options)

    def _check_eta(self, eta: float) -> None:
        check_number("eta", eta, 0.0)
        name = type(self.scheduler).__name__
        if eta != 0 and name != "DDIMScheduler":
            raise ValueError(f"eta must be 0 with {name}, got {eta}: it belongs to a DDIMScheduler")

    def _gradient(self, guide: Any, condition: Any, labels: Tensor | None) -> Gradient | None:
        """The gradient that steers: of `guide` where it is given, else of the classifier where there are labels.

        Raises:
            ValueError: a `guide` without `log_prob`, or labels or a condition that nothing here can follow.
        """
        if guide is not None:
            if not callable(getattr(guide, "log_prob", None)):
                raise ValueError(
                    f"guide must have a method log_prob(x_t, t, condition), {type(guide).__name__} has none"
                )
            wanted = labels if condition is None else condition
            return lambda x_t, t: self.gradient(guide.log_prob, x_t, t, wanted)
        if condition is not None:
            raise ValueError(f"guide must be given to follow a condition, got None with condition {condition!r}")
        if labels is None:
            return None
        if self.unet.config.get("num_class_embeds") is not None and super().num_classes != self.num_classes:
            raise ValueError(
                f"unet and classifier must know the same classes, got {super().num_classes} and {self.num_classes}"
            )
        if self.classifier is None:
            raise ValueError("guide must be given to draw a class: this pipeline has no classifier, got None")
        self.classifier.float()  # gradients in bfloat16 are too coarse to follow
        labels = labels.to(self._execution_device)

        def log_prob(x_t: Tensor, t: Tensor | float, labels: Tensor) -> Tensor:
            rows = padded_rows(len(labels), x_t.dtype, x_t.device)
            times = torch.as_tensor(t, device=x_t.device).expand(len(rows))
            return self.classifier.log_prob(x_t[rows], times, labels[rows])[: len(labels)]

        return lambda x_t, t: self.gradient(log_prob, x_t.float(), t, labels).to(x_t.dtype)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        batch_size: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
        guide: Any = None,
        condition: Any = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Draw pictures of the classes asked for.

        Args:
            class_labels: index, name, or a list with one an image; None draws without guidance, unless by `guide`
            batch_size: how many pictures of a single label, or without one
            num_inference_steps: 1 to the length of the schedule
            guidance_scale: s >= 0; 0 is off, 1 is Bayes' rule, larger follows the class more closely
            eta: share of DDPM's noise with a DDIMScheduler, at least 0
            guide: an object with log_prob(x_t, t, condition) -> (N,), instead of the classifier
            condition: what `guide` is asked for; None: the labels
            generator: one generator, or a list with one an image
            latents: x_T, (N, C, H, W) unit noise, instead of drawing it
            output_type: "pil", "np" (N, H, W, C) in [0, 1], "pt" (N, C, H, W) in [0, 1], or "latent"
            return_dict: False gives a tuple
            callback_on_step_end: called as f(pipeline, index, timestep, tensors) after each step
            callback_on_step_end_tensor_inputs: which of "latents", "pred_original_sample", "eps" it is given

        Returns:
            `ImagePipelineOutput` with `images` and `nfe`, the evaluations of the U-Net (a guided step takes one of the
            classifier besides, and its gradient)

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
            guide,
            condition,
            generator,
            latents,
        )
        return self.drain(steps, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs)


def _clipped(
    output: Tensor, x_t: Tensor, a: float, b: float, prediction_type: str, clip: Callable[[Tensor], Tensor]
) -> Tensor:
    """`output` (N, ...) of a network at x_t = a x_0 + b eps, made to predict a clipped x_0."""
    match prediction_type:
        case "epsilon":
            return (x_t - a * clip((x_t - b * output) / a)) / b
        case "sample":
            return clip(output)
        case _:
            return (a * x_t - clip(a * x_t - b * output)) / b


def _alpha_bar(schedule: NoiseSchedule, t: float) -> float:
    """abar at t, which solvers of second order may choose between two steps: log SNR is interpolated, as they do."""
    low = min(math.floor(t), len(schedule) - 1)
    high = min(low + 1, len(schedule) - 1)
    if low == t or low == high:
        return float(schedule.alphas_cumprod[low])
    below, above = (float(schedule.snr(index).log()) for index in (low, high))
    return 1 / (1 + math.exp(-(below + (t - low) * (above - below))))
