"""A KL autoencoder of images (Kingma & Welling 2014; Rombach et al. 2022, https://arxiv.org/abs/2112.10752, app. G).

    L = || x' - x || + || d_x x' - d_x x || + || d_y x' - d_y x || + sum_k || (x' - x) averaged over 2^k x 2^k pixels ||
        + w KL(N(mu, sigma^2) || N(0, 1)),       x' = D(mu + sigma eps),   k = 1, 2

|| || is the mean absolute difference per image, d_x and d_y are the differences of neighbours, and the KL divergence is
the mean over all values of a latent. No other network takes part in the loss.

--equivariance changes a share of the latents z, and the images with them: T z is decoded to T x, where T mirrors, turns
upside down or halves (EQ-VAE, Kouzelis et al. 2025, https://arxiv.org/abs/2502.09509). Latents then follow what
is done to the image, which a diffusion model finds easier to learn.

--freeze_encoder trains the decoder alone, so that latents stay those that diffusion models were trained on, and
--latent_noise makes it fit for latents that are not exact, as drawn ones never are (noise-augmented decoding, Zheng et
al. 2025, https://arxiv.org/abs/2510.11690):

    x' = D(mu + sigma eps + |n| w s eps'),     n ~ N(0, 1) for each image

where w is --latent_noise, and s the standard deviation of all latents.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from pipelines import AutoencoderPipeline
from pipelines.facts import spatial_factor
from training.data import ImageData
from training.metrics.features import to_input
from training.metrics.latents import latent_statistics
from training.metrics.reconstruction import psnr
from training.networks.autoencoder import autoencoder_config, new_autoencoder, pretrained_autoencoder
from training.objectives.base import Batch, Objective
from training.randomness import BatchRandom
from training.recipes import Recipe, check_at_least_one, check_range, flag
from training.sample_grid import beside

SHOWN = 16  # training images in the grids of a run
MEASURED = 1000  # training images that the scale, the shift and the map to colours are measured on
MIRRORED, UPSIDE_DOWN, HALVED = 1, 2, 3  # what can be done to a latent and its image; 0 is as it is
LEAST = 4  # sides of the smallest images that the loss can average twice


class TrainedAutoencoder(nn.Module):
    """An autoencoder whose `forward` gives all that the loss needs, in one call, as several processes need it."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self, images: Tensor, noise: Tensor, change: Tensor | None, added: Tensor | None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Decoded images, in the order and the sizes of `changed(images, change)`, and mu and log sigma^2 (N, c, h, w).

        Args:
            images: (N, C, H, W) in [-1, 1]
            noise: the eps of each latent, (N, c, h, w)
            change: what is done to each latent, (N,), or None
            added: what is added to each latent, (N, c, h, w), or None
        """
        posterior = self.vae.encode(images).latent_dist
        z = posterior.mean + posterior.std * noise
        z = z if added is None else z + added
        return [self.vae.decode(part).sample for part in changed(z, change)], posterior.mean, posterior.logvar


class Autoencoding(Objective):
    """`build` the autoencoder, `loss` of a batch, `pipeline` to save, `samples` to look at."""

    @dataclass(frozen=True)
    class Options(Objective.Options):
        """The latents and the terms of the loss."""

        FIXED: ClassVar[tuple[str, ...]] = ("latent_channels",)

        latent_channels: int | None = flag(None, "channels of the latents [4, or those of the config or the model]")
        kl_weight: float = flag(1e-4, "weight of the KL divergence, a mean over all values of a latent")
        equivariance: float = flag(
            0.0,
            "share of examples whose latent is mirrored, turned upside down or halved, and decoded to the image that "
            "was changed in the same way (EQ-VAE)",
        )
        freeze_encoder: bool = flag(
            False, "train only the decoder of a pretrained autoencoder: latents stay as they are"
        )
        latent_noise: float = flag(
            0.0,
            "noise on the latents that are decoded, in their standard deviations: this times |N(0, 1)|, per image. It "
            "needs --freeze_encoder, as an encoder would learn to drown it",
        )

        def __post_init__(self) -> None:
            """Refuse, by name, what cannot work."""
            check_at_least_one(self, "latent_channels")
            check_range(self, kl_weight=(0.0, 1e3), equivariance=(0.0, 1.0), latent_noise=(0.0, 10.0))
            if self.latent_noise > 0 and not self.freeze_encoder:
                raise ValueError(f"latent_noise must be 0 without --freeze_encoder, got {self.latent_noise:g}")

        def check(self, recipe: Recipe) -> None:
            """Raise ValueError for a network that would be compiled anew for each number of halved latents, for an
            adapter, which is of what denoises, and for a new encoder that would never be trained."""
            if recipe.lora_rank is not None:
                raise ValueError(f"lora_rank must be None with --objective autoencoder, got {recipe.lora_rank}")
            if self.equivariance > 0 and recipe.torch_compile:
                raise ValueError(f"torch_compile must be False with --equivariance above 0, got {self.equivariance:g}")
            if self.freeze_encoder and recipe.pretrained_model_name_or_path is None:
                raise ValueError("freeze_encoder must be False without --pretrained_model_name_or_path, got True")

    def __init__(self, options: Options, vae: AutoencoderKL, images: np.ndarray) -> None:
        super().__init__(options, TrainedAutoencoder(vae))
        if options.freeze_encoder:
            for part in (vae.encoder, vae.quant_conv):
                if part is not None:
                    part.requires_grad_(False)
        _, _, height, width = images.shape
        factor = spatial_factor(vae.config)
        self.latent_shape = (vae.config.latent_channels, height // factor, width // factor)
        self.latent_std = 1 / vae.config.get("scaling_factor", 1.0)
        self.shown, self.measured = evenly_spaced(images, SHOWN), evenly_spaced(images, MEASURED)

    @classmethod
    def image_format(cls, recipe: Recipe, options: Options) -> tuple[int | None, int | None]:
        """The channels that the config states, and the size of a pretrained autoencoder."""
        config = autoencoder_config(recipe)
        if recipe.pretrained_model_name_or_path is None:
            return config.get("in_channels"), None
        size = config.get("sample_size", 32)  # diffusers' default
        return config.get("in_channels", 3), size if isinstance(size, int) else min(size)

    @classmethod
    def build(cls, recipe: Recipe, options: Options, data: ImageData) -> Self:
        """The objective with an autoencoder that fits the data, new or fine-tuned.

        Raises:
            ValueError: images of a size that it cannot halve, or a config or a folder that is not an autoencoder's.
        """
        if min(data.images.shape[2:]) < LEAST:
            raise ValueError(f"--resolution must be at least {LEAST}, got {min(data.images.shape[2:])}")
        start = new_autoencoder if recipe.pretrained_model_name_or_path is None else pretrained_autoencoder
        return cls(options, start(recipe, data, options.latent_channels), data.images)

    def loss(self, batch: Batch, rng: BatchRandom) -> Tensor:
        """The mean loss of a batch: "images" (N, C, H, W) in [-1, 1]."""
        x = batch["images"]
        noise, change = rng.normal("posterior", self.latent_shape).to(x), self.changes(rng)
        change = None if change is None else change.to(x.device)
        decoded, mean, log_variance = self.network(x, noise, change, self.latent_noise(rng, x))
        pairs = zip(decoded, changed(x, change), strict=True)
        errors = torch.cat([reconstruction_loss(output.to(x.dtype), target) for output, target in pairs])
        return errors.mean() + self.options.kl_weight * kl_divergence(mean.to(x.dtype), log_variance.to(x.dtype)).mean()

    def latent_noise(self, rng: BatchRandom, like: Tensor) -> Tensor | None:
        """What is added to the latents, (N, c, h, w), as `like` is; None if nothing ever is."""
        if self.options.latent_noise == 0:
            return None
        level = self.options.latent_noise * rng.normal("level of latent noise", (1, 1, 1)).abs()
        return (level * self.latent_std * rng.normal("latent noise", self.latent_shape)).to(like)

    def changes(self, rng: BatchRandom) -> Tensor | None:
        """What is done to each latent, int64 (N,), 0 for nothing; None if no latent is ever changed.

        Latents are halved where their sides are even, and the halved images large enough for the loss.
        """
        if self.options.equivariance == 0:
            return None
        _, height, width = self.latent_shape
        halves = height % 2 == width % 2 == 0 and min(self.shown.shape[2:]) >= 2 * LEAST
        chosen, which = rng.uniform("equivariance"), rng.uniform("change of latents")
        return torch.where(chosen < self.options.equivariance, 1 + (which * (3 if halves else 2)).long(), 0)

    def pipeline(self, network: nn.Module) -> DiffusionPipeline:
        """The pipeline that reconstructs with `network`."""
        return AutoencoderPipeline(vae=network.vae)

    def pipeline_to_save(self, network: nn.Module) -> DiffusionPipeline:
        """The same, with scale, shift and map to colours in its config, measured on up to 1,000 training images.

        Behind an encoder that is not trained, scale and shift stay those that diffusion models of its latents know.
        """
        found = latent_statistics(network.vae, self.measured)
        measured = {"latent_rgb_factors": found.factors, "latent_rgb_bias": found.bias}
        if not self.options.freeze_encoder:
            measured |= {"scaling_factor": 1 / found.std if found.std > 0 else 1.0, "shift_factor": found.mean}
        network.vae.register_to_config(**measured)
        return self.pipeline(network)

    def samples(self, pipeline: DiffusionPipeline, seed: int) -> Image.Image:
        """Training images, the same ones each time, each beside its reconstruction."""
        return beside(self.shown, self._reconstructed(pipeline))

    def diagnostics(self, network: nn.Module) -> tuple[dict[str, float], dict[str, Image.Image]]:
        """The mean PSNR of the shown images, in dB."""
        return {"psnr": float(psnr(self._reconstructed(self.pipeline(network)), self.shown).mean())}, {}

    def _reconstructed(self, pipeline: DiffusionPipeline) -> np.ndarray:
        made = pipeline(to_input(self.shown) / 2 + 0.5, output_type="pt").images
        return (made.float() * 255).round().byte().cpu().numpy()


def changed(x: Tensor, change: Tensor | None) -> list[Tensor]:
    """Images or latents (N, C, H, W) as `change` (N,) says: those of whole size, then those that are halved, if any."""
    if change is None:
        return [x]
    rows = change[:, None, None, None]
    x = torch.where(rows == MIRRORED, x.flip(3), x)
    x = torch.where(rows == UPSIDE_DOWN, x.flip(2), x)
    parts = [x[change != HALVED], avg_pool2d(x[change == HALVED], 2)]
    return [part for part in parts if len(part)]


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute differences of pixels, of neighbours' differences and of two averaged levels, added up, (N,)."""
    error = output - target
    terms = [error, error.diff(dim=3), error.diff(dim=2), avg_pool2d(error, 2), avg_pool2d(error, 4)]
    return torch.stack([term.abs().flatten(1).mean(1) for term in terms]).sum(0)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, the mean over the values (N, c, h, w) of each latent, (N,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).mean(1)


def evenly_spaced(images: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` images, spread over all, so that data sorted by class show every class."""
    return images[np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)]


OBJECTIVE = Autoencoding
