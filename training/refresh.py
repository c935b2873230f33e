"""`python -m training.refresh [FOLDER ...]`: write the code of the working tree into the shipped folders.

The weights stay as they are; tests/test_shipped.py proves the folders identical to the working tree.
"""

import sys
from pathlib import Path

from training.networks import load_pipeline

MODEL_CARDS = Path(__file__).parents[1] / "model_cards"


def shipped_folders() -> list[Path]:
    """The folders of model_cards/ that hold a pipeline."""
    return sorted(index.parent for index in MODEL_CARDS.glob("*/model_index.json"))


def main(folders: list[str]) -> None:
    """Save each pipeline onto itself."""
    for folder in [Path(name) for name in folders] or shipped_folders():
        load_pipeline(str(folder)).save_pretrained(folder)
        print(f"refreshed {folder.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
