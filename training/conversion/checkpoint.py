"""Reads the weights in a published file, without running any code in it: an error says what was asked for, or what is
wrong with the file.

The weights may be wrapped, as training scripts do it: beside the optimizer's state under `state_dict`, `model` or
`ema`, with `module.` before every name. They are found by the name of a weight that each network has.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.pickles import foreign_names

ANCHOR = "time_embed.0.weight"  # each published U-Net and classifier has a weight of this name
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
BLOCKED = re.compile(r"GLOBAL ([\w.]+)")
ADVICE = re.compile(r"\n|(?<=\.) (?:Please|This file can still)")  # where torch's advice begins


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.pt` file by name, read with `weights_only` and memory-mapped.

    Raises:
        ValueError: no such file, or not a file of named tensors.
    """
    state = unwrapped(path, read(path), ANCHOR)
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{path} must hold named tensors (a state dict), it holds a {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str) or not is_weight(value):
            raise ValueError(f"{path} must hold named tensors (a state dict), its {name!r} is a {type(value).__name__}")
    return dict(state)


def is_weight(value: object) -> bool:
    """Whether a value is a plain tensor of floating point numbers."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.layout is torch.strided


def unwrapped(path: str | Path, content: Any, anchor: str) -> Any:
    """What of a file's content holds the weight `anchor`, under names without a prefix; all of it if nothing does.

    Says what was unwrapped. Of several sets of weights, those averaged over the training (EMA) are taken.

    Raises:
        ValueError: several sets of weights, and it is not clear which of them to take.
    """
    found = dict(wrappings(content, anchor))
    if not found or "" in found:
        return found.get("", content)
    averaged = [place for place in found if re.search("ema|averag", place, re.IGNORECASE)]
    chosen = list(found) if len(found) == 1 else averaged
    if len(chosen) != 1:
        raise ValueError(f"{path} holds several sets of weights ({', '.join(found)}): save one of them by itself")
    others = "".join(f", not those under {place!r}" for place in found if place != chosen[0])
    print(f"{path}: the weights under {chosen[0]!r} are taken{others}")
    return found[chosen[0]]


def wrappings(content: Any, anchor: str, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, the weights by their own names) of each set of weights in nested dicts; "" where nothing is wrapped.

    The place is that of "state_dict" or the like, and then what stands before every name: "state_dict/module.".
    """
    if not isinstance(content, Mapping):
        return
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from wrappings(value, anchor, f"{place}{name}/")
        elif name == anchor:
            yield place.removesuffix("/"), dict(content)
        elif isinstance(name, str) and name.endswith(f".{anchor}"):
            prefix = name.removesuffix(anchor)
            own = {key: each for key, each in content.items() if str(key).startswith(prefix)}
            yield f"{place}{prefix}", {key.removeprefix(prefix): each for key, each in own.items()}


def check_finite(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a weight is NaN or infinite; it names the first tensors that hold one."""
    wrong = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if wrong:
        names = f"{', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}"
        raise ValueError(
            f"{path}: {len(wrong)} of {len(state)} tensors hold weights that are NaN or infinite ({names})"
        )


def read(path: str | Path) -> Any:
    """The content of a file, by `torch.load` with `weights_only`: no code in it is executed.

    Raises:
        ValueError: no such file, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    try:
        with warnings.catch_warnings(action="ignore"):  # the error says it all
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch.load raises nearly any type for a file that is not one of weights
        raise ValueError(f"{path} is not a file of weights: {reason(path, error)}") from error


def reason(path: Path, error: Exception) -> str:
    """What is wrong, in a line; not torch's advice, which is to load the file in a way that runs its code."""
    damage = damage_of_zip(path)
    if damage is not None:
        return damage
    text = ESCAPES.sub("", str(error)).strip()
    told = BLOCKED.search(text)
    blocked = told[1].rstrip(".") if told else next(iter(foreign_names(path)), None)
    if blocked is not None:
        return f"Unsupported global: GLOBAL {blocked} was not an allowed global by default."
    text = text.partition("WeightsUnpickler error: ")[2] or text
    text = ADVICE.split(text)[0].strip()[:200]
    if not text or "weights_only" in text:
        return "a tar file of an old version of torch" if ".tar" in text else "nothing in it can be read"
    return text if isinstance(error, (pickle.UnpicklingError, RuntimeError)) else f"{type(error).__name__} {text}"


def damage_of_zip(path: Path) -> str | None:
    """What is wrong with a zip file; None if the file is none, or is whole and one of weights."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return None
    try:
        with zipfile.ZipFile(path) as archive:
            names, broken = {name.rpartition("/")[2] for name in archive.namelist()}, archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return "a zip file that is damaged or was cut short"
    if "data.pkl" not in names:
        return "a zip file, but not one that torch has written"
    if "constants.pkl" in names:
        return "a TorchScript archive, which holds code: save the state_dict() of its module instead"
    return "a zip file that is damaged or was cut short" if broken or "version" not in names else None
