"""`python -m training.refresh [FOLDER ...]`: write the current pipeline code into the shipped model folders.

The weights do not change. tests/test_shipped.py proves that the folders hold the code of the working tree.
"""

import sys
from pathlib import Path

from training.card import shipped_folders
from training.networks.open import load_pipeline


def main(folders: list[str]) -> None:
    """Load each pipeline and save it to the same folder."""
    for folder in [Path(name) for name in folders] or shipped_folders():
        load_pipeline(str(folder)).save_pretrained(folder)
        print(f"refreshed {folder.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
