"""The models of the page: what each can do, read from its files alone, and its pipeline, loaded when first needed."""

import re
import threading
import unicodedata
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from pipelines.about import About, facts_of_folder, of_class, of_folder, read_json
from pipelines.facts import Facts, where_to_look

from . import device, zero_gpu
from .adapters import NONE, Adapter, adapters_of, carries_loader
from .loading import in_a_line, load
from .prompts import limits_of, suggested
from .samplers import FLOW_SCHEDULERS, SCHEDULERS
from .stages import enlarged_size, stage_limits

ANY_CLASS = "any"  # a random class per image
LARGE = 64  # a side in pixels above which a page of images is four of them


@dataclass(frozen=True)
class ModelInfo:
    """What the files of a model say about it.

    Attributes:
        name, source: its name on the page, and the folder or Hub id as it was given
        folder: where the files are
        pipeline: class name
        carries_code: whether the folder contains the source of that class
        accepts: arguments of a run: those of the pipeline's `__call__`, except the ones that concern the output
        class_names: by index; empty for an unconditional model
        labels: what `class_labels` takes for each of them: the name, or the index where the model has no names
        shape: (height, width, channels) of its images, as far as the configs of network and autoencoder tell
        flow: whether the samplers are those of flows
        samplers: the schedulers to choose from, by the page's names; empty where the pipeline has none to replace
        num_train_timesteps: length of the noise schedule
        swaps: samplers that another class of ours runs, with its name
        page: what the pipeline's class says about settings of the page, by name
        styles, examples: what it suggests to write in a prompt
        adapters: those that it may be drawn with, by name
        limits: what follows for the settings of the page from the files
        enlarges: of a model that draws small images first, their (height, width): it takes one in their place
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
    flow: bool
    samplers: tuple[str, ...]
    num_train_timesteps: int
    swaps: dict[str, str]
    page: dict[str, dict[str, Any]]
    styles: tuple[str, ...]
    examples: tuple[str, ...]
    adapters: dict[str, Adapter]
    limits: dict[str, dict[str, Any]]
    enlarges: tuple[int, int] | None = None

    @property
    def takes_mask(self) -> bool:
        """Whether it can draw a part of a given image anew."""
        return "mask" in self.own("start").get("choices", ("mask",))

    def start_shape(self, masked: bool) -> tuple[int, int, int]:
        """(height, width, channels) of an image that a run begins with: of one to enlarge, that of the first stage."""
        return self.shape if masked or self.enlarges is None else (*self.enlarges, self.shape[2])

    def own(self, name: str) -> dict[str, Any]:
        """What the model says about a setting of the page: some of value, info, choices, range and visible."""
        return self.limits.get(name, {}) | self.page.get(name, {})

    def arguments_with(self, sampler: str) -> frozenset[str]:
        """What a run with this sampler accepts: another class may run it."""
        other = of_class(self.swaps[sampler]) if sampler in self.swaps else None
        return other.arguments if other else self.accepts

    @property
    def samples(self) -> Path | None:
        """The image of samples in the folder, if there is one."""
        path = self.folder / "samples.png"
        return path if path.is_file() else None


_LOADING = threading.Lock()  # diffusers patches torch.nn.Module while it loads: two loads at once leave it patched


class Catalogue:
    """Models by name. Each is loaded once, whichever thread asks first, and only one at a time.

    It is pickled as its number: a forked process has the same one, with what it has loaded. A model that cannot be read
    is left out, and does not keep the others from being drawn with.

    Attributes:
        infos: what each model can do, by name
        left_out: why a model is left out, by name

    Raises:
        ValueError: no model at all, or none that can be read, or an adapter of none of them, by name.
    """

    _all: weakref.WeakValueDictionary[int, "Catalogue"] = weakref.WeakValueDictionary()

    def __init__(self, models: Mapping[str, str | Path], adapters: Sequence[str] = ()) -> None:
        if not models:
            raise ValueError("models must name at least one folder that holds a model_index.json, got none")
        infos, self.left_out = _described(models, tuple(adapters))
        if not infos:
            raise ValueError("; ".join(self.left_out.values()))
        _check_used(adapters, infos)
        for name, problem in self.left_out.items():
            print(f"{name} is left out: {problem}")
        names = tuple(info.name for info in infos)
        self.infos = {info.name: _among(info, names) for info in infos}
        self._loaded: dict[str, Any] = {}
        self._all[id(self)] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return _catalogue, (id(self),)

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
        """The pipeline, placed where it is fastest. Visitors share it: draw with a copy, `samplers.with_sampler`.

        Raises:
            ValueError: it cannot be loaded, or weights are missing, NaN or infinite, by model.
        """
        if name not in self._loaded:
            with _LOADING:
                if name not in self._loaded:
                    self._loaded[name] = load(self.infos[name], device.detect())
        return self._loaded[name]

    def warm(self, name: str | None = None) -> threading.Thread:
        """Load a model, the first unless named, in the background; one that cannot be loaded is said in the log, and
        where a GPU is lent, drawing loads it."""
        thread = threading.Thread(target=self._try, args=(name or self.names[0],), daemon=True)
        thread.start()
        return thread

    def _try(self, name: str) -> None:
        try:
            if not zero_gpu.lent():
                self.pipeline(name)
        except ValueError as error:
            print(error)


def _described(models: Mapping[str, str | Path], adapters: tuple[str, ...]) -> tuple[list[ModelInfo], dict[str, str]]:
    """The models that can be read, and why the others cannot, by name."""
    infos, problems = [], {}
    for name, source in models.items():
        name = writable(name)
        try:
            infos.append(describe(name, source, adapters))
        except Exception as error:  # its files may say anything
            problem = in_a_line(error)
            problems[name] = problem if problem.startswith("model") else f"model {source} cannot be read: {problem}"
    return infos, problems


def _check_used(adapters: Sequence[str], infos: list[ModelInfo]) -> None:
    """Raise ValueError for an adapter that was asked for and is of none of the models that can take one."""
    used = {adapter.source for info in infos for adapter in info.adapters.values()}
    unused = next((source for source in adapters if source not in used), None)
    if unused is not None:
        names = ", ".join(info.name for info in infos)
        raise ValueError(f"adapter must be of a model of the page ({names}), got {unused!r}, which is not")


def _catalogue(number: int) -> Catalogue:
    """The catalogue with this number, in the process that pickled it or in one that was forked from it."""
    return Catalogue._all[number]


def describe(name: str, source: str | Path, adapters: tuple[str, ...] = ()) -> ModelInfo:
    """Read a folder or Hub id. No code of the model runs, and no library that computes is imported.

    `adapters`: folders or Hub ids, of which those of this model are offered beside those that lie beside it.

    Raises:
        ValueError: nothing there, no model_index.json, or a pipeline whose steps cannot be watched.
    """
    folder = _fetch(str(source))
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"model must hold a readable model_index.json: {folder} does not{where_to_look(folder)}")
    index = read_json(folder / "model_index.json")
    declared = index.get("_class_name")
    about = of_folder(folder, declared)
    if about is None or not about.has_steps:
        name = declared if isinstance(declared, str) else declared[1]
        raise ValueError(f"model {source}: its pipeline {name} has no method 'stream', which the page draws with")
    facts, swaps = facts_of_folder(folder, index), about.says.get("samplers", {})
    told = limits_of(index)
    names, labels = _classes((facts.num_classes or 0) if "class_labels" in about.arguments else 0, index)
    flow, carries_code = bool(index.get("path")), isinstance(declared, list)
    adapted = adapters_of(folder, str(source), adapters) if carries_loader(folder, carries_code) else {}
    samplers, num_train_timesteps = _samplers(index, swaps, about.arguments), _num_train_timesteps(folder)
    return ModelInfo(
        name=name,
        source=str(source),
        folder=folder,
        pipeline=about.name,
        carries_code=carries_code,
        accepts=about.arguments,
        class_names=names,
        labels=labels,
        shape=_shape(facts),
        flow=flow,
        samplers=samplers,
        num_train_timesteps=num_train_timesteps,
        swaps=swaps,
        page=about.says.get("page", {}),
        styles=suggested(index, "prompt_styles"),
        examples=suggested(index, "example_prompts"),
        adapters=adapted,
        limits=told
        | {
            "model": {"info": _sentence(about)},
            "class_name": {"choices": (ANY_CLASS, *names), "visible": bool(names)},
            "count": {"value": 4 if max(_shape(facts)) > LARGE else 16},
            "steps": told.get("steps", {}) | {"range": (1, num_train_timesteps)},
            "sampler": {"choices": samplers},
            **_interval(index),
            **_adapter_limits(adapted),
            "shift": {"value": float(_scheduler_config(folder).get("shift") or 1.0)},
            **stage_limits(index, about.arguments),
        },
        enlarges=enlarged_size(folder, index),
    )


def _among(info: ModelInfo, names: tuple[str, ...]) -> ModelInfo:
    """The model as one of those to choose from."""
    return replace(info, limits=info.limits | {"model": info.limits["model"] | {"choices": names}})


def _sentence(about: About) -> str:
    """What the model does, by the summary of its card, where `about["page"]["model"]` has no plainer words."""
    summary = about.says.get("summary") or f"Draws {{subject}} with {about.name}."
    plain = re.sub(r" ?\(\[[^)]*\)\)", "", summary).replace("{subject}", "images")
    return f"{plain.split('. ')[0].removesuffix('.')}."


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


def writable(name: str) -> str:
    """A name as UTF-8 can write it: those of folders and in JSON may hold halves of characters."""
    return name.encode(errors="replace").decode()


def _classes(count: int, index: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str | int, ...]]:
    """Names on the page, and what `class_labels` takes for each."""
    named = index.get("id2label") or {}
    names = tuple(str(named[key]) for key in sorted(named, key=int))
    if count and names:
        spelled, shown = [unicodedata.normalize("NFC", name).casefold() for name in names], tuple(map(writable, names))
        known = Counter(spelled)  # ImageNet has two cranes: there the index tells them apart
        told = [name == shown[i] and known[spelled[i]] == 1 for i, name in enumerate(names)]
        return shown, tuple(name if told[i] else i for i, name in enumerate(names))
    return tuple(map(str, range(count))), tuple(range(count))


def _shape(facts: Facts) -> tuple[int, int, int]:
    """(height, width, channels) to show: 28 x 28 grey where the configs do not say."""
    channels, height, width = facts.image_shape or (1, 28, 28)
    return int(height), int(width), 3 if channels >= 3 else 1


def _interval(index: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Where the model guides unless told otherwise, for the two settings that say so; {} where nobody has chosen."""
    low, high = index.get("guidance_interval") or (0.0, 1.0)
    if (low, high) == (0.0, 1.0):
        return {}
    return {"guidance_low": {"value": float(low)}, "guidance_high": {"value": float(high)}}


