"""The project's own feature network, and the extraction of features with any network.

It is a small residual network (He et al. 2016, https://arxiv.org/abs/1512.03385) that classifies images. It is used for
measuring only: no generator is trained with it or guided by its gradient, so that the metrics stay independent of them.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import relu
from tqdm.auto import tqdm

# Always the same, because the last bits of a convolution depend on the size of its batch.
CHUNK = 200


class ResidualBlock(nn.Module):
    """relu(x + conv(relu(conv(x)))), with a 1x1 convolution of x where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)."""
        y = relu(self.norm1(self.conv1(x)))
        return relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class FeatureClassifier(ModelMixin, ConfigMixin):
    """A classifier of small images, used for measuring only and never to train a generator.

    Args:
        in_channels: channels of the images, 1 or 3
        num_classes: number of classes
        sample_size: height and width of the images it was trained on
        block_out_channels: channels of each stage; every stage after the first halves the height and width
        layers_per_block: residual blocks of each stage
        class_names: names of the classes by index
        dataset_fingerprint: that of the training images (`training.data.ImageData.fingerprint`)
    """

    # the names of the distances in its features
    frechet_name, kernel_name, monge_name = "frechet_distance", "kernel_distance", "monge_distance"
    chunk = CHUNK

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        sample_size: int = 28,
        block_out_channels: tuple[int, ...] = (32, 64, 128),
        layers_per_block: tuple[int, ...] = (1, 2, 1),
        class_names: tuple[str, ...] | None = None,
        dataset_fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        width = block_out_channels[0]
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks = []
        for stage, (channels, layers) in enumerate(zip(block_out_channels, layers_per_block, strict=True)):
            for layer in range(layers):
                blocks.append(ResidualBlock(width, channels, stride=2 if stage > 0 and layer == 0 else 1))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] -> input of the last layer, (N, block_out_channels[-1]), at least 0."""
        return self.blocks(self.stem(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] -> logits (N, num_classes)."""
        return self.head(self.features(x))


def to_input(pixels: np.ndarray) -> Tensor:
    """8-bit images (N, C, H, W) -> float32 in [-1, 1]."""
    return torch.from_numpy(np.array(pixels)).float().div_(127.5).sub_(1)


@torch.inference_mode()
def extract(network: nn.Module, pixels: np.ndarray, name: str = "images") -> tuple[np.ndarray, np.ndarray | None]:
    """Features (N, D) float32 and predicted classes (N,) int64 of 8-bit images (N, C, H, W).

    The classes are None for a network without a `head`. The network runs in float32 and in batches of a fixed size,
    whatever the precision and the batches in which the images were drawn.
    """
    device = next(network.parameters()).device
    network.eval()
    features, classes = [], []
    chunks = range(0, len(pixels), network.chunk)
    for start in tqdm(chunks, desc=f"Features of {name}", disable=None, leave=False):
        x = to_input(pixels[start : start + network.chunk]).to(device, memory_format=torch.channels_last)
        found = network.features(x)
        features.append(found.cpu())
        if hasattr(network, "head"):
            classes.append(network.head(found).argmax(1).cpu())
    return torch.cat(features).numpy(), torch.cat(classes).numpy() if classes else None


def classifier_hash(classifier: nn.Module) -> str:
    """16 hex digits that depend on the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(classifier.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
