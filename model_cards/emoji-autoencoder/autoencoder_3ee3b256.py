"""A KL autoencoder alone (Kingma & Welling 2014, https://arxiv.org/abs/1312.6114): images to latents and back.

    q(z | x) = N(mu(x), sigma(x)^2),   z_0 = s (mu(x) - m),   x' = D(z_0 / s + m)

s and m are the `scaling_factor` and the `shift_factor` of the autoencoder's config: with them z_0 has mean 0 and
standard deviation 1 over the training images, as a diffusion model of latents wants it
(Rombach et al. 2022, https://arxiv.org/abs/2112.10752, sections 4.3.2 and D.1).
"""

import torch
from diffusers import AutoencoderKL, ImagePipelineOutput
from torch import Tensor

from .base_413f06f7 import OUTPUT_TYPES, StepwisePipeline
from .facts_c265849c import spatial_factor
from .image_inputs_34f57068 import Images, pixels_of
from .latents_97337a14 import decode, encode
from .packaging_51c09d16 import CodeCarryingPipeline


class AutoencoderPipeline(CodeCarryingPipeline):
    """Reconstructs images; its `vae` is the autoencoder of a latent diffusion model to come."""

    about = {
        "summary": "An autoencoder: images to latents and back, for diffusion models of latents "
        "([Rombach et al. 2022](https://arxiv.org/abs/2112.10752)).",
        "paper": "https://arxiv.org/abs/2112.10752",
        "card": {
            "task": "image-to-image",
            "tags": ("autoencoder",),
            "title": "Reconstruct with it",
            "measure": "python -m training.metrics.reconstruction",
            "call": 'pipe(["one.png", "two.png"]).images[0]  # or PIL images, arrays and tensors',
            "caption": "Training images, each beside its reconstruction",
            "use": "To train diffusion models of its latents.",
            "limits": "Fine texture is lost, and so is what training images do not show.",
        },
    }
    model_cpu_offload_seq = "vae"

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.register_modules(vae=vae)

    def encode(self, images: Images) -> Tensor:
        """z_0 = s (mu(x) - m), float32 (N, C, h, w), of images as `__call__` takes them."""
        return encode(self.vae, self._pixels(images).to(self._execution_device))

    def decode(self, latents: Tensor) -> Tensor:
        """x' = D(z_0 / s + m), float32 (N, C, H, W) in about [-1, 1], of latents (N, C, h, w)."""
        return decode(self.vae, latents.float())

    @torch.no_grad()
    def __call__(
        self, images: Images, output_type: str = "pil", return_dict: bool = True
    ) -> ImagePipelineOutput | tuple:
        """Reconstruct images, with the mean of q(z | x) as z.

        Args:
            images: one or a list of PIL images or their paths, an array (N, H, W, C) or a tensor (N, C, H, W), both in
                [0, 1]; PIL images are turned into the colours that the autoencoder takes, transparent ones on white
            output_type: "pil", "np" (N, H, W, C) in [0, 1], "pt" (N, C, H, W) in [0, 1], or "latent": z_0
            return_dict: False gives a tuple

        Returns:
            diffusers' `ImagePipelineOutput` with `images`

        Raises:
            ValueError: an unknown output_type, or images that the autoencoder cannot take, before any work
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
        latents = self.encode(images)
        made = latents if output_type == "latent" else StepwisePipeline.to_images(self.decode(latents), output_type)
        self.maybe_free_model_hooks()  # of enable_model_cpu_offload
        return ImagePipelineOutput(images=made) if return_dict else (made,)

    def _pixels(self, images: Images) -> Tensor:
        """Images as float32 (N, C, H, W) in [-1, 1]; ValueError for what the autoencoder cannot take."""
        channels, factor = self.vae.config.in_channels, spatial_factor(self.vae.config)
        x = pixels_of(images, channels)
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(f"images must have sides that are multiples of {factor}, got the shape {tuple(x.shape)}")
        return x


# what the imports above import: diffusers' loader fetches only the files that this one names
from .conditions_5712ea1d import __doc__ as _  # noqa: E402, F401
from .lora_462a865d import __doc__ as _  # noqa: E402, F401
from .saved_files_ce9a389c import __doc__ as _  # noqa: E402, F401
from .staging_5ca18f0b import __doc__ as _  # noqa: E402, F401
from .run_32486b83 import __doc__ as _  # noqa: E402, F401
