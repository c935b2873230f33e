"""Names, tags and groups of the emoji from emojibase-data, and which emoji an icon's name means.

A hexcode here has no FE0F, the mark that asks for colour: vendors write it or leave it out.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass

LEFT_OUT_GROUPS = {"component"}  # skin tones and hair on their own
LEFT_OUT_SUBGROUPS = {"keycap", "alphanum", "country-flag", "subdivision-flag"}
SHORTCODES = ("cldr", "emojibase", "github", "iamcal", "joypixels")
NUMBERED = re.compile(r"-\d$")  # one of several drawings of an emoji in a set: red-apple-2
MEANT = {  # what icons of these names show, where Unicode's names and the shortcodes say something else; None: no emoji
    "beachumbrella": "beach with umbrella",
    "bow": "ribbon",
    "champagneglass": None,
    "couple": "couple with heart",
    "down": "backhand index pointing down",
    "pistol": None,  # Unicode's name for what is now a water pistol
    "pout": "person pouting",
    "pouting": "enraged face",
    "up": "index pointing up",
    "wave": "water wave",
}
TABLES = ("meta/unicode-names.json", *(f"en/shortcodes/{source}.json" for source in SHORTCODES))
FILES = ("en/data.json", "meta/groups.json", *TABLES)  # of the package, to be read


@dataclass(frozen=True)
class Emoji:
    """One concept, which vendors draw each in their own way."""

    hexcode: str
    name: str
    tags: tuple[str, ...]
    group: str
    subgroup: str


@dataclass(frozen=True)
class Emojibase:
    """The emoji to draw by hexcode, and the hexcode of each name that any emoji has, also one that is left out."""

    emoji: dict[str, Emoji]
    groups: tuple[str, ...]
    subgroups: tuple[str, ...]
    by_name: dict[str, str]

    def hexcode_of(self, name: str) -> str | None:
        """The emoji that an icon's name means: "red-apple", "redapple" and "red-apple-2" are all 1F34E."""
        return self.by_name.get(letters_of(name)) or self.by_name.get(letters_of(NUMBERED.sub("", name)))


def read_emojibase(files: dict[str, bytes]) -> Emojibase:
    """From the JSON files of the package emojibase-data. Skin tones are no emoji of their own in it."""
    rows = json.loads(files["en/data.json"])
    meta = json.loads(files["meta/groups.json"])
    groups = {int(number): name for number, name in meta["groups"].items() if name not in LEFT_OUT_GROUPS}
    hierarchy = {int(group): numbers for group, numbers in meta["hierarchy"].items()}
    names = {int(number): name for number, name in meta["subgroups"].items()}
    subgroups = [names[number] for group in groups for number in hierarchy[group]]
    kept = {
        code: Emoji(code, plain(row["label"]), tuple(row.get("tags", ())), groups[row["group"]], names[row["subgroup"]])
        for row in sorted(rows, key=lambda row: row.get("order", 0))
        if row.get("group") in groups and names[row["subgroup"]] not in LEFT_OUT_SUBGROUPS
        for code in [without_fe0f(row["hexcode"])]
    }
    drawn = tuple(name for name in subgroups if name not in LEFT_OUT_SUBGROUPS)
    return Emojibase(kept, tuple(groups.values()), drawn, hexcodes_by_name(rows, files))


def hexcodes_by_name(rows: list[dict], files: dict[str, bytes]) -> dict[str, str]:
    """Every name of every emoji. Where two emoji share one, its label counts before its Unicode name and shortcodes."""
    found = {letters_of(row["label"]): without_fe0f(row["hexcode"]) for row in reversed(rows)}
    for table in TABLES:
        for hexcode, value in json.loads(files[table]).items():
            for name in [value] if isinstance(value, str) else value:
                found.setdefault(letters_of(name), without_fe0f(hexcode))
    meant = {name: label and found.get(letters_of(label)) for name, label in MEANT.items()}
    return {name: hexcode for name, hexcode in (found | meant).items() if hexcode}


def letters_of(name: str) -> str:
    """A name without all that its spellings differ in: accents, case, and all but letters and digits."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", ascii_only.lower())


def plain(name: str) -> str:
    """A name with the quotation marks of a keyboard."""
    return name.translate({0x2019: "'", 0x201C: '"', 0x201D: '"'})


def without_fe0f(hexcode: str) -> str:
    """1f34e-fe0f or 1F34E-FE0F is 1F34E."""
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")
