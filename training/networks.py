"""The network of a run: built from a config to fit the data, or taken from a pipeline and fitted to the data."""

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

import pipelines
from training.data import ImageData
from training.model_index import FILE, ModelIndex, parse_index
from training.recipes import NETWORK, Recipe

logger = logging.getLogger(__name__)

RUN_BY = {"DiTPipeline": "LatentDiffusionPipeline"}  # stock pipelines that one of ours with another name runs


def load_pipeline(name_or_path: str) -> DiffusionPipeline:
    """A pipeline from a folder or a Hub id, run by the class of this project that has its name: no downloaded code.

    Raises:
        ValueError: the folder is no pipeline, or its class is not one of this project's.
    """
    index = _pretrained_index(name_or_path)
    class_name = index.class_name if index.source else RUN_BY.get(index.class_name, index.class_name)
    known = [name for name in pipelines.__all__ if name.endswith("Pipeline")]
    if class_name not in known:
        raise ValueError(f"pretrained_model_name_or_path must be one of {', '.join(known)}, got a {class_name}")
    return getattr(pipelines, class_name).from_pretrained(name_or_path)


def pretrained_size(name_or_path: str) -> tuple[int, int]:
    """(channels, side in pixels) of the network of a pipeline, from its config alone.

    The config lies in unet/, or at the root, where the first published pipelines have all their files.

    Raises:
        ValueError: no U-Net, or one that denoises the latents of an autoencoder.
    """
    config = _pretrained_json(name_or_path, "unet/config.json", "config.json")
    if "vae" in _pretrained_index(name_or_path).components:
        raise ValueError(f"pretrained_model_name_or_path must denoise pixels, {name_or_path!r} denoises latents")
    size = config["sample_size"]
    return config["in_channels"], size if isinstance(size, int) else min(size)


def _pretrained_index(name_or_path: str) -> ModelIndex:
    return parse_index(_pretrained_json(name_or_path, FILE))


def _pretrained_json(name_or_path: str, *files: str) -> dict[str, Any]:
    """The first of `files` that a folder, or a repository on the Hub, holds.

    Raises:
        ValueError: it is a folder and holds none of them.
    """
    path = Path(name_or_path)
    if not path.exists():
        return json.loads(_first_on_hub(name_or_path, files).read_text())
    for file in files:
        if (path / file).is_file():
            return json.loads((path / file).read_text())
    raise ValueError(f"pretrained_model_name_or_path must hold {files[0]}, {name_or_path!r} does not")


def _first_on_hub(repo_id: str, files: tuple[str, ...]) -> Path:
    for file in files[:-1]:
        try:
            return Path(hf_hub_download(repo_id, file))
        except LocalEntryNotFoundError:  # the Hub cannot be asked: it is missing only where the Hub once said so
            if try_to_load_from_cache(repo_id, file) is not _CACHED_NO_EXIST:
                raise
        except EntryNotFoundError:
            continue
    return Path(hf_hub_download(repo_id, files[-1]))


def build_network(recipe: Recipe, data: ImageData, num_class_embeds: int | None) -> UNet2DModel:
    """A new network over images of the data's size and channels; its weights follow from the seed.

    Raises:
        ValueError: a size that the network cannot halve, or a config that names no known class.
    """
    config = {k: v for k, v in _network_config(recipe).items() if k not in ("_diffusers_version", "_name_or_path")}
    class_name = config.pop("_class_name", "UNet2DModel")
    _, channels, height, width = data.images.shape
    outputs = channels * (2 if recipe.variance_type == "learned_range" else 1)
    config |= {"in_channels": channels, "out_channels": outputs, "num_class_embeds": num_class_embeds}
    config["sample_size"] = height if height == width else [height, width]
    model_class = getattr(pipelines, class_name, None) or getattr(diffusers, class_name, None)
    if model_class is None:
        raise ValueError(
            f"model_config_name_or_path must name a class of diffusers or of pipelines, got {class_name!r}"
        )
    defaults = {k: p.default for k, p in inspect.signature(model_class.__init__).parameters.items()}
    _check_divisible(defaults | config, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return model_class(**config)


def _network_config(recipe: Recipe) -> dict[str, Any]:
    if recipe.model_config_name_or_path is None:
        return dict(NETWORK)
    path = Path(recipe.model_config_name_or_path)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"model_config_name_or_path must be a JSON file or a folder with config.json, got {str(path)!r}"
        )
    return json.loads(path.read_text())


def _check_divisible(config: dict[str, Any], height: int, width: int) -> None:
    factor = config.get("patch_size", 1) * 2 ** (len(config.get("block_out_channels", [0])) - 1)
    if height % factor or width % factor:
        nearest = max(factor, round(min(height, width) / factor) * factor)
        raise ValueError(
            f"--resolution must be a multiple of {factor} for this network (try {nearest}), got {width}x{height}"
        )


def fit_network(pipeline: DiffusionPipeline, data: ImageData, class_names: tuple[str, ...] | None) -> UNet2DModel:
    """The network of `pipeline`, made to fit the classes and the size of the data; every change is logged.

    Channels are kept: the data have been converted to them. A class keeps its embedding where its name is known; a new
    one takes over that of a class that is gone, or starts from "no class" when none is left. Without classes, the
    embedding of "no class" becomes part of the time embedding.
    """
    network, old_names, null = pipeline.unet, pipeline.class_names or [], pipeline.null_label
    _, _, height, width = data.images.shape
    _check_divisible(dict(network.config), height, width)
    size = height if height == width else [height, width]
    if network.config.sample_size != size:
        logger.warning("sample_size changes from %s to %s", network.config.sample_size, size)
        network.register_to_config(sample_size=size)
    if class_names is None:
        return _without_classes(network, null)
    return _with_classes(network, old_names, null, class_names)


def with_variance_channels(network: UNet2DModel) -> UNet2DModel:
    """`network` with 2C output channels, the new ones v = 0: a variance between beta_tilde_t and beta_t.

    A patched network's outputs are shuffled back into pixels, so that each channel holds patch_size^2 of its last
    convolution's.
    """
    channels = network.config.in_channels
    if network.config.out_channels == 2 * channels:
        return network
    old = network.conv_out
    new = torch.nn.Conv2d(old.in_channels, 2 * old.out_channels, old.kernel_size, padding=old.padding)
    for name in ("weight", "bias"):
        values = getattr(old, name).data
        getattr(new, name).data.copy_(torch.cat([values, torch.zeros_like(values)]))
    network.conv_out = new
    network.register_to_config(out_channels=2 * channels)
    logger.warning("output channels: %d before, %d now, the new ones for the variance", channels, 2 * channels)
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
    # new classes that all began alike would take thousands of updates to part: embeddings move by a rate an update
    free = iter([row for name, row in kept.items() if name not in class_names])
    rows = torch.stack([kept[name] if name in kept else next(free, start) for name in class_names] + [start])
    known = sum(name in kept for name in class_names)
    if list(class_names) != old_names or network.class_embedding is None:
        logger.warning(
            "class embeddings: %d before, %d now (%d classes and 'no class'); %d classes known by name keep theirs, "
            "%d take over one that is gone",
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
