"""Below the prompt: the styles of a model, to add to it, and whole prompts to begin with; nothing without any."""

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from .catalogue import Catalogue, ModelInfo
from .fields import FIELDS
from .head import PRESS_DRAW
from .prompts import MOST

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


class Suggestions:
    """The chips and the examples below the prompt. Made unseen, so that the page puts them in their place."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        first = catalogue[catalogue.names[0]]
        self.styles = gr.CheckboxGroup(
            label="Style",
            info="a click adds it to the prompt, another takes it out; Draw or Enter draws",
            render=False,
            elem_id="styles",
            **self._styles_of(first, FIELDS["prompt"].default_of(first)),
        )
        self.examples = gr.Dataset(
            label="Examples: a click draws one",
            components=["textbox"],
            type="index",
            samples_per_page=MOST,
            render=False,
            elem_id="examples",
            **self._examples_of(first),
        )

    def render(self) -> None:
        """Put them into the current block."""
        self.styles.render()
        self.examples.render()

    def connect(self, model: Component, prompt: Component) -> None:
        """Let them follow the model and the prompt, and change the prompt."""
        model.change(self.follow_model, [model, prompt], [self.styles, self.examples], **QUIET)
        prompt.change(self.follow_prompt, [model, prompt], self.styles, trigger_mode="always_last", **QUIET)
        prompt.submit(None, js=PRESS_DRAW, **QUIET)
        self.styles.input(self.choose_style, [model, prompt, self.styles], [prompt, self.styles], **QUIET)
        self.examples.click(self.choose_example, [model, self.examples], prompt, **QUIET).then(
            None, js=PRESS_DRAW, **QUIET
        )

    def follow_model(self, model: str, prompt: str) -> tuple[Any, Any]:
        """The styles and the examples of another model."""
        info = self.catalogue[model]
        return gr.update(**self._styles_of(info, prompt)), gr.update(**self._examples_of(info))

    def follow_prompt(self, model: str, prompt: str) -> list[str]:
        """The style that a prompt names, pressed."""
        return styles_in(prompt, self.catalogue[model].styles)

    def choose_style(self, model: str, prompt: str, pressed: list[str]) -> tuple[str, list[str]]:
        """The prompt with the style that was pressed instead of another one, or without one."""
        styles = self.catalogue[model].styles
        chosen = [style for style in pressed if style not in styles_in(prompt, styles)]
        prompt = with_style(prompt, chosen[-1] if chosen else "", styles)
        return prompt, styles_in(prompt, styles)

    def choose_example(self, model: str, index: int) -> str:
        """The prompt of an example."""
        return self.catalogue[model].examples[index]

    def _styles_of(self, info: ModelInfo, prompt: str) -> dict[str, Any]:
        chips = [(style.removesuffix(" style"), style) for style in info.styles]
        return {"choices": chips, "value": styles_in(prompt, info.styles), "visible": bool(chips)}

    def _examples_of(self, info: ModelInfo) -> dict[str, Any]:
        return {"samples": [[prompt] for prompt in info.examples], "visible": bool(info.examples)}


def styles_in(prompt: str, styles: Sequence[str]) -> list[str]:
    """The last of the styles that stands in a prompt, between commas; [] if none does."""
    parts = [_plain(part) for part in prompt.split(",")]
    found = [style for style in styles if _plain(style) in parts]
    return sorted(found, key=lambda style: parts.index(_plain(style)))[-1:]


def with_style(prompt: str, style: str, styles: Sequence[str]) -> str:
    """A prompt that ends in a style, "" for none, and has none of the others. The rest stays as it was written."""
    known = {_plain(each) for each in styles}
    rest = ",".join(part for part in prompt.split(",") if _plain(part) not in known)
    rest = rest.rstrip(" ,") if style or rest != prompt else rest
    return ", ".join(filter(None, (rest, style)))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
