"""The source lines that a step runs, with the values that they assign: read from the run itself, while it computes.

    for step, calls in recorded(steps, watched, equations, place): ...

A trace function (`sys.settrace`, of this thread alone) is there while one step is taken. It follows the functions that
are watched, each by its file and name, and leaves all others alone: a network is not slowed down by more than a
thousandth. Nothing is computed a second time, so that every number is of this run, fresh noise included. What is kept
are numbers, and not tensors: of a tensor its mean, its standard deviation and what stands at one place.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import CodeType, FrameType
from typing import Any

from .source_lines import Source, Statement, source_of

Place = Callable[[Any], tuple[float, ...] | None]  # a tensor -> the numbers of it that are shown
# the local variables of a call, "name()" for what a function that it was given returned, "return" for what itself did
Known = Mapping[str, Any]


@dataclass(frozen=True)
class Value:
    """Of a number: itself. Of a tensor: its mean and standard deviation, and what stands `at` the place, if it has it.

    `shape` is () for a number.
    """

    at: tuple[float, ...] | None
    shape: tuple[int, ...] = ()
    mean: float = 0.0
    std: float = 0.0


@dataclass(frozen=True)
class Equation:
    """result = sum of factor times quantity, at the place: the numbers of one call.

    `terms` are (factor, symbol, what the symbol stands for at the place).
    """

    symbol: str
    terms: tuple[tuple[float, str, tuple[float, ...]], ...]
    result: tuple[float, ...]


@dataclass(frozen=True)
class Call:
    """One call of a watched function, or of a generator what it ran in this step: the statements that its result
    follows from and that have something to show, with that by name, in the order in which they ran first.

    `count` says how often it was called in the step, of which this is the last time, and `end` in which order the calls
    of a step came to their ends, from 1.
    """

    source: Source
    rows: tuple[tuple[Statement, tuple[tuple[str, Value], ...]], ...]
    equation: Equation | None = None
    count: int = 1
    end: int = 0


# symbol, the tensor that it stands for, and [(factor, symbol, quantity)], of the local variables at the end of a call
Terms = Callable[[Known], tuple[str, Any, list[tuple[Any, str, Any]]]]


def recorded(
    steps: Iterator[Any], watched: frozenset[str], equations: Mapping[str, Terms], place: Place
) -> Iterator[tuple[Any, tuple[Call, ...]]]:
    """Each step, with the calls of `watched` functions ("file:function") that took it, in the order of their starts."""
    while True:
        tracer = Tracer(watched, equations, place)
        with tracer:
            step = next(steps, None)
        if step is None:
            return
        yield step, tracer.calls


def read(value: Any, place: Place) -> Value | None:
    """What is shown of a value; None for what is neither a number nor a tensor of numbers."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Value((float(value),))
    if not hasattr(value, "detach") or not value.numel() or str(value.dtype) == "torch.bool":
        return None
    value = value.detach()
    if value.numel() == 1:
        return Value((float(value),))
    if not value.is_floating_point():
        value = value.double()
    numbers = value.float() if value.element_size() < 4 else value
    std, mean = numbers.std(correction=0), numbers.mean()
    return Value(place(value), tuple(value.shape), float(mean), float(std))


