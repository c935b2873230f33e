"""Classifier guidance (Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233): a classifier steers the sampler.

    grad log p(x_t | y) = grad log p(x_t) + s grad log p(y | x_t)                        s = 0: off

    algorithm 1, ancestral steps:      mu  <- mu + s Sigma grad log p(y | x_t)            the mean is shifted
    algorithm 2, any other sampler:    eps <- eps - s sqrt(1 - abar_t) grad log p(y | x_t)

The gradient is that of a classifier of noisy images, or of any object with `log_prob(x_t, t, condition)`, and is taken
where the network looks, at the scaled input of schedulers that scale it. A DDPMScheduler means algorithm 1, a
DDIMScheduler algorithm 2 with DDIM's steps; any other diffusers scheduler is driven with the eps of algorithm 2.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers import ModelMixin, SchedulerMixin, UNet2DModel
from torch import Tensor

from .base_413f06f7 import Generators, ImagePipelineOutput, StepwisePipeline, check_number
from .conditions_5712ea1d import Conditions, Labels
from .ddim_73614dd6 import check_eta, ddim_steps
from .ddpm_87a0ca86 import MeanShift, ancestral_steps
from .image_inputs_34f57068 import Images
from .process_713930e3 import Process, output_of_x0, output_rate, predict_x0
from .repaint_2b0eba8e import JUMP_LENGTH, JUMP_N_SAMPLE, begun_with
from .run_32486b83 import Denoiser, Step, padded_rows, scale_now
from .schedule_a630c80b import NoiseSchedule
from .solvers_e8ffdf50 import Clip, DefaultSteps, Solver

LogProb = Callable[[Tensor, Tensor | float, Any], Tensor]  # (x_t, t, condition) -> (N,)
Gradient = Callable[[Tensor, Tensor | float], Tensor]  # (x_t, t) -> grad of the log-probability, like x_t


def guide_mean(mean: Tensor, variance: Tensor | float, gradient: Tensor, scale: float) -> Tensor:
    """mean + scale variance gradient, all (N, ...) (algorithm 1)."""
    return mean + scale * variance * gradient


def guide_eps(eps: Tensor, gradient: Tensor, alpha_bar_t: Tensor | float, scale: float) -> Tensor:
    """eps - scale sqrt(1 - abar_t) gradient, all (N, ...) (algorithm 2).

    The published code clips x_0 before the shift; here the shifted one is clipped, so that it stays in range.
    """
    return eps + eps_shift(gradient, (1 - alpha_bar_t) ** 0.5, scale)


def eps_shift(gradient: Tensor, b: Tensor | float, scale: float) -> Tensor:
    """-scale b gradient, (N, ...): what guidance adds to eps where x_t = a x_0 + b eps, since grad log p = -eps / b."""
    return -scale * b * gradient


def gradient_of(log_prob: LogProb, x_t: Tensor, t: Tensor | float, condition: Any) -> Tensor:
    """grad log p(condition | x_t) at x_t (N, ...), in at least float32, also where autograd is switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x_t.detach().clone().to(torch.promote_types(x_t.dtype, torch.float32)).requires_grad_()
        return torch.autograd.grad(log_prob(x, t, condition).sum(), x)[0]


def steer(
    denoiser: Denoiser,
    gradient: Gradient | None,
    scale: float,
    process: Process,
    prediction_type: str,
    clip: Clip | None = None,
) -> Denoiser:
    """A denoiser of (x_t, t) whose eps is shifted (algorithm 2); its prediction type, eps, x_0 or v, stays the same.

    `process` has the marginals a x_0 + b eps at every t that a solver may ask for. `clip` maps the shifted x_0, for
    solvers that clip nothing: where all is noise, a small shift of eps is a huge one of x_0.
    """

    def guided(x_t: Tensor, t: Tensor | float) -> Tensor:
        output, now = denoiser(x_t, t)[:, : x_t.shape[1]], scale_now(scale)
        a, b = map(float, process.marginal(t))
        # where x_t is all noise (zero terminal SNR), no shift of eps can move x_0
        if gradient is None or now == 0 or a == 0:
            return output
        output = output + output_rate(a, b, prediction_type) * eps_shift(gradient(x_t, t), b, now)
        if clip is None:
            return output
        x0 = clip(predict_x0(output, x_t, a, b, prediction_type))
        return output_of_x0(x0, x_t, a, b, prediction_type)

    return guided


