"""The objectives, one loss per file. An objective has flags, builds its network, computes its loss and its pipeline.

`--objective` selects a file here by its name; the file sets `OBJECTIVE` to its class. There is no other list of them.
"""

import pkgutil
from importlib import import_module

from training.objectives.base import Objective


def find_objective(name: str) -> type[Objective]:
    """The class that `--objective` names: that of a file in this folder, or any module:Class.

    Raises:
        ValueError: it does not exist, or is not an `Objective`.
    """
    found = _class_outside(name) if ":" in name else objective_here(name)
    if found is None:
        known = ", ".join(file for file in _files() if objective_here(file))
        raise ValueError(f"objective must be one of {known}, or module:Class, got {name!r}")
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise ValueError(f"objective must be a class that inherits training.objectives.base.Objective, got {name!r}")
    return found


def objective_here(name: str) -> type[Objective] | None:
    """The objective in the file of this name in this folder; None if there is none. No other file is imported."""
    if name not in _files():
        return None
    return getattr(import_module(f"{__name__}.{name}"), "OBJECTIVE", None)


def _files() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def _class_outside(name: str) -> object:
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"objective must be a class that can be imported, got {name!r}: {error}") from error
