"""What of a data set's folder is uploaded: its card, and its parquet files."""

from __future__ import annotations

from pathlib import Path

from training.sharing.links import check_links

DATA = "data/*.parquet"


def dataset_files(folder: Path) -> dict[str, bytes | Path]:
    """The files of a prepared data set, by their names in the repository.

    Raises ValueError if `folder` has no parquet files or no card, or one of them is a link out of it."""
    data = sorted(folder.glob(DATA))
    if not data:
        raise ValueError(
            f"{folder} must hold {DATA}: `python -m training.data NAME --out {folder}` prepares a data set"
        )
    card = folder / "README.md"
    if not card.is_file():
        raise ValueError(f"{folder} must hold a README.md, its card: say what the images are, whose, and the licence")
    check_links((card, *data), folder)
    data = [path for path in data if path.is_file()]
    return {path.relative_to(folder).as_posix(): path for path in (card, *data)}


def belongs_to_a_dataset(name: str) -> bool:
    """Whether a file in the repository is from an earlier push, so that this one replaces or deletes it."""
    return name == "README.md" or (name.startswith("data/") and name.endswith(".parquet"))
