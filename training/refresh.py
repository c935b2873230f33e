"""`python -m training.refresh [FOLDER ...]`: write the current pipeline code into the shipped model folders.

The weights do not change. tests/test_shipped.py proves that the folders hold the code of the working tree.
"""

import sys
from pathlib import Path

import torch
from safetensors import safe_open

from training.card import shipped_folders
from training.networks.open import load_pipeline

SHARDS = "24MB"  # no file of weights is larger
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def write(folder: Path, destination: Path) -> None:
    """Load a folder's pipeline and save it, its weights in the number formats that they have in the folder."""
    pipe = load_pipeline(str(folder))
    for name, part in pipe.components.items():
        files = sorted((folder / name).glob("*.safetensors"))
        if files and isinstance(part, torch.nn.Module) and part.dtype != dtype_of(files[0]):
            part.to(dtype_of(files[0]))
    pipe.save_pretrained(destination, max_shard_size=SHARDS)


def dtype_of(path: Path) -> torch.dtype:
    """The number format of the weights in a file."""
    with safe_open(path, framework="pt") as file:
        return DTYPES[file.get_slice(next(iter(file.keys()))).get_dtype()]


def main(folders: list[str]) -> None:
    """Load each pipeline and save it to the same folder."""
    for folder in [Path(name) for name in folders] or shipped_folders():
        write(folder, folder)
        print(f"refreshed {folder.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
