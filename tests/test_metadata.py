"""metadata.csv and metadata.jsonl as spreadsheets, systems and people write them; an error names the file and line."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from image_files import save
from training_runs import noise, noise_images

from training.data import ImageData, load_images
from training.data.labels import labels_of
from training.objectives.conditions import ClassConditional

pytestmark = pytest.mark.usefixtures("own_caches")
NAMES = ("cat/a.png", "cat/b.png", "dog/c.png")
TABLE = "file_name,label,text\ncat/a.png,cat,señor\ncat/b.png,cat,\ndog/c.png,dog,“x”\n"


def written(root: Path, content: str | bytes, kind: str = "csv") -> Path:
    """Three images and their metadata."""
    for i, name in enumerate(NAMES):
        save(root / name, noise(4, 4, seed=i))
    (root / f"metadata.{kind}").write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def loaded(root: Path, content: str | bytes, kind: str = "csv", **options: object) -> ImageData:
    return load_images(train_data_dir=written(root, content, kind), **options)


def facts(data: ImageData) -> tuple:
    return None if data.labels is None else data.labels.tolist(), data.class_names, data.captions, data.skipped


EXPECTED = ([0, 0, 1], ("cat", "dog"), ("señor", "", "“x”"), 0)


# --- text ---


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_the_encodings_and_line_ends_of_spreadsheets(encoding: str, ends: str, tmp_path: Path) -> None:
    assert facts(loaded(tmp_path, TABLE.replace("\n", ends).encode(encoding))) == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_json_in_these_encodings(encoding: str, tmp_path: Path) -> None:
    names = [dict(zip(("file_name", "label", "text"), line.split(","), strict=True)) for line in TABLE.split()[1:]]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in names)
    assert facts(loaded(tmp_path, lines.encode(encoding), "jsonl")) == EXPECTED


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("csv", TABLE.replace(",", ";")),
        ("csv", "sep=;\r\n" + TABLE.replace(",", ";")),
        ("csv", TABLE.replace(",", "\t")),
        ("csv", TABLE.replace(",", " , ")),
        ("csv", TABLE.replace("file_name,label,text", '"file_name" , "label", text ')),
        ("csv", TABLE.replace("file_name", "File Name")),
        ("csv", TABLE.replace("\n", ",,\n") + ",,,,\n\n"),
        ("csv", "\n" + TABLE.replace("\ncat", "\n\ncat")),
        ("csv", "".join(f"{i or ''},{line}" for i, line in enumerate(TABLE.splitlines(True)))),  # as pandas writes it
        ("csv", TABLE.replace("/", "\\")),
        ("csv", TABLE.replace("cat/a", "./cat//a").replace("dog/c", "cat/../dog/c")),
    ],
)
def test_what_spreadsheets_and_people_add(kind: str, content: str, tmp_path: Path) -> None:
    assert facts(loaded(tmp_path, content, kind)) == EXPECTED


ROWS = [{"file_name": name, "label": name[:3], "text": text} for name, text in zip(NAMES, EXPECTED[2], strict=True)]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        ",\n".join(json.dumps(row) for row in ROWS) + ",\n",
        "\n\n".join(json.dumps({f" {name} ": value for name, value in row.items()}) for row in ROWS),
    ],
)
def test_json_in_an_array_and_over_several_lines(content: str, tmp_path: Path) -> None:
    assert facts(loaded(tmp_path, content, "jsonl")) == EXPECTED


def test_an_image_in_several_rows_is_one_with_several_captions(tmp_path: Path) -> None:
    """One row per caption, as in COCO: held back in one row, it would be trained on in the others."""
    rows = ["cat/a.png,cat,one", "cat/b.png,cat,two", "cat/a.png,cat,three", "cat/a.png,cat,one", "dog/c.png,dog,x"]
    data = loaded(tmp_path, "\n".join(["file_name,label,text", *rows]))
    assert facts(data) == ([0, 0, 1], ("cat", "dog"), (("one", "three"), "two", "x"), 0)
    two = loaded(tmp_path, "file_name,label\ncat/a.png,cat\ncat/a.png,dog\ncat/a.png,cat\n")
    assert facts(two) == ([0, 1], ("cat", "dog"), None, 0), "of two classes there are two"


def test_a_very_long_caption_and_one_over_several_lines(tmp_path: Path) -> None:
    long = "word, " * 50_000 + "end"
    data = loaded(tmp_path, f'file_name,text\ncat/a.png,"{long}"\ncat/b.png,"two\nlines ""quoted"""\n')
    assert data.captions == (long, 'two\nlines "quoted"')