def _adapter_limits(adapters: dict[str, Adapter]) -> dict[str, dict[str, Any]]:
    """Which adapters may be chosen, with the words that call them up; no such setting without any."""
    told = "; ".join(f"{each.name} follows “{each.words}” in the prompt" for each in adapters.values() if each.words)
    info = {"info": f"a style that was trained beside the model (LoRA): {told}"} if told else {}
    choices = {"choices": (NONE, *adapters) if adapters else ()}
    return {"adapter": choices | info, "adapter_strength": {"visible": bool(adapters)}}


def _num_train_timesteps(folder: Path) -> int:
    configs = [_scheduler_config(folder), *(_scheduler_config(folder, f"scheduler_{stage}") for stage in (2, 3))]
    return min(int(config.get("num_train_timesteps") or 1000) for config in configs)


def _scheduler_config(folder: Path, name: str = "scheduler") -> dict[str, Any]:
    """In the scheduler's folder, or at the root, where the first published pipelines have all files; else {}."""
    for config in (folder / name / "scheduler_config.json", folder / f"{name}_config.json"):
        if config.is_file():
            return read_json(config)
    return {}


def _samplers(index: dict[str, Any], swaps: dict[str, str], arguments: frozenset[str]) -> tuple[str, ...]:
    """A pipeline that takes `sampler` itself has its own, as the stages of a cascade have theirs. DDIM and DDPM are our
    own steps: a pipeline runs them itself, or another class of ours does."""
    if "scheduler" not in index or "sampler" in arguments or "max_augmentations" in index:
        return ()
    if index.get("path"):
        return tuple(FLOW_SCHEDULERS)
    own = "eta" in arguments or bool(swaps)
    return tuple(name for name in SCHEDULERS if own or name not in ("DDIM", "DDPM"))
