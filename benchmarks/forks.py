"""Commands of this project in forked processes, which say when their phases begin and end, and can be killed there.

The parent has imported everything and computed nothing: a fork takes milliseconds where a new process takes seconds.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

Phases = dict[str, list[tuple[Any, str]]]  # name -> functions as (owner, attribute) whose calls belong to it


@dataclass(frozen=True)
class Moment:
    """`seconds` after the begin of the n-th call, from 0, that belongs to a phase."""

    phase: str
    call: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a process ended: the number of the signal that killed it or 0, and the seconds of each call by phase."""

    signal: int
    status: int
    calls: dict[str, list[float]]


def run(program: Callable[[], None], phases: Phases, place: Path, moment: Moment | None = None) -> Outcome:
    """Run a program in a process of its own, killed at `moment` if it gets there.

    What it prints is added to `place`/log, and its cache is in `place`.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(program, phases, place, os.fdopen(writing, "w", buffering=1))
    os.close(writing)
    calls: dict[str, list[float]] = {name: [] for name in phases}
    with os.fdopen(reading) as marks:
        for mark in marks:
            word, name = mark.split()
            if word == "end":
                calls[name][-1] += time.monotonic()
                continue
            calls[name].append(-time.monotonic())
            if moment is not None and (name, len(calls[name]) - 1) == (moment.phase, moment.call):
                time.sleep(moment.seconds)
                os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return Outcome(killed, os.waitstatus_to_exitcode(status), calls)


def _child(program: Callable[[], None], phases: Phases, place: Path, marks: TextIO) -> None:
    """The forked process: never returns."""
    status = 1
    os.environ |= {"STEPWISE_CACHE": str(place / "cache"), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    sys.stdout = sys.stderr = open(place / "log", "a", buffering=1, encoding="utf-8")
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    try:
        torch.set_num_threads(1)
        for name, functions in phases.items():
            for owner, attribute in functions:
                setattr(owner, attribute, _marked(getattr(owner, attribute), name, marks))
        program()
        status = 0
    except SystemExit as ended:
        print(ended.code, file=sys.stderr)
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _marked(function: Callable[..., Any], name: str, marks: TextIO) -> Callable[..., Any]:
    def marked(*arguments: Any, **options: Any) -> Any:
        marks.write(f"begin {name}\n")
        try:
            return function(*arguments, **options)
        finally:
            marks.write(f"end {name}\n")

    return marked


def spread(calls: list[float], kills: int, phase: str) -> list[Moment]:
    """`kills` moments at equal distances in the time that the calls of a phase take together."""
    moments = []
    for number in range(kills):
        left = (number + 0.5) / kills * sum(calls)
        call = 0
        while call < len(calls) - 1 and left >= calls[call]:
            left -= calls[call]
            call += 1
        moments.append(Moment(phase, call, left))
    return moments
