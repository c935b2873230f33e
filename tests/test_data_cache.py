"""Images are decoded once: the cache is used, and is never stale."""

from __future__ import annotations

import os
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


def test_a_damaged_cache_entry_is_built_again(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "set")
    load_images(train_data_dir=tmp_path / "set")
    (file,) = pixel_files(tmp_path)
    file.write_bytes(file.read_bytes()[:-5])
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
