"""ZeroGPU: hardware of Hugging Face Spaces that lends a GPU to a decorated function while it runs.

There the function runs in a forked process: its arguments and what it yields are pickled, and the networks are on the
GPU in that process alone. Anywhere else, with the package `spaces` or without, the function stays as it is.
"""

import os
from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)

try:
    import spaces
except ImportError:  # it is installed in Spaces
    spaces = None


def on_gpu(function: Function) -> Function:
    """Decorate a function that needs the GPU. A ZeroGPU Space without such a function does not start."""
    return function if spaces is None else spaces.GPU(function)


def lent() -> bool:
    """Whether a GPU is lent here: outside of a decorated function there is none, whatever torch says."""
    return spaces is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
