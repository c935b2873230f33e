"""What the command lines share: unknown flags are refused, with the nearest known one; which flags were given."""

from argparse import SUPPRESS
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from transformers import HfArgumentParser


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message that names the known word nearest to `word`; empty if none is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def parse_dataclasses(parser: HfArgumentParser, arguments: list[str]) -> list[Any]:
    """The parser's dataclasses, filled from `arguments`, and after them the namespace of its other arguments if any.

    Raises:
        ValueError: an unknown flag, with the nearest known flag.
    """
    *parsed, unknown = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise ValueError(f"unknown flag {unknown[0]}{did_you_mean(unknown[0], flags)}")
    return parsed


def values_of(arguments: list[str], flag: str) -> list[str]:
    """The values of a flag in order, given as `--a_flag value`, `--a_flag=value` or with `--a-flag`."""
    pairs = zip(arguments, [*arguments[1:], None], strict=False)
    spelled = {flag, f"--{flag[2:].replace('_', '-')}"}
    values = [a.partition("=")[2] if "=" in a else b for a, b in pairs if a.partition("=")[0] in spelled]
    return [value for value in values if value is not None]


def given_flags(kinds: tuple[type, ...], arguments: list[str]) -> dict[str, Any]:
    """The values of the flags that stand in `arguments`, by the names of the dataclasses' fields."""
    parser = HfArgumentParser(kinds, allow_abbrev=False, add_help=False)
    for action in parser._actions:
        action.default = SUPPRESS
    return vars(parser.parse_known_args(arguments)[0])
