"""The emoji data set, from packages to parquet to arrays: what is in it, what is not, and what is said of it."""

from __future__ import annotations

import io
import logging
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from emoji_packages import SQUARE, svg, use_tiny_packages, webp
from huggingface_hub import DatasetCard
from PIL import Image

from training.data import fashion, load_images
from training.data.__main__ import main
from training.data.emoji import build
from training.data.emoji.packages import Package
from training.data.emoji.render import is_blank, render
from training.data.emoji.vendors import APART, VENDORS

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tiny packages, which the data set is now built from."""
    return use_tiny_packages(tmp_path / "packages", monkeypatch)


def rows_of(folder: Path) -> dict[str, list[dict]]:
    import pyarrow.parquet as parquet

    splits = ("train", "test")
    return {split: parquet.read_table(folder / f"data/{split}-00000-of-00001.parquet").to_pylist() for split in splits}


def pixels(row: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def test_the_command_builds_what_the_loader_reads(tmp_path: Path, source: Path) -> None:
    main(["emoji", "--out", str(tmp_path / "out"), "--source", str(source)])
    rows = rows_of(tmp_path / "out")
    drawn = Counter((row["vendor"], row["name"]) for split in rows.values() for row in split)
    assert drawn == Counter(
        {
            ("noto", "red apple"): 1,
            ("noto", "friendly ghost"): 1,
            ("noto", "backhand index pointing left"): 1,
            ("noto", "backhand index pointing right"): 1,
            ("fluent-flat", "red apple"): 1,
            ("fluent-flat", "friendly ghost"): 1,
            ("twemoji", "red apple"): 1,
            ("twemoji", "red heart"): 1,
            ("fluent-3d", "friendly ghost"): 1,
            ("fluent-3d", "red heart"): 1,
        }
    )
    apple = next(row for row in rows["train"] if row["name"] == "red apple" and row["vendor"] == "twemoji")
    assert apple["text"] == "a red apple, twemoji style" and apple["tags"] == ["fruit", "red"]
    assert apple["hexcode"] == "1F34E"
    data = load_images(dataset_name=str(tmp_path / "out"))
    assert data.images.shape == (7, 3, 128, 128) and data.captions is not None and data.labels is not None
    assert [*emoji_groups(data.class_names, data.labels)] == [row_group(row) for row in rows["train"]]
    fine = load_images(dataset_name=str(tmp_path / "out"), label_column="sublabel", split="test")
    assert fine.class_names is not None and fine.labels is not None
    assert {fine.class_names[label] for label in fine.labels} == {"animal-mammal"}


def emoji_groups(names: tuple[str, ...] | None, labels: np.ndarray) -> list[str]:
    assert names == ("smileys-emotion", "people-body", "animals-nature", "food-drink", "symbols", "flags")
    return [names[label] for label in labels]


def row_group(row: dict) -> str:
    groups = {"red apple": "food-drink", "red heart": "smileys-emotion", "friendly ghost": "animals-nature"}
    return groups.get(row["name"], "people-body")


def test_no_concept_is_in_both_splits(tmp_path: Path, source: Path) -> None:
    build.prepare(tmp_path / "out", source)
    rows = rows_of(tmp_path / "out")
    train, test = ({row["hexcode"] for row in rows[split]} for split in ("train", "test"))
    assert not train & test
    assert {row["vendor"] for row in rows["test"]} == {"noto", "fluent-flat", "fluent-3d"}, "all drawings of the ghost"


def test_the_split_is_a_hash_that_holds_back_a_tenth() -> None:
    assert build.split_of("1F47B") == "test" and build.split_of("1F34E") == "train", "the same in every version"
    held_back = sum(build.split_of(f"{code:X}") == "test" for code in range(0x1F300, 0x1F300 + 4000))
    assert 0.08 < held_back / 4000 < 0.12


def test_hexcodes_come_before_names_and_mirror_images_are_mirrored(tmp_path: Path, source: Path) -> None:
    build.prepare(tmp_path / "out", source)
    noto = {row["name"]: pixels(row) for row in rows_of(tmp_path / "out")["train"] if row["vendor"] == "noto"}
    assert tuple(noto["red apple"][40, 40]) == (0, 128, 0), "the old apple is the one that chars.json names"
    left, right = noto["backhand index pointing left"], noto["backhand index pointing right"]
    assert np.abs(left.astype(int) - right[:, ::-1]).max() <= 2 and np.abs(left.astype(int) - right).max() > 100


def test_blank_and_broken_drawings_are_dropped_and_counted(
    tmp_path: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    build.prepare(tmp_path / "out", source)
    assert (
        "noto: 4 images, 4 drawings left out, 2 blank or broken ones dropped (grinning-face, waving-hand)"
        in caplog.text
    )
    assert "fluent-flat: red-heart cannot be drawn" in caplog.text
    assert "fluent-flat: 2 images, 1 drawings left out, 1 blank or broken ones dropped (red-heart)" in caplog.text
    assert "test: 3 images of 1 concepts" in caplog.text


def test_the_card_is_one_that_the_hub_reads(tmp_path: Path, source: Path) -> None:
    build.prepare(tmp_path / "out", source)
    card = DatasetCard.load(tmp_path / "out/README.md")
    assert card.data.license == ["apache-2.0", "cc-by-4.0", "mit"] and card.data.size_categories == "n<1K"
    assert "| noto | @iconify-json/noto@1.0.0 | [Apache-2.0]" in card.text and "T, https://t" in card.text
    assert "noto: grinning-face, waving-hand; fluent-flat: red-heart" in card.text
    assert "| food-drink | 3 | 0 |" in card.text and "| all | 7 | 3 |" in card.text
    assert "Permission is hereby granted" in card.text and str(tmp_path) not in card.content


def test_streamline_is_built_apart(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["emoji", "--style", "streamline", "--source", str(source)])
    rows = rows_of(tmp_path / "data/emoji-streamline")
    assert Counter(row["name"] for row in rows["train"]) == {"red apple": 2, "waving hand": 1}, "no skin tones"
    assert [row["hexcode"] for row in rows["test"]] == ["1F47B"]
    with pytest.raises(ValueError, match="holds the styles streamline"):
        build.prepare(Path("data/emoji-streamline"), source)
    with pytest.raises(ValueError, match="style='apple': allowed are noto, .*streamline; without it, all but"):
        build.prepare(tmp_path / "out", source, "apple")


def test_it_is_whole_or_not_at_all(tmp_path: Path, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    (source / "3d-1.0.0.tgz").rename(tmp_path / "3d.tgz")
    with pytest.raises(ValueError, match=r"3d-1.0.0.tgz: `npm pack 3d@1.0.0` makes it"):
        build.prepare(tmp_path / "new/out", source)
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "3d.tgz").rename(source / "3d-1.0.0.tgz")
    build.prepare(tmp_path / "new/out", source)
    caplog.set_level(logging.INFO)
    build.prepare(tmp_path / "new/out", tmp_path / "nowhere")
    assert "already complete" in caplog.text
    with pytest.raises(ValueError, match="not a complete Fashion-MNIST"):
        fashion.prepare(tmp_path / "new/out")


def test_a_package_of_another_checksum_is_refused(tmp_path: Path, source: Path) -> None:
    with open(source / "twemoji-svg-1.0.0.tgz", "ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"twemoji-svg-1.0.0.tgz is not the @twemoji/svg@1.0.0 .*sha512") as refused:
        build.prepare(tmp_path / "out", source)
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


@pytest.fixture
def npm(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm whose registry is the folder `source`; each call is a line in the file that this returns."""
    calls = tmp_path / "calls"
    program = f"""#!{sys.executable}
import pathlib, shutil, sys
command, quiet, package, flag, folder = sys.argv[1:]
assert (command, quiet, flag) == ("pack", "--silent", "--pack-destination")
open({str(calls)!r}, "a").write(package + chr(10))
name, version = package.rsplit("@", 1)
file = pathlib.Path({str(source)!r}, f"{{name.removeprefix('@').replace('/', '-')}}-{{version}}.tgz")
if not file.is_file():
    sys.exit(f"npm error code E404{{chr(10)}}npm error {{package}} is not in this registry")
shutil.copy(file, folder)
"""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/npm").write_text(program)
    (tmp_path / "bin/npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return calls


def test_npm_fetches_each_package_once(tmp_path: Path, npm: Path) -> None:
    build.prepare(tmp_path / "one")
    assert len(npm.read_text().split()) == 5 and "@twemoji/svg@1.0.0" in npm.read_text()
    kept = tmp_path / "cache/npm/twemoji-svg-1.0.0.tgz"
    kept.write_bytes(kept.read_bytes()[:100])
    build.prepare(tmp_path / "two")
    assert npm.read_text().split()[5:] == ["@twemoji/svg@1.0.0"], "only the damaged one again"
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")


def test_what_npm_cannot_do_ends_in_one_line(
    tmp_path: Path, source: Path, npm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["emoji", "--out", str(tmp_path / "out")])
        error = capsys.readouterr().err
        assert stopped.value.code == 1 and error.count("\n") == 1 and not (tmp_path / "out").exists()
        return error

    whole = (source / "3d-1.0.0.tgz").read_bytes()
    (source / "3d-1.0.0.tgz").write_bytes(whole + b"more")
    assert "3d-1.0.0.tgz is not the 3d@1.0.0" in said()
    assert not (tmp_path / "cache/npm/3d-1.0.0.tgz").exists()
    (source / "3d-1.0.0.tgz").unlink()
    assert "npm could not fetch 3d@1.0.0: npm error code E404 npm error 3d@1.0.0 is not in this registry" in said()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert "npm is needed to fetch 3d@1.0.0: install Node.js, or give --source DIR with 3d-1.0.0.tgz" in said()


def test_drawings_are_centred_on_white_and_unstretched() -> None:
    wide = render(svg('<path d="M0 0h32v16h-32z" fill="#00f"/>', 32, 16))
    assert wide.shape == (128, 128, 3) and wide.dtype == np.uint8
    blue = (wide == (0, 0, 255)).all(-1)
    assert blue[40:88].all() and (wide[:26] == 255).all() and (wide[102:] == 255).all()
    tall = render(webp("#00f", (64, 96)))
    assert (tall[:, :16] == 255).all() and tuple(tall[64, 64]) == (0, 0, 255)


def test_transparent_colours_do_not_bleed() -> None:
    image = Image.new("RGBA", (256, 256), (0, 0, 0, 0))  # black where nothing is to be seen
    image.paste((255, 0, 0, 255), (0, 0, 129, 256))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    drawn = render(buffer.getvalue())
    assert (drawn[..., 0] == 255).all(), "between red and white, red stays full"


def test_blank_is_one_colour() -> None:
    assert is_blank(render(svg(""))) and is_blank(render(svg('<path d="M0 0h16v16h-16z" fill="#123"/>')))
    assert not is_blank(render(svg(SQUARE.format("#eee")))), "a light grey square is there to be seen"


def test_the_real_table_is_sound() -> None:
    every = [vendor.package for vendor in (*VENDORS, *APART)]
    assert len({vendor.style for vendor in (*VENDORS, *APART)}) == len(every) == len({p.file_name for p in every})
    assert all(len(package.sha512) == 88 for package in every)
    assert every[0].file_name == "iconify-json-noto-1.2.9.tgz"
    assert not any(word in str(package) for package in every for word in ("apple", "facebook", "openmoji"))
    assert isinstance(every[0], Package)
