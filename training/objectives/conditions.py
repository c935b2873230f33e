"""The conditions of a network, its inputs besides x_t and t: a dict of tensors, one row per image, each with a null."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipelines.conditions import Conditions, Nulls, nulls_for
from training.data import ImageData
from training.objectives.augmentation import add_labels, augmented, without_labels
from training.objectives.base import Batch, Objective
from training.randomness import BatchRandom
from training.recipes import check_range, flag


class ClassConditional(Objective):
    """An objective whose network may be given class labels, with one more label for "no class".

    Attributes:
        class_names: by index; None for a network without classes
    """

    @dataclass(frozen=True)
    class Options(Objective.Options):
        """Whether with classes."""

        FIXED: ClassVar[tuple[str, ...]] = ("class_conditional",)

        class_conditional: bool = flag(False, "train on labels, dropped now and then, for classifier-free guidance")
        label_dropout: float = flag(0.1, "share of examples whose label is dropped")
        augment: float = flag(
            0.0,
            "share of examples that are mirrored or moved by a pixel; the network is told by their labels, and none "
            "is ever drawn",
        )

        def __post_init__(self) -> None:
            """Refuse, by name, what cannot work."""
            check_range(self, label_dropout=(0.0, 1.0), augment=(0.0, 1.0))
            if self.augment > 0 and not self.class_conditional:
                raise ValueError(f"augment must be 0 without --class_conditional, got {self.augment:g}")

        def class_names(self, data: ImageData) -> tuple[str, ...] | None:
            """The classes to train on; None without.

            Raises:
                ValueError: `class_conditional` for data without labels.
            """
            if not self.class_conditional:
                return None
            if data.labels is None:
                raise ValueError(
                    f"class_conditional must be False for data without labels, got True{why_unlabelled(data)}"
                )
            return class_names_of(data)

    def __init__(self, options: Options, network: nn.Module, class_names: tuple[str, ...] | None) -> None:
        super().__init__(options, network)
        self.class_names = class_names
        self.nulls = {"class_labels": len(class_names)} if class_names else {}
        if options.augment > 0:
            add_labels(network, len(class_names) + 1)

    @property
    def id2label(self) -> dict[str, str] | None:
        """Class names by index, as pipelines keep them; None without."""
        return {str(i): name for i, name in enumerate(self.class_names)} if self.class_names else None

    def examples(self, batch: Batch, rng: BatchRandom) -> tuple[Tensor, Conditions]:
        """The images x_0 (N, C, H, W), and the conditions, some dropped at random: "class_labels" (N,), or none."""
        images, given = batch["images"], {"class_labels": batch["labels"]} if self.class_names else {}
        conditions = drop(given, self.nulls, self.options.label_dropout, rng)
        if self.options.augment == 0:
            return images, conditions
        images, change = augmented(images, self.options.augment, rng)
        return images, {"class_labels": conditions["class_labels"] + change * (len(self.class_names) + 1)}

    def drawn(self, network: nn.Module) -> nn.Module:
        """`network` as it is saved and drawn from: without the labels of augmented images."""
        return without_labels(network, len(self.class_names) + 1) if self.options.augment > 0 else network


def num_class_embeds(class_names: tuple[str, ...] | None) -> int | None:
    """How many labels a network gets: one per class, and one for "no class"; None without classes."""
    return len(class_names) + 1 if class_names else None


def drop(
    conditions: Conditions, nulls: Nulls, share: float, rng: BatchRandom, stream: str = "label dropout"
) -> Conditions:
    """Replace conditions by their nulls at random, for classifier-free guidance (Ho & Salimans 2022, algorithm 1).

    Args:
        conditions: each (N, ...)
        nulls: the nulls, by the same names; a condition without a null is never dropped
        share: share of images that lose their conditions, all at once, because guidance uses all nulls at once
        rng: chooses the images with the numbers of `stream`; another stream drops other conditions independently
    """
    dropped, without = rng.uniform(stream) < share, nulls_for(conditions, nulls)

    def mixed(value: Tensor, null: Tensor) -> Tensor:
        rows = dropped.to(value.device).view(-1, *[1] * (value.ndim - 1))
        return torch.where(rows, null, value)

    return {name: mixed(value, without[name]) for name, value in conditions.items()}


def class_names_of(data: ImageData) -> tuple[str, ...]:
    """The names of the classes; their numbers if the data have no names."""
    return data.class_names or tuple(str(i) for i in range(int(data.labels.max()) + 1))


def why_unlabelled(data: ImageData) -> str:
    """The end of an error that data have no labels: why, as far as it is known."""
    return f": {data.unlabelled}" if data.unlabelled else ""
