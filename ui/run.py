"""A run: from settings to images, step by step. Closing the generator stops the work."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from .adapters import with_adapter
from .catalogue import Catalogue, ModelInfo
from .equations import recorded_steps
from .formulas import Formula, formula_of, levels
from .live_values import centre
from .loading import in_a_line
from .previews import enlarged, preview_of
from .samplers import with_sampler
from .settings import Settings
from .step_panel import Reading, reading_of
from .uploads import Start
from .zero_gpu import on_gpu

PREVIEWS = ("predicted x₀", "noisy x_t")
BESIDE = "x_t beside x₀"
VIEWS = (BESIDE, *PREVIEWS)  # of a step: both, or one of them
STORED_FRAMES = 60  # previews of a run that are kept to look back on


@dataclass
class Frames:
    """What a visitor can look back on: previews of up to `STORED_FRAMES` steps, evenly spaced, and the final images.

    `previews[kind]` holds (N, H, W, C) uint8 arrays, one for each entry of `steps`, `timesteps`, `levels`, which are
    a and b of x_t = a x_0 + b eps there, `readings`, the numbers of the step, `scales`, how many pixels of a side one
    of theirs stands for, and `stages`, the names of a cascade's. `formula` is what a step computes, and `name` what a
    file of the film is called. `small` are the images (N, h, w, C) that a cascade drew first, or was given to enlarge.
    """

    previews: dict[str, list[np.ndarray]] = field(default_factory=lambda: {kind: [] for kind in PREVIEWS})
    steps: list[int] = field(default_factory=list)
    timesteps: list[float] = field(default_factory=list)
    levels: list[tuple[float, float] | None] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    scales: list[int] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    num_steps: int = 0
    formula: Formula = Formula()
    name: str = ""
    final: np.ndarray | None = None
    small: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.steps) + (self.final is not None)

    def image(self, position: int, kind: str) -> np.ndarray:
        """The images at a position, 0 to len - 1; positions outside give the first or the last."""
        position = min(max(position, 0), len(self) - 1)
        if position == len(self.steps):
            return self.final
        return enlarged(self.previews[kind][position], self.scales[position])

    def position_of(self, step: float) -> int:
        """Where the step of that number, from 1, is kept, or the one nearest to it; the final images are the last."""
        if self.final is not None and step >= self.num_steps:
            return len(self.steps)
        return min(range(len(self.steps)), key=lambda i: abs(self.steps[i] - step), default=0)

    def step_at(self, position: int) -> int:
        """The number of the step that is kept at a position, from 1."""
        return self.steps[position] if position < len(self.steps) else self.num_steps

    def caption(self, position: int) -> str:
        """Which step a position shows."""
        position = min(max(position, 0), len(self) - 1)
        if position == len(self.steps):
            return f"the images after step {self.num_steps} of {self.num_steps}"
        stage = f"{self.stages[position]}, " if self.stages[position] else ""
        return f"{stage}step {self.steps[position]} of {self.num_steps}, t = {self.timesteps[position]:.4g}"


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        evaluations: of the network, per image
        images: None until the run is complete
        timestep, levels, reading: of this step, as `Frames` keeps them
        preview: of this step by kind, as `Frames` keeps it; {} where nobody looks
        scale, stage: of this step, as `Frames` keeps them
        unread: what of the prompt and of the negative prompt was not read, by their names
    """

    frames: Frames
    index: int
    num_steps: int
    seconds: float
    evaluations: float
    images: list[Image.Image] | None = None
    preview: dict[str, np.ndarray] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    timestep: float = 0.0
    levels: tuple[float, float] | None = None
    reading: Reading = Reading()
    scale: int = 1
    stage: str = ""


class StopRequests:
    """Which visitors pressed Stop, by session; a run asks after each step.

    Pressed between `clear` and the end of a run, Stop ends it, even if it is still in the queue.
    """

    def __init__(self) -> None:
        self._pressed: set[str] = set()
        self._lock = threading.Lock()

    def press(self, session: str) -> None:
        """Ask this visitor's run to end after its current step."""
        with self._lock:
            self._pressed.add(session)

    def clear(self, session: str) -> None:
        """Forget what was pressed before."""
        with self._lock:
            self._pressed.discard(session)

    def pressed(self, session: str) -> bool:
        """Whether the run should end."""
        return session in self._pressed


@on_gpu
def draw(
    settings: Settings, catalogue: Catalogue, start: Start | None = None, previews: bool = True
) -> Iterator[Progress]:
    """Draw the images of `settings`, yielding after each step and, with the images, at the end.

    `start` is what they begin with where `settings.start` says that it is an image; `previews`: whether anybody looks
    at the steps, or back at them.

    Raises:
        ValueError: the model cannot be loaded, its code fails, or what it draws is NaN or infinite, in one line.
    """
    try:
        yield from _drawn(settings, catalogue, start, previews)
    except ValueError:
        raise
    except Exception as error:  # code in folders is of others
        raise ValueError(f"model {settings.model} cannot draw this: {in_a_line(error)}") from error


