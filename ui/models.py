"""The models of the page: what each can do, read from its files alone, and its pipeline, loaded when first needed."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from pipelines.about import facts_of_folder, of_folder, read_json
from pipelines.facts import Facts

from . import defaults, fastpath
from .fastpath import FastPath
from .samplers import SCHEDULERS


@dataclass(frozen=True)
class ModelInfo:
    """A model by its files.

    Attributes:
        name, source: its name on the page, and the folder or Hub id as it was given
        folder: where the files lie
        pipeline: class name
        carries_code: whether the folder brings the source of that class
        accepts: arguments of a run, those of the pipeline's `__call__` but for the output's
        class_names: by index; empty for an unconditional model
        labels: what `class_labels` takes for each of them: the name, or the index where the model has no names
        shape: (height, width, channels) of its images, as far as the configs of network and autoencoder tell
        samplers: what may be chosen; empty where the pipeline has no scheduler to swap
        max_steps: length of the noise schedule
        page: settings of the page by name, {"value": ..., "info": ...}, where the pipeline's differ
        swaps: samplers that another class of ours runs, with its name
    """

    name: str
    source: str
    folder: Path
    pipeline: str
    carries_code: bool
    accepts: frozenset[str]
    class_names: tuple[str, ...]
    labels: tuple[str | int, ...]
    shape: tuple[int, int, int]
    samplers: tuple[str, ...]
    max_steps: int
    page: dict[str, dict[str, Any]]
    swaps: dict[str, str]

    @property
    def samples(self) -> Path | None:
        """The image that the folder brings along, if any."""
        path = self.folder / "samples.png"
        return path if path.is_file() else None


_LOADING = threading.Lock()  # diffusers patches torch.nn.Module while it loads: two loads at once leave it patched


class Catalogue:
    """Models by name. Loading happens once a model, whichever thread asks first, and one model at a time.

    Raises:
        ValueError: no model at all, or a folder that holds none, by name.
    """

    def __init__(self, models: Mapping[str, str | Path]) -> None:
        if not models:
            raise ValueError("models must name at least one folder that holds a model_index.json, got none")
        self.infos = {name: describe(name, source) for name, source in models.items()}
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> ModelInfo:
        return self.infos[name]

    @property
    def names(self) -> list[str]:
        """In the order given; the first is the one that the page opens with."""
        return list(self.infos)

    def is_loaded(self, name: str) -> bool:
        """Whether `pipeline` answers at once."""
        return name in self._loaded

    def pipeline(self, name: str) -> Any:
        """The pipeline, on the fast path. Shared: draw with a copy, `samplers.with_sampler`."""
        if name not in self._loaded:
            with _LOADING:
                if name not in self._loaded:
                    self._loaded[name] = load(self.infos[name], fastpath.detect())
        return self._loaded[name]

    def warm(self, name: str | None = None) -> threading.Thread:
        """Load a model, the first unless named, in the background."""
        thread = threading.Thread(target=self.pipeline, args=(name or self.names[0],), daemon=True)
        thread.start()
        return thread


def describe(name: str, source: str | Path) -> ModelInfo:
    """Read a folder or Hub id. No code of the model runs, and no library that computes is imported.

    Raises:
        ValueError: nothing there, no model_index.json, or a pipeline whose steps cannot be watched.
    """
    folder = _fetch(str(source))
    index = read_json(folder / "model_index.json")
    declared = index.get("_class_name")
    about = of_folder(folder, declared)
    if about is None:
        name = declared if isinstance(declared, str) else declared[1]
        raise ValueError(f"model {source}: its pipeline {name} has no method 'stream', which the page draws with")
    facts, takes_labels = facts_of_folder(folder, index), "class_labels" in about.arguments
    names, labels = _classes(facts.num_classes or 0 if takes_labels else 0, index)
    swaps = about.says.get("samplers", {})
    return ModelInfo(
        name,
        str(source),
        folder,
        about.name,
        isinstance(declared, list),
        about.arguments,
        names,
        labels,
        _shape(facts),
        _samplers(index, swaps, about.arguments),
        _max_steps(_part(folder, "scheduler", "scheduler_config.json")),
        about.says.get("page", {}),
        swaps,
    )


def load(info: ModelInfo, path: FastPath) -> Any:
    """The pipeline of a model on a fast path, running the code that its folder carries, if it does."""
    import diffusers
    import torch

    import pipelines

    options = {"use_safetensors": True, "dtype": getattr(torch, path.dtype)}
    if info.carries_code:
        pipe = diffusers.DiffusionPipeline.from_pretrained(info.folder, trust_remote_code=True, **options)
    else:
        pipe = getattr(pipelines, info.pipeline).from_pretrained(info.folder, **options)
    return path.place(pipe)


def _fetch(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(
            snapshot_download(source, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.py", "samples.png"])
        )
    except Exception as error:  # the Hub client raises a dozen kinds; each means that there is no such model
        raise ValueError(
            f"model must be a folder with a model_index.json or a Hub id, got {source!r}: {error}"
        ) from error


def _part(folder: Path, name: str, file: str) -> Path:
    """A component's file: in its folder, or at the root, where the first published pipelines have all of theirs."""
    return folder / name / file if (folder / name).is_dir() else folder / file


def _classes(count: int, index: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str | int, ...]]:
    """Names on the page, and what `class_labels` takes for each."""
    named = index.get("id2label") or {}
    names = tuple(str(named[key]) for key in sorted(named, key=int))
    if count and names:
        known = Counter(name.lower() for name in names)  # ImageNet has two cranes: there the index tells them apart
        return names, tuple(name if known[name.lower()] == 1 else i for i, name in enumerate(names))
    return tuple(map(str, range(count))), tuple(range(count))


def _shape(facts: Facts) -> tuple[int, int, int]:
    """(height, width, channels) to show: 28 x 28 grey where the configs do not say."""
    channels, height, width = facts.image_shape or (1, 28, 28)
    return height, width, 3 if channels >= 3 else 1


def _max_steps(config: Path) -> int:
    trained = read_json(config).get("num_train_timesteps") if config.is_file() else None
    return min(trained or defaults.MAX_STEPS, defaults.MAX_STEPS)


def _samplers(index: dict[str, Any], swaps: dict[str, str], arguments: frozenset[str]) -> tuple[str, ...]:
    """DDIM and DDPM are our own steps: a pipeline runs them itself, or another class of ours does."""
    if "scheduler" not in index:
        return ()
    own = "eta" in arguments or bool(swaps)
    return tuple(name for name in SCHEDULERS if own or name not in ("DDIM", "DDPM"))