def test_names_are_matched_however_accents_are_composed(tmp_path: Path) -> None:
    save(tmp_path / "cafe\u0301.png", noise(4, 4))
    assert loaded(tmp_path, "file_name\ncaf\u00e9.png\n").skipped == 0


# --- errors name the file and the line ---


@pytest.mark.parametrize(
    ("kind", "content", "line", "said"),
    [
        ("csv", TABLE + "/etc/x.png,cat,\n", 5, r"file_name must lie in the folder of the file, got '/etc/x.png'"),
        ("csv", TABLE + "../x.png,cat,\n", 5, "file_name must lie in the folder of the file, got '../x.png'"),
        ("csv", TABLE + "cat/../../x.png,cat,\n", 5, "file_name must lie in the folder of the file"),
        ("csv", TABLE + "..\\x.png,cat,\n", 5, "file_name must lie in the folder of the file"),
        ("csv", TABLE + "C:\\x.png,cat,\n", 5, "file_name must lie in the folder of the file"),
        ("csv", TABLE + "\\\\host\\x.png,cat,\n", 5, "file_name must lie in the folder of the file"),
        ("jsonl", '{"file_name": "cat/a.png"}\n{"file_name": "../a.png"}', 2, "must lie in the folder"),
        ("csv", TABLE + ",cat,text\n", 5, "file_name must be the name of an image, got ''"),
        ("jsonl", '\n{"file_name": 7}', 2, "file_name must be the name of an image, got 7"),
        ("jsonl", '{"file_name": "cat/a.png"}\n{"label": 7}', 2, "file_name must be the name of an image, got None"),
        ("csv", TABLE + "dog/c.png,dog,a dog, asleep\n", 5, "4 values for 3 columns"),
        ("csv", TABLE + '\ndog/c.png,dog,"asleep\nx,y,z\n', 6, "a quotation mark .* is opened here and never closed"),
        ("csv", TABLE + "dog/c.png,,asleep\n", 5, "1 of 4 labels are missing"),
        ("csv", TABLE + "dog/c.png\n", 5, "1 of 4 labels are missing"),
        ("csv", "name,label\ncat/a.png,1\n", 1, "has no column 'file_name' for the file; it has: name, label"),
        ("csv", TABLE.encode()[:-3] + b"\x81\n", 4, "neither UTF-8 nor Windows-1252"),
        ("csv", TABLE.encode("utf-16")[:-1], 4, "not utf-16 text"),
        ("jsonl", '{"file_name": "cat/a.png", "label": -3}', 1, "the label -3 is not a whole number of at least 0"),
        ("jsonl", '{"file_name": "cat/a.png", "label": [1]}', 1, "labels must be text or whole numbers"),
        ("jsonl", '{"file_name": "cat/a.png"}\n{"file_name": "b",}', 2, "not a JSON object"),
        ("jsonl", '[{"file_name": "cat/a.png"},\n 7]', 2, r"not a JSON object \(it is a int\)"),
        ("jsonl", '{"file_name": ' + '{"a":' * 5000, 1, "not a JSON object"),
    ],
)
def test_an_error_names_the_file_and_the_line(
    kind: str, content: str | bytes, line: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"metadata\.{kind}, line {line}:?.*{said}") as refused:
        loaded(tmp_path, content, kind)
    assert "\n" not in str(refused.value)


def test_an_absolute_name_inside_the_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real").mkdir()
    for name in ("real", "link"):
        assert loaded(tmp_path / "link", f"file_name\n{tmp_path}/{name}/cat/a.png\n").skipped == 0


