"""Opens any diffusers pipeline by folder or Hub id and draws batches from it, in which each image has its own seed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from pipelines.about import of_class
from pipelines.facts import Facts, where_to_look
from pipelines.solvers import half_step_spacing
from training.files import hash_files

SCHEDULERS = {
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
    "DPMSolver++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "Heun": "HeunDiscreteScheduler",
}
FLOW_SOLVERS = ("DPMSolver++", "UniPC")  # of these, the ones that take the steps of a flow too
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.py"]
RESULTS = ("metrics.json", "training.json")  # files beside a model that are not part of it


@dataclass
class Model:
    """An open pipeline, and what the evaluation needs to know about it."""

    pipe: DiffusionPipeline
    name: str  # the folder's name, or the Hub id
    folder: Path
    shape: tuple[int, int, int]  # (C, H, W) of an image
    facts: Facts
    num_classes: int | None  # None: unconditional
    class_names: tuple[str, ...] | None
    own_scheduler: Any  # the one that it was saved with
    prompts: tuple[str, ...] = ()  # image k is drawn of prompt k modulo their number; none where it is told none
    arguments: dict[str, Any] = field(default_factory=dict)  # of its __call__, with their defaults
    inputs: torch.Tensor | None = None  # images (M, C, h, w) in [0, 1]: image k is made of number k modulo M

    @property
    def scheduler(self) -> str:
        """The name of its scheduler: the short one if SCHEDULERS has it."""
        return short_name(scheduler_of(self.pipe))

    def use_scheduler(self, name: str | None, num_inference_steps: int = 50) -> None:
        """Draw with a scheduler of SCHEDULERS over the same process; with the model's own for None or its name.

        The scheduler spaces its steps as the model's own does. Heun needs `num_inference_steps`, because it must begin
        half a step in: our pipelines do so themselves, but the folder may carry older code.
        """
        own = self.own_scheduler
        if name is None or name == short_name(own):
            if self.pipe.scheduler is not None:  # of a cascade's first stage, which a stage alone lacks
                self.pipe.scheduler = own
            return
        more = half_step_spacing(num_inference_steps, own.config.num_train_timesteps) if name == "Heun" else {}
        if self.is_flow:
            more = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        self.pipe.scheduler = getattr(diffusers, SCHEDULERS[name]).from_config(own.config, **more)

    @property
    def told(self) -> tuple[str, ...]:
        """What image k is told, of number k modulo theirs: prompts or names of classes; nothing if there are none."""
        if self.prompts or self.num_classes is None:
            return self.prompts
        return self.class_names or tuple(f"class {number}" for number in range(self.num_classes))

    @property
    def is_flow(self) -> bool:
        """Whether its network predicts the velocity of a flow."""
        return bool(self.pipe.config.get("path") or (self.pipe.config.get("paths") or {}).get("unet"))

    @property
    def num_stages(self) -> int:
        """How many networks draw one after another."""
        return len(getattr(self.pipe, "sizes", None) or [()])

    @property
    def is_told_prompts(self) -> bool:
        """Whether it has a text encoder."""
        return "prompt" in self.arguments and getattr(self.pipe, "text_encoder", None) is not None


@dataclass(frozen=True)
class Batch:
    """8-bit images (N, C, H, W), network evaluations summed over the images, and the seconds it took to draw them."""

    pixels: np.ndarray
    evaluations: float
    seconds: float


def short_name(scheduler: Any) -> str:
    """The name of a scheduler: the short one if SCHEDULERS has it."""
    kind = type(scheduler).__name__
    return next((short for short, long in SCHEDULERS.items() if long == kind), kind)


def find_folder(model: str) -> Path:
    """The folder of a pipeline, downloaded if `model` is a Hub id.

    Raises:
        ValueError: neither a folder nor a Hub id that can be downloaded, or a folder without a pipeline.
    """
    folder = Path(model)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(model, allow_patterns=PATTERNS))
        except (OSError, HFValidationError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"model must be a pipeline's folder or a Hub id, got {model!r}: {reason}") from error
    if not (folder / "model_index.json").is_file():
        hint = where_to_look(folder)
        raise ValueError(f"model must be the folder of a pipeline, but {model!r} has no model_index.json{hint}")
    return folder


def pipeline_hash(folder: Path) -> str:
    """16 hex digits that depend on everything in `folder` that decides what it draws: weights, configs and code."""
    files = (path for pattern in PATTERNS for path in folder.rglob(pattern))
    return hash_files(folder, (path for path in files if path.name not in RESULTS))


def open_model(model: str, dtype: torch.dtype, device: torch.device | None = None) -> Model:
    """Load a pipeline with its own code, on `device` (default: the GPU if there is one).

    Raises:
        ValueError: not a pipeline, or one without a `unet` or `transformer` and a scheduler.
    """
    folder = find_folder(model)
    try:
        pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, use_safetensors=True, dtype=dtype)
    except (OSError, ValueError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"model must be a pipeline that loads, but {model!r} does not: {reason}") from error
    if network_of(pipe) is None or scheduler_of(pipe) is None:
        has, alone = ", ".join(pipe.components), set(pipe.components) == {"vae"}
        hint = ", which python -m training.metrics.reconstruction measures" if alone else ""
        raise ValueError(f"model must have a unet or a transformer, and a scheduler; {model!r} has {has}{hint}")
    pipe.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for network in getattr(pipe, "denoising_networks", None) or [network_of(pipe)]:
        network.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    parameters, facts = inspect.signature(type(pipe).__call__).parameters, facts_of(pipe)
    names = getattr(pipe, "class_names", None)
    return Model(
        pipe=pipe,
        name=folder.resolve().name if Path(model).is_dir() else model,
        folder=folder,
        shape=facts.image_shape,
        facts=facts,
        num_classes=facts.num_classes if "class_labels" in parameters else None,
        class_names=None if names is None else tuple(names),
        own_scheduler=scheduler_of(pipe),
        arguments={name: parameter.default for name, parameter in parameters.items()},
    )


def at_strengths(model: Model, adapter: str, strengths: Sequence[float]) -> Iterator[float]:
    """Each of these strengths, with the model drawing at it with an adapter; after the last one, without it again.

    Raises:
        ValueError: no adapter in that place, or one of another model.
    """
    if not hasattr(model.pipe, "load_lora_weights"):
        raise ValueError(f"adapter needs a model that takes one: the code that {model.name} carries is older")
    try:
        model.pipe.load_lora_weights(adapter, adapter_name="style")
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"adapter must be a folder or a Hub id, got {adapter!r}: {reason}") from error
    for strength in strengths:
        model.pipe.set_adapters("style", strength)
        yield strength
    model.pipe.unload_lora_weights()


def network_of(pipe: DiffusionPipeline) -> torch.nn.Module | None:
    """The (first) denoising network of a pipeline, its U-Net or its transformer; None if it has neither."""
    found = (getattr(pipe, name, None) for name in ("unet", "transformer", "unet_2"))
    return next((network for network in found if network is not None), None)


def scheduler_of(pipe: DiffusionPipeline) -> Any:
    """The (first) scheduler of a pipeline; None if it has none."""
    found = (getattr(pipe, name, None) for name in ("scheduler", "scheduler_2"))
    return next((scheduler for scheduler in found if scheduler is not None), None)


def facts_of(pipe: DiffusionPipeline) -> Facts:
    """The facts in the configs of an open pipeline's parts; it may be a stock pipeline or have older code."""
    known = of_class(type(pipe).__name__)
    says = getattr(type(pipe), "about", None) or (known.says if known else {})
    vae, classifier = (getattr(pipe, part, None) for part in ("vae", "classifier"))
    enlarging = (getattr(pipe, part, None) for part in ("unet_3", "unet_2"))
    return Facts(
        network_of(pipe).config,
        None if vae is None else vae.config,
        None if classifier is None else classifier.config,
        len(getattr(pipe, "class_names", None) or ()),
        bool(pipe.config.get("last_label_is_null", says.get("last_label_is_null"))),
        next((part.config for part in enlarging if part is not None), None),
    )


