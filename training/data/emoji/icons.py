"""Which drawing of a package shows which emoji.

Iconify sets keep all drawings in icons.json, and in chars.json the hexcodes of some; the others are found by name. The
other packages have one file for each emoji, named after its hexcode.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from training.data.emoji.names import NUMBERED, Emojibase, without_fe0f
from training.data.emoji.packages import members


class Drawing(NamedTuple):
    """An emoji's drawing: an SVG, or the bytes of a raster image."""

    hexcode: str
    name: str  # in messages
    content: bytes


class Drawings(NamedTuple):
    """The drawings of a package that are wanted, and how many it has besides."""

    wanted: list[Drawing]
    left_out: int


def from_files(path: Path, emojibase: Emojibase) -> Drawings:
    """The drawings of a package with one .svg or .webp file for each emoji."""
    files = members(path, (".svg", ".webp"))
    found = [(without_fe0f(Path(name).stem), name, content) for name, content in files.items()]
    wanted = [Drawing(*row) for row in found if row[0] in emojibase.emoji]
    return Drawings(in_order(wanted, emojibase), len(found) - len(wanted))


def from_iconify(path: Path, emojibase: Emojibase) -> Drawings:
    """The drawings of an Iconify set. Those that chars.json names come first, where an emoji has more than one."""
    files = members(path, ("icons.json", "chars.json"))
    icons = json.loads(files["icons.json"])
    hexcodes: dict[str, str] = {}
    for hexcode, name in json.loads(files["chars.json"]).items():
        hexcodes.setdefault(name, without_fe0f(hexcode))
    drawn = list(visible_icons(icons))
    named = [(hexcodes.get(name) or hexcode_by_names(names, emojibase), name, svg) for name, names, svg in drawn]
    wanted = [Drawing(hexcode, name, svg) for hexcode, name, svg in named if hexcode in emojibase.emoji]
    kept = first_of_each(sorted(wanted, key=lambda drawing: drawing.name not in hexcodes), emojibase)
    return Drawings(in_order(kept, emojibase), len(drawn) - len(kept))


def visible_icons(icons: dict[str, Any]) -> Iterator[tuple[str, list[str], bytes]]:
    """(name, its names with the aliases, SVG) of each icon, and of each alias that is a mirror image of one.

    Hidden icons are those that the set no longer has."""
    aliases = {name: alias for name, alias in icons.get("aliases", {}).items() if not alias.get("hidden")}
    for name, icon in icons["icons"].items():
        if not icon.get("hidden"):
            others = [other for other, alias in aliases.items() if alias == {"parent": name}]
            yield name, [name, *others], svg_of(icon, icons)
    for name, alias in aliases.items():
        if alias.get("hFlip") and set(alias) == {"parent", "hFlip"}:
            yield name, [name], svg_of(icons["icons"][alias["parent"]], icons, mirrored=True)


def hexcode_by_names(names: list[str], emojibase: Emojibase) -> str | None:
    """The emoji of the first of an icon's names that means one."""
    return next((hexcode for name in names if (hexcode := emojibase.hexcode_of(name))), None)


def first_of_each(drawings: list[Drawing], emojibase: Emojibase) -> list[Drawing]:
    """One drawing of each emoji. A second one with a number (red-apple-2) stays too, but not of people: skin tones."""
    seen: set[str] = set()
    kept = []
    for drawing in drawings:
        another = NUMBERED.search(drawing.name) and emojibase.emoji[drawing.hexcode].group != "people-body"
        if another or drawing.hexcode not in seen:
            kept.append(drawing)
        seen.add(drawing.hexcode)
    return kept


def in_order(drawings: list[Drawing], emojibase: Emojibase) -> list[Drawing]:
    """In the order of the emoji, then of the names."""
    position = {hexcode: number for number, hexcode in enumerate(emojibase.emoji)}
    return sorted(drawings, key=lambda drawing: (position[drawing.hexcode], drawing.name))


def svg_of(icon: dict[str, Any], icons: dict[str, Any], mirrored: bool = False) -> bytes:
    """An icon as an SVG file; sizes that it lacks are those of the set."""
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in {"left": 0, "top": 0, "width": 16, "height": 16}.items()
    )
    body = icon["body"]
    if mirrored:
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{left} {top} {width} {height}">{body}</svg>'.encode()
