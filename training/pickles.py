"""Pickles that others may have written: read without running anything in them, and refused by what they ask for.

A pickle can name any function of any module and have it called. `torch.load` with `weights_only` calls none but those
that rebuild tensors; here the names in a file are also listed, without loading it, so that a message can tell them.
"""

import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

SUFFIXES = (".pkl", ".pickle", ".bin", ".pt", ".pth", ".ckpt")
# what rebuilds tensors and arrays, and the states of random generators that accelerate saves
_HARMLESS = re.compile(
    r"collections\.OrderedDict|_codecs\.encode|torch\._utils\._rebuild_\w+|torch(\.storage)?\.\w+Storage"
    r"|torch\.(Size|device|(b?float|u?int|bool|complex)\w*)"
    r"|numpy\._?core\.multiarray\.(_reconstruct|scalar)|numpy\.(ndarray|dtype)|numpy\.dtypes\.\w+"
)


class UnsafeFile(ValueError):
    """A file that asks for code to be run."""


def refuse_code(folder: Path) -> None:
    """Raise UnsafeFile for a pickle in `folder`, at any depth, that names what a checkpoint has no use for."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in SUFFIXES and path.is_file():
            foreign = foreign_names(path)
            if foreign:
                raise UnsafeFile(f"{path} is refused: a pickle in it asks for {', '.join(foreign)}; nothing was run")


def read_pickle(path: Path) -> Any:
    """The content of a file that `torch.save` wrote, read with `weights_only`; its tensors are on the CPU.

    Raises:
        UnsafeFile: it asks for something that `weights_only` forbids.
        ValueError: it is missing or damaged. Both name the file.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = foreign_names(path)
        if foreign:
            raise UnsafeFile(f"{path} is refused: it asks for {', '.join(foreign)}; nothing was run") from error
        raise ValueError(f"{path} is damaged: it is not a file of tensors") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {str(error).strip().splitlines()[0]}") from error


def foreign_names(path: Path) -> list[str]:
    """The names `module.function` that the pickles in a file ask for, without those that rebuild tensors."""
    names = [name for stream in _streams(path) for name in _names(stream)]
    return sorted({name for name in names if not _HARMLESS.fullmatch(name)})


def _streams(path: Path) -> Iterator[bytes]:
    """The bytes of each pickle of a file: of the zip that `torch.save` writes, or the file itself."""
    if not zipfile.is_zipfile(path):
        yield path.read_bytes()
        return
    with zipfile.ZipFile(path) as archive:
        yield from (archive.read(name) for name in archive.namelist() if name.endswith(".pkl"))


def _names(content: bytes) -> Iterator[str]:
    """All names in a stream of one or more pickles, up to what is no pickle."""
    stream, strings = io.BytesIO(content), ["", ""]
    try:
        while stream.tell() < len(content):
            for code, argument, _ in pickletools.genops(stream):
                if code.name in ("GLOBAL", "INST"):
                    yield argument.replace(" ", ".", 1)
                elif code.name == "STACK_GLOBAL":
                    yield ".".join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, IndexError, UnicodeDecodeError):
        return
