"""Images are decoded once: the cache is used, and is never stale."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from image_files import class_folders, pixel_files, save

from training.data import cache, load_images
from training.data.hub import contents_of

pytestmark = pytest.mark.usefixtures("own_caches")


def test_second_load_maps_the_same_file_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path / "set")
    first = load_images(train_data_dir=tmp_path / "set")

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("training.data.images.decode_all", refuse)
    second = load_images(train_data_dir=tmp_path / "set")
    (file,) = pixel_files(tmp_path)
    assert isinstance(second.images, np.memmap) and Path(second.images.filename) == file
    assert not second.images.flags.writeable
    assert second.fingerprint == first.fingerprint and np.array_equal(first.images, second.images)
    with pytest.raises(AssertionError, match="decoded again"):
        load_images(train_data_dir=tmp_path / "set", resolution=3)


def test_a_changed_file_or_setting_is_decoded_again(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "set")
    first = load_images(train_data_dir=tmp_path / "set")
    changed = save(tmp_path / "set/cat/a.png", 255 - images[0, 0])
    later = changed.stat().st_mtime_ns + 1_000_000
    os.utime(changed, ns=(later, later))
    second = load_images(train_data_dir=tmp_path / "set")
    assert np.array_equal(second.images[0], 255 - images[0]) and second.fingerprint != first.fingerprint
    os.utime(changed, ns=(later + 10, later + 10))
    assert load_images(train_data_dir=tmp_path / "set").fingerprint == second.fingerprint, "the content is the same"
    assert load_images(train_data_dir=tmp_path / "set", resolution=3).images.shape == (3, 1, 3, 3)


def zeros(content: bytes) -> bytes:
    """A page that never reached the disk."""
    return content[:200] + bytes(40) + content[240:]


def fewer_rows(content: bytes) -> bytes:
    """A whole file of one image less."""
    buffer = io.BytesIO()
    np.save(buffer, np.load(io.BytesIO(content))[:-1])
    return buffer.getvalue()


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "empty": ("pixels.npy", lambda content: b""),
    "truncated": ("pixels.npy", lambda content: content[:-5]),
    "only a header": ("pixels.npy", lambda content: content[:128]),
    "no array": ("pixels.npy", lambda content: b"x" * len(content)),
    "a page of zeros": ("pixels.npy", zeros),
    "fewer rows than said": ("pixels.npy", fewer_rows),
    "about: empty": ("about.json", lambda content: b""),
    "about: truncated": ("about.json", lambda content: content[:-9]),
    "about: no object": ("about.json", lambda content: b"[]"),
    "about: null": ("about.json", lambda content: b"null"),
    "about: lacks all": ("about.json", lambda content: b"{}"),
    "about: no text": ("about.json", lambda content: b"\xff\xfe\x00"),
    "about: other labels": ("about.json", lambda content: content.replace(b"[0, 0, 1]", b"[0, 1, 1]")),
    "about: lacks one": ("about.json", lambda content: content.replace(b'"grey"', b'"gray"')),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_entry_is_built_again(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = class_folders(tmp_path / "set")
    first = load_images(train_data_dir=tmp_path / "set")
    name, change = DAMAGE[damage]
    file = pixel_files(tmp_path)[0].with_name(name)
    before = file.read_bytes()
    file.write_bytes(change(before))
    assert file.read_bytes() != before
    data = load_images(train_data_dir=tmp_path / "set")
    assert np.array_equal(data.images, images) and data.labels.tolist() == [0, 0, 1]
    assert data.fingerprint == first.fingerprint and "is damaged" in caplog.text
    caplog.clear()
    load_images(train_data_dir=tmp_path / "set")
    assert "is damaged" not in caplog.text


@pytest.mark.parametrize("missing", ["pixels.npy", "about.json"])
def test_half_an_entry_is_built_again(missing: str, tmp_path: Path) -> None:
    images = class_folders(tmp_path / "set")
    load_images(train_data_dir=tmp_path / "set")
    file = pixel_files(tmp_path)[0].with_name(missing)
    file.unlink()
    assert np.array_equal(load_images(train_data_dir=tmp_path / "set").images, images)
    file.unlink()
    file.mkdir()
    assert np.array_equal(load_images(train_data_dir=tmp_path / "set").images, images)


def test_builders_at_the_same_time_agree(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "set")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_images(train_data_dir=tmp_path / "set"), range(8)))
    assert all(np.array_equal(data.images, images) for data in found)
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [pixel_files(tmp_path)[0].parent.name]


def test_the_slower_of_two_builders_takes_the_first_ones_entry(tmp_path: Path) -> None:
    def build(path: Path, value: int) -> dict[str, int]:
        np.save(path, np.full(3, value))
        return {"value": value}

    def slow(path: Path) -> dict[str, int]:
        cache.cached(tmp_path, "key", lambda other: build(other, 1))  # another process finishes meanwhile
        return build(path, 2)

    pixels, about = cache.cached(tmp_path, "key", slow)
    assert about == {"value": 1} and pixels.tolist() == [1, 1, 1]


def test_the_identity_of_a_parquet_folder_is_its_bytes_and_not_their_times(tmp_path: Path) -> None:
    file = tmp_path / "set/train.parquet"
    file.parent.mkdir()
    file.write_bytes(b"one")
    first = contents_of(tmp_path / "set")
    os.utime(file, ns=(1, 1))
    assert contents_of(tmp_path / "set") == first
    file.write_bytes(b"two")
    assert contents_of(tmp_path / "set") != first
    os.utime(file, ns=(1, 1))
    large = contents_of(tmp_path / "set", whole_below=1, tail=2)  # too large to read whole: the time counts
    os.utime(file, ns=(2, 2))
    assert contents_of(tmp_path / "set", whole_below=1, tail=2) != large