class ClassifierGuidancePipeline(StepwisePipeline):
    """Class-conditional images from a network that need not know classes, steered by a classifier.

    Args:
        unet: an unconditional network, or a class-conditional one, which then gets the labels too
        scheduler: states the noise schedule, the prediction type, clipping and spacing, and chooses the algorithm
        classifier: a NoisyClassifier trained on the same noise schedule; None where `guide` is given to each call
        id2label: class names by index
    """

    model_cpu_offload_seq = "unet->classifier"
    unguided_scale = 0.0
    about = {
        "summary": "An unconditional model, steered towards {subject} by a classifier of noisy images "
        "([Dhariwal & Nichol 2021](https://arxiv.org/abs/2105.05233)); guidance scale 0 is off. A DDPMScheduler shifts "
        "the mean of each step, any other scheduler has eps shifted.",
        "paper": "https://arxiv.org/abs/2105.05233",
        "example": {"num_inference_steps": 25, "guidance_scale": 4.0},
        "page": {
            "model": {"info": "A network that knows no classes draws; another one, which does, steers it to yours."},
            "guidance_scale": {
                "value": 4.0,
                "info": "0 = off, 1 = as the classifier has it, higher follows the class more closely",
            },
        },
    }
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

    def predict_x0(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        """The network's x_0 at x_t (N, C, H, W), differentiable, for guides that were not trained on noisy images.

        A class-conditional network is asked without a class.

        Raises:
            ValueError: a class-conditional network that cannot be asked so.
        """
        if self.num_class_embeds is not None and self.null_label is None:
            raise ValueError('unet must know a label for "no class" to predict x_0 without one, it has none')
        conditions, _ = self.conditions(None, len(x_t))
        output = self.network(x_t, t, **conditions)[:, : x_t.shape[1]]
        a, b = NoiseSchedule.from_scheduler(self.scheduler).marginal(t)
        return predict_x0(output, x_t, a, b, self.scheduler.config.prediction_type)

    guide_mean, guide_eps = staticmethod(guide_mean), staticmethod(guide_eps)

    # ------------------------------------------------------------------------------------------------- the pipeline

    def start(
        self,
        class_labels: Labels,
        batch_size: int | None,
        num_inference_steps: int,
        guidance_scale: float,
        eta: float,
        guide: Any,
        condition: Any,
        generator: Generators,
        latents: Tensor | None,
        image: Images | None,
        strength: float | None,
        mask_image: Images | None,
        jump_length: int,
        jump_n_sample: int,
    ) -> Iterator[Step]:
        check_number("guidance_scale", guidance_scale, 0.0)
        check_eta(eta, self.scheduler)
        conditions, labels, count = self._conditions(class_labels, batch_size)
        gradient = self._gradient(guide, condition, labels)
        scale = 0.0 if gradient is None else float(guidance_scale)
        y, strength, kept = begun_with(
            image, strength, mask_image, jump_length, jump_n_sample, self.sample_shape, count
        )
        solver = Solver(self.scheduler, num_inference_steps, strength)
        x_T, noise = self.streams(count, generator, latents)
        denoiser = partial(self.network, **conditions)
        if type(self.scheduler).__name__ == "DDPMScheduler":
            shift = None if gradient is None else _mean_shift(gradient, scale)
            return solver.steps(
                ancestral_steps, denoiser, x_T, noise, y, kept, variance=self.variance_type, shift=shift
            )
        clip = solver.clip if solver.driven else None
        guided = steer(denoiser, gradient, scale, solver.process, solver.prediction_type, clip)
        return solver.steps(ddim_steps, guided, x_T, noise, y, kept, eta=eta)

    def _conditions(self, class_labels: Labels, batch_size: int | None) -> tuple[Conditions, Tensor | None, int]:
        """What the U-Net is given, the labels that were asked for, and the number of images."""
        labels, count = self.resolve_labels(class_labels, batch_size)
        own = {} if self.num_class_embeds is None else {"class_labels": labels}
        return own, labels if class_labels is not None else None, count

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
            return lambda x_t, t: gradient_of(guide.log_prob, x_t, t, wanted)
        if condition is not None:
            raise ValueError(f"guide must be given to follow a condition, got None with condition {condition!r}")
        if labels is None:
            return None
        own = replace(self.facts, classifier=None).num_classes
        if own not in (None, self.num_classes):
            raise ValueError(f"unet and classifier must know the same classes, got {own} and {self.num_classes}")
        if self.classifier is None:
            raise ValueError("guide must be given to draw a class: this pipeline has no classifier, got None")
        self.classifier.float()  # gradients in bfloat16 are too coarse to follow
        labels = labels.to(self._execution_device)

        def log_prob(x_t: Tensor, t: Tensor | float, labels: Tensor) -> Tensor:
            rows = padded_rows(len(labels), x_t.dtype, x_t.device)
            times = torch.as_tensor(t, device=x_t.device).expand(len(rows))
            return self.classifier.log_prob(x_t[rows], times, labels[rows])[: len(labels)]

        return lambda x_t, t: gradient_of(log_prob, x_t.float(), t, labels).to(x_t.dtype)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        batch_size: int | None = None,
        num_inference_steps: int = DefaultSteps(50),
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
        image: Images | None = None,
        strength: float | None = None,
        mask_image: Images | None = None,
        jump_length: int = JUMP_LENGTH,
        jump_n_sample: int = JUMP_N_SAMPLE,
    ) -> ImagePipelineOutput | tuple:
        """Draw images of the classes asked for.

        Args:
            class_labels: index, name, or a list with one per image; None draws without guidance, unless by `guide`
            batch_size: how many images of a single label, or without one
            num_inference_steps: 1 to the length of the schedule; unless given, at most that
            guidance_scale: s >= 0; 0 is off, 1 is Bayes' rule, larger follows the class more closely
            eta: share of DDPM's noise with a DDIMScheduler, at least 0
            guide: an object with log_prob(x_t, t, condition) -> (N,), instead of the classifier
            condition: what `guide` is asked for; None: the labels
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
            `ImagePipelineOutput` with `images` and `nfe`, the evaluations of the U-Net (a guided step takes one of the
            classifier besides, and its gradient)

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
            guide,
            condition,
            generator,
            latents,
            image,
            strength,
            mask_image,
            jump_length,
            jump_n_sample,
        )
        return self.drain(run, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs)


def _mean_shift(gradient: Gradient, scale: float) -> MeanShift:
    def shift(mean: Tensor, variance: Tensor, x_t: Tensor, t: int) -> Tensor:
        now = scale_now(scale)
        return guide_mean(mean, variance, gradient(x_t, t), now) if now else mean

    return shift


# what the imports above import: diffusers' loader fetches only the files that this one names
from .facts_c265849c import __doc__ as _  # noqa: E402, F401
from .lora_462a865d import __doc__ as _  # noqa: E402, F401
from .packaging_51c09d16 import __doc__ as _  # noqa: E402, F401
from .saved_files_ce9a389c import __doc__ as _  # noqa: E402, F401
from .staging_5ca18f0b import __doc__ as _  # noqa: E402, F401
from .from_image_af70dd4e import __doc__ as _  # noqa: E402, F401
