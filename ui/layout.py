"""Controls of settings laid out in the current block."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import gradio as gr
from gradio.components import Component

from .fields import Field

NOTHING: Mapping[str, Any] = {}


def laid_out(
    fields: Iterable[Field], control: Callable[[Field], Component], last: Mapping[str, Any] = NOTHING
) -> dict[str, Component]:
    """What `control` makes of each field, by setting, side by side where their `row` is the same word.

    `last`: what is rendered behind the controls of such a word, or of a setting that stands alone.
    """
    together: dict[str, list[Field]] = {}
    for field in fields:
        together.setdefault(field.row or field.name, []).append(field)
    made = {}
    for key, group in together.items():
        with gr.Row() if group[0].row else nullcontext():
            made |= {field.name: control(field) for field in group}
            if key in last:
                last[key].render()
    return made
