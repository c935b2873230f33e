"""What the files of a saved folder are of, by their names: sources, and weights in one file or in shards."""

import re
from collections.abc import Iterable
from pathlib import Path

HASHED = re.compile(r"_[0-9a-f]{8}$")  # at the end of the stem of a source that was carried
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


def replaced(written: Iterable[Path], there: Iterable[Path]) -> list[Path]:
    """The files of an earlier save that the files of this one, `written`, replace under other names.

    Sources that are no longer named; and weights of the same component and variant, in one file or in shards: a loader
    would prefer the old index to a new file, or the old file to a new index.
    """
    written = set(written)
    folders = {path.parent for path in written}  # only folders that this pipeline writes to
    weights = {(path.parent, weights_of(path.name)) for path in written if weights_of(path.name)}
    return [
        path
        for path in there
        if path not in written
        and (
            (path.parent, weights_of(path.name)) in weights
            or (path.parent in folders and path.suffix == ".py" and HASHED.search(path.stem))
        )
    ]


def weights_of(name: str) -> tuple[str, ...] | None:
    """Which weights a file is of, whether it holds all of them, a shard, or their index: ("diffusion_pytorch_model",),
    or with a variant ("diffusion_pytorch_model", "fp16"); None for any other file."""
    stem, *endings = _SHARD.sub("", name).split(".")
    if "safetensors" not in endings:
        return None
    return (stem, *(part for part in endings if part not in ("safetensors", "index", "json")))


def has_variant(folder: Path, variant: str | None) -> bool:
    """Whether a component's folder holds weights of that variant."""
    return any(variant in (weights_of(path.name) or ())[1:] for path in folder.glob("*"))
