"""Cuts paths of this machine to their last part before anything is uploaded."""

import re
import shlex
from typing import Any


def without_path(text: str) -> str:
    """A local path, or each local path in a command, cut to its last part; other text unchanged."""
    if _is_path(text):
        return re.split(r"[\\/]", text.rstrip("\\/"))[-1]
    if "/" not in text and "\\" not in text:
        return text
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    cut = [_word_without_path(word) for word in words]
    return text if cut == words else shlex.join(cut)


def without_paths(value: Any) -> Any:
    """JSON content with `without_path` applied to each string."""
    if isinstance(value, dict):
        return {key: without_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_paths(part) for part in value]
    return without_path(value) if isinstance(value, str) else value


def _word_without_path(word: str) -> str:
    flag, equals, value = word.partition("=")
    if equals and flag.startswith("-"):
        return flag + equals + _word_without_path(value)
    return without_path(word) if _is_path(word) else word


def _is_path(text: str) -> bool:
    return bool(re.match(r"/|~|\.\.[\\/]|\\\\|file:|[A-Za-z]:[\\/]", text))