def centre(value: Any) -> tuple[float, ...] | None:
    """The pixel in the middle of the first image, of (N, C, H, W): its first channel."""
    return (float(value[0, 0, value.shape[2] // 2, value.shape[3] // 2]),) if value.ndim == 4 else None


def particle(index: int) -> Place:
    """Particle `index` of (N, D) or (1, N, D), of up to three numbers each; of (1, D), what all have."""

    def place(value: Any) -> tuple[float, ...] | None:
        value = value[0] if value.ndim == 3 and len(value) == 1 else value
        if value.ndim < 2 or value[0].numel() > 3:
            return None
        row = index if len(value) > 1 else 0
        return tuple(value[row].flatten().tolist()) if row < len(value) else None

    return place


# ------------------------------------------------------------------------------------------------------------ tracing


class Tracer:
    """A context in which the calls of this thread are followed; `calls` is what there was to see."""

    def __init__(self, watched: frozenset[str], equations: Mapping[str, Terms], place: Place) -> None:
        self.watched, self.equations, self.place = watched, equations, place
        self._names = frozenset(key.rpartition(":")[2].rpartition(".")[2] for key in watched)
        self._returns: dict[int, list[tuple[_Open, str]]] = {}  # by the code of a function that a call was given
        self._calls: dict[str, Call | None] = {}  # in the order in which they began
        self._ends = 0

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(call for call in self._calls.values() if call is not None and call.rows)

    def __enter__(self) -> "Tracer":
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._before)

    def _called(self, frame: FrameType, event: str, arg: Any) -> Callable | None:
        code = frame.f_code
        if id(code) in self._returns:
            frame.f_trace_lines = False
            return partial(self._given, code)
        source = source_of(code) if code.co_name in self._names else None
        if source is None or source.key not in self.watched:
            return None
        call = _Open(self, source, frame)
        self._calls.setdefault(source.key, None)
        for name, given in call.given.items():
            self._returns.setdefault(id(given), []).append((call, name))
        return call.trace

    def _given(self, code: CodeType, frame: FrameType, event: str, arg: Any) -> Callable:
        """What a function returns that a call was given, told to the innermost such call."""
        if event == "return" and self._returns.get(id(code)):
            call, name = self._returns[id(code)][-1]
            call.was_told(f"{name}()", arg)
        return partial(self._given, code)

    def end(self, call: "_Open", known: Known) -> None:
        """Keep what is shown of a call that is over, with what it knew at its end."""
        for given in call.given.values():
            others = [one for one in self._returns[id(given)] if one[0] is not call]
            self._returns[id(given)] = others
            if not others:
                del self._returns[id(given)]
        key, self._ends = call.source.key, self._ends + 1
        before, terms = self._calls[key], self.equations.get(key)
        equation = equation_of(terms, known, self.place) if terms else None
        count = before.count + 1 if before else 1
        self._calls[key] = Call(call.source, call.shown(), equation, count, self._ends)


class _Open:
    """A call that goes on: which statement runs, and what those before it have assigned."""

    def __init__(self, tracer: Tracer, source: Source, frame: FrameType) -> None:
        self.tracer, self.source = tracer, source
        self.rows: dict[Statement, tuple[tuple[str, Value], ...]] = {}
        self.told: dict[str, Any] = {}  # what functions that it was given have returned
        self._ran: list[Statement] = []
        self._now: Statement | None = None
        self._now_told: list[tuple[str, Value]] = []
        names = inspect.getargs(frame.f_code).args if not _is_generator(frame.f_code) else []
        values = [(name, read(frame.f_locals[name], tracer.place)) for name in names]
        shown = tuple((name, value) for name, value in values if value is not None)
        if shown:
            self.rows[source.signature] = shown
        self.given = {name: code for name, value in frame.f_locals.items() if (code := _code_of(value)) is not None}

    def was_told(self, name: str, value: Any) -> None:
        self.told[name] = value
        shown = read(value, self.tracer.place)
        if shown is not None:
            self._now_told.append((name, shown))

    def trace(self, frame: FrameType, event: str, arg: Any) -> Callable:
        if event == "line":
            statement = self.source.statements.get(frame.f_lineno)
            if statement is not self._now:
                self._finish(frame.f_locals)
                self._now = statement
                self._ran += [statement] if statement else []
        elif event == "return":
            returned = arg if self._now is not None and self._now.returns else None
            self._finish(frame.f_locals, returned)
            self.tracer.end(self, frame.f_locals | self.told | {"return": arg})
        return self.trace

    def _finish(self, known: Known, returned: Any = None) -> None:
        if self._now is None:
            return
        parts = returned if isinstance(returned, tuple) else (returned,)
        values = [(name, read(_named(name, known), self.tracer.place)) for name in self._now.targets]
        values += [("returns", read(part, self.tracer.place)) for part in parts]
        shown = self._now_told + [(name, value) for name, value in values if value is not None]
        self._now_told = []
        if shown:
            self.rows[self._now] = tuple(shown)

    def shown(self) -> tuple[tuple[Statement, tuple[tuple[str, Value], ...]], ...]:
        """The rows that the result follows from: backwards from it, whatever assigns a name that is read later."""
        if not (self._ran and self._ran[-1].returns):
            return tuple(self.rows.items())
        needed, kept = set(self._ran[-1].uses), {self.source.signature, self._ran[-1]}
        for statement in reversed(self._ran):
            if needed & {*statement.targets, statement.fills}:
                kept.add(statement)
                needed |= statement.uses
        return tuple(row for row in self.rows.items() if row[0] in kept)


def _named(name: str, known: Known) -> Any:
    """A local variable, or an attribute of one."""
    base, _, attribute = name.partition(".")
    value = known.get(base)
    return getattr(value, attribute, None) if attribute else value


def _is_generator(code: CodeType) -> bool:
    return bool(code.co_flags & inspect.CO_GENERATOR)


def _code_of(value: Any) -> CodeType | None:
    """Of a function of Python's, or of an object that is called like one."""
    while isinstance(value, partial):
        value = value.func
    if not callable(value) or isinstance(value, type):
        return None
    function = getattr(value, "__func__", value)
    code = getattr(function, "__code__", None) or getattr(type(value).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


def equation_of(terms: Terms, known: Known, place: Place) -> Equation | None:
    """The numbers of a call; None where it ended too early, or they do not add up to what it computed."""
    try:
        symbol, result, parts = terms(known)
        shown = [(read(factor, place), name, read(quantity, place)) for factor, name, quantity in parts]
        kept = tuple((factor.at[0], name, quantity.at) for factor, name, quantity in shown if factor.at[0])
        whole = read(result, place).at
        sums = [sum(factor * at[i] for factor, _, at in kept) for i in range(len(whole))]
    except (KeyError, TypeError, AttributeError, IndexError):
        return None
    fits = all(abs(one - other) <= 1e-4 * max(1.0, abs(other)) for one, other in zip(sums, whole, strict=True))
    return Equation(symbol, kept, whole) if fits else None
