"""What is wrong, as visitors and programs are told."""

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr


@contextmanager
def answered() -> Iterator[None]:
    """A ValueError, whose text is written to be read, becomes the error that Gradio passes on."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error)) from error
