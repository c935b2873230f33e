"""`python -m training.data fashion --out data/fashion`: prepare a built-in data set as a folder of parquet."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from training.data import fashion

DATASETS = {"fashion": fashion.prepare}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and prepare the data set. Every failure exits with a one-line message."""
    parser = argparse.ArgumentParser(prog="python -m training.data", description=__doc__)
    parser.add_argument("name", choices=DATASETS, help="the data set to prepare")
    parser.add_argument("--out", type=Path, help="the folder to write (default: data/NAME)")
    parser.add_argument(
        "--source", type=Path, help="a folder with the original files (default: a Debian package, or else the Hub)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        DATASETS[options.name](options.out or Path("data", options.name), options.source)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