def draw_batch(model: Model, chosen: Sequence[int], seed: int, **settings: Any) -> Batch:
    """Draw the images with the numbers in `chosen`.

    Image k has the seed `seed` + k and, if there are classes or prompts, the one of number k modulo theirs, so that
    none depends on the batch. `settings` are passed to the pipeline's __call__.

    Raises:
        ValueError: the model drew values that are not finite.
    """
    labels = {} if model.num_classes is None else {"class_labels": [k % model.num_classes for k in chosen]}
    if model.prompts:
        labels = {"prompt": [model.prompts[k % len(model.prompts)] for k in chosen]}
    if model.inputs is not None:
        labels["image"] = model.inputs[[k % len(model.inputs) for k in chosen]]
    number = {"batch_size": len(chosen)} if "batch_size" in model.arguments else {}
    generators = [torch.Generator().manual_seed(seed + k) for k in chosen]
    began = time.perf_counter()
    images, evaluations = call(model.pipe, generator=generators, output_type="np", **number, **labels, **settings)
    seconds = time.perf_counter() - began
    if not np.isfinite(images).all():
        raise ValueError(f"{model.name} drew values that are not finite, among images {chosen[0]} to {chosen[-1]}")
    return Batch((images * 255).round().astype(np.uint8).transpose(0, 3, 1, 2), evaluations, seconds)


def call(pipe: DiffusionPipeline, **arguments: Any) -> tuple[np.ndarray, float]:
    """Call a pipeline: images (N, H, W, C) in [0, 1], and network evaluations summed over them.

    The pipeline's own count is preferred: it leaves out rows that pad a batch. Without one, a hook counts the rows.
    """
    rows = 0

    def count(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        nonlocal rows
        rows += len(args[0] if args else kwargs["sample"])

    handle = network_of(pipe).register_forward_hook(count, with_kwargs=True)
    try:
        output = pipe(**arguments)
    finally:
        handle.remove()
    nfe = getattr(output, "nfe", None)
    return output.images, rows if nfe is None else nfe * len(output.images)
