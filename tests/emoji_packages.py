"""Tiny npm packages like those that training/data/emoji reads, as .tgz files with checksums of their own."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from training.data.emoji import build, card, vendors
from training.data.emoji.icons import from_files, from_iconify
from training.data.emoji.packages import Package
from training.data.emoji.vendors import Vendor

# hexcode -> (name, tags, group, subgroup); the ghost is a concept that the split holds back
EMOJI = {
    "1F600": ("grinning face", ["smile"], 0, 0),
    "1F44B": ("waving hand", ["hello", "bye"], 1, 1),
    "1F47B": ("friendly ghost", ["boo"], 3, 2),
    "1F34E": ("red apple", ["fruit", "red"], 4, 3),
    "2764-FE0F": ("red heart", ["love"], 0, 0),
    "1F449": ("backhand index pointing right", [], 1, 1),
    "1F448": ("backhand index pointing left", [], 1, 1),
    "0031-FE0F-20E3": ("keycap: 1", [], 8, 4),
    "1F1E9-1F1EA": ("flag: Germany", [], 9, 5),
    "1F3FB": ("light skin tone", [], 2, 6),
}
GROUPS = {
    "groups": {
        "0": "smileys-emotion",
        "1": "people-body",
        "2": "component",
        "3": "animals-nature",
        "4": "food-drink",
        "8": "symbols",
        "9": "flags",
    },
    "hierarchy": {"0": [0], "1": [1], "2": [6], "3": [2], "4": [3], "8": [4], "9": [5]},
    "subgroups": {
        "0": "face-smiling",
        "1": "hand-fingers-open",
        "2": "animal-mammal",
        "3": "food-fruit",
        "4": "keycap",
        "5": "country-flag",
        "6": "skin-tone",
    },
}
SQUARE = '<path d="M2 2h8v8h-8z" fill="{}"/>'  # in the upper left corner of 16x16


def svg(body: str, width: int = 16, height: int = 16) -> bytes:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>'.encode()


def webp(colour: str, size: tuple[int, int] = (64, 64)) -> bytes:
    """A square of a colour within a transparent border."""
    buffer = io.BytesIO()
    image = Image.new("RGBA", size)
    image.paste(colour, (16, 16, size[0] - 16, size[1] - 16))
    image.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def pack(folder: Path, name: str, files: dict[str, bytes | dict | list]) -> Package:
    """Write the .tgz of a package with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    package = Package(name, "1.0.0", "")
    path = folder / package.file_name
    with tarfile.open(path, "w:gz") as archive:
        for member, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            entry = tarfile.TarInfo(f"package/{member}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return Package(name, "1.0.0", base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode())


def emojibase(folder: Path) -> Package:
    rows = [
        {"hexcode": code, "label": name, "tags": tags, "group": group, "subgroup": subgroup, "order": order}
        for order, (code, (name, tags, group, subgroup)) in enumerate(EMOJI.items())
    ]
    rows.append({"hexcode": "1F1E6", "label": "regional indicator A"})  # without a group
    files = {"en/data.json": rows, "meta/groups.json": GROUPS, "meta/unicode-names.json": {"2764": "HEAVY BLACK HEART"}}
    shortcodes = dict.fromkeys(
        ("cldr", "emojibase", "github", "iamcal", "joypixels"), {"1F44B": ["wave", "hello_hand"]}
    )
    files |= {f"en/shortcodes/{name}.json": table for name, table in shortcodes.items()}
    return pack(folder, "emojibase-data", files)


def iconify(
    folder: Path, name: str, icons: dict[str, str | dict], chars: dict[str, str] | None = None, **more: dict
) -> Package:
    """An Iconify set: `icons` by name, as the bodies of SVGs or with what else an icon has."""
    bodies = {icon: body if isinstance(body, dict) else {"body": body} for icon, body in icons.items()}
    content = {"prefix": name, "width": 16, "height": 16, "icons": bodies, **more}
    return pack(folder, f"@iconify-json/{name}", {"icons.json": content, "chars.json": chars or {}})


def tiny_vendors(folder: Path) -> tuple[Vendor, ...]:
    """Four vendors of each layout: of three Iconify sets, one that has hexcodes, mirror images and blank icons."""
    left = {"backhand-index-pointing-left": SQUARE.format("gold")}
    noto = left | {
        "old-apple": SQUARE.format("green"),
        "red-apple": SQUARE.format("red"),
        "friendlyghost": SQUARE.format("orange"),
        "waving-hand": "",  # blank
        "grinning-face": '<path d="M0 0h16v16h-16z" fill="#fff"/>',  # white on white
        "waving-hand-light-skin-tone": SQUARE.format("tan"),
        "flag-germany": SQUARE.format("black"),
        "keycap-1": SQUARE.format("blue"),
        "heavy-black-heart": {"body": SQUARE.format("red"), "hidden": True},
    }
    mirrored = {"backhand-index-pointing-right": {"parent": "backhand-index-pointing-left", "hFlip": True}}
    flat = {
        "red-apple": SQUARE.format("#f00"),
        "Friendly_Ghost": {"body": SQUARE.format("#f80"), "height": 24},
        "odd": "<",
    }
    files = {"1f34e.svg": svg(SQUARE.format("red"), 32, 16), "2764.svg": svg(SQUARE.format("red")), "readme.md": b"#"}
    raster = {"1f47b.webp": webp("orange"), "2764-fe0f.webp": webp("red", (64, 72)), "1f44b-1f3fb.webp": webp("tan")}
    return (
        Vendor(
            "noto",
            iconify(folder, "noto", noto, {"1f34e": "old-apple"}, aliases=mirrored),
            from_iconify,
            "apache-2.0",
            "G, https://g",
        ),
        Vendor(
            "fluent-flat", iconify(folder, "flat", flat | {"red-heart": "<g>"}), from_iconify, "mit", "M, https://m"
        ),
        Vendor("twemoji", pack(folder, "@twemoji/svg", files), from_files, "cc-by-4.0", "T, https://t"),
        Vendor(
            "fluent-3d",
            pack(folder, "3d", {f"assets/{n}": c for n, c in raster.items()}),
            from_files,
            "mit",
            "M, https://m",
        ),
    )


def streamline(folder: Path) -> Vendor:
    icons = {f"{name}-{number}": SQUARE.format("red") for name in ("red-apple", "waving-hand") for number in (1, 2)}
    return Vendor(
        "streamline",
        iconify(folder, "streamline-emojis", icons | {"friendly-ghost": SQUARE.format("orange")}),
        from_iconify,
        "cc-by-4.0",
        "S, https://s",
    )


def use_tiny_packages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the data set be built from tiny packages in `folder`."""
    base = emojibase(folder)
    for module in (build, card):
        monkeypatch.setattr(module, "EMOJIBASE", base)
    monkeypatch.setattr(vendors, "VENDORS", tiny_vendors(folder))
    monkeypatch.setattr(vendors, "APART", (streamline(folder),))
    return folder
