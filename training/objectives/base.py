"""What the loop asks of an objective. No accelerate here, and nothing of diffusion.

An objective is one file, here or anywhere:

    class Mine(Objective):
        @dataclass(frozen=True)
        class Options(Objective.Options):
            strength: float = flag(1.0, "the help text of --strength")

        @classmethod
        def build(cls, recipe, options, data): ...
        def loss(self, batch, rng): ...
        def pipeline(self, network): ...

and is trained by `--objective module:Mine`, or by the name of its file if it lies here with a line `OBJECTIVE = Mine`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from training.data import ImageData
from training.randomness import BatchRandom
from training.recipes import Recipe

# "images" (N, C, H, W) in [-1, 1]; what conditions the data have: "labels" (N,) and "captions", N strings; and
# whatever else `encode` puts there
Batch = dict[str, Tensor | list[str]]


class History(Protocol):
    """What an objective remembers of earlier examples. Checkpoints hold it, and it is the same on every process."""

    def take(self) -> Tensor:
        """The rows (M, ...) that the examples of this process have left since the last call, in their order."""

    def update(self, rows: Tensor) -> None:
        """Remember what `take` gave on all processes, in the order of the examples, after each update's gradients."""

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""


class Objective(ABC):
    """What is learned: a network, and the loss that trains it.

    Attributes:
        options: the values of its flags
        network: the module that is trained. The loop puts it on the device, and calls it under autocast.
        frozen: modules that are used but not trained, by name. The loop puts them on the device, in eval mode, without
            gradients. Under bfloat16 autocast it also casts those that the saved pipeline does not hold to bfloat16:
            what is saved keeps the dtype it was loaded with, and float16 has too small a range for modules that were
            trained without it.
        history: what is remembered of earlier examples, or None
    """

    @dataclass(frozen=True)
    class Options:
        """Its flags, beside those of `Recipe`: fields made with `training.recipes.flag`, checked in __post_init__."""

        _argument_group_name: ClassVar[str] = "flags of the objective"

        def check(self, recipe: Recipe) -> None:
            """Raise ValueError, naming a flag, for what does not go together with the run's; called before any work."""

    history: History | None = None

    def __init__(self, options: Options, network: nn.Module, frozen: dict[str, nn.Module] | None = None) -> None:
        self.options, self.network, self.frozen = options, network, frozen or {}

    @classmethod
    @abstractmethod
    def build(cls, recipe: Recipe, options: Options, data: ImageData) -> Self:
        """The objective of a run, its network new or from a pipeline.

        Raises:
            ValueError: the data, or the pipeline to start from, do not suit it.
        """

    def encode(self, batch: Batch) -> Batch:
        """What `loss` is given of a batch: latents of an autoencoder, embeddings of captions; here the batch as it is.

        Called without gradients and under autocast. The loop then puts floating point tensors in the weights' dtype.
        """
        return batch

    @abstractmethod
    def loss(self, batch: Batch, rng: BatchRandom) -> Tensor:
        """The mean loss of a batch of this process. All that is random in it comes from `rng`."""

    @abstractmethod
    def pipeline(self, network: nn.Module) -> DiffusionPipeline:
        """The pipeline to save and to draw samples with, over `network`, which is this one's or a copy of it."""

    def diagnostics(self, network: nn.Module) -> tuple[dict[str, float], dict[str, Image.Image]]:
        """Numbers and images to log beside the samples, each by name; here none."""
        return {}, {}
