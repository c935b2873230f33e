"""An objective that may train on the latents of an autoencoder instead of pixels (Rombach et al. 2022, section 3)."""

from dataclasses import dataclass

import torch
from torch import nn

from pipelines.latents import check_latents
from training.data import ImageData
from training.latents import latent_data
from training.networks.autoencoder import open_autoencoder, pretrained_autoencoder_config
from training.networks.open import is_latent, pretrained_size
from training.objectives.conditions import ClassConditional
from training.recipes import Recipe, flag


class LatentConditional(ClassConditional):
    """`ClassConditional`, over latents where there is an autoencoder.

    Attributes:
        vae: the autoencoder, which is not trained; None for pixels
    """

    @dataclass(frozen=True)
    class Options(ClassConditional.Options):
        """Whether with classes, and of what latents."""

        vae: str | None = flag(
            None,
            "folder or Hub id of an autoencoder, or of a pipeline with one: train on its latents, encoded once [that "
            "of the pipeline that is fine-tuned, if it has one]",
        )

        def check(self, recipe: Recipe) -> None:
            """Raise ValueError for augmentation of latents: a latent that is moved is not that of the moved image."""
            if recipe.lora_rank is not None and self.vae is not None:
                raise ValueError(f"vae must be None with --lora_rank, which keeps that of the model, got {self.vae!r}")
            if self.augment > 0 and autoencoder_of(recipe, self) is not None:
                raise ValueError(f"augment must be 0 with latents (--random_flip mirrors images), got {self.augment:g}")

    def __init__(
        self, options: Options, network: nn.Module, class_names: tuple[str, ...] | None, vae: nn.Module | None = None
    ) -> None:
        super().__init__(options, network, class_names)
        check_latents(vae, network.config.in_channels)
        self.vae, self.frozen = vae, {} if vae is None else {"vae": vae}

    @classmethod
    def image_format(cls, recipe: Recipe, options: Options) -> tuple[int | None, int | None]:
        """Channels and default side of the images: those of the autoencoder, and of the pipeline that is fine-tuned."""
        start = recipe.pretrained_model_name_or_path
        channels, side = (None, None) if start is None else pretrained_size(start)
        if options.vae is None:
            return channels, side
        config = pretrained_autoencoder_config(options.vae, "vae")
        return config.get("in_channels", 3), side if start is not None and is_latent(start) else None

    @classmethod
    def prepare_data(cls, recipe: Recipe, options: Options, data: ImageData) -> ImageData:
        """The latents of the images, where there is an autoencoder; encoded on the GPU if there is one."""
        vae = open_vae(recipe, options)
        if vae is None:
            return data
        vae = vae.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        return latent_data(data, vae, mirrored=recipe.random_flip)


def autoencoder_of(recipe: Recipe, options: LatentConditional.Options) -> str | None:
    """Folder or Hub id of the autoencoder of a run: --vae, or that of the pipeline that is fine-tuned, or None."""
    start = recipe.pretrained_model_name_or_path
    return start if options.vae is None and start is not None and is_latent(start) else options.vae


def open_vae(recipe: Recipe, options: LatentConditional.Options) -> nn.Module | None:
    """The autoencoder of a run, in float32; None for pixels.

    Raises:
        ValueError: there is none in that place.
    """
    source = autoencoder_of(recipe, options)
    return None if source is None else open_autoencoder(source, "vae")
