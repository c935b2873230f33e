"""Folders as people have them: wrapped, split under other names, with files that are no images, links and pipes."""

from __future__ import annotations

import functools
import logging
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from image_files import class_folders, encoded, parquet_folder, save
from PIL import Image
from training_runs import noise

from training.data import ImageData, load_images
from training.data.decode import decode
from training.data.hub import contents_of

pytestmark = [pytest.mark.usefixtures("own_caches"), pytest.mark.filterwarnings("ignore::UserWarning:PIL")]


def loaded(folder: Path, **options: object) -> ImageData:
    return load_images(train_data_dir=folder, **options)


# --- what is no file ---


def test_links_to_nothing_pipes_and_sockets_are_named_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, root = class_folders(tmp_path / "set"), tmp_path / "set"
    (root / "cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "cat/itself.png").symlink_to("itself.png")
    (root / "dog/device.png").symlink_to("/dev/zero")
    os.mkfifo(root / "dog/pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "dog/socket.png"))
        data = loaded(root)
    assert data.skipped == 5 and np.array_equal(data.images, images)
    for name, why in {
        "cat/gone.png": "a link to a file that is not there",
        "cat/itself.png": "a link to a file that is not there",
        "dog/device.png": "a pipe, a socket, a device or a folder, not a file",
        "dog/pipe.png": "a pipe, a socket, a device or a folder, not a file",
        "dog/socket.png": "a pipe, a socket, a device or a folder, not a file",
    }.items():
        assert f"skipped {name}: {why}" in caplog.text
    save(tmp_path / "nowhere.png", noise(6, 6, seed=7))
    assert loaded(root).skipped == 4, "a link that leads somewhere by now is another set of images"


def test_a_pipe_in_metadata_or_in_a_folder_of_parquet_is_not_read(tmp_path: Path) -> None:
    save(tmp_path / "set/a.png", noise(4, 4))
    os.mkfifo(tmp_path / "set/pipe")
    (tmp_path / "set/metadata.csv").write_text("file_name\na.png\npipe\nnone.png\n")
    assert loaded(tmp_path / "set").skipped == 2
    os.mkfifo(tmp_path / "set/metadata.jsonl")
    assert len(loaded(tmp_path / "set").images) == 1
    folder = parquet_folder(tmp_path / "parquet", {"train": noise(2, 4, 4)}, ())
    before = contents_of(folder)
    os.mkfifo(folder / "data/pipe.parquet")
    (folder / "gone.parquet").symlink_to(tmp_path / "nowhere")
    assert contents_of(folder) == before
    assert len(load_images(dataset_name=str(folder)).images) == 2


def test_links_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "set")
    (tmp_path / "set/cat/more").symlink_to("../dog")
    (tmp_path / "set/dog/more").symlink_to("../cat")
    data = loaded(tmp_path / "set")
    assert len(data.images) == 2 * len(images)


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images, listed = class_folders(tmp_path / "set"), {"scandir": os.scandir, "listdir": os.listdir}

    def closed(name: str, path: object) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed[name](path)

    for name in listed:
        monkeypatch.setattr(os, name, functools.partial(closed, name))
    assert np.array_equal(loaded(tmp_path / "set").images, images[:2])
    assert caplog.text.count(f"skipped {tmp_path / 'set/dog'}: Permission denied") == 1


def test_names_of_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    save(tmp_path / "set" / name / "a.png", noise(4, 4))
    data = loaded(tmp_path / "set")
    assert data.class_names == (name,) and loaded(tmp_path / "set").class_names == (name,)


# --- what is no image, and what is one after all ---


def test_files_of_other_formats_are_counted_and_named_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class_folders(tmp_path / "set")
    for name in ("cat/1.heic", "cat/2.HEIC", "dog/3.heic", "dog/4.raw", "dog/none"):
        (tmp_path / "set" / name).write_bytes(b"x")
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        assert len(loaded(tmp_path / "set").images) == 3
        last = caplog.records[-1].getMessage()
        assert "files of formats that are not read: 3 .heic, 1 .raw, 1 without extension (cat/1.heic, " in last
    for file in (tmp_path / "set").rglob("*.png"):
        file.unlink()
    with pytest.raises(ValueError, match=r"holds no images.*it has 3 \.heic, 1 \.raw"):
        loaded(tmp_path / "set")


def test_avif_is_named_where_pillow_cannot_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class_folders(tmp_path / "set")
    (tmp_path / "set/cat/0.avif").write_bytes(b"x")
    known = {name: kind for name, kind in Image.registered_extensions().items() if name != ".avif"}
    monkeypatch.setattr(Image, "registered_extensions", lambda: known)
    assert loaded(tmp_path / "set").skipped == 0 and "1 .avif (cat/0.avif)" in caplog.text


def test_malformed_exif_keeps_the_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A], exif[0x8769] = 6, "maker", 72.5, {0x9000: b"0230"}
    pixels = noise(4, 7)
    for seed in range(40):
        rng, data = np.random.default_rng(seed), bytearray(exif.tobytes())
        for _ in range(seed % 4):
            data[rng.integers(6, len(data))] = rng.integers(256)
        data = data[: rng.integers(6, len(data))] if seed % 2 else data
        kind, options = [("png", {}), ("webp", {"lossless": True}), ("jpg", {})][seed % 3]
        content = encoded(tmp_path, Image.fromarray(pixels), f"one.{kind}", exif=bytes(data), **options)
        found = decode(content, None, 1).pixels[0]
        as_they_lie = decode(encoded(tmp_path, Image.fromarray(pixels), f"one.{kind}", **options), None, 1).pixels[0]
        turned = [*(np.rot90(as_they_lie, k) for k in range(4)), *(np.rot90(as_they_lie.T, k) for k in range(4))]
        assert any(np.array_equal(found, one) for one in turned), seed


