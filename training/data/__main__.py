"""`python -m training.data fashion --out data/fashion`: prepare a built-in data set as a folder of parquet."""

from __future__ import annotations

import argparse
import difflib
import logging
from pathlib import Path

from training.data import fashion

DATASETS = {"fashion": fashion.prepare}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and prepare the data set; every failure is one line."""
    parser = argparse.ArgumentParser(prog="python -m training.data", description=__doc__)
    parser.add_argument("name", help=f"which data set: {', '.join(DATASETS)}")
    parser.add_argument("--out", type=Path, help="the folder to write (default: data/NAME)")
    parser.add_argument("--source", type=Path, help="a folder with the original files, instead of the usual place")
    options = parser.parse_args(arguments)
    if options.name not in DATASETS:
        nearest = difflib.get_close_matches(options.name, DATASETS, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        parser.error(f"unknown data set {options.name!r}{hint} (there are: {', '.join(DATASETS)})")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        DATASETS[options.name](options.out or Path("data", options.name), options.source)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
