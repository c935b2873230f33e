"""What the configs of a pipeline's parts say: classes, channels, the size of its images. No weights are needed.

The same questions are asked of open pipelines, whose parts have a `config`, and of folders, whose configs are JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]


def where_to_look(folder: Path) -> str:
    """What to add to "no model_index.json" for the folder of a run in progress: where its newest pipeline is."""
    checkpoints = [*folder.glob("checkpoint-*/pipeline/model_index.json"), *folder.glob("pipeline/model_index.json")]
    if not checkpoints:
        return ""
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime).parent
    return f"; it is of a run that has not ended: open {newest}"


def spatial_factor(config: Config) -> int:
    """By how much a network divides the sides of an image, of an autoencoder the image-to-latent factor, by its config:
    the pixels of a patch, and a half at every level after the first."""
    levels = config.get("block_out_channels") or config.get("encoder_block_out_channels") or (0,)
    return (config.get("patch_size") or 1) * 2 ** (len(levels) - 1)


@dataclass(frozen=True)
class Facts:
    """Facts about a network and, where there are any, its autoencoder and its classifier.

    Attributes:
        network, vae, classifier: their configs; {} and None where there are none
        names: how many class names the pipeline has
        enlarging: the config of a cascade's last network, whose input is x_t with the smaller image beside it
        last_label_is_null: whether the network's last label means "no class", even where no names say so
    """

    network: Config
    vae: Config | None = None
    classifier: Config | None = None
    names: int = 0
    last_label_is_null: bool = False
    enlarging: Config | None = None

    @property
    def num_class_embeds(self) -> int | None:
        """How many labels the network knows, with the one that may stand for "no class"; None without classes."""
        classes = self.network.get("num_embeds_ada_norm")  # of a DiT, which has one more for "no class"
        return classes + 1 if classes is not None else self.network.get("num_class_embeds")

    @property
    def null_label(self) -> int | None:
        """The label that stands for "no class": the last one, where the pipeline says so or it has no name."""
        embeds = self.num_class_embeds
        dit = self.network.get("num_embeds_ada_norm") is not None
        spare = self.last_label_is_null or dit or (self.names > 0 and embeds == self.names + 1)
        return embeds - 1 if embeds is not None and spare else None

    @property
    def num_classes(self) -> int | None:
        """How many classes can be asked for: those of the classifier, where there is one; None without classes."""
        if self.classifier is not None:
            return self.classifier.get("num_classes")
        return self.num_class_embeds if self.null_label is None else self.null_label

    @property
    def learns_variance(self) -> bool:
        """Whether the network gives a variance beside its prediction, as many channels again."""
        channels = self.network.get("in_channels")
        return channels is not None and self.network.get("out_channels") == 2 * channels

    @property
    def sample_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of what the network denoises; None where its config does not say."""
        size = self.network.get("sample_size")
        if size is None:
            return None
        height, width = (size, size) if isinstance(size, int) else size
        return self.network.get("in_channels", 3), height, width

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of an image: an autoencoder, or a cascade's later stages, enlarge what the network denoises."""
        if self.enlarging is not None:
            channels, height, width = Facts(self.enlarging).sample_shape
            return channels // 2, height, width
        if self.vae is None or self.sample_shape is None:
            return self.sample_shape
        _, height, width = self.sample_shape
        factor = spatial_factor(self.vae)
        return self.vae.get("out_channels", 3), height * factor, width * factor
