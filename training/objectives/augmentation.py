"""Augmentation that the network is told of (Jun et al. 2020, http://proceedings.mlr.press/v119/jun20a.html).

A share of the images is mirrored or moved by one pixel, and gets a label of its own for its class and what was done to
it. Drawn from are the labels of unchanged images alone, so that no mirrored image is ever drawn. EDM tells its network
the same by further inputs (Karras et al. 2022, https://arxiv.org/abs/2206.00364, appendix F.2).
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from training.randomness import BatchRandom, seeded

# what can be done to an image: mirrored, or moved left, right, up or down by (x, y); 0 is the image as it is
MOVES = {2: (-1, 0), 3: (1, 0), 4: (0, -1), 5: (0, 1)}
CHANGES = 2 + len(MOVES)


def augmented(images: Tensor, share: float, rng: BatchRandom) -> tuple[Tensor, Tensor]:
    """`images` (N, C, H, W), a `share` of them changed, and what was done to each, int64 (N,) in [0, CHANGES)."""
    chosen, which = rng.uniform("augment"), rng.uniform("change")
    change = torch.where(chosen < share, 1 + (which * (CHANGES - 1)).long(), 0).to(images.device)
    mirrored = images.flip(3)
    result = torch.where((change == 1)[:, None, None, None], mirrored, images)
    for kind, (x, y) in MOVES.items():
        result = torch.where((change == kind)[:, None, None, None], _moved(images, x, y), result)
    return result, change


def _moved(images: Tensor, x: int, y: int) -> Tensor:
    """`images` moved by (x, y) pixels; the edge is repeated behind them."""
    height, width = images.shape[2:]
    return pad(images, (1, 1, 1, 1), mode="replicate")[:, :, 1 - y : 1 - y + height, 1 - x : 1 - x + width]


def add_labels(network: nn.Module, count: int) -> None:
    """Give `network` `count` labels more for each change: label l of change c is l + c count.

    They start as the labels of the unchanged images, moved in one random direction for each change.
    """
    plain = network.class_embedding.weight.data
    generator = seeded("labels of augmented images")
    directions = torch.randn(CHANGES - 1, 1, plain.shape[1], generator=generator).to(plain)
    _set_labels(network, torch.cat([plain, *(plain + directions)]))


def without_labels(network: nn.Module, count: int) -> nn.Module:
    """`network` with its first `count` labels alone; the rest of it is shared, not copied."""
    plain = copy.copy(network)
    plain._modules = dict(network._modules)
    _set_labels(plain, network.class_embedding.weight.data[:count].clone())
    return plain


def _set_labels(network: nn.Module, rows: Tensor) -> None:
    network.class_embedding = nn.Embedding.from_pretrained(rows, freeze=False)
    network.register_to_config(num_class_embeds=len(rows))
