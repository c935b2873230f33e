"""What tabs share whose runs wait in the queue: the visitor's place in it, Stop, and leaving it."""

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from .outputs import waiting
from .queueing import leave, places
from .run import StopRequests


class InQueue:
    """A tab with a line that says how far its runs are, and which visitors pressed Stop."""

    status: gr.HTML
    stop_requests: StopRequests

    async def wait(self, request: gr.Request) -> AsyncIterator[Any]:
        """Say how many runs come first, until this visitor's begins."""
        async for before in places(request.session_hash, self.status):
            yield waiting(before)
        yield gr.skip()  # what comes last is sent once more, and without any the line would be emptied

    async def stop(self, request: gr.Request) -> Any:
        """Ask the run to end after its current step or, where it waits, leave the queue."""
        self.stop_requests.press(request.session_hash)
        await leave(request.session_hash, self.status)
        return gr.update(interactive=False)
