"""An objective whose network may be told captions (Rombach et al. 2022, section 3.3)."""

import copy
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from diffusers import DiffusionPipeline, SchedulerMixin
from PIL import Image
from torch import Tensor, nn

from pipelines import LatentDiffusionPipeline
from pipelines.conditions import Conditions
from pipelines.text import Embeddings, conditions_of, embed, takes_tokens
from training.caption_embeddings import CaptionEmbeddings, caption_embeddings
from training.data import ImageData
from training.data.sources import evenly_spaced
from training.networks.adapt import tell_of_other_parts
from training.networks.open import is_told_prompts
from training.networks.text import open_text_encoder
from training.objectives.base import Batch
from training.objectives.conditions import drop
from training.objectives.latents import LatentConditional
from training.randomness import BatchRandom
from training.recipes import Recipe, flag
from training.sample_grid import COLUMNS, sample_grid


@dataclass(frozen=True)
class Captions:
    """What the captions of a run need.

    Attributes:
        text_encoder, tokenizer: as they are saved
        embeddings: of all captions
        shown: those that the run draws as it goes
        styles: what the page suggests to add to a prompt
    """

    text_encoder: nn.Module
    tokenizer: Any
    embeddings: CaptionEmbeddings
    shown: list[str]
    styles: list[str] = field(default_factory=list)


class TextConditional(LatentConditional):
    """`LatentConditional`, or told captions instead of classes; dropped ones become the empty caption.

    Attributes:
        captions: None without
    """

    @dataclass(frozen=True)
    class Options(LatentConditional.Options):
        """With classes, captions or nothing, and of what latents."""

        text_encoder: str | None = flag(
            None,
            "folder or Hub id of a text encoder, or of a pipeline with one: train on captions, dropped as often as "
            "labels [that of the pipeline that is fine-tuned, if it has one]",
        )
        example_prompts: str | None = flag(None, "prompts that the page offers with the model, with | between them")

        def check(self, recipe: Recipe) -> None:
            """Raise ValueError for captions beside classes."""
            super().check(recipe)
            if recipe.lora_rank is not None and self.text_encoder is not None:
                kept = "which keeps that of the model"
                raise ValueError(f"text_encoder must be None with --lora_rank, {kept}, got {self.text_encoder!r}")
            if self.class_conditional and text_encoder_of(recipe, self) is not None:
                raise ValueError("class_conditional must be False with a text_encoder, got True")

        def is_told(self, start: str) -> bool:
            """Whether the network of the pipeline that is fine-tuned is told prompts."""
            return is_told_prompts(start)

    def __init__(
        self,
        options: Options,
        network: nn.Module,
        class_names: tuple[str, ...] | None,
        vae: nn.Module | None = None,
        captions: Captions | None = None,
    ) -> None:
        super().__init__(options, network, class_names, vae)
        self.captions, self.config = captions, network.config
        if captions is None:
            return
        self.frozen["text_encoder"] = captions.text_encoder
        if takes_tokens(self.config):  # their tokens are too many to keep: this copy computes them, in any dtype
            self.frozen["reader"] = copy.deepcopy(captions.text_encoder).float()
        self.nulls = self.conditions([""])

    @classmethod
    def prepare_data(cls, recipe: Recipe, options: Options, data: ImageData) -> ImageData:
        """The latents of the images. It embeds the captions, too, which `open_captions` then finds on disk."""
        open_captions(recipe, options, data)
        return super().prepare_data(recipe, options, data)

    def tell_of_other_parts(self, pipeline: DiffusionPipeline) -> None:
        """Warn where autoencoder or text encoder are not those of the pipeline that is fine-tuned."""
        encoder = None if self.captions is None else self.captions.text_encoder
        tell_of_other_parts(pipeline, vae=self.vae, text_encoder=encoder)

    def encode(self, batch: Batch) -> Batch:
        """Adds what the network is given of the captions."""
        return batch if self.captions is None else batch | self.conditions(batch["captions"])

    def conditions(self, captions: list[str]) -> Conditions:
        """What the network is given of captions, one row each."""
        pooled = self.captions.embeddings.of(captions).float().to(self.captions.text_encoder.device)
        if not takes_tokens(self.config):
            return conditions_of(self.config, Embeddings(pooled, pooled, pooled))
        now = embed(self.frozen["reader"], self.captions.tokenizer, captions)
        return conditions_of(self.config, replace(now, pooled=pooled))

    def examples(self, batch: Batch, rng: BatchRandom) -> tuple[Tensor, Conditions]:
        """The images x_0 (N, C, H, W), and the conditions, some dropped at random: labels, captions, or none."""
        if self.captions is None:
            return super().examples(batch, rng)
        given = {name: batch[name] for name in self.nulls}
        return batch["images"], drop(given, self.nulls, self.options.label_dropout, rng)

    @property
    def prompt_parts(self) -> dict[str, Any]:
        """What a pipeline that takes prompts has beside its network; nothing without captions."""
        if self.captions is None:
            return {}
        examples = (self.options.example_prompts or "").split("|")
        return {
            "text_encoder": self.captions.text_encoder,
            "tokenizer": self.captions.tokenizer,
            "example_prompts": [prompt.strip() for prompt in examples if prompt.strip()] or None,
            "prompt_styles": self.captions.styles or None,
        }

    def latent_pipeline(self, network: nn.Module, scheduler: SchedulerMixin, **config: Any) -> DiffusionPipeline:
        """What to save and to draw samples with, for latents."""
        parts = {"vae": self.vae, "scheduler": scheduler, "unet": self.drawn(network), "id2label": self.id2label}
        return LatentDiffusionPipeline(**parts, **self.prompt_parts, **config)

    def samples(self, pipeline: DiffusionPipeline, seed: int) -> Image.Image:
        """A grid of samples; of captions, a column each."""
        prompts = None if self.captions is None else self.captions.shown
        return sample_grid(pipeline, seed, prompts=prompts)


