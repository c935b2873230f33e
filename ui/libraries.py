"""The libraries that compute, imported by one thread at a time: the page is up before they are.

diffusers imports its parts as they are first asked for, and a second thread that asks meanwhile is told that there are
none.
"""

import threading
from importlib import import_module

_ONE_AT_A_TIME = threading.Lock()
_USED = ("solvers", "ddim", "ddpm", "exact", "score_sde", "flow_matching", "langevin")


def import_them() -> None:
    """Import torch, diffusers and what the page uses of pipelines/, which takes seconds once. Call it before a first
    `from pipelines...` that runs while the page is up."""
    with _ONE_AT_A_TIME:
        for name in _USED:
            import_module(f"pipelines.{name}")
