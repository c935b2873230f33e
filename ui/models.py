"""The models of the page: what each can do, read from its files alone, and its pipeline, loaded when first needed."""

import ast
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from . import defaults, fastpath
from .fastpath import FastPath
from .samplers import OWN_CLASSES, SCHEDULERS

PIPELINES = Path(__file__).resolve().parent.parent / "pipelines"
BASE = "StepwisePipeline"  # its `stream` takes the arguments of `__call__`, but for these:
OUTPUT_ARGUMENTS = ("output_type", "return_dict", "callback_on_step_end", "callback_on_step_end_tensor_inputs")
RUN_BY = {"DiTPipeline": "LatentDiffusionPipeline"}  # stock pipelines that one of ours with another name runs


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
        shape: (height, width, channels) of its pictures, as far as the configs of network and autoencoder tell
        samplers: what may be chosen; empty where the pipeline has no scheduler to swap
        max_steps: length of the noise schedule
        steered: whether a classifier guides it, so that a guidance scale of 0 is off
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
    steered: bool

    @property
    def samples(self) -> Path | None:
        """The picture that the folder brings along, if any."""
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
    index = _read_json(folder / "model_index.json")
    declared = index.get("_class_name")
    carries_code = isinstance(declared, list)
    pipeline = declared[1] if carries_code else RUN_BY.get(str(declared), str(declared))
    arguments = _stream_arguments(folder / f"{declared[0]}.py" if carries_code else None, pipeline)
    if arguments is None:
        raise ValueError(f"model {source}: its pipeline {pipeline} has no method 'stream', which the page draws with")
    config = _network_config(folder)
    steered = any(index.get("classifier") or [])  # [null, null] where there is none
    names, labels = _classes(_class_count(folder, config, "vae" in index, arguments), index)
    return ModelInfo(
        name,
        str(source),
        folder,
        pipeline,
        carries_code,
        arguments,
        names,
        labels,
        _shape(config, folder / "vae" / "config.json"),
        _samplers(index, pipeline, arguments),
        _max_steps(_part(folder, "scheduler", "scheduler_config.json")),
        steered,
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"model must hold a readable {path.name}: {path.parent} does not") from error


def _part(folder: Path, name: str, file: str) -> Path:
    """A component's file: in its folder, or at the root, where the first published pipelines have all of theirs."""
    return folder / name / file if (folder / name).is_dir() else folder / file


def _network_config(folder: Path) -> dict[str, Any]:
    """The config of the transformer or of the U-Net; {} where there is none."""
    path = _part(folder, "transformer" if (folder / "transformer").is_dir() else "unet", "config.json")
    return _read_json(path) if path.is_file() else {}


def _class_count(folder: Path, config: dict[str, Any], latent: bool, arguments: frozenset[str]) -> int:
    """How many classes can be asked for, as far as the configs of classifier and network tell."""
    if "class_labels" not in arguments:
        return 0
    classifier = folder / "classifier" / "config.json"
    if classifier.is_file():
        return int(_read_json(classifier).get("num_classes") or 0)
    if config.get("num_embeds_ada_norm"):
        return int(config["num_embeds_ada_norm"])  # of a DiT, which has one more for "no class"
    embeds = int(config.get("num_class_embeds") or 0)
    free = latent or "guidance_interval" in arguments  # classifier-free guidance keeps the last label for "no class"
    return embeds - (free and embeds > 0)


def _classes(count: int, index: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str | int, ...]]:
    """Names on the page, and what `class_labels` takes for each."""
    named = index.get("id2label") or {}
    names = tuple(str(named[key]) for key in sorted(named, key=int))
    if count and names:
        known = Counter(name.lower() for name in names)  # ImageNet has two cranes: there the index tells them apart
        return names, tuple(name if known[name.lower()] == 1 else i for i, name in enumerate(names))
    return tuple(map(str, range(count))), tuple(range(count))


def _shape(config: dict[str, Any], vae: Path) -> tuple[int, int, int]:
    size, channels, factor = config.get("sample_size") or 28, config.get("in_channels", 1), 1
    if vae.is_file():
        autoencoder = _read_json(vae)
        channels, factor = autoencoder.get("out_channels", 3), 2 ** (len(autoencoder["block_out_channels"]) - 1)
    height, width = (size, size) if isinstance(size, int) else size
    return height * factor, width * factor, 3 if channels >= 3 else 1


def _max_steps(config: Path) -> int:
    trained = _read_json(config).get("num_train_timesteps") if config.is_file() else None
    return min(trained or defaults.MAX_STEPS, defaults.MAX_STEPS)


def _samplers(index: dict[str, Any], pipeline: str, arguments: frozenset[str]) -> tuple[str, ...]:
    if "scheduler" not in index:
        return ()
    own = pipeline in OWN_CLASSES.values() or "eta" in arguments
    return tuple(name for name in SCHEDULERS if own or name not in OWN_CLASSES)


def _stream_arguments(source: Path | None, pipeline: str) -> frozenset[str] | None:
    """Arguments of `stream` of class `pipeline`, read from its source; None where there is no such method."""
    if source is not None:
        return _signatures(source).get(pipeline)
    known = [_signatures(path).get(pipeline) for path in sorted(PIPELINES.glob("*.py"))]
    return next((arguments for arguments in known if arguments is not None), None)


@cache
def _signatures(source: Path) -> dict[str, frozenset[str]]:
    """By class, the arguments of its `stream`: its own, or those of `__call__` where it inherits the method."""
    classes = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)]
    found = {}
    for node in classes:
        methods = {method.name: method for method in node.body if isinstance(method, ast.FunctionDef)}
        inherits = any(isinstance(base, ast.Name) and base.id == BASE for base in node.bases)
        method = methods.get("stream") or (methods.get("__call__") if inherits else None)
        if method is not None:
            arguments = method.args.posonlyargs + method.args.args + method.args.kwonlyargs
            found[node.name] = frozenset(argument.arg for argument in arguments) - {"self", *OUTPUT_ARGUMENTS}
    return found