def _drawn(settings: Settings, catalogue: Catalogue, start: Start | None, previews: bool) -> Iterator[Progress]:
    import torch

    info = catalogue[settings.model]
    pipe = catalogue.pipeline(settings.model)
    if settings.has("adapter_strength", info):
        pipe = with_adapter(pipe, info.adapters[settings.adapter], settings.adapter_strength)
    pipe = with_sampler(pipe, settings.sampler if info.samplers else None, settings.steps)
    generators = [torch.Generator().manual_seed(settings.seed + i) for i in range(settings.count)]
    started, step = time.perf_counter(), None
    given = start.arguments() if start else {}
    steps = pipe.stream(**settings.stream_arguments(info), **given, generator=generators)
    to_images = getattr(steps, "to_images", pipe.to_images)  # code in folders may be older
    preview_step, scale = preview_of(pipe, to_images)
    name = f"{settings.model} seed {settings.seed}"
    frames = Frames(formula=formula_of(settings, info), name=name)
    with _evaluations(pipe, steps, settings.count) as nfe, closing(steps):
        for step, calls in recorded_steps(steps, centre) if previews else ((step, ()) for step in steps):
            if not torch.isfinite(step.prev_sample).all():
                where = f"after step {step.index + 1} of {step.num_steps}"
                raise ValueError(f"model {settings.model} draws no image with these settings: NaN or infinite {where}")
            preview = _preview(preview_step, step) if previews else {}
            known = levels(step) if previews else None
            reading = reading_of(step, calls, centre) if previews else Reading()
            progress = Progress(frames, step.index + 1, step.num_steps, time.perf_counter() - started, nfe())
            progress = replace(progress, preview=preview, timestep=step.timestep, levels=known, reading=reading)
            progress = replace(progress, **_stage_of(pipe, step, scale))
            _store(frames, progress)
            yield progress
        images = to_images(step.prev_sample, "pil")
        unread = _unread(pipe, settings, info)
        frames.final = _stacked(images)
        frames.small = _small(steps, start, to_images)
        seconds = time.perf_counter() - started
        yield Progress(frames, step.num_steps, step.num_steps, seconds, nfe(), images, unread=unread)


@contextmanager
def _evaluations(pipe: Any, steps: Any, count: int) -> Iterator[Callable[[], float]]:
    """Network evaluations per image so far. Code in folders of version 0.1.0 counts rows, of all images together."""
    if hasattr(steps, "nfe"):
        yield lambda: steps.nfe
        return
    with pipe.counted_rows() as rows:
        yield lambda: rows() / count


def _unread(pipe: Any, settings: Settings, info: ModelInfo) -> dict[str, str]:
    if not hasattr(pipe, "unread"):  # code in folders may be older
        return {}
    named = {name: name.replace("_", " ") for name in ("prompt", "negative_prompt") if settings.has(name, info)}
    found = {words: pipe.unread(getattr(settings, name) or "") for name, words in named.items()}
    return {words: text for words, text in found.items() if text}


def _preview(preview_step: Callable[[Any], np.ndarray], step: Any) -> dict[str, np.ndarray]:
    return dict(zip(PREVIEWS, map(preview_step, (step.pred_original_sample, step.x_t)), strict=True))


def _stacked(images: list[Image.Image]) -> np.ndarray:
    """(N, H, W, C)"""
    return np.stack([np.asarray(image).reshape(*image.size[::-1], -1) for image in images])


def _stage_of(pipe: Any, step: Any, scale: int) -> dict[str, Any]:
    """`scale` and `stage` of a step: those of a cascade's are all shown as large as its images, and by their stage."""
    sizes = getattr(pipe, "sizes", None) or []
    if len(sizes) < 2:
        return {"scale": scale}
    height, width = sizes[step.stage]
    stage = f"stage {step.stage + 1} of {len(sizes)}, {width}x{height}"
    return {"scale": max(1, sizes[-1][0] // height), "stage": stage}


def _small(steps: Any, start: Start | None, to_images: Callable[..., Any]) -> np.ndarray | None:
    """The smallest images of a cascade's run: those of its first stage, or the one that it was given to enlarge."""
    last = getattr(steps, "last_steps", None) or {0: None}
    if max(last) == 0:
        return None
    if min(last) == 0:
        return _stacked(to_images(last[0].prev_sample, "pil"))
    return np.repeat(_stacked([start.image]), len(last[max(last)].x_t), axis=0) if start else None


def _store(frames: Frames, progress: Progress) -> None:
    frames.num_steps = progress.num_steps
    if not progress.preview or (progress.index - 1) % math.ceil(progress.num_steps / STORED_FRAMES):
        return
    frames.steps.append(progress.index)
    frames.timesteps.append(progress.timestep)
    frames.levels.append(progress.levels)
    frames.readings.append(progress.reading)
    frames.scales.append(progress.scale)
    frames.stages.append(progress.stage)
    for kind, images in progress.preview.items():
        frames.previews[kind].append(images)
