"""The queue of runs: how many may wait, who is before whom, and leaving it. It is Gradio's, told by its own lists.

A run is computed only for somebody who listens: Gradio itself drops the runs of a visitor who has gone, and here those
of a program that asked and never came for the answer: `PATIENCE` seconds after it asked where others wait, and later
where nobody does.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import gradio as gr
from gradio.components import Component
from gradio.context import LocalContext
from gradio.queueing import Event, Queue
from gradio.server_messages import EventMessage, ProcessCompletedMessage
from gradio.utils import error_payload

QUEUE = {"concurrency_id": "draw", "concurrency_limit": 1}  # two runs at once would only slow each other down
MOST_WAITING = 250  # runs; more are answered with 503
PATIENCE = 10.0  # seconds until the first sign of a listener while others wait; a busy phone may need some of them
PATIENCE_ALONE = 60.0  # the same while nobody waits
LOOK_EVERY = 0.25  # seconds, at how many before them those who wait
MOST_LOOKS = 8  # without finding the run in the queue: it is over, or was never taken
UNHEARD = "Nobody listened to this run, so that it was dropped: ask again, and read its answer while it is computed."

T = TypeVar("T")


class RunQueue(Queue):
    """Gradio's queue, which also notices whose messages nobody takes."""

    def __init__(self, demo: gr.Blocks) -> None:
        super().__init__(True, demo.max_threads, 1, MOST_WAITING, demo)
        self._heard: WeakKeyDictionary[Event, bool] = WeakKeyDictionary()

    async def push(self, *args: Any, **kwargs: Any) -> tuple[bool, Any, Any]:
        """Before another event is taken, those that nobody listens to make room."""
        for event in self._waiting():
            if self.is_unheard(event):
                await self.dismiss(event, gr.Error(UNHEARD))
        return await super().push(*args, **kwargs)

    def send_message(self, event: Event, event_message: EventMessage) -> None:
        """Leave a message for the listener, who has come if those before it are gone."""
        self._heard[event] = event in self._heard and self._is_heard(event)
        super().send_message(event, event_message)

    def is_unheard(self, event: Event) -> bool:
        """Whether nobody has taken a message about an event, for as long as that is borne."""
        patience = PATIENCE if self._waiting() else PATIENCE_ALONE
        return not self._is_heard(event) and time.monotonic() - event.enqueue_time > patience

    def _is_heard(self, event: Event) -> bool:
        messages = self.pending_messages_per_session.get(event.session_hash)
        if messages is None or messages.empty():
            self._heard[event] = True
        return self._heard.get(event, False)

    async def dismiss(self, event: Event, error: gr.Error) -> None:
        """Take an event that waits out of the queue, and tell its listener why."""
        await self.remove_from_queue(event._id)
        told = ProcessCompletedMessage(output=error_payload(error, False), success=False, title=error.title)
        self.send_message(event, told)

    def before(self, session: str, shown_in: Component) -> int | None:
        """How many runs come before that of a visitor, the one at work included; None if it does not wait."""
        waiting = self._waiting()
        places = [i for i, event in enumerate(waiting) if _is_of(event, session, shown_in)]
        return places[-1] + self._at_work() if places else None

    def is_at_work(self, session: str, shown_in: Component) -> bool:
        """Whether a visitor's run is being computed."""
        jobs = [job for job in self.active_jobs if job]
        return any(_is_of(event, session, shown_in) for job in jobs for event in job)

    async def leave(self, session: str, shown_in: Component) -> None:
        """Take a visitor's run out of the queue, if it waits there."""
        for event in [event for event in self._waiting() if _is_of(event, session, shown_in)]:
            await self.dismiss(event, gr.Error("Stopped", visible=False))

    def _waiting(self) -> list[Event]:
        line = self.event_queue_per_concurrency_id.get(QUEUE["concurrency_id"])
        return list(line.queue) if line else []

    def _at_work(self) -> int:
        return self.event_queue_per_concurrency_id[QUEUE["concurrency_id"]].current_concurrency


def _is_of(event: Event, session: str, shown_in: Component) -> bool:
    """Whether it is a visitor's, and changes a component: a page has several kinds of runs."""
    return event.session_hash == session and shown_in._id in [block._id for block in event.fn.outputs]


def set_up(demo: gr.Blocks) -> None:
    """Give a page this queue."""
    demo.queue(max_size=MOST_WAITING)
    demo._queue = RunQueue(demo)


def current_queue() -> RunQueue | None:
    """That of the page whose event is being handled; None outside of a server."""
    demo = LocalContext.blocks.get(None)
    return None if demo is None else demo._queue


def while_heard(steps: Iterator[T]) -> Iterator[T]:
    """The steps of a run, as long as somebody listens to the event that it belongs to.

    Raises:
        ValueError: nobody does.
    """
    queue = current_queue()
    event = None if queue is None else queue.event_ids_to_events.get(LocalContext.event_id.get(None))
    with closing(steps):
        while event is None or not queue.is_unheard(event):
            try:
                step = next(steps)
            except StopIteration:
                return
            yield step
    raise ValueError(UNHEARD)


async def places(session: str, shown_in: Component) -> AsyncIterator[int]:
    """How many runs are before a visitor's that is shown in a component, whenever that changes, until it begins or is
    no longer asked for."""
    queue, told, missed = current_queue(), None, 0
    while queue is not None and missed < MOST_LOOKS:
        before = queue.before(session, shown_in)
        if before is None and (told is not None or queue.is_at_work(session, shown_in)):
            return
        missed = missed + 1 if before is None else 0
        if before and before != told:
            told = before
            yield before
        await asyncio.sleep(LOOK_EVERY)


async def leave(session: str, shown_in: Component) -> None:
    """Take a visitor's run that is shown in a component out of the queue, if it waits there."""
    queue = current_queue()
    if queue is not None:
        await queue.leave(session, shown_in)
