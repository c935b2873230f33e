"""The interface between the training loop and an objective. It knows neither accelerate nor diffusion.

An objective is one file, in this folder or anywhere:

    class Mine(Objective):
        @dataclass(frozen=True)
        class Options(Objective.Options):
            strength: float = flag(1.0, "the help text of --strength")

        @classmethod
        def build(cls, recipe, options, data): ...
        def loss(self, batch, rng): ...
        def pipeline(self, network): ...

`--objective module:Mine` trains it. For a file in this folder with a line `OBJECTIVE = Mine`, its name is enough.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from training.data import ImageData
from training.networks.open import is_latent, pretrained_size
from training.randomness import BatchRandom
from training.recipes import Recipe
from training.sample_grid import sample_grid

# "images" (N, C, H, W) in [-1, 1]; "labels" (N,) and "captions", N strings, if the data have them; and whatever
# `encode` adds
Batch = dict[str, Tensor | list[str]]


class History(Protocol):
    """What an objective remembers of earlier examples. It is saved in checkpoints, and is the same on every process."""

    def take(self) -> Tensor:
        """The rows (M, ...) of this process's examples since the last call, in the order of the examples."""

    def update(self, rows: Tensor) -> None:
        """Remember the rows of all processes, in the order of the examples. Called after each update's gradients."""

    def state_dict(self) -> dict[str, Any]:
        """The state to save in a checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""


class Objective(ABC):
    """A network and the loss that trains it.

    Attributes:
        options: the values of its flags
        network: the module that is trained. The loop moves it to the device, and calls it under autocast.
        frozen: modules that are used but not trained, by name. The loop moves them to the device, in eval mode and
            without gradients. Under bfloat16 autocast it also casts them to bfloat16, except those in the saved
            pipeline, which must keep the dtype they were loaded with. Under float16 it casts none: its range is too
            small for modules that were trained without it.
        history: what it remembers of earlier examples, or None
    """

    @dataclass(frozen=True)
    class Options:
        """Its own flags, beside `Recipe`'s: fields made with `training.recipes.flag` and checked in __post_init__."""

        _argument_group_name: ClassVar[str] = "flags of the objective"
        FIXED: ClassVar[tuple[str, ...]] = ()  # those that say what the network means: a run that goes on keeps them

        def check(self, recipe: Recipe) -> None:
            """Raise ValueError, naming a flag, if these flags contradict those of the run. Called before any work."""

    history: History | None = None

    def __init__(self, options: Options, network: nn.Module, frozen: dict[str, nn.Module] | None = None) -> None:
        self.options, self.network, self.frozen = options, network, frozen or {}

    @classmethod
    @abstractmethod
    def build(cls, recipe: Recipe, options: Options, data: ImageData) -> Self:
        """The objective of a run, with a network that is new or from a pipeline.

        Raises:
            ValueError: the data or the pipeline to start from are not suitable.
        """

    @classmethod
    def image_format(cls, recipe: Recipe, options: Options) -> tuple[int | None, int | None]:
        """Channels, and side in pixels unless --resolution says otherwise, to which the data of a run are converted.

        By default those of the pipeline that it starts from; None means as the data are.

        Raises:
            ValueError: the run cannot start from that pipeline.
        """
        start = recipe.pretrained_model_name_or_path
        if start is None:
            return None, None
        if is_latent(start):
            raise ValueError(f"pretrained_model_name_or_path must denoise pixels, {start!r} denoises latents")
        return pretrained_size(start)

    @classmethod
    def prepare_data(cls, recipe: Recipe, options: Options, data: ImageData) -> ImageData:
        """The data as the network sees them; by default the images themselves."""
        return data

    def encode(self, batch: Batch) -> Batch:
        """Prepare a batch for `loss`, for example latents of an autoencoder or embeddings of captions.

        By default it returns the batch unchanged. It is called without gradients and under autocast; the loop then
        casts floating point tensors to the dtype of the weights.
        """
        return batch

    @abstractmethod
    def loss(self, batch: Batch, rng: BatchRandom) -> Tensor:
        """The mean loss of this process's batch. All its randomness comes from `rng`."""

    @abstractmethod
    def pipeline(self, network: nn.Module) -> DiffusionPipeline:
        """The pipeline to save and to draw samples with; `network` is this objective's network or a copy of it."""

    def pipeline_to_save(self, network: nn.Module) -> DiffusionPipeline:
        """`pipeline`, with what must be measured before it is saved; by default nothing. One process alone calls it."""
        return self.pipeline(network)

    def samples(self, pipeline: DiffusionPipeline, seed: int) -> Image.Image:
        """What a run shows of `pipeline` as it goes; by default a grid of samples."""
        return sample_grid(pipeline, seed)

    def diagnostics(self, network: nn.Module) -> tuple[dict[str, float], dict[str, Image.Image]]:
        """Numbers and images to log beside the samples, by name; none by default."""
        return {}, {}