def text_encoder_of(recipe: Recipe, options: TextConditional.Options) -> str | None:
    """Folder or Hub id of the text encoder: --text_encoder, or that of the pipeline that is fine-tuned, or None."""
    start = recipe.pretrained_model_name_or_path
    own = options.text_encoder is None and start is not None and options.is_told(start)
    return start if own else options.text_encoder


def open_captions(recipe: Recipe, options: TextConditional.Options, data: ImageData) -> Captions | None:
    """The text encoder of a run, and all captions embedded; None for a run without.

    Raises:
        ValueError: no text encoder in that place, or data without captions.
    """
    source = text_encoder_of(recipe, options)
    if source is None:
        return None
    if data.captions is None:
        column, why = recipe.caption_column, f": {data.uncaptioned}" if data.uncaptioned else ""
        raise ValueError(f"caption_column must be a column of captions with a text_encoder, got {column!r}{why}")
    text_encoder, tokenizer = open_text_encoder(source)
    embeddings = caption_embeddings(data.captions, text_encoder, tokenizer)
    whole = [caption if isinstance(caption, str) else caption[0] for caption in data.captions]
    shown = [whole[i] for i in evenly_spaced(len(whole), COLUMNS)]
    return Captions(text_encoder, tokenizer, embeddings, shown, common_endings(whole))


def common_endings(captions: list[str]) -> list[str]:
    """What follows the last comma in a twentieth of the captions, and in five of them; the order is theirs."""
    endings = Counter(caption.rpartition(",")[2].strip() for caption in captions if "," in caption)
    return [ending for ending, count in endings.items() if ending and count >= max(5, 0.05 * len(captions))]


def text_width(captions: Captions | None) -> int | None:
    """The width of a network's text inputs; None for a run without captions."""
    return None if captions is None else captions.text_encoder.config.hidden_size
