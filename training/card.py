"""`python -m training.card [FOLDER ...]`: write model cards from metrics.json and training.json."""

import argparse
import sys
from pathlib import Path

from pipelines.facts import where_to_look
from training.files import write_whole
from training.model_index import ADAPTER, is_adapter, is_pipeline
from training.sharing.card_tables import results_table, sorted_rows, text_to_image_cells
from training.sharing.card_text import is_own_card, render

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MARKERS = ("<!-- results: python -m training.card -->", "<!-- end of results -->")


def shipped_folders() -> list[Path]:
    """The folders of model_cards/ that hold a pipeline."""
    return sorted(index.parent for index in (ROOT / "model_cards").glob("*/model_index.json"))


def shipped_adapters() -> list[Path]:
    """The folders of model_cards/ that hold an adapter (LoRA) of a pipeline."""
    return sorted(file.parent for file in (ROOT / "model_cards").glob(f"*/{ADAPTER}"))


def results() -> str:
    """The README's results: the best row of each shipped model."""
    folders = {f"[`{f.name}`](model_cards/{f.name})": f for f in shipped_folders()}
    rows = {name: sorted_rows(folder) for name, folder in folders.items()}
    return results_table(rows, {name: text_to_image_cells(folder) for name, folder in folders.items()})


def with_results(readme: str) -> str:
    """The text of the project's README, with the results between its two markers replaced."""
    before, marker, rest = readme.partition(MARKERS[0])
    after = rest.partition(MARKERS[1])[2]
    return f"{before}{marker}\n\n{results()}\n\n{MARKERS[1]}{after}"


def main(arguments: list[str] | None = None) -> None:
    """Write the card of each folder (default: all shipped models), and the results in the README."""
    parser = argparse.ArgumentParser("python -m training.card", description=__doc__.partition(": ")[2])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="a model's folder [all shipped ones]")
    folders = parser.parse_args(arguments).folders or [*shipped_folders(), *shipped_adapters()]
    for folder in folders:
        if not (is_pipeline(folder) or is_adapter(folder)):
            hint = where_to_look(folder)
            sys.exit(f"error: FOLDER must be that of a pipeline, but {folder} has no model_index.json{hint}")
    try:
        for folder in folders:
            if is_own_card(folder):
                print(f"kept {folder / 'README.md'}, a card of your own")
                continue
            write_whole(folder / "README.md", render(folder).encode())
            print(f"wrote {folder / 'README.md'}")
        write_whole(README, with_results(README.read_text()).encode())
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
