"""SIGINT, SIGTERM and SIGHUP: noted while a run trains, so that it can stop between two updates; else they end it."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
AGAIN = 1.0  # seconds: a launcher passes on what the terminal has sent already, and that is no second request


class Interrupted(KeyboardInterrupt):
    """A signal that ends the process now."""

    def __init__(self, number: int) -> None:
        super().__init__(name_of(number))
        self.number = number


def name_of(number: int) -> str:
    """SIGINT and the like."""
    return signal.Signals(number).name


class Noted:
    """The signal that has come, if any. A second one, `AGAIN` seconds later or more, raises Interrupted."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._at = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number, self._at = number, time.monotonic()
        elif time.monotonic() - self._at > AGAIN:
            raise Interrupted(number)


@contextmanager
def noted() -> Iterator[Noted]:
    """Signals are noted, and nothing else happens."""
    seen = Noted()
    with _handled_by(seen):
        yield seen


@contextmanager
def raised() -> Iterator[None]:
    """Signals raise Interrupted."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    with _handled_by(stop):
        yield


def default_handlers() -> None:
    """From now on the signals end this process without a word."""
    if threading.current_thread() is threading.main_thread():
        for number in NUMBERS:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Python takes handlers in the main thread alone. Signals that are ignored (nohup) stay so."""
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in NUMBERS if here}
    before = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
