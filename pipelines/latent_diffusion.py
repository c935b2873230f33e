"""Latent diffusion: the same loop inside an autoencoder (Rombach et al. 2022, https://arxiv.org/abs/2112.10752).

    z_0 = s (E(x) - m),   z_t = a(t) z_0 + b(t) eps,   x = D(z_0 / s + m)                     section 3

E and D are an autoencoder's two halves; s and m, its `scaling_factor` and `shift_factor`, bring z_0 to unit spread; D
runs once, at the end. The network is a U-Net, or a transformer over patches of z_t (DiT, Peebles & Xie 2023,
https://arxiv.org/abs/2212.09748), which is told a class, or a prompt through a text encoder. Both are followed by
classifier-free guidance (Ho & Salimans 2022),

    eps = eps(z_t, n) + w (eps(z_t, y) - eps(z_t, n)),        n: no class; the empty or the negative prompt

of the mean alone: a learned variance is that of the conditional half, as in DiT's code. (That guides the first 3 of the
4 channels, "for exact reproducibility"; diffusers' pipeline and this one guide all of them.) The steps are ancestral
(Ho et al. 2020, algorithm 2; learned variance: Nichol & Dhariwal 2021, eq. 15), DDIM's (Song et al. 2021, eq. 12),
those of a flow (flow_matching.py), or those of any diffusers scheduler. DiT's own are those of a DDPMScheduler with
`timestep_spacing="linspace"`. A run may begin with an image, and keep a part of it (from_image.py).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, SchedulerMixin, UNet2DConditionModel, UNet2DModel
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .base import Generators, ImagePipelineOutput, StepwisePipeline, check_count, check_number
from .classifier_free_guidance import check_interval, guided_network
from .conditions import Conditions, Labels, Nulls
from .ddim import check_eta, ddim_steps
from .ddpm import ancestral_steps
from .flow_matching import find_path, is_of_flows, run_of_flow
from .from_image import checked_strength, keeping, known_output
from .image_inputs import Images, mask_of, pixels_of
from .latents import check_latents, decode, latents_of
from .process import Clock
from .run import Denoiser, Step
from .solvers import DefaultSteps, Solver
from .text import check_prompts, check_text_encoder, joined, text_conditions, unread, warn_of_unread


class LatentDiffusionPipeline(StepwisePipeline):
    """Images decoded from latents that a U-Net or a DiT denoises; every Step holds latents, z_t as `x_t`.

    Args:
        vae: the autoencoder
        scheduler: states the noise schedule, the prediction type, clipping and spacing. A DDPMScheduler means ancestral
            steps, with the network's own variance where it has 2C output channels and else the config's
            `variance_type`; a DDIMScheduler means DDIM's steps, which have no use for a learned variance; any other is
            driven. For a flow, a FlowMatchEulerDiscreteScheduler means Euler's steps; a FlowMatchHeunDiscreteScheduler,
            or a solver with `use_flow_sigmas`, is driven.
        unet: a network over latents: unconditional, with classes, the last of which is "no class", or with prompts
        transformer: a DiT instead of `unet`; its last label means "no class" too
        id2label: class names by index; synonyms may follow after commas
        text_encoder, tokenizer: of transformers, for a `unet` that is told prompts
        path: "linear" or "variance_preserving" where the network predicts the velocity of a flow; None where it
            predicts what the scheduler's `prediction_type` says
        guidance_interval: where calls guide unless they say otherwise, shares (low, high) of the noise process in
            [0, 1]
        guide_unet: a worse network of the same kind, for autoguidance; None: classifier-free guidance
        prompt_styles, example_prompts: what the page suggests to write: words that follow a comma in many of the
            captions, and whole prompts
    """

    model_cpu_offload_seq = "text_encoder->unet->guide_unet->transformer->vae"
    about = {
        "summary": "Draws {subject}, in the latent space of an autoencoder "
        "([Rombach et al. 2022](https://arxiv.org/abs/2112.10752)).",
        "paper": "https://arxiv.org/abs/2112.10752",
        "runs": ("DiTPipeline",),
        "last_label_is_null": True,
        "example": {"num_inference_steps": 50, "guidance_scale": 4.0},
        "page": {
            "model": {"info": "Takes noise away from a small code of an image instead of its pixels; then decodes it."}
        },
    }
    _optional_components = ["unet", "transformer", "text_encoder", "tokenizer", "guide_unet"]

    def __init__(
        self,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
        unet: UNet2DModel | UNet2DConditionModel | None = None,
        transformer: DiTTransformer2DModel | None = None,
        id2label: dict[str, str] | None = None,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        path: str | None = None,
        guidance_interval: tuple[float, float] | list[float] = (0.0, 1.0),
        guide_unet: UNet2DModel | UNet2DConditionModel | None = None,
        prompt_styles: list[str] | str | None = None,
        example_prompts: list[str] | str | None = None,
    ) -> None:
        super().__init__()
        if (unet is None) == (transformer is None):
            got = "neither" if unet is None else "both"
            raise ValueError(f"unet or transformer must be given, one of them, got {got}")
        if path is not None:
            find_path(path)
        networks = {"unet": unet, "transformer": transformer, "guide_unet": guide_unet}
        self.register_modules(vae=vae, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer, **networks)
        self.register_to_config(id2label=id2label, path=path, guidance_interval=list(check_interval(guidance_interval)))
        suggested = {"prompt_styles": prompt_styles, "example_prompts": example_prompts}
        self.register_to_config(**{name: joined(texts) for name, texts in suggested.items() if texts is not None})
        self._check_parts()

    def _check_parts(self) -> None:
        """Raise ValueError where the parts do not fit one another."""
        check_latents(self.vae, self.sample_shape[0])
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"id2label must name {self.num_classes} classes, got {len(self.class_names)}")
        if (self.text_encoder is None) != (self.tokenizer is None):
            missing = "tokenizer" if self.tokenizer is None else "text_encoder"
            raise ValueError(f"{missing} must be given, as text_encoder and tokenizer go together, got None")
        check_text_encoder(self.denoising_network.config, self.text_encoder)

    @property
    def denoising_network(self) -> torch.nn.Module:
        """The U-Net or the transformer."""
        return self.transformer if self.unet is None else self.unet

    @property
    def stock_class(self) -> str | None:
        """The stock pipeline knows transformers only, and takes 1000 for "no class"."""
        return "DiTPipeline" if self.transformer is not None and self.null_label == 1000 else None

    def _refuse_custom_code(self) -> None:
        super()._refuse_custom_code()
        name, kind = type(self.scheduler).__name__, self.scheduler.config.get("variance_type")
        if name != "DDIMScheduler" and kind in ("learned", "learned_range"):
            raise ValueError(
                f"carry_code=False: the stock DiTPipeline drops the variance channels that a {name} with"
                f" variance_type {kind!r} asks for"
            )

    # ------------------------------------------------------------------------------------------------ the algorithm

    def decode(self, latents: Tensor) -> Tensor:
        """x = D(z / s + m), (N, 3, H, W) in about [-1, 1], of latents (N, C, h, w)."""
        return decode(self.vae, latents)

    @property
    def takes_prompts(self) -> bool:
        """Whether the network is told prompts, rather than classes or nothing."""
        return self.text_encoder is not None

    def prompts(self, prompts: list[str]) -> Conditions:
        """What the network is given of prompts, one row each."""
        parts = self.denoising_network.config, self.text_encoder, self.tokenizer
        return text_conditions(*parts, prompts, self._execution_device)

    def unread(self, prompt: str) -> str:
        """What of a prompt is not read, as the tokenizer does not know it or it is too long; "" for most."""
        return unread(self.tokenizer, prompt) if self.takes_prompts else ""

    def inputs(
        self,
        prompt: Labels,
        class_labels: Labels,
        negative_prompt: str | list[str] | None,
        batch_size: int | None,
    ) -> tuple[Conditions, Nulls, int]:
        """What the network is given, what it is given instead of that to guide away from it, and how many images.

        Raises:
            ValueError: what the network is not told, or a number of entries that does not fit.
        """
        if self.takes_prompts:
            return self._prompt_inputs(prompt, class_labels, negative_prompt, batch_size)
        if negative_prompt is not None:
            raise ValueError(
                f"negative_prompt must be None for a network that takes no prompts, got {negative_prompt!r}"
            )
        if prompt is not None and class_labels is not None:
            raise ValueError(f"prompt must be None where class_labels are given, got {prompt!r}")
        conditions, count = self.conditions(prompt if class_labels is None else class_labels, batch_size)
        return conditions, self.nulls, count

    def _prompt_inputs(
        self, prompt: Labels, class_labels: Labels, negative_prompt: str | list[str] | None, batch_size: int | None
    ) -> tuple[Conditions, Nulls, int]:
        if class_labels is not None:
            raise ValueError(f"class_labels must be None for a network that takes prompts, got {class_labels!r}")
        if batch_size is not None:
            check_count("batch_size", batch_size)
        wanted = check_prompts("prompt", "" if prompt is None else prompt, batch_size)
        unwanted = check_prompts("negative_prompt", "" if negative_prompt is None else negative_prompt, len(wanted))
        if any(unwanted) and self.guide_unet is not None:
            away = "which guidance leads away from"
            raise ValueError(f"negative_prompt must be None with a guide_unet, {away}, got {negative_prompt!r}")
        warn_of_unread(self.tokenizer, wanted + unwanted)
        return self.prompts(wanted), self.prompts(unwanted), len(wanted)

    # ------------------------------------------------------------------------------------------------- the pipeline

    def to_images(
        self, sample: Tensor, output_type: str = "pil", kept: Callable[[Tensor], Tensor] | None = None
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """Latents (N, C, h, w) -> decoded PIL images, numpy or a tensor in [0, 1]; "latent": as they are.

        `kept` puts what a run keeps of its image in its place, in pixels (N, 3, H, W) in [-1, 1].
        """
        if output_type == "latent":
            return sample
        pixels = self.decode(sample)
        return super().to_images(pixels if kept is None else kept(pixels), output_type)

    def to_images_of(self, image: Images | None, mask_image: Images | None, **arguments: Any) -> Callable[..., Any]:
        if mask_image is None or image is None:
            return self.to_images
        y, mask = pixels_of(image, self.facts.image_shape[0], "image"), mask_of(mask_image)
        return partial(self.to_images, kept=lambda x: torch.where(mask.to(x.device), x, y.to(x)))

    def start(
        self,
        prompt: Labels,
        batch_size: int | None,
        num_inference_steps: int,
        guidance_scale: float,
        eta: float,
        generator: Generators,
        latents: Tensor | None,
        class_labels: Labels,
        negative_prompt: str | list[str] | None,
        guidance_interval: tuple[float, float] | None,
        guidance_rescale: float,
        image: Images | None,
        strength: float | None,
        mask_image: Images | None,
    ) -> Iterator[Step]:
        check_number("guidance_scale", guidance_scale, 0.0)
        check_number("guidance_rescale", guidance_rescale, 0.0, 1.0)
        own = self.config.guidance_interval
        interval = check_interval(own if guidance_interval is None else guidance_interval)
        self._check_steps(num_inference_steps, eta)
        strength = checked_strength(strength, image is not None, mask_image is not None)
        conditions, nulls, count = self.inputs(prompt, class_labels, negative_prompt, batch_size)
        z_T, noise = self.streams(count, generator, latents)
        y, drawn = latents_of(self.vae, image, mask_image, self.facts.image_shape, count, z_T.device)
        asked = any(given is not None for given in (prompt, class_labels, negative_prompt, self.guide_unet))
        scale = float(guidance_scale) if asked else 0.0

        def guided(process: Clock) -> Denoiser:
            return guided_network(self, conditions, nulls, scale, process, interval, guidance_rescale)

        if self.config.path is not None:
            parts = self.scheduler, self.config.path, num_inference_steps
            return run_of_flow(guided, z_T, *parts, y, strength, drawn, noise)
        solver = Solver(self.scheduler, num_inference_steps, strength)
        denoiser = guided(solver.process)
        begin = y
        if drawn is not None:
            denoiser = keeping(denoiser, drawn, known_output(y, solver.process, solver.prediction_type))
            begin = None if strength == 1.0 else y  # nothing is left there of what is to be drawn anew
        if type(self.scheduler).__name__ == "DDPMScheduler":
            return solver.steps(ancestral_steps, denoiser, z_T, noise, begin, variance=self.variance_type)
        return solver.steps(ddim_steps, denoiser, z_T, noise, begin, eta=eta)

    def _check_steps(self, num_inference_steps: int, eta: float) -> None:
        """Raise ValueError for steps that neither the scheduler nor the network has."""
        name, flow = type(self.scheduler).__name__, self.config.path is not None
        if is_of_flows(self.scheduler) != flow:
            allowed = "a FlowMatchEulerDiscreteScheduler or one with use_flow_sigmas" if flow else "one of diffusion"
            raise ValueError(f"scheduler must be {allowed} for this network, got {name}")
        if not flow:
            return check_eta(eta, self.scheduler)
        check_count("num_inference_steps", num_inference_steps)
        if eta != 0.0:
            raise ValueError(f"eta must be 0 for a flow, got {eta!r}")

    @torch.no_grad()
    def __call__(
        self,
        prompt: Labels = None,
        batch_size: int | None = None,
        num_inference_steps: int = DefaultSteps(50),
        guidance_scale: float = 4.0,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
        class_labels: Labels = None,
        negative_prompt: str | list[str] | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        image: Images | None = None,
        strength: float | None = None,
        mask_image: Images | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Draw images of prompts or of classes, whichever the network is told.

        Args:
            prompt: text, or a list with one per image; None draws the empty prompt. For a network of classes, the same
                as `class_labels`
            batch_size: how many images of a single prompt or label, or without one
            num_inference_steps: 1 to the length of the schedule, unless given, at most that; at least 1 for a flow
            guidance_scale: w >= 0; 1 is conditional only, 0 unconditional, larger follows prompt or class more closely
            eta: share of DDPM's noise with a DDIMScheduler, at least 0
            generator: one generator, or a list with one per image
            latents: z_T, (N, C, h, w) unit noise, instead of drawing it
            output_type: "pil", "np" (N, H, W, C) in [0, 1], "pt" (N, C, H, W) in [0, 1], or "latent": z_0
            return_dict: False gives a tuple
            callback_on_step_end: called as f(pipeline, index, timestep, tensors) after each step
            callback_on_step_end_tensor_inputs: which of "latents", "pred_original_sample", "eps" it is given; all of
                them are latents, which `to_images` decodes
            class_labels: index, name (or a synonym of it), or a list with one per image; None draws without a class,
                and without guidance
            negative_prompt: what to guide away from, instead of the empty prompt: text, or a list with one per image
            guidance_interval: (low, high) in [0, 1]: shares of the noise process between which to guide; outside, a
                scale above 1 is 1, at half the cost; None: the model's own
            guidance_rescale: share in [0, 1] of the rescaled output, against overexposure at large scales
            image: begin with this image, or these, one per image drawn: PIL images of any mode or their paths, an array
                (N, H, W, C) or a tensor (N, C, H, W) in [0, 1], of the size that the model draws
            strength: the share of the steps that are taken from an image, above 0, at most 1: the less, the more of it
                stays; None: 0.8, or 1 with a mask
            mask_image: white where the image is to be drawn anew, black where its pixels are kept to the last bit

        Returns:
            `ImagePipelineOutput` with `images` and `nfe`, the evaluations of the U-Net or transformer

        Raises:
            ValueError: an argument out of its range, by name, before any work
        """
        self.check_output(output_type, callback_on_step_end_tensor_inputs)
        run = self.stream(
            prompt,
            batch_size,
            num_inference_steps,
            guidance_scale,
            eta,
            generator,
            latents,
            class_labels,
            negative_prompt,
            guidance_interval,
            guidance_rescale,
            image,
            strength,
            mask_image,
        )
        return self.drain(run, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs)
