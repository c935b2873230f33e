"""Adapters (LoRA) that lie beside a model, and a pipeline that draws with one of them at a strength.

An adapter is found where its folder lies beside that of its base and says so: in the header of its file, as this
project's trainer and diffusers write it, or as `base_model` on its card.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import RepoCard, snapshot_download

NONE = "none"
FILE = "pytorch_lora_weights.safetensors"
CALLED = "style"  # what a pipeline calls the adapter of a run
MOST_HEADER = 10**8  # bytes of the header of a file, as safetensors itself allows


@dataclass(frozen=True)
class Adapter:
    """An adapter by the name of its folder.

    Attributes:
        source: the folder or Hub id as it was given, for `load_lora_weights`
        folder: where its files are
        words: the words that call it up in a prompt; "" where they are not known
    """

    name: str
    source: str
    folder: Path
    words: str = ""


def adapters_of(folder: Path, source: str, given: tuple[str, ...] = ()) -> dict[str, Adapter]:
    """The adapters of the model in `folder`, by name, or by their whole source where a name is taken: those beside
    it, then those of `given` that name it."""
    names = {source, folder.name, folder.resolve().name, Path(source).name}
    beside = sorted(str(path.parent) for path in folder.parent.glob(f"*/{FILE}")) if Path(source).is_dir() else []
    found = [_adapter(each) for each in dict.fromkeys([*beside, *given])]
    found = [each for each in found if _last(base_of(each.folder)) in {_last(name) for name in names}]
    named: dict[str, Adapter] = {}
    for each in found:
        name = each.source if each.name in named else each.name
        named[name] = replace(each, name=name)
    return named


def base_of(folder: Path) -> str:
    """The base that an adapter names, a Hub id or the name of a folder; "" where it names none."""
    told = [value for key, value in _config(folder).items() if key.endswith("base_model_name_or_path") and value]
    card = folder / "README.md"
    if not told and card.is_file():
        with suppress(Exception):  # a card may say anything
            told = [RepoCard.load(card, ignore_metadata_errors=True).data.to_dict().get("base_model")]
    return str(told[0]) if told and isinstance(told[0], str) else ""


def carries_loader(folder: Path, carries_code: bool) -> bool:
    """Whether the code that a model is drawn with takes adapters: that of old folders does not."""
    return not carries_code or any(folder.glob("lora_*.py"))


def with_adapter(pipe: Any, adapter: Adapter, strength: float) -> Any:
    """A pipeline that draws with an adapter, over a network of its own: visitors share that of `pipe`.

    Raises:
        ValueError: the adapter is of another network.
    """
    import copy

    name = "unet" if getattr(pipe, "unet", None) is not None else "transformer"
    parts = dict(pipe.components) | {name: copy.deepcopy(getattr(pipe, name))}
    kept = {key: value for key, value in pipe.config.items() if not key.startswith("_") and key not in parts}
    own = type(pipe)(**parts, **kept)
    own.load_lora_weights(str(adapter.folder), weight_name=FILE, adapter_name=CALLED)
    own.set_adapters(CALLED, strength)
    return own


def _adapter(source: str) -> Adapter:
    folder = Path(source)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(source, allow_patterns=[FILE, "training.json", "README.md"]))
        except Exception as error:  # the Hub client raises a dozen kinds; each means that there is no such adapter
            raise ValueError(f"adapter must be a folder or a Hub id, got {source!r}: {error}") from error
    if not (folder / FILE).is_file():
        raise ValueError(f"adapter must hold {FILE}: {source} does not")
    name = folder.resolve().name if Path(source).is_dir() else _last(source)
    return Adapter(name, source, folder, _words(folder))


def _words(folder: Path) -> str:
    try:
        return ", ".join(json.loads((folder / "training.json").read_text())["trigger_words"])
    except (OSError, ValueError, KeyError, TypeError):  # files may say anything
        return ""


def _config(folder: Path) -> dict[str, Any]:
    """What the header of an adapter's file says of its training; {} where it says nothing."""
    try:
        with open(folder / FILE, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= MOST_HEADER else {}
        return dict(json.loads(header["__metadata__"]["lora_adapter_metadata"]))
    except (OSError, ValueError, KeyError, TypeError):  # files may say anything
        return {}


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]
