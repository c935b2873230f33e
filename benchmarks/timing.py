"""Times contestants in turns, and the part of the time that is spent in a network."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from tqdm.auto import tqdm

Result = TypeVar("Result")


def now() -> float:
    """The time in seconds, after waiting for the GPU to finish."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def alternate(
    runs: dict[str, Callable[[], Result]], repeats: int, warmups: int, description: str
) -> dict[str, list[Result]]:
    """Run all in turn, `repeats` times, so that a busy moment affects all; `warmups` turns before do not count."""
    results: dict[str, list[Result]] = {name: [] for name in runs}
    with tqdm(total=(warmups + repeats) * len(runs), desc=description, disable=None) as bar:
        for turn in range(warmups + repeats):
            for name, run in runs.items():
                bar.set_postfix_str(name if turn >= warmups else f"warm-up: {name}")
                result = run()
                if turn >= warmups:
                    results[name].append(result)
                bar.update()
    return results


@dataclass
class NetworkTime:
    """Seconds spent in a network's forward, and the number of rows that it evaluated."""

    seconds: float = 0.0
    rows: int = 0
    started: float = 0.0


@contextmanager
def network_time(network: nn.Module) -> Iterator[NetworkTime]:
    """Time `network` by hooks around its forward, which wait for the GPU before and after each call."""
    spent = NetworkTime()

    def begin(module: nn.Module, args: tuple) -> None:
        spent.started = now()

    def end(module: nn.Module, args: tuple, output: Any) -> None:
        spent.seconds += now() - spent.started
        spent.rows += len(args[0])

    handles = [network.register_forward_pre_hook(begin), network.register_forward_hook(end)]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()
