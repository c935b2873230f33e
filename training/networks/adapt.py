"""Makes a trained network fit the classes and the size of other data; every change is logged."""

import logging

import torch
from diffusers import DiffusionPipeline, UNet2DModel

from pipelines.text import takes_embedding, takes_tokens
from training.data import ImageData
from training.networks.build import check_divisible

logger = logging.getLogger(__name__)


def fit_network(
    pipeline: DiffusionPipeline, data: ImageData, class_names: tuple[str, ...] | None, text_width: int | None = None
) -> UNet2DModel:
    """The network of `pipeline`, made to fit the classes and the size of the data; every change is logged.

    The channels stay: the data have been converted to them. A class whose name the network knows keeps its embedding. A
    new class takes over the embedding of a class that the data lack, or starts from "no class" if none is left. Without
    classes, the embedding of "no class" is added to the time embedding. With `text_width`, that of the embeddings of
    captions, it stays as it is.

    Raises:
        ValueError: a size that it cannot halve, or captions for a network that is told none.
    """
    network, old_names, null = pipeline.unet, pipeline.class_names or [], pipeline.null_label
    _, _, height, width = data.images.shape
    check_divisible(dict(network.config), height, width, data.unit)
    size = height if height == width else [height, width]
    if network.config.sample_size != size:
        logger.warning("sample_size changes from %s to %s", network.config.sample_size, size)
        network.register_to_config(sample_size=size)
    if text_width is not None:
        if not (takes_tokens(network.config) or takes_embedding(network.config)):
            raise ValueError("pretrained_model_name_or_path must be told prompts for a text_encoder, it is told none")
        return network
    if class_names is None:
        return _without_classes(network, null)
    return _with_classes(network, old_names, null, class_names)


def tell_of_other_parts(pipeline: DiffusionPipeline, **parts: torch.nn.Module | None) -> None:
    """Warn where a frozen part of the run, by its flag, is not the one beside which the network was trained."""
    for flag, part in parts.items():
        before = getattr(pipeline, flag, None)
        if part is not None and before is not None and not _same_weights(part, before):
            logger.warning(
                "%s is not that of the pipeline that is fine-tuned: its network has to learn what this one says; "
                "`--%s` with that pipeline's name keeps its own",
                flag,
                flag,
            )


def _same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two modules have the same weights, as float16 keeps them."""
    weights, others = one.state_dict(), other.state_dict()
    if weights.keys() != others.keys():
        return False
    pairs = ((value.half(), others[name].half()) for name, value in weights.items())
    return all(value.shape == same.shape and torch.equal(value, same) for value, same in pairs)


def with_variance_channels(network: UNet2DModel) -> UNet2DModel:
    """`network` with 2C output channels. The new ones give v = 0, a variance between beta_tilde_t and beta_t.

    In a patched network each output channel is patch_size^2 channels of the last convolution, which doubles as well.

    Raises:
        ValueError: a network that hands the small image to its output.
    """
    channels = network.config.in_channels
    if network.config.out_channels == 2 * channels:
        return network
    if getattr(network.config, "low_resolution_skip", False):
        raise ValueError("variance_type must be one without channels of its own for a network with low_resolution_skip")
    old = network.conv_out
    new = torch.nn.Conv2d(old.in_channels, 2 * old.out_channels, old.kernel_size, padding=old.padding)
    for name in ("weight", "bias"):
        values = getattr(old, name).data
        getattr(new, name).data.copy_(torch.cat([values, torch.zeros_like(values)]))
    network.conv_out = new
    network.register_to_config(out_channels=2 * channels)
    logger.warning("output channels: %d before, %d now; the new ones are for the variance", channels, 2 * channels)
    return network


def _without_classes(network: UNet2DModel, null: int | None) -> UNet2DModel:
    if network.class_embedding is None:
        return network
    rows = network.class_embedding.weight.data
    logger.warning("%d class embeddings become one: the network is unconditional now", len(rows))
    network.time_embedding.linear_2.bias.data += rows.mean(0) if null is None else rows[null]
    network.class_embedding = None
    network.register_to_config(num_class_embeds=None)
    return network


def _with_classes(
    network: UNet2DModel, old_names: list[str], null: int | None, class_names: tuple[str, ...]
) -> UNet2DModel:
    count = len(class_names) + 1
    width = network.time_embedding.linear_2.out_features
    old = network.class_embedding.weight.data if network.class_embedding is not None else torch.zeros(1, width)
    start = old.mean(0) if null is None and len(old) > 1 else old[-1 if null is None else null]
    kept = {name: old[i] for i, name in enumerate(old_names)}
    # equal embeddings of new classes would need thousands of updates to differ: one update changes them little
    free = iter([row for name, row in kept.items() if name not in class_names])
    rows = torch.stack([kept[name] if name in kept else next(free, start) for name in class_names] + [start])
    known = sum(name in kept for name in class_names)
    if list(class_names) != old_names or network.class_embedding is None:
        logger.warning(
            "class embeddings: %d before, %d now (%d classes and 'no class'); %d classes known by name keep theirs, "
            "%d take over that of a class that is gone",
            len(old) if network.class_embedding is not None else 0,
            count,
            len(class_names),
            known,
            min(len(class_names), len(kept)) - known,
        )
    network.class_embedding = torch.nn.Embedding(count, width)
    network.class_embedding.weight.data.copy_(rows)
    network.register_to_config(num_class_embeds=count)
    return network