@pytest.mark.parametrize("content", ["", "\n", "file_name,label\n"])
def test_metadata_without_rows_are_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metadata\.csv lists no images"):
        loaded(tmp_path, content)


# --- columns ---


@pytest.mark.parametrize(
    ("header", "flag"),
    [
        ("class", "class"),
        ("Label", "Label"),
        (" Class Name ", "'Class Name'"),
        ("category", "category"),
        ("size", None),
    ],
)
def test_columns_that_may_be_the_labels_are_offered(
    header: str, flag: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = loaded(tmp_path, f"file_name,{header}\n" + "".join(f"{name},{name[:3]}\n" for name in NAMES))
    said = f"metadata.csv has no column 'label'; columns: file_name, {header.strip()}"
    said += f"; --label_column {flag}?" if flag else ""
    assert data.labels is None and data.unlabelled.endswith(said) and said in caplog.text
    with pytest.raises(
        ValueError, match="class_conditional must be False for data without labels, got True: .*columns:"
    ):
        ClassConditional.Options(class_conditional=True).class_names(data)
    if flag:
        assert loaded(tmp_path, TABLE.replace("label", header), label_column=header.strip()).labels is not None


def test_columns_that_may_be_the_captions_are_offered(tmp_path: Path) -> None:
    data = loaded(tmp_path, TABLE.replace("text", "Caption"))
    assert data.captions is None and data.uncaptioned.endswith(
        "metadata.csv has no column 'text'; columns: file_name, label, Caption; --caption_column Caption?"
    )
    assert loaded(tmp_path, TABLE.replace("text", "Caption"), caption_column="Caption").uncaptioned == ""


def test_other_files_of_metadata_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path, "x", "xlsx")
    written(tmp_path, TABLE)
    assert facts(loaded(tmp_path, json.dumps(ROWS), "jsonl")) == EXPECTED
    assert "metadata.csv is not read: metadata.jsonl is" in caplog.text
    assert "metadata.xlsx is not read: metadata.jsonl is" in caplog.text
    for name in ("metadata.jsonl", "metadata.csv"):
        (tmp_path / name).rename(tmp_path / name.upper()) if name.endswith("csv") else (tmp_path / name).unlink()
    assert facts(load_images(train_data_dir=tmp_path)) == EXPECTED, "METADATA.CSV"


# --- classes are those that are present ---


@pytest.mark.parametrize(
    ("values", "labels", "names"),
    [
        ([0, 2, 1], [0, 2, 1], None),
        ([1, 2, 3], [0, 1, 2], ["1", "2", "3"]),
        ([100000, 7, 100000], [1, 0, 1], ["7", "100000"]),
        (["10", "9", "9"], [1, 0, 0], ["9", "10"]),
        ([10**30, 0], [1, 0], ["0", str(10**30)]),
        ([True, False], [1, 0], None),
        ([1.0, 2.0], [0, 1], ["1", "2"]),
        ([" a", "a ", "b"], [0, 0, 1], ["a", "b"]),
    ],
)
def test_classes_are_those_present(values: list, labels: list[int], names: list[str] | None) -> None:
    assert labels_of(values, "here") == (labels, names)


def test_a_large_label_makes_no_large_embedding(tmp_path: Path) -> None:
    data = loaded(tmp_path, "file_name,label\ncat/a.png,100000\ncat/b.png,3\n")
    assert facts(data)[:2] == ([1, 0], ("3", "100000"))
    assert ClassConditional.Options(class_conditional=True).class_names(data) == ("3", "100000")
    assert ClassConditional.Options(class_conditional=True).class_names(noise_images()) == ("bird", "cat")


def test_a_class_has_one_number_in_all_splits(tmp_path: Path) -> None:
    written(tmp_path / "train", "file_name,label\ncat/a.png,1\ncat/b.png,2\ndog/c.png,3\n")
    data = loaded(tmp_path / "test", "file_name,label\ncat/a.png,2\n")
    assert facts(data)[:2] == ([0], ("2",)), "a folder by itself"
    data = load_images(train_data_dir=tmp_path, split="test")
    assert facts(data)[:2] == ([1], ("1", "2", "3"))
