"""Opening any diffusers pipeline by folder or Hub id, and drawing from it, image by image reproducibly."""

from __future__ import annotations

import hashlib
import inspect
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from tqdm.auto import tqdm

SCHEDULERS = {
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
    "DPMSolver++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "Heun": "HeunDiscreteScheduler",
}
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.py"]


@dataclass
class Model:
    """An open pipeline and what measuring needs to know of it."""

    pipe: DiffusionPipeline
    name: str  # the folder's name, or the Hub id
    folder: Path
    shape: tuple[int, int, int]  # (C, H, W) of a picture
    num_classes: int | None  # None: unconditional
    class_names: tuple[str, ...] | None
    arguments: frozenset[str] = field(default_factory=frozenset)  # that its __call__ takes

    @property
    def scheduler(self) -> str:
        """The name of its scheduler, short where SCHEDULERS has one."""
        kind = type(self.pipe.scheduler).__name__
        return next((short for short, long in SCHEDULERS.items() if long == kind), kind)


@dataclass(frozen=True)
class Drawn:
    """8-bit pictures (N, C, H, W), seconds that drawing took, and network evaluations an image."""

    pixels: np.ndarray
    seconds: float
    nfe: float


def find_folder(model: str) -> Path:
    """The folder of a pipeline, downloaded if `model` is a Hub id.

    Raises:
        ValueError: neither a folder nor a Hub id that can be reached, or a folder that holds no pipeline.
    """
    folder = Path(model)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(model, allow_patterns=PATTERNS))
        except (OSError, HFValidationError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"model must be a pipeline's folder or a Hub id, got {model!r}: {reason}") from error
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"model must be the folder of a pipeline, but {model!r} has no model_index.json")
    return folder


def weights_hash(folder: Path) -> str:
    """16 hex digits that change with the weights below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def open_model(model: str, dtype: torch.dtype, scheduler: str | None = None) -> Model:
    """Load a pipeline with its own code, on the GPU if there is one; `scheduler` is a name of SCHEDULERS or None.

    Raises:
        ValueError: no pipeline, or one that does not draw pictures with a single `unet`.
    """
    folder = find_folder(model)
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, use_safetensors=True, dtype=dtype)
    if getattr(pipe, "unet", None) is None or getattr(pipe, "scheduler", None) is None:
        raise ValueError(f"model must have a unet and a scheduler; {model!r} has {', '.join(pipe.components)}")
    if scheduler is not None:
        pipe.scheduler = getattr(diffusers, SCHEDULERS[scheduler]).from_config(pipe.scheduler.config)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    arguments = frozenset(inspect.signature(type(pipe).__call__).parameters)
    config = pipe.unet.config
    classes = config.get("num_class_embeds") if "class_labels" in arguments else None
    null = getattr(pipe, "null_label", None) if classes is not None else None
    names = getattr(pipe, "class_names", None)
    size = config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return Model(
        pipe=pipe,
        name=folder.resolve().name if Path(model).is_dir() else model,
        folder=folder,
        shape=(config.in_channels, height, width),
        num_classes=classes if null is None else null,
        class_names=None if names is None else tuple(names),
        arguments=arguments,
    )


def draw(model: Model, count: int, batch_size: int, seed: int, name: str, **settings: Any) -> Drawn:
    """Draw `count` pictures: picture k from the seed `seed` + k and, where there are classes, of the class k mod their
    number, so that neither depends on `batch_size`. `settings` go to the pipeline's __call__; `name` to the bar.

    Raises:
        ValueError: the model drew values that are not finite.
    """
    pixels, evaluations = [], 0.0
    began = time.perf_counter()
    with tqdm(total=count, desc=f"Drawing {name}", unit="img", disable=None, leave=False) as bar:
        for start in range(0, count, batch_size):
            chosen = range(start, min(start + batch_size, count))
            labels = {} if model.num_classes is None else {"class_labels": [k % model.num_classes for k in chosen]}
            number = {"batch_size": len(chosen)} if "batch_size" in model.arguments else {}
            generators = [torch.Generator().manual_seed(seed + k) for k in chosen]
            images, rows = call(model.pipe, generator=generators, output_type="np", **number, **labels, **settings)
            if not np.isfinite(images).all():
                raise ValueError(
                    f"{model.name} drew values that are not finite, among pictures {start} to {chosen[-1]}"
                )
            pixels.append((images * 255).round().astype(np.uint8).transpose(0, 3, 1, 2))
            evaluations += rows
            bar.update(len(chosen))
    return Drawn(np.concatenate(pixels), time.perf_counter() - began, evaluations / count)


def call(pipe: DiffusionPipeline, **arguments: Any) -> tuple[np.ndarray, float]:
    """Pictures (N, H, W, C) in [0, 1], and network evaluations summed over them: the pipeline's own count, which
    leaves out rows that pad a batch, or the rows that a hook sees."""
    rows = 0

    def count(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        nonlocal rows
        rows += len(args[0] if args else kwargs["sample"])

    handle = pipe.unet.register_forward_hook(count, with_kwargs=True)
    try:
        output = pipe(**arguments)
    finally:
        handle.remove()
    nfe = getattr(output, "nfe", None)
    return output.images, rows if nfe is None else nfe * len(output.images)
