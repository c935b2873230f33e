"""A run: an iterator of steps that counts the network evaluations they take, and can be stopped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .conditions_5712ea1d import Conditions, rows_of

Denoiser = Callable[..., Tensor]  # (x_t, t, **conditions) -> the network's output
_computing: ContextVar["Run | None"] = ContextVar("the run whose step this thread computes", default=None)


@dataclass
class Step:
    """One step of a sampler; the tensors are (N, C, H, W) and at least float32.

    Attributes:
        index, num_steps: 0-based position and the number of steps of the run
        timestep: the time that the network was given, in the process it was trained on
        x_t: the sample that the network saw
        pred_original_sample: the predicted x_0, in [-1, 1] where the scheduler's config clips it
        eps: the predicted noise
        prev_sample: the sample after this step. A consumer may replace it: the sampler goes on from there.
        stage: of a cascade, from 0
    """

    index: int
    num_steps: int
    timestep: float
    x_t: Tensor
    pred_original_sample: Tensor
    eps: Tensor
    prev_sample: Tensor
    stage: int = 0


class Run(Iterator[Step]):
    """The steps of one run, each computed when it is asked for, and the network evaluations that they took.

    `interrupted = True`, from any thread, ends it after the current step; `close()` ends it at once. A
    `guidance_scale` that is set between two steps holds from the next one on.

    Attributes:
        has_own_scale: whether the guidance scale has been changed since the run began
        num_steps: how many there are, once the first has been taken
        last_steps: the last step of each stage so far
        to_images: (sample, output_type) -> images, as the pipeline's, with what the run knows of them
    """

    def __init__(
        self,
        steps: Iterator[Step],
        networks: list[torch.nn.Module],
        guidance_scale: float | None = None,
        to_images: Callable[..., Any] | None = None,
    ) -> None:
        self.to_images = to_images
        self.interrupted, self.num_steps = False, 0
        self.last_steps: dict[int, Step] = {}
        self._scale, self.has_own_scale = guidance_scale, False
        self._steps, self._networks = steps, networks
        self._rows, self._images = 0, 1

    @property
    def guidance_scale(self) -> float | None:
        """That the run began with, or what it was changed to since."""
        return self._scale

    @guidance_scale.setter
    def guidance_scale(self, value: float) -> None:
        self._scale, self.has_own_scale = value, True

    @property
    def nfe(self) -> float:
        """Network evaluations per image so far, counted by forward hooks."""
        return self._rows / self._images

    def __next__(self) -> Step:
        if self.interrupted:
            raise StopIteration
        with self._counting():
            step = next(self._steps)
        self._images, self.num_steps = len(step.x_t), step.num_steps
        self.last_steps[step.stage] = step
        return step

    def close(self) -> None:
        """End the run: nothing more is computed."""
        self._steps.close()

    @contextmanager
    def _counting(self) -> Iterator[None]:
        before = _computing.set(self)
        handles = [network.register_forward_hook(self._count) for network in self._networks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            _computing.reset(before)

    def _count(self, module: torch.nn.Module, args: tuple, output: Any) -> None:
        if _computing.get() is self:  # not of another run over the same network
            self._rows += getattr(args[0], "unpadded_rows", len(args[0]))


def plain(value: Any) -> Any:
    """An argument of a run: a scalar of numpy or torch as a number of Python's, anything else as it is."""
    return value.item() if isinstance(value, (np.generic, np.ndarray, Tensor)) and value.ndim == 0 else value


def scale_now(asked: float) -> float:
    """The guidance scale of the step that is being computed: `asked`, unless the run's has been changed since."""
    run = _computing.get()
    return asked if run is None or not run.has_own_scale else run.guidance_scale


def evaluate(network: torch.nn.Module, x_t: Tensor, t: Tensor | float, conditions: Conditions) -> Tensor:
    """Call a network in its own dtype: x_t (N, C, H, W) -> output (N, C or 2C, H, W) in the dtype of `x_t`.

    `t` is a time for all, or one per image, (N,).
    """
    count, dtype = x_t.shape[0], compute_dtype(network)
    rows = padded_rows(count, dtype, x_t.device)
    sample = x_t[rows].to(dtype)
    sample.unpadded_rows = count  # for hooks that count evaluations
    times = torch.as_tensor(t, device=x_t.device).expand(count)[rows]
    given = {name: _in_dtype(value, dtype) for name, value in rows_of(conditions, rows).items()}
    output = network(sample, times, **given).sample
    return output[:count].to(x_t.dtype)


def _in_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def compute_dtype(network: torch.nn.Module) -> torch.dtype:
    """What a network computes in: the dtype of its weights, unless diffusers casts them for each layer."""
    name, weight = next(network.named_parameters())
    hooked = hasattr(network.get_submodule(name.rpartition(".")[0]), "_diffusers_hook")
    return network.dtype if hooked else weight.dtype  # `network.dtype` walks all modules: 1 % of a step


def padded_rows(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rows 0 to count - 1 and, on a CPU, the last again and again.

    The rows of a matrix product come out equal to the last bit only for multiples of four, and in float32 on a single
    thread for 16 and more: an image must not depend on how many are drawn.
    """
    least = 16 if torch.get_num_threads() == 1 and dtype == torch.float32 else 4
    padding = max(least - count, -count % 4) if device.type == "cpu" else 0
    return torch.arange(count + padding, device=device).clamp(max=count - 1)