# --- layouts ---


@pytest.mark.parametrize("wrapper", ["archive", "archive/images", "archive/train", "train/archive", "Train"])
def test_a_folder_around_class_folders_is_no_class(wrapper: str, tmp_path: Path) -> None:
    images = class_folders(tmp_path / "set" / wrapper)
    (tmp_path / "set/__MACOSX/cat").mkdir(parents=True)
    (tmp_path / "set/__MACOSX/cat/._a.png").write_bytes(b"x")
    (tmp_path / "set/readme.txt").write_text("hello")
    data = loaded(tmp_path / "set")
    assert np.array_equal(data.images, images) and data.class_names == ("cat", "dog")


def test_what_is_wrapped_may_have_metadata_and_one_class_is_a_class(tmp_path: Path) -> None:
    save(tmp_path / "one/cat/a.png", noise(4, 4))
    assert loaded(tmp_path / "one").class_names == ("cat",)
    save(tmp_path / "two/archive/a.png", noise(4, 4))
    (tmp_path / "two/archive/metadata.csv").write_text("file_name,text\na.png,a cat\n")
    assert loaded(tmp_path / "two").captions == ("a cat",)
    save(tmp_path / "three/cat/close/a.png", noise(4, 4))
    save(tmp_path / "three/cat/b.png", noise(4, 4))
    assert loaded(tmp_path / "three").class_names == ("cat",), "images lie in the folder itself"


@pytest.mark.parametrize(
    ("train", "test", "asked"),
    [("training", "testing", "test"), ("Train", "valid", "validation"), ("TRAIN", "Val", "valid")],
)
def test_splits_have_many_names(train: str, test: str, asked: str, tmp_path: Path) -> None:
    images = class_folders(tmp_path / train)
    save(tmp_path / test / "dog/only.png", noise(6, 6))
    (tmp_path / "notes").mkdir()
    assert np.array_equal(loaded(tmp_path).images, images)
    other = loaded(tmp_path, split=asked)
    assert other.labels is not None and other.labels.tolist() == [1] and other.class_names == ("cat", "dog")
    assert len(loaded(tmp_path, split=test).images) == 1
    with pytest.raises(ValueError, match=f"split='nope': .* has {train}, {test}|has {test}, {train}"):
        loaded(tmp_path, split="nope")


def test_two_folders_for_one_split_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("Train", "training"):
        class_folders(tmp_path / name)
    with pytest.raises(ValueError, match="split='train': .* has Train, training: keep one"):
        loaded(tmp_path)
    assert len(loaded(tmp_path, split="training").images) == 3


def test_the_classes_and_their_counts_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    class_folders(tmp_path / "set")
    loaded(tmp_path / "set")
    assert f"{tmp_path / 'set'}: 2 classes: cat (2), dog (1)" in caplog.text
    for i in range(25):
        save(tmp_path / f"many/{i:02}/a.png", noise(4, 4))
    loaded(tmp_path / "many")
    assert "25 classes: 00 (1), 01 (1), " in caplog.text and "19 (1), and 5 more" in caplog.text
    save(tmp_path / "set/loose.png", noise(6, 6))
    data = loaded(tmp_path / "set")
    assert (
        data.unlabelled == f"1 images of {tmp_path / 'set'} lie in no class folder" and data.unlabelled in caplog.text
    )


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a.png'?: it is a file, not a folder"):
        loaded(save(tmp_path / "a.png", noise(4, 4)))
