"""An objective whose network may be told a smaller image: super-resolution (Ho et al. 2022, section 3.1 and 4).

The smaller image is the mean of pixels of x_0, spoilt at random: by noise of a level s that is uniform up to
--max_augmentation, and that the network is told, and on a share --blur of the examples by a 3 x 3 Gaussian of a
standard deviation between 0.4 and 0.6 pixels. Ho et al. 2022: https://arxiv.org/abs/2106.15282.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from pipelines import CascadePipeline
from pipelines.conditions import Conditions
from pipelines.low_resolution import blurred, enlarged, is_told_levels, noisy_condition, told_level
from pipelines.text import takes_embedding, takes_tokens
from training.data import ImageData
from training.networks.stages import enlarging
from training.objectives.base import Batch
from training.objectives.latents import autoencoder_of
from training.objectives.text import TextConditional
from training.randomness import BatchRandom
from training.recipes import Recipe, check_range, flag
from training.sample_grid import COLUMNS, tile

BLUR = (0.4, 0.6)  # pixels of the smaller image
LEVEL_WIDTH = 128  # values that tell the level of augmentation


class Upsampling(TextConditional):
    """`TextConditional`, or over pixels beside those of a smaller image.

    Attributes:
        shown: 8-bit images (N, C, H, W) that a run enlarges as it goes; None without a smaller image
        shown_with: what the pipeline is told of them
    """

    shown: np.ndarray | None = None
    shown_with: dict[str, Any]

    @dataclass(frozen=True)
    class Options(TextConditional.Options):
        """With classes, captions or nothing, and whether beside smaller images."""

        FIXED: ClassVar[tuple[str, ...]] = (*TextConditional.Options.FIXED, "low_resolution", "max_augmentation")

        low_resolution: int | None = flag(
            None, "train super-resolution: side in pixels of the smaller images, which the network is told"
        )
        max_augmentation: float = flag(
            0.5, "most noise that is put on them, in [0, 1): the conditioning augmentation; 0 for none"
        )
        blur: float = flag(0.5, "share of the smaller images that are blurred a little")

        def __post_init__(self) -> None:
            """Refuse, by name, what cannot work."""
            super().__post_init__()
            check_range(self, max_augmentation=(0.0, 0.999), blur=(0.0, 1.0))
            if self.low_resolution is not None and self.low_resolution < 1:
                raise ValueError(f"low_resolution must be at least 1, got {self.low_resolution}")

        def check(self, recipe: Recipe) -> None:
            """Raise ValueError for super-resolution of latents, or of images that are moved."""
            super().check(recipe)
            if self.low_resolution is None:
                return
            if recipe.lora_rank is not None:
                raise ValueError(f"lora_rank must be None with --low_resolution, got {recipe.lora_rank}")
            if autoencoder_of(recipe, self) is not None:
                raise ValueError(f"low_resolution must be None with a vae, got {self.low_resolution}")
            if self.augment > 0:
                raise ValueError(f"augment must be 0 with --low_resolution, got {self.augment:g}")

        def network_settings(self, data: ImageData) -> dict[str, Any]:
            """Settings of a new network beside those of every run.

            Raises:
                ValueError: images whose side is no multiple of the smaller one's.
            """
            if self.low_resolution is None:
                return {}
            self.check_size(data)
            channels = data.images.shape[1]
            told = {"time_cond_proj_dim": LEVEL_WIDTH} if self.max_augmentation > 0 else {}
            return {"in_channels": 2 * channels, "out_channels": channels} | told

        def is_told(self, start: str) -> bool:
            """Whether the network that is fine-tuned, of all in a cascade, is told prompts."""
            if self.low_resolution is None or not super().is_told(start):
                return super().is_told(start)
            _, config = enlarging(start, self.low_resolution)
            return takes_tokens(config) or takes_embedding(config)

        def check_size(self, data: ImageData) -> None:
            """Raise ValueError for images whose side is no multiple of the smaller one's."""
            _, _, height, width = data.images.shape
            low = self.low_resolution
            if low is not None and (height != width or height % low or height == low):
                raise ValueError(
                    f"low_resolution must divide the side of square images, and be less: {width}x{height} images, got "
                    f"{low}"
                )

    @classmethod
    def image_format(cls, recipe: Recipe, options: Options) -> tuple[int | None, int | None]:
        """Channels and default side of the images; of a stage that is fine-tuned, those that it draws."""
        start = recipe.pretrained_model_name_or_path
        if start is None or options.low_resolution is None:
            return super().image_format(recipe, options)
        _, config = enlarging(start, options.low_resolution)
        return config["in_channels"] // 2, config["sample_size"]

    def show(self, data: ImageData) -> None:
        """Choose the images that the run enlarges as it goes.

        Raises:
            ValueError: images or levels of augmentation that the network is not made for.
        """
        if self.options.low_resolution is None:
            return
        self.options.check_size(data)
        if self.options.max_augmentation > 0 and not is_told_levels(self.config):
            highest = self.options.max_augmentation
            raise ValueError(f"max_augmentation must be 0 for a network that is not told its level, got {highest:g}")
        chosen = slice(None, None, max(1, len(data.images) // COLUMNS))
        self.shown, self.shown_with = np.array(data.images[chosen][:COLUMNS]), {}
        if self.captions is not None:
            self.shown_with = {"prompt": self.captions.shown[: len(self.shown)]}
        elif self.class_names:
            self.shown_with = {"class_labels": data.labels[chosen][:COLUMNS].tolist()}

    def examples(self, batch: Batch, rng: BatchRandom) -> tuple[Tensor, Conditions]:
        """The images x_0 (N, C, H, W), and the conditions; of smaller images, "low_resolution" (N, C, H, W), too."""
        images, conditions = super().examples(batch, rng)
        return images, conditions if self.options.low_resolution is None else conditions | self.smaller(images, rng)

    def smaller(self, images: Tensor, rng: BatchRandom) -> Conditions:
        """What the network is told of the smaller images of (N, C, H, W)."""
        options, size = self.options, tuple(images.shape[2:])
        small = avg_pool2d(images, size[0] // options.low_resolution)
        blurs, (least, most) = rng.uniform("blur"), BLUR
        sigma = least + (most - least) * blurs / max(options.blur, 1e-6)
        small = blurred(small, torch.where(blurs < options.blur, sigma, 0.0).to(images.device))
        level = (options.max_augmentation * rng.stratified("augmentation")).to(images)
        noise = rng.normal("augmentation noise", tuple(small.shape[1:])).to(images)
        told = told_level(self.config, level)
        return {"low_resolution": enlarged(noisy_condition(small, level, noise), size)} | told

    def output(self, x_t: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """What the network says of x_t (N, C, H, W) at its times t (N,)."""
        given = dict(conditions)
        small = given.pop("low_resolution", None)
        x = x_t if small is None else torch.cat([x_t, small], dim=1)
        return self.network(x, t, **given, return_dict=False)[0]

    @property
    def in_cascade(self) -> bool:
        """Whether the network is a stage of a cascade: one that is told a smaller image, or prompts, over pixels."""
        return self.vae is None and (self.options.low_resolution is not None or self.captions is not None)

    def cascade(self, network: nn.Module, scheduler: SchedulerMixin, path: str | None = None) -> DiffusionPipeline:
        """What to save and to draw samples with: the one stage that is trained."""
        parts = {"id2label": self.id2label, **self.prompt_parts}
        if self.options.low_resolution is None:
            return CascadePipeline(self.drawn(network), scheduler, **parts, paths={"unet": path} if path else None)
        return CascadePipeline(
            unet_2=network,
            scheduler_2=scheduler,
            **parts,
            paths={"unet_2": path} if path else None,
            max_augmentations=[self.options.max_augmentation],
            base_size=self.options.low_resolution,
        )

    def samples(self, pipeline: DiffusionPipeline, seed: int) -> Image.Image:
        """A grid of samples; of smaller images, three rows: enlarged without a network, by it, and as they were."""
        if self.shown is None:
            return super().samples(pipeline, seed)
        pipeline.set_progress_bar_config(disable=True)
        whole = torch.from_numpy(self.shown).float() / 255
        side, low = whole.shape[-1], self.options.low_resolution
        small = avg_pool2d(whole, side // low)
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(small))]
        steps = min(25, pipeline.scheduler_2.config.num_train_timesteps)
        options = {"num_inference_steps": steps, "guidance_scale": 1.0, "generator": generators, "output_type": "pt"}
        made = pipeline(image=small, batch_size=len(small), **options, **self.shown_with).images
        rows = [enlarged(small, (side, side)), made.cpu().float(), whole]
        images = [CascadePipeline.to_images(2 * row - 1) for row in rows]
        return tile([image for row in images for image in row], len(small), scale=max(1, 56 // side), gap=2)
