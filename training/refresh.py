"""`python -m training.refresh [FOLDER ...]`: write the code of the working tree into the shipped folders.

The weights stay as they are; tests/test_shipped.py proves the folders identical to the working tree.
"""

import sys
from pathlib import Path

from training.card import shipped_folders
from training.networks.open import load_pipeline


def main(folders: list[str]) -> None:
    """Save each pipeline onto itself."""
    for folder in [Path(name) for name in folders] or shipped_folders():
        load_pipeline(str(folder)).save_pretrained(folder)
        print(f"refreshed {folder.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
