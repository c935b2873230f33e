"""Diffusion pipelines, one algorithm per file; each saves and loads with its own code.

`from pipelines import DDIMPipeline` finds any class of this folder, and imports its file alone.
"""

from importlib import import_module
from typing import Any

from .about import classes_by_file


def __getattr__(name: str) -> Any:
    stem = classes_by_file().get(name)
    if stem is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{stem}", __name__), name)


def __dir__() -> list[str]:
    return sorted(classes_by_file())
