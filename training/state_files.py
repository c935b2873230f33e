"""The state of one part of a run on disk, without pickles: NAME.json, and the tensors it names in NAME.safetensors.

A state is what `state_dict()` returns: tensors, numbers, strings and None in dicts, lists and tuples. What JSON cannot
say is an object with one key that begins with $: a tensor, a tuple, a dict with keys that are numbers.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor


def write_state(folder: Path, name: str, state: Any) -> None:
    """Write NAME.json and, if there are tensors, NAME.safetensors.

    Raises:
        ValueError: something in `state` is of another type; it says where.
    """
    tensors: dict[str, Tensor] = {}
    content = to_json(state, name, tensors)
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    if tensors:
        save_file(_apart(tensors), folder / f"{name}.safetensors")


def read_state(folder: Path, name: str) -> Any:
    """The state, with its tensors on the CPU.

    Raises:
        ValueError: a file is missing, truncated or not what `write_state` wrote; it names the file.
    """
    path = folder / f"{name}.json"
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    tensors: dict[str, Tensor] = {}
    if "$tensor" in text:
        tensor_names(path.with_suffix(".safetensors"))
        tensors = load_file(path.with_suffix(".safetensors"))
    try:
        return _from_json(content, tensors)
    except KeyError as error:
        raise ValueError(f"{path.with_suffix('.safetensors')} is damaged: it has no tensor {error}") from error


def tensor_names(path: Path) -> list[str]:
    """The names of the tensors in a safetensors file, whose length is checked.

    Raises:
        ValueError: it is missing or damaged; it names the file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def to_json(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON can say it; its tensors are put into `tensors`, by their place below `where`.

    Raises:
        ValueError: a type that cannot be saved, and its place.
    """
    if isinstance(value, Tensor):
        return _tensor_to_json(value, where, tensors)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        items = [to_json(item, f"{where}/{index}", tensors) for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict) and all(isinstance(key, (int, str)) for key in value):
        pairs = [(key, to_json(item, f"{where}/{key}", tensors)) for key, item in value.items()]
        plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
        return dict(pairs) if plain else {"$dict": pairs}
    raise ValueError(
        f"{where} must be a tensor, a number, a string, or a dict or list of those, to be saved in a checkpoint, got a "
        f"{type(value).__name__}"
    )


def _tensor_to_json(value: Tensor, where: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    value = value.detach().cpu()
    if value.is_contiguous() or not _is_channels_last(value):
        tensors[where] = value.contiguous()
        return {"$tensor": where}
    tensors[where] = value.permute(0, 2, 3, 1)  # in the order it has in memory, which fused AdamW counts on
    return {"$tensor": where, "channels_last": True}


def _is_channels_last(value: Tensor) -> bool:
    return value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, copied where they share memory, which safetensors refuses."""
    seen: set[int] = set()
    apart = {}
    for name, value in tensors.items():
        memory = value.untyped_storage().data_ptr()
        apart[name] = value.clone() if memory in seen else value
        seen.add(memory)
    return apart


def _from_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_from_json(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        tensor = tensors[value["$tensor"]]
        return tensor.permute(0, 3, 1, 2) if value.get("channels_last") else tensor
    if "$tuple" in value:
        return tuple(_from_json(item, tensors) for item in value["$tuple"])
    if "$dict" in value:
        return {key: _from_json(item, tensors) for key, item in value["$dict"]}
    return {key: _from_json(item, tensors) for key, item in value.items()}
