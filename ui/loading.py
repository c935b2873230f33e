"""A model's pipeline, loaded by the code in its folder where there is some, with every weight there and finite."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .device import Placement
from .libraries import import_them

if TYPE_CHECKING:
    from .catalogue import ModelInfo


def load(info: "ModelInfo", placement: Placement) -> Any:
    """The pipeline of a model, on its device.

    Raises:
        ValueError: it does not load, or weights are missing, NaN or infinite; in one line, by model and part.
    """
    import_them()
    import torch

    try:
        pipe = _from_folder(info, getattr(torch, placement.dtype))
    except (Exception, SystemExit) as error:  # files and code of others fail in every way
        raise ValueError(f"model {info.name} cannot be loaded: {in_a_line(error)}") from error
    for part, module in pipe.components.items():
        for problem in _problems(module, info.folder / part) if isinstance(module, torch.nn.Module) else ():
            raise ValueError(f"model {info.name} cannot be loaded: {part} {problem}")
    return placement.apply(pipe)


def in_a_line(error: BaseException) -> str:
    """The first line of an error, after its kind where that says more."""
    first = next(iter(str(error).strip().splitlines()), "")
    return first if isinstance(error, (OSError, ValueError)) and first else f"{type(error).__name__}: {first}"


def _from_folder(info: "ModelInfo", dtype: Any) -> Any:
    import diffusers

    import pipelines

    options = {"use_safetensors": True, "dtype": dtype}
    if info.carries_code:
        return diffusers.DiffusionPipeline.from_pretrained(info.folder, trust_remote_code=True, **options)
    return getattr(pipelines, info.pipeline).from_pretrained(info.folder, **options)


def _problems(module: Any, folder: Path) -> Iterator[str]:
    missing = _missing(module, folder)
    if missing:
        yield f"lacks {_some(missing)}"
    wrong = [name for name, weight in module.named_parameters() if not weight.isfinite().all()]
    if wrong:
        yield f"has weights that are NaN or infinite: {_some(wrong)}"


def _missing(module: Any, folder: Path) -> list[str]:
    """Parameters that no file holds. diffusers leaves them without memory; transformers draws them at random, so that
    its files are read, where a prefix of the name may be longer or shorter."""
    weights = dict(module.named_parameters())  # each once, also where two modules share it
    if not any(base.__module__.startswith("transformers.") for base in type(module).__mro__):
        return [name for name, weight in weights.items() if weight.is_meta]
    saved = _names_in(folder)
    return [name for name in weights if saved and not any(_is_same(name, other) for other in saved)]


def _is_same(name: str, other: str) -> bool:
    return name == other or name.endswith(f".{other}") or other.endswith(f".{name}")


def _names_in(folder: Path) -> set[str]:
    from safetensors import safe_open

    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"
