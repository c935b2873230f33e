"""The data card of an emoji data set: what is in it, who drew it, under which licences, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from huggingface_hub import DatasetCardData

from training.data.emoji.vendors import EMOJIBASE, EMOJIBASE_CREDIT, Vendor

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))  # as the Hub names them
LICENCES = {
    "apache-2.0": "[Apache-2.0](https://www.apache.org/licenses/LICENSE-2.0)",
    "cc-by-4.0": "[CC-BY-4.0](https://creativecommons.org/licenses/by/4.0/)",
    "mit": "MIT",
}
MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""
TEXT = """
# {title}

{images:,} colour images of emoji, 128x128 on white, drawn by {hands} and made from npm packages of pinned versions by

    {command}

| column | |
|---|---|
| `image` | PNG, RGB, 128x128 |
| `label`, `sublabel` | group and subgroup of the emoji in Unicode |
| `text` | a caption of name and style: "a red apple, noto style" |
| `captions` | several captions of name, tags and style, parts of which are left out at random |
| `name`, `tags` | name and search words of the emoji, in English |
| `vendor` | whose style it is |
| `hexcode` | the emoji's code points, without FE0F |

`test` holds back about a tenth of the emoji, chosen by a hash of the hexcode: all images of an emoji are in the same
split, because vendors draw it alike and the Fluent sets share their drawings. Close relatives (a man and a woman who do
the same) may still be in both. The data set is small enough to be memorized: compare samples with the nearest training
images.

## Vendors and licences

| vendor | source | licence | images | left out | dropped |
|---|---|---|---|---|---|
{vendors}

Left out: skin tones, flags of countries and regions, keycaps, letters, second drawings of an emoji, and drawings whose
name no emoji has. Dropped: drawings that cannot be rendered or come out blank{dropped}.

The images are changed from their sources: rendered, padded to a square, put on white and shrunk to 128x128. Credit:

{credits}
- Names, tags and groups: {emojibase_credit} (MIT), from {emojibase}

The terms of each licence hold for the images of its vendor. No vendor endorses this data set.
{mit}
## Images per group

| group | train | test |
|---|---|---|
{groups}
"""


@dataclass(frozen=True)
class Count:
    """How many images of a vendor there are, how many drawings were left out, and which were dropped."""

    vendor: Vendor
    images: int
    left_out: int
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        names = f" ({', '.join(self.dropped)})" if self.dropped else ""
        return (
            f"{self.vendor.style}: {self.images} images, {self.left_out} drawings left out, "
            f"{len(self.dropped)} blank or broken ones dropped{names}"
        )


def card(counts: list[Count], groups: Mapping[str, Mapping[str, int]]) -> str:
    """The README.md of the data set. `groups`: split -> group -> images."""
    vendors = [count.vendor for count in counts]
    images = sum(count.images for count in counts)
    alone = vendors[0].style if len(vendors) == 1 else None
    title = f"Emoji in {alone} style" if alone else "Emoji by several hands"
    dropped = "; ".join(f"{count.vendor.style}: {', '.join(count.dropped)}" for count in counts if count.dropped)
    used = sorted({"mit", *(vendor.licence for vendor in vendors)})  # the names are under MIT
    header = DatasetCardData(
        pretty_name=title,
        license=used,
        language="en",
        task_categories=["text-to-image", "unconditional-image-generation", "image-classification"],
        size_categories=next(name for limit, name in SIZES if images < limit),
        tags=["emoji"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in groups],
            }
        ],
    )
    text = TEXT.format(
        title=title,
        images=images,
        hands=f"{len(vendors)} hands" if len(vendors) > 1 else "one hand",
        command="python -m training.data emoji" + (f" --style {alone}" if alone else ""),
        vendors="\n".join(map(vendor_row, counts)),
        dropped=f" ({dropped})" if dropped else "",
        credits="\n".join(f"- {vendor.style}: {vendor.credit} ({LICENCES[vendor.licence]})" for vendor in vendors),
        emojibase=EMOJIBASE,
        emojibase_credit=EMOJIBASE_CREDIT,
        mit=f"\n### The MIT licence\n\n{MIT}\n",
        groups="\n".join(group_rows(groups)),
    )
    return f"---\n{header.to_yaml()}\n---\n{text}"


def vendor_row(count: Count) -> str:
    """A vendor's row in the table."""
    vendor = count.vendor
    cells = [vendor.style, vendor.package, LICENCES[vendor.licence], f"{count.images:,}", f"{count.left_out:,}"]
    return f"| {' | '.join(map(str, [*cells, len(count.dropped)]))} |"


def group_rows(groups: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The rows of the table of groups, the largest first, and their sum."""
    train, test = groups["train"], groups["test"]
    names = sorted({*train, *test}, key=lambda name: (-train.get(name, 0), name))
    rows = [f"| {name} | {train.get(name, 0):,} | {test.get(name, 0):,} |" for name in names]
    return [*rows, f"| all | {sum(train.values()):,} | {sum(test.values()):,} |"]
