"""Cascaded diffusion: a small image, and networks that enlarge it (Ho et al. 2022, https://arxiv.org/abs/2106.15282).

    p(x) = p(z) p(x | z)                              z at low resolution, x at high; a diffusion model for each factor
    z_s = sqrt(1 - s^2) z + s eps,  x ~ p(x | z_s, s) conditioning augmentation: z is drawn, and not quite right

Each stage has a network, a scheduler and a noise process of its own, and is guided by itself. Its steps are DDIM's,
ancestral, Euler's along a flow, or those of any diffusers scheduler. low_resolution.py has what a stage is told of the
one before, cascade_stages.py what the stages are. With `image`, the enlarging stages alone are run, on a user's own
image; with `mask_image` too, each stage draws anew what is white there, at its own size, beside what is kept
(repaint.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin, UNet2DConditionModel, UNet2DModel
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .base_413f06f7 import (
    Generators,
    ImagePipelineOutput,
    NoiseStreams,
    StepwisePipeline,
    check_count,
    check_given_noise,
    check_number,
    image_generators,
    variance_type_of,
)
from .cascade_stages_118d5532 import NETWORKS, CascadeStages, PerStage
from .classifier_free_guidance_a374c9d8 import guide
from .conditions_5712ea1d import Conditions, Labels
from .ddim_73614dd6 import check_eta, ddim_steps
from .ddpm_87a0ca86 import ancestral_steps
from .flow_matching_8b11bae0 import run_of_flow
from .image_inputs_34f57068 import Images, given_pixels, pixels_of
from .low_resolution_e75463e0 import beside, enlarged, known_at, noisy_condition, told_level
from .repaint_2b0eba8e import JUMP_LENGTH, JUMP_N_SAMPLE, Inpainting
from .run_32486b83 import Denoiser, Step, evaluate, plain
from .solvers_e8ffdf50 import DefaultSteps, Solver
from .text_a01b215d import joined

STEPS = DefaultSteps(20)


@dataclass
class CascadeOutput(ImagePipelineOutput):
    """`ImagePipelineOutput`, with `stages`: the images of each stage, the smallest first; None unless asked for."""

    stages: list[list[Image.Image] | np.ndarray | Tensor] | None = None


@dataclass
class StageNoise:
    """The noise of a stage, all of it unit noise: of the smaller image (None for the first), x_T, and what follows."""

    eps: Tensor | None
    x_T: Tensor
    later: NoiseStreams


class CascadePipeline(CascadeStages, StepwisePipeline):
    """Images of the last stage, drawn from small to large; every Step says its `stage`, from 0.

    Args:
        unet, scheduler: the first stage, which draws small images; a pipeline without it only enlarges images
        unet_2, scheduler_2: the second, whose network's input is x_t with the enlarged smaller image in the channels
            after it, and which is told the level of augmentation if its config has a `time_cond_proj_dim`
        unet_3, scheduler_3: a third, likewise
        id2label: class names by index
        text_encoder, tokenizer: of transformers, for networks that are told prompts
        paths: "linear" or "variance_preserving" by the name of each network that predicts the velocity of a flow; the
            others predict what their scheduler's `prediction_type` says
        max_augmentations: for each stage but the first, the highest level that it was trained with, in [0, 1)
        augmentations: the levels of calls that name none, likewise
        enlarging_steps, enlarging_guidance_scales: likewise, what calls that name one number take in the stages after
            the first that they run; None: that number
        base_size: the size of images to enlarge, a side or (height, width), without a `unet`
        last_label_is_null: False for networks of classes, all of whose labels are classes: they are never guided
        example_prompts, prompt_styles: what the page offers with the model

    Raises:
        ValueError: parts that do not fit one another, by name.
    """

    model_cpu_offload_seq = "text_encoder->unet->unet_2->unet_3"
    _optional_components = [
        *("unet", "scheduler", "unet_2", "scheduler_2", "unet_3", "scheduler_3"),
        *("text_encoder", "tokenizer"),
    ]
    about = {
        "summary": "Draws {subject}: small first, then enlarged by diffusion "
        "([Ho et al. 2022](https://arxiv.org/abs/2106.15282)).",
        "paper": "https://arxiv.org/abs/2106.15282",
        "last_label_is_null": True,
        "example": {"num_inference_steps": 20, "guidance_scale": 2.0},
        "page": {
            "model": {"info": "Draws a small image first; then networks of their own enlarge it and add the detail."},
            "steps": {
                "value": 20,
                "info": "of the small image; later stages take as many, or what the model has for them",
            },
        },
    }

    def __init__(
        self,
        unet: UNet2DModel | UNet2DConditionModel | None = None,
        scheduler: SchedulerMixin | None = None,
        unet_2: UNet2DModel | UNet2DConditionModel | None = None,
        scheduler_2: SchedulerMixin | None = None,
        unet_3: UNet2DModel | UNet2DConditionModel | None = None,
        scheduler_3: SchedulerMixin | None = None,
        id2label: dict[str, str] | None = None,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        paths: dict | None = None,
        max_augmentations: list | None = None,
        augmentations: list | None = None,
        enlarging_steps: list | None = None,
        enlarging_guidance_scales: list | None = None,
        base_size: int | list[int] | None = None,
        last_label_is_null: bool = True,
        example_prompts: list[str] | str | None = None,
        prompt_styles: list[str] | str | None = None,
    ) -> None:
        super().__init__()
        networks = {"unet": unet, "unet_2": unet_2, "unet_3": unet_3}
        schedulers = {"scheduler": scheduler, "scheduler_2": scheduler_2, "scheduler_3": scheduler_3}
        self.register_modules(**networks, **schedulers, text_encoder=text_encoder, tokenizer=tokenizer)
        count = max((stage for stage, name in enumerate(networks, 1) if networks[name] is not None), default=0)
        self.register_to_config(
            id2label=id2label,
            paths=dict(paths or {}),  # a list of two would be a component to diffusers
            # None where a list would be empty, which diffusers cannot load
            max_augmentations=list(max_augmentations or [0.0] * (count - 1)) or None,
            augmentations=list(augmentations or [0.0] * (count - 1)) or None,
            enlarging_steps=list(enlarging_steps or []) or None,
            enlarging_guidance_scales=list(enlarging_guidance_scales or []) or None,
            base_size=base_size if unet is None else None,
            last_label_is_null=last_label_is_null,
            example_prompts=joined(example_prompts),
            prompt_styles=joined(prompt_styles),
        )
        self._check_parts()

    def start(
        self,
        prompt: Labels,
        batch_size: int | None,
        num_inference_steps: Any,
        guidance_scale: PerStage,
        conditioning_augmentation: PerStage | None,
        eta: float,
        generator: Generators,
        latents: Tensor | None,
        class_labels: Labels,
        negative_prompt: str | list[str] | None,
        image: Images | None,
        mask_image: Images | None,
        jump_length: int,
        jump_n_sample: int,
    ) -> Iterator[Step]:
        levels = [0.0, *self._levels(conditioning_augmentation)]
        check_number("eta", eta, 0.0)
        if plain(eta) and not any(type(scheduler).__name__ == "DDIMScheduler" for scheduler in self.schedulers):
            raise ValueError(f"eta must be 0 without a DDIMScheduler, got {eta}")
        if mask_image is not None and self.unet is None:
            raise ValueError("mask_image must be None for a pipeline that only enlarges images")
        small, first = self._enlarging(image) if mask_image is None else (None, 0)
        steps = self._of_stages("num_inference_steps", num_inference_steps, first, self._own("enlarging_steps"))
        scales = self._of_stages("guidance_scale", guidance_scale, first, self._own("enlarging_guidance_scales"))
        for scale in scales:
            check_number("guidance_scale", scale, 0.0)
        several = None if small is None or len(small) == 1 else len(small)
        given = self._given(prompt, class_labels, negative_prompt, several if batch_size is None else batch_size)
        count = given["count"]
        if small is not None and len(small) not in (1, count):
            raise ValueError(f"image must be one, or one per image drawn, got {len(small)} for {count}")
        kept = self._kept(image, mask_image, jump_length, jump_n_sample, count)
        runs = [
            self._stage(stage, steps[stage], scales[stage], eta, given, count, kept[stage])
            for stage in range(first, self.num_stages)
        ]
        noise = self._noise(first, count, generator, latents)
        small = None if small is None else small.to(self._execution_device).expand(count, -1, -1, -1)
        return self._one_after_another(runs, noise, small, first, steps, levels)

    def _enlarging(self, image: Images | None) -> tuple[Tensor | None, int]:
        """A user's own image, (N, C, h, w) in [-1, 1], and the stage that enlarges it; None and 0 without.

        Raises:
            ValueError: an image of a size that no stage enlarges.
        """
        if image is None and self.unet is None:
            raise ValueError("image must be given to a pipeline that only enlarges images, got None")
        if image is None:
            return None, 0
        pixels = pixels_of(image, self.channels, "image")
        size, enlarging = tuple(pixels.shape[2:]), self.sizes[:-1]
        if not enlarging:
            raise ValueError("image must be None without a mask_image, as a single stage enlarges nothing")
        if size not in enlarging:
            allowed = " or ".join(f"{width}x{height}" for height, width in enlarging)
            raise ValueError(f"image must have {allowed} pixels, got {size[1]}x{size[0]}")
        return pixels, enlarging.index(size) + 1

    def _kept(
        self, image: Images | None, mask_image: Images | None, jump_length: int, jump_n_sample: int, count: int
    ) -> list[Inpainting | None]:
        """What each stage keeps of an image of the last one's size.

        Only the first stage jumps back: the others are told the smaller image, which fits what is kept.

        Raises:
            ValueError: as `given_pixels` and `Inpainting`.
        """
        if mask_image is None:
            return [None] * self.num_stages
        y, mask = given_pixels(image, mask_image, (self.channels, *self.sizes[-1]), count)
        first, *others = (known_at(size, y, mask) for size in self.sizes)
        return [Inpainting(*first, jump_length, jump_n_sample), *(Inpainting(*each, jump_length, 1) for each in others)]

    def _noise(self, first: int, count: int, generator: Generators, latents: Tensor | None) -> "list[StageNoise]":
        """The noise of the stages from `first` on; what an early one begins with does not depend on those after it."""
        generators, found = image_generators(generator, count), []
        for stage in range(first, self.num_stages):
            before, own = (self._streams(generators, self.sizes[at]) for at in (max(stage - 1, 0), stage))
            eps = before() if stage else None
            found.append(StageNoise(eps, own(), own))
        if latents is not None:
            check_given_noise(latents, tuple(found[0].x_T.shape))
            found[0].x_T = latents.to(found[0].x_T)
        return found

    def _streams(self, generators: list[torch.Generator], size: tuple[int, int]) -> NoiseStreams:
        return NoiseStreams(generators, (self.channels, *size), self._execution_device)

    def _stage(
        self,
        stage: int,
        num_inference_steps: int,
        scale: float,
        eta: float,
        given: dict[str, Any],
        count: int,
        kept: Inpainting | None,
    ) -> "Callable[[StageNoise, Conditions], Iterator[Step]]":
        """A stage's steps, from its noise and from what it is told of the stage before; checked now, run later."""
        network, scheduler, path = self.networks[stage], self.schedulers[stage], self.config.paths.get(NETWORKS[stage])
        conditions, nulls = self._of_stage(stage, given, count)
        denoiser = beside(network) if stage else lambda x_t, t, **told: evaluate(network, x_t, t, told)

        def guided(of_before: Conditions) -> Denoiser:
            if not nulls:
                return lambda x_t, t: denoiser(x_t, t, **conditions, **of_before)
            return guide(denoiser, conditions | of_before, nulls, scale)

        if path is not None:
            check_count("num_inference_steps", num_inference_steps)
            return lambda noise, of_before: run_of_flow(
                lambda clock: guided(of_before),
                noise.x_T,
                scheduler,
                path,
                num_inference_steps,
                noise=noise.later,
                kept=kept,
            )
        check_eta(eta, scheduler, ("DDIMScheduler", "DDPMScheduler"))
        solver = Solver(scheduler, num_inference_steps)
        if type(scheduler).__name__ != "DDPMScheduler":
            return lambda noise, of_before: solver.steps(
                ddim_steps, guided(of_before), noise.x_T, noise.later, kept=kept, eta=eta
            )
        variance = variance_type_of(scheduler, network.config.out_channels == 2 * self.channels)
        return lambda noise, of_before: solver.steps(
            ancestral_steps, guided(of_before), noise.x_T, noise.later, kept=kept, variance=variance
        )

    def _one_after_another(
        self,
        runs: "list[Callable[[StageNoise, Conditions], Iterator[Step]]]",
        noise: "list[StageNoise]",
        small: Tensor | None,
        first: int,
        asked: list[int],
        levels: list[float],
    ) -> Iterator[Step]:
        """The steps of the stages from `first` on, numbered through."""
        before, after = 0, sum(int(count) for count in asked[first:])
        for stage, (run, own) in enumerate(zip(runs, noise, strict=True), first):
            after -= int(asked[stage])
            of_before = {} if small is None else self._told(stage, small, levels[stage], own.eps)
            for step in run(own, of_before):
                taken = step.num_steps
                step.index, step.num_steps, step.stage = before + step.index, before + taken + after, stage
                yield step
                small = step.prev_sample
            before += taken
            small = small.clamp(-1, 1)

    def _told(self, stage: int, small: Tensor, level: float, eps: Tensor) -> Conditions:
        """What a stage is told of the images before it, (N, C, h, w)."""
        levels = torch.full((len(small),), level, device=small.device)
        large = enlarged(noisy_condition(small, levels, eps), self.sizes[stage])
        return {"low_resolution": large} | told_level(self.networks[stage].config, levels)

    @torch.no_grad()
    def __call__(
        self,
        prompt: Labels = None,
        batch_size: int | None = None,
        num_inference_steps: int | list[int] = STEPS,
        guidance_scale: PerStage = 2.0,
        conditioning_augmentation: PerStage | None = None,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
        class_labels: Labels = None,
        negative_prompt: str | list[str] | None = None,
        image: Images | None = None,
        return_stages: bool = False,
        mask_image: Images | None = None,
        jump_length: int = JUMP_LENGTH,
        jump_n_sample: int = JUMP_N_SAMPLE,
    ) -> CascadeOutput | tuple:
        """Draw images of prompts or of classes, enlarge an image, or draw a part of one anew.

        Args:
            prompt: text, or a list with one per image; for networks of classes, the same as `class_labels`
            batch_size: how many images of a single prompt or label, or without one
            num_inference_steps: of each stage, or a list with one number per stage; one number is of the first stage
                alone if the model has `enlarging_steps` for the others
            guidance_scale: w >= 0, of each stage, or a list with one number per stage; 1 is conditional only; one
                number is of the first stage alone if the model has `enlarging_guidance_scales` for the others
            conditioning_augmentation: how much noise is put on each smaller image before it is enlarged, s in [0, 1),
                or a list with one number for each stage but the first; at most the model's own `max_augmentations`.
                None: the model's own
            eta: share of DDPM's noise with a DDIMScheduler, at least 0
            generator: one generator, or a list with one per image
            latents: x_T of the first stage that is run, (N, C, h, w) unit noise, instead of drawing it
            output_type: "pil", "np" (N, H, W, C) in [0, 1], "pt" (N, C, H, W) in [0, 1], or "latent"
            return_dict: False gives a tuple
            callback_on_step_end: called as f(pipeline, index, timestep, tensors) after each step of each stage
            callback_on_step_end_tensor_inputs: which of "latents", "pred_original_sample", "eps" it is given
            class_labels: index, name (or a synonym of it), or a list with one per image; None draws without a class,
                and without guidance
            negative_prompt: what to guide away from, instead of the empty prompt: text, or a list with one per image
            image: enlarge this image, or these, one per image drawn: PIL images or their paths, an array (N, H, W, C)
                or a tensor (N, C, H, W) in [0, 1], of the size of a stage but the last; with `mask_image`, of the last
            return_stages: whether to return the images of each stage, too
            mask_image: white where `image` is to be drawn anew, black where it keeps its pixels (RePaint); a smaller
                stage draws a pixel anew of which more than half is white
            jump_length: with a mask, how many steps of the first stage each jump goes back
            jump_n_sample: with a mask, how often each stretch of `jump_length` steps of the first stage is run; 1 never
                jumps back

        Returns:
            `CascadeOutput` with `images`, `nfe`, the evaluations of all networks, and `stages`

        Raises:
            ValueError: an argument out of its range, by name, before any work
        """
        self.check_output(output_type, callback_on_step_end_tensor_inputs)
        run = self.stream(
            prompt,
            batch_size,
            num_inference_steps,
            guidance_scale,
            conditioning_augmentation,
            eta,
            generator,
            latents,
            class_labels,
            negative_prompt,
            image,
            mask_image,
            jump_length,
            jump_n_sample,
        )
        drawn = self.drain(run, output_type, True, callback_on_step_end, callback_on_step_end_tensor_inputs)
        steps = [run.last_steps[stage] for stage in sorted(run.last_steps)]
        stages = [self.to_images(step.prev_sample, output_type) for step in steps] if return_stages else None
        output = CascadeOutput(images=drawn.images, nfe=drawn.nfe, stages=stages)
        return output if return_dict else output.to_tuple()


# what the imports above import: diffusers' loader fetches only the files that this one names
from .facts_c265849c import __doc__ as _  # noqa: E402, F401
from .lora_462a865d import __doc__ as _  # noqa: E402, F401
from .packaging_51c09d16 import __doc__ as _  # noqa: E402, F401
from .saved_files_ce9a389c import __doc__ as _  # noqa: E402, F401
from .staging_5ca18f0b import __doc__ as _  # noqa: E402, F401
from .process_713930e3 import __doc__ as _  # noqa: E402, F401
from .from_image_af70dd4e import __doc__ as _  # noqa: E402, F401
from .schedule_a630c80b import __doc__ as _  # noqa: E402, F401
