"""Reads metadata.csv and metadata.jsonl as people write them: by hand, by a spreadsheet, on any system."""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.sources import visible_entries

logger = logging.getLogger(__name__)

METADATA = ("metadata.jsonl", "metadata.csv")  # in any case; the first that is there is read
BYTE_ORDER_MARKS = {  # those of UTF-32 begin with those of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
DELIMITERS = ",;\t|"  # a spreadsheet writes semicolons where the comma is a decimal mark, and tabs as "Unicode text"
END = "(end of the file)"


@dataclass(frozen=True)
class Table:
    """The rows of a metadata file: values by column, and the number of the line where each row begins."""

    path: Path
    lines: list[int]
    rows: list[dict[str, Any]]

    @property
    def columns(self) -> list[str]:
        """The columns of all rows, in the order in which they appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def places(self) -> list[str]:
        """Where each row is, for messages."""
        return [f"{self.path}, line {line}" for line in self.lines]


def metadata_of(folder: Path) -> Path | None:
    """The metadata file of a folder, if it has one."""
    named = [entry for entry in visible_entries(folder) if entry.name.lower() in METADATA]
    found = {entry.name.lower(): entry for entry in named if entry.is_file()}
    return next((found[name] for name in METADATA if name in found), None)


def unread_metadata(folder: Path) -> list[str]:
    """Files beside the images that look like metadata and are not read, such as metadata.xlsx."""
    read = metadata_of(folder)
    alike = [entry for entry in visible_entries(folder) if entry.stem.lower() == "metadata" and entry != read]
    return [entry.name for entry in alike if entry.is_file()]


def read_metadata(path: Path) -> Table:
    """The rows of a .csv or .jsonl file.

    Raises ValueError, with the file and the line, for text that cannot be read, and for a file without rows.
    """
    text = read_text(path)
    rows = list(csv_rows(text, path) if path.suffix.lower() == ".csv" else json_rows(text, path))
    if not rows:
        raise ValueError(f"{path} lists no images")
    return Table(path, [line for line, _ in rows], [row for _, row in rows])


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, or else in Windows-1252, as older spreadsheets write it."""
    content = path.read_bytes()
    encoding = encoding_of(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, errors="ignore").count("\n") + 1
        if encoding != "utf-8":
            raise ValueError(f"{path}, line {line}: not {encoding} text ({error.reason})") from error
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {line}: neither UTF-8 nor Windows-1252 text; save it as UTF-8") from error
    logger.warning("%s, line %d: not UTF-8, so that the file is read as Windows-1252", path, line)
    return text


def encoding_of(content: bytes) -> str:
    """The encoding that a byte-order mark names; without one, UTF-16 where every other byte is zero, else UTF-8."""
    marked = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    if marked is not None:
        return marked
    if b"\0" in content[:2]:
        return "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    return "utf-8"


def csv_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, values by column) of each row of a CSV file that is not empty."""
    csv.field_size_limit(1 << 30)  # a caption may be longer than Python's 131,072 characters
    delimiter, first = delimiter_of(text)
    lines = [*io.StringIO(text, newline="")][first:]
    reader = csv.reader([*lines, END], delimiter=delimiter, skipinitialspace=True)
    header: list[str] | None = None
    begins = first + 1
    for cells in reader:
        line, begins = begins, first + reader.line_num + 1
        if cells == [END]:
            return
        if begins > first + len(lines) + 1:  # the row took END, too
            raise ValueError(f'{path}, line {line}: a quotation mark (") is opened here and never closed')
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if header is None:
            header = cells
            continue
        if any(cells[len(header) :]):
            what = f"{len(cells)} values for {len(header)} columns; a text that contains {delimiter!r} must be quoted"
            raise ValueError(f"{path}, line {line}: {what}")
        yield line, {name: cell for name, cell in zip(header, cells, strict=False) if name}


def delimiter_of(text: str) -> tuple[str, int]:
    """The delimiter of a CSV file, and how many lines come before the header: one if it is Excel's "sep=;"."""
    told = re.match(r'"?sep=(.)"?\s*?(\r\n|\r|\n)', text)
    if told:
        return told[1], 1
    header = next((line for line in text.splitlines() if line.strip()), "")
    return max(DELIMITERS, key=header.count), 0


def json_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of each object: one a line, or over several lines, or the members of an array."""
    decoder, separators = json.JSONDecoder(), re.compile(r"[\s,\[\]]*")
    line, counted = 1, 0
    place = separators.match(text).end()
    while place < len(text):
        line, counted = line + text.count("\n", counted, place), place
        try:
            row, place = decoder.raw_decode(text, place)
            if not isinstance(row, dict):
                raise TypeError(f"it is a {type(row).__name__}")
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}, line {line}: not a JSON object ({error})") from error
        yield line, {name.strip(): value for name, value in row.items()}
        place = separators.match(text, place).end()
