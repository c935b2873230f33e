"""An endpoint for programs whose parameters are rows of settings and files, none of them required."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING
from typing import Any

import gradio as gr
from gradio.components import Component

from .answers import answered
from .fields import Field


def add_endpoint(
    name: str,
    doc: str,
    parameters: Mapping[str, Component],
    problems: Callable[[dict[str, Any]], Mapping[str, str]],
    answer: Callable[[dict[str, Any]], Any],
    outputs: Sequence[Component],
    **limits: Any,
) -> None:
    """Add /`name` to the current Blocks. Its components are invisible: they only carry names and defaults.

    `problems` says what is wrong with the values, by parameter, before they wait for their turn. `answer`, a function
    or a generator, is given them by name, with None for what a caller left out. What `parameters` say of themselves
    (`explained`) is added to the `doc`.
    """

    def check(*values: Any) -> list[dict[str, Any]]:
        wrong = problems(dict(zip(parameters, values, strict=True)))
        return [gr.validate(each not in wrong, wrong.get(each, "")) for each in parameters]

    called = _taking(list(parameters), answer)
    texts = {each: part.api_info()["additional_description"].removesuffix(".") for each, part in parameters.items()}
    called.__name__ = name
    called.__doc__ = "\n".join([doc, "", "Args:", *(f"    {each}: {text}" for each, text in texts.items())])
    gr.Button(visible=False).click(
        called,
        list(parameters.values()),
        list(outputs),
        api_name=name,
        api_description=doc,
        validator=check,
        show_progress="hidden",
        **limits,
    )


def parameter(row: Field, default: Any, unless_given: str = "") -> Component:
    """A row as a parameter, with what it may be in ?view=api; `unless_given` says what None stands for."""
    if default is None and not unless_given and row.default is not MISSING:
        unless_given = repr(row.default)
    text = row.values.api_text(row.doc or row.info or row.label)
    said = unless_given or repr(default)
    return explained(row.values.api_input(row.name, default), f"{text}; {said} unless given")


def explained(component: Component, text: str) -> Component:
    """A parameter that says in ?view=api and `Client.view_api` what it is."""
    plain = component.api_info()
    component.api_info = lambda: plain | {"additional_description": f"{text}."}
    return component


def _taking(names: list[str], answer: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
    """`answer` as a function of these names, which Gradio reads."""
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, keyword, default=None) for name in names])

    def bound(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        return dict.fromkeys(names) | signature.bind(*args, **kwargs).arguments

    def once(*args: Any, **kwargs: Any) -> Any:
        with answered():
            return answer(bound(args, kwargs))

    def in_parts(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with answered():
            yield from answer(bound(args, kwargs))

    endpoint = in_parts if inspect.isgeneratorfunction(answer) else once
    endpoint.__signature__ = signature
    return endpoint
