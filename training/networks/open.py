"""Opens a pipeline by folder or Hub id, or reads its JSON files without its weights."""

import json
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

import pipelines
from pipelines.about import of_class, pipeline_names
from pipelines.facts import spatial_factor, where_to_look
from training.model_index import FILE, ModelIndex, parse_index


def load_pipeline(name_or_path: str) -> DiffusionPipeline:
    """Load a pipeline from a folder or a Hub id with this project's class of the same name: no downloaded code runs.

    Raises:
        ValueError: the folder holds no pipeline, or its class is not one of this project.
    """
    class_name = _pretrained_index(name_or_path).class_name
    about = of_class(class_name)
    if about is None:
        raise ValueError(
            f"pretrained_model_name_or_path must be one of {', '.join(pipeline_names())}, got a {class_name}"
        )
    return getattr(pipelines, about.name).from_pretrained(name_or_path)


def pretrained_size(name_or_path: str) -> tuple[int, int]:
    """(channels, side in pixels) of a pipeline's images, from its configs alone.

    The network's config is in unet/, or at the root, where the first published pipelines have all their files.

    Raises:
        ValueError: no U-Net, or only one that enlarges images.
    """
    parts = _pretrained_index(name_or_path).components
    if "unet_2" in parts and "unet" not in parts:
        raise ValueError(f"low_resolution must be given to fine-tune {name_or_path!r}, which only enlarges images")
    config = _pretrained_json(name_or_path, "unet/config.json", "config.json")
    size, channels, factor = config["sample_size"], config["in_channels"], 1
    if is_latent(name_or_path):
        vae = _pretrained_json(name_or_path, "vae/config.json")
        channels, factor = vae.get("in_channels", 3), spatial_factor(vae)
    return channels, factor * (size if isinstance(size, int) else min(size))


def is_latent(name_or_path: str) -> bool:
    """Whether a pipeline denoises the latents of an autoencoder."""
    return "vae" in _pretrained_index(name_or_path).components


def is_told_prompts(name_or_path: str) -> bool:
    """Whether a pipeline has a text encoder."""
    return "text_encoder" in _pretrained_index(name_or_path).components


def _pretrained_index(name_or_path: str) -> ModelIndex:
    return parse_index(_pretrained_json(name_or_path, FILE))


def _pretrained_json(name_or_path: str, *files: str) -> dict[str, Any]:
    return pretrained_json(name_or_path, *files)[1]


def pretrained_json(
    name_or_path: str, *files: str, flag: str = "pretrained_model_name_or_path"
) -> tuple[str, dict[str, Any]]:
    """The first of `files` that exists in a folder or a repository on the Hub, and its content.

    Raises:
        ValueError: the folder holds none of them; it names the `flag`.
    """
    path = Path(name_or_path)
    if not path.exists():
        try:
            file, found = _first_on_hub(name_or_path, files)
        except (LocalEntryNotFoundError, RepositoryNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{flag} must be a folder or a Hub id, got {name_or_path!r}: {reason}") from error
        return file, json.loads(found.read_text())
    for file in files:
        if (path / file).is_file():
            return file, json.loads((path / file).read_text())
    raise ValueError(f"{flag} must hold {files[0]}, {name_or_path!r} does not{where_to_look(path)}")


def _first_on_hub(repo_id: str, files: tuple[str, ...]) -> tuple[str, Path]:
    for file in files[:-1]:
        try:
            return file, Path(hf_hub_download(repo_id, file))
        except (
            LocalEntryNotFoundError
        ):  # offline: the file counts as missing only if the cache remembers that the Hub lacks it
            if try_to_load_from_cache(repo_id, file) is not _CACHED_NO_EXIST:
                raise
        except EntryNotFoundError:
            continue
    return files[-1], Path(hf_hub_download(repo_id, files[-1]))
