"""Renames the weights of a published network to diffusers' names, and uses every one of them.

Attention keeps q, k and v in one matrix of 3C rows, in one of two orders: the legacy one is (head, 3, channels per
head), the new one (3, head, channels per head). The file says neither the order nor the number of heads: both come
from the flags.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.conversion.architecture import Architecture

Shapes = dict[str, tuple[int, ...]]
Sources = dict[str, tuple[str, str, int]]  # our module -> (published module, "q", "k", "v" or "", channels per head)

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def shapes_of(state: dict[str, Tensor]) -> Shapes:
    """The shape of each tensor."""
    return {name: tuple(value.shape) for name, value in state.items()}


def fill(model: nn.Module, state: dict[str, Tensor], architecture: Architecture) -> None:
    """Give `model`, on the meta device, the weights of `state` in float32: a tensor is copied only where it is cut up.

    The keys and shapes have been checked (see flag_checks.py).
    """
    found = sources(model, architecture)
    ours = {}
    for name, parameter in model.named_parameters():
        module, _, kind = name.rpartition(".")
        published, part, head = found[module]
        value = state[f"{published}.{kind}"]
        if part:
            value = _rows(value, "qkv".index(part), head, architecture.new_order)
        ours[name] = value.reshape(parameter.shape).float()
    model.load_state_dict(ours, strict=True, assign=True)


def _rows(value: Tensor, index: int, head: int, new_order: bool) -> Tensor:
    """The rows of q, k or v (`index` 0, 1 or 2): (3C, ...) -> (C, ...)."""
    if new_order:
        return value.unflatten(0, (3, -1))[index].clone()
    return value.unflatten(0, (-1, 3, head))[:, index].flatten(0, 1)


def expected_shapes(model: nn.Module, architecture: Architecture) -> Shapes:
    """The keys and shapes of `model`'s weights in the published file."""
    found, shapes = sources(model, architecture), {}
    for name, parameter in model.named_parameters():
        module, _, kind = name.rpartition(".")
        published, part, _ = found[module]
        shape = tuple(parameter.shape)
        if part:
            shape = (3 * shape[0], *shape[1:])
        if kind == "weight" and (part or published.endswith("proj_out")):
            shape = (*shape, 1)  # a 1D convolution over positions
        shapes[f"{published}.{kind}"] = shape
    return shapes


def sources(model: nn.Module, architecture: Architecture) -> Sources:
    """The published module whose weights each module of `model` takes."""
    whole = {ours: (theirs, "", 0) for ours, theirs in ENDS.items()}
    for name, _ in model.named_parameters():
        if name.startswith("out."):  # of a classifier, where both have the same names
            module = name.rpartition(".")[0]
            whole[module] = (module, "", 0)
    for ours, theirs, head in _places(architecture):
        whole |= {f"{ours}.{leaf}": (f"{theirs}.{name}", "", 0) for leaf, name in RESNET.items()}
        whole |= {f"{ours}.to_{part}": (f"{theirs}.qkv", part, head) for part in "qkv"}
        whole |= {f"{ours}.group_norm": (f"{theirs}.norm", "", 0), f"{ours}.to_out.0": (f"{theirs}.proj_out", "", 0)}
        whole[f"{ours}.conv"] = (f"{theirs}.{'op' if theirs.startswith('input') else 'conv'}", "", 0)
    return whole


def _places(architecture: Architecture) -> list[tuple[str, str, int]]:
    """(our block, the published block, channels per head in it), for every kind of block."""
    levels, layers = len(architecture.widths), architecture.layers
    found = [("mid_block.resnets.0", "middle_block.0", 0), ("mid_block.resnets.1", "middle_block.2", 0)]
    found.append(("mid_block.attentions.0", "middle_block.1", architecture.heads[-1]))
    number = 1
    for level in range(levels):
        block, head = f"down_blocks.{level}", architecture.heads[level]
        for layer in range(layers):
            found.append((f"{block}.resnets.{layer}", f"input_blocks.{number}.0", 0))
            found.append((f"{block}.attentions.{layer}", f"input_blocks.{number}.1", head))
            number += 1
        found.append((f"{block}.downsamplers.0", f"input_blocks.{number}.0", 0))
        number += level < levels - 1
    number = 0
    for up, level in enumerate(reversed(range(levels))):
        block, head = f"up_blocks.{up}", architecture.up_heads[level]
        for layer in range(layers + 1):
            found.append((f"{block}.resnets.{layer}", f"output_blocks.{number}.0", 0))
            found.append((f"{block}.attentions.{layer}", f"output_blocks.{number}.1", head))
            number += 1
        last = 2 if architecture.attends[level] else 1
        found.append((f"{block}.upsamplers.0", f"output_blocks.{number - 1}.{last}", 0))
    return found
