"""`python -m training.data NAME --out FOLDER`: prepare a built-in data set as a folder of parquet."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from training.data import fashion
from training.data.emoji import build


def prepare_fashion(options: argparse.Namespace) -> None:
    """`python -m training.data fashion`."""
    fashion.prepare(options.out or Path("data/fashion"), options.source)


def prepare_emoji(options: argparse.Namespace) -> None:
    """`python -m training.data emoji`."""
    name = f"emoji-{options.style}" if options.style else "emoji"
    build.prepare(options.out or Path("data", name), options.source, options.style)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and prepare the data set. Every failure exits with a one-line message."""
    parser = argparse.ArgumentParser(prog="python -m training.data", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True, help="the data set to prepare")
    garments = names.add_parser("fashion", help="60,000 + 10,000 garments, 28x28, grey")
    garments.set_defaults(prepare=prepare_fashion)
    garments.add_argument("--out", type=Path, help="the folder to write (default: data/fashion)")
    garments.add_argument(
        "--source", type=Path, help="a folder with the original files (default: a Debian package, or else the Hub)"
    )
    drawn = names.add_parser("emoji", help="emoji by several vendors, 128x128, colour")
    drawn.set_defaults(prepare=prepare_emoji)
    drawn.add_argument("--out", type=Path, help="the folder to write (default: data/emoji, or data/emoji-STYLE)")
    drawn.add_argument("--source", type=Path, help="a folder with the .tgz files of the packages (default: npm)")
    drawn.add_argument("--style", help="build this vendor's alone, such as streamline, which is not among the others")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        options.prepare(options)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
