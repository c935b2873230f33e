"""Latent diffusion: the same loop inside an autoencoder (Rombach et al. 2022, https://arxiv.org/abs/2112.10752).

    z_0 = s E(x),   z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps,   x = D(z_0 / s)          section 3

E and D are an autoencoder's two halves and s its `scaling_factor`, which brings z_0 to unit spread; D runs once, at the
end. The network is a U-Net, or a transformer over patches of z_t (DiT, Peebles & Xie 2023,
https://arxiv.org/abs/2212.09748). Labels are followed by classifier-free guidance (Ho & Salimans 2022),

    eps = eps(z_t) + w (eps(z_t, y) - eps(z_t)),

of the mean alone: a learned variance is that of the conditional half, as in DiT's code. (That guides the first 3 of the
4 channels, "for exact reproducibility"; diffusers' pipeline and this one guide all of them.) The steps are ancestral
(Ho et al. 2020, algorithm 2; learned variance: Nichol & Dhariwal 2021, eq. 15), DDIM's (Song et al. 2021, eq. 12), or
those of any diffusers scheduler. DiT's own are those of a DDPMScheduler with `timestep_spacing="linspace"`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, SchedulerMixin, UNet2DModel
from PIL import Image
from torch import Tensor

from .base import Generators, ImagePipelineOutput, StepwisePipeline, check_number
from .classifier_free_guidance import guide
from .conditions import Labels
from .ddim import check_eta, ddim_steps
from .ddpm import ancestral_steps
from .latents import check_latents, decode
from .run import Step
from .solvers import Solver


class LatentDiffusionPipeline(StepwisePipeline):
    """Images decoded from latents that a U-Net or a DiT denoises; every Step holds latents, z_t as `x_t`.

    Args:
        vae: the autoencoder
        scheduler: states the noise schedule, the prediction type, clipping and spacing. A DDPMScheduler means ancestral
            steps, with the network's own variance where it has 2C output channels and else the config's
            `variance_type`; a DDIMScheduler means DDIM's steps, which have no use for a learned variance; any other is
            driven.
        unet: a network over latents, unconditional or with classes, whose last label means "no class"
        transformer: a DiT instead of `unet`; its last label means "no class" too
        id2label: class names by index; synonyms may follow after commas
    """

    model_cpu_offload_seq = "unet->transformer->vae"
    about = {
        "summary": "Draws {subject}, in the latent space of an autoencoder "
        "([Rombach et al. 2022](https://arxiv.org/abs/2112.10752)).",
        "paper": "https://arxiv.org/abs/2112.10752",
        "runs": ("DiTPipeline",),
        "last_label_is_null": True,
        "example": {"num_inference_steps": 50, "guidance_scale": 4.0},
    }
    _optional_components = ["unet", "transformer"]

    def __init__(
        self,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
        unet: UNet2DModel | None = None,
        transformer: DiTTransformer2DModel | None = None,
        id2label: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        if (unet is None) == (transformer is None):
            got = "neither" if unet is None else "both"
            raise ValueError(f"unet or transformer must be given, one of them, got {got}")
        self.register_modules(vae=vae, scheduler=scheduler, unet=unet, transformer=transformer)
        self.register_to_config(id2label=id2label)
        self._check_parts()

    def _check_parts(self) -> None:
        """Raise ValueError where the parts do not fit one another."""
        check_latents(self.vae, self.sample_shape[0])
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"id2label must name {self.num_classes} classes, got {len(self.class_names)}")

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

    # ------------------------------------------------------------------------------------------------- the pipeline

    def to_images(self, sample: Tensor, output_type: str = "pil") -> list[Image.Image] | np.ndarray | Tensor:
        """Latents (N, C, h, w) -> decoded PIL images, numpy or a tensor in [0, 1]; "latent": as they are."""
        return sample if output_type == "latent" else super().to_images(self.decode(sample), output_type)

    def start(
        self,
        class_labels: Labels,
        batch_size: int | None,
        num_inference_steps: int,
        guidance_scale: float,
        eta: float,
        generator: Generators,
        latents: Tensor | None,
    ) -> Iterator[Step]:
        check_number("guidance_scale", guidance_scale, 0.0)
        check_eta(eta, self.scheduler)
        conditions, count = self.conditions(class_labels, batch_size)
        solver = Solver(self.scheduler, num_inference_steps)
        z_T, noise = self.streams(count, generator, latents)
        scale = 0.0 if class_labels is None else float(guidance_scale)
        denoiser = guide(self.network, conditions, self.nulls, scale)
        if type(self.scheduler).__name__ == "DDPMScheduler":
            return solver.steps(ancestral_steps, denoiser, z_T, noise, variance=self.variance_type)
        return solver.steps(ddim_steps, denoiser, z_T, noise, eta=eta)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        batch_size: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 4.0,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Draw images.

        Args:
            class_labels: index, name (or a synonym of it), or a list with one per image; None draws without a class,
                and without guidance
            batch_size: how many images of a single label, or without one
            num_inference_steps: 1 to the length of the schedule
            guidance_scale: w >= 0; 1 is conditional only, 0 unconditional, larger follows the class more closely
            eta: share of DDPM's noise with a DDIMScheduler, at least 0
            generator: one generator, or a list with one per image
            latents: z_T, (N, C, h, w) unit noise, instead of drawing it
            output_type: "pil", "np" (N, H, W, C) in [0, 1], "pt" (N, C, H, W) in [0, 1], or "latent": z_0 = s E(x)
            return_dict: False gives a tuple
            callback_on_step_end: called as f(pipeline, index, timestep, tensors) after each step
            callback_on_step_end_tensor_inputs: which of "latents", "pred_original_sample", "eps" it is given; all of
                them are latents, which `to_images` decodes

        Returns:
            `ImagePipelineOutput` with `images` and `nfe`, the evaluations of the U-Net or transformer

        Raises:
            ValueError: an argument out of its range, by name, before any work
        """
        self.check_output(output_type, callback_on_step_end_tensor_inputs)
        run = self.stream(class_labels, batch_size, num_inference_steps, guidance_scale, eta, generator, latents)
        return self.drain(run, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs)
