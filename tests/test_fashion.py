"""Fashion-MNIST, from idx to parquet to arrays, and parquet data sets as such."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from fresh_processes import run_module
from image_files import encoded, pixel_files, write_idx
from PIL import Image
from training_runs import noise

from training.data import ImageData, fashion, load_images

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture
def idx(tmp_path: Path) -> Path:
    """A folder with idx files of 12 training and 4 test images."""
    write_idx(tmp_path / "idx", "train", noise(12, 28, 28), np.arange(12, dtype=np.uint8) % 10)
    write_idx(tmp_path / "idx", "t10k", noise(4, 28, 28, seed=1), np.array([9, 0, 3, 3], np.uint8))
    return tmp_path / "idx"


def load_fashion(folder: Path, **options: object) -> ImageData:
    return load_images(dataset_name=str(folder), **options)


def test_idx_becomes_parquet_with_the_same_pixels(tmp_path: Path, idx: Path) -> None:
    import datasets

    fashion.prepare(tmp_path / "out", idx)
    rows = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "hf"))
    assert {split: len(rows[split]) for split in rows} == {"train": 12, "test": 4}
    assert rows["train"].features["label"].names[9] == "Ankle boot"
    assert rows["test"][0]["text"] == "a photo of an ankle boot, greyscale" and rows["test"][0]["image"].mode == "L"
    train, test = load_fashion(tmp_path / "out"), load_fashion(tmp_path / "out", split="test")
    assert np.array_equal(train.images[:, 0], noise(12, 28, 28)) and train.labels is not None
    assert train.labels.tolist() == [*range(10), 0, 1] and train.class_names == tuple(fashion.GARMENTS)
    assert np.array_equal(test.images[:, 0], noise(4, 28, 28, seed=1))
    assert test.captions is not None and test.captions[2] == "a photo of a dress, greyscale"


def test_parquet_is_cached_by_its_content(tmp_path: Path, idx: Path) -> None:
    fashion.prepare(tmp_path / "out", idx)
    first = load_fashion(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "old")
    write_idx(idx, "train", noise(12, 28, 28, seed=7), np.zeros(12, np.uint8))
    fashion.prepare(tmp_path / "out", idx)
    assert np.array_equal(load_fashion(tmp_path / "out").images[:, 0], noise(12, 28, 28, seed=7))
    assert load_fashion(tmp_path / "old").fingerprint == first.fingerprint
    assert len(pixel_files(tmp_path)) == 2, "a folder moved elsewhere is the same data"


def test_wrong_splits_columns_and_names_say_what_there_is(tmp_path: Path, idx: Path) -> None:
    fashion.prepare(tmp_path / "out", idx)
    with pytest.raises(ValueError, match="'valid'.*'train', 'test'"):
        load_fashion(tmp_path / "out", split="valid")
    for column in ("image_column", "label_column", "caption_column"):
        with pytest.raises(ValueError, match="'nope'.*image, label, text"):
            load_fashion(tmp_path / "out", **{column: "nope"})
    with pytest.raises(ValueError, match="'label' holds no images"):
        load_fashion(tmp_path / "out", image_column="label")
    with pytest.raises(ValueError, match="nobody/nothing.*no such folder here.*Hub"):
        load_images(dataset_name="nobody/nothing")
    with pytest.raises(ValueError, match="no such folder"):
        load_images(dataset_name=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="no such folder"):
        load_images(train_data_dir=tmp_path / "absent")


def test_an_undecodable_row_of_parquet_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import datasets

    good = encoded(tmp_path, Image.fromarray(noise(4, 4)))
    images = [{"bytes": good, "path": "a.png"}, {"bytes": b"bad", "path": "b.png"}, None]
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("string"))
    table = datasets.Dataset.from_dict({"image": images, "label": ["y", "x", "x"]}, features=features)
    table.to_parquet(tmp_path / "set/train.parquet")
    data = load_images(dataset_name=str(tmp_path / "set"))
    assert np.array_equal(data.images[:, 0], [noise(4, 4)]) and data.skipped == 2
    assert data.labels is not None and data.labels.tolist() == [1] and data.class_names == ("x", "y")
    assert "row 1 (b.png)" in caplog.text and "row 2" in caplog.text


def test_prepare_is_whole_or_not_at_all(tmp_path: Path, idx: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut = idx / "t10k-images-idx3-ubyte.gz"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="t10k-images.*damaged"):
        fashion.prepare(tmp_path / "new/out", idx)
    assert not list((tmp_path / "new").iterdir())
    cut.write_bytes(whole)
    fashion.prepare(tmp_path / "new/out", idx)
    caplog.set_level(logging.INFO)
    fashion.prepare(tmp_path / "new/out", tmp_path / "nowhere")
    assert "already complete" in caplog.text
    fashion.parquet_of(tmp_path / "new/out", "test").write_bytes(b"half")
    with pytest.raises(ValueError, match="not a complete"):
        fashion.prepare(tmp_path / "new/out", idx)


def test_no_source_names_the_package_and_the_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path / "absent")
    with pytest.raises(ValueError, match=r"dataset-fashion-mnist.*zalando-datasets/fashion_mnist.*--source"):
        fashion.prepare(tmp_path / "out")


def test_the_command_lists_the_names_and_fails_in_one_line(tmp_path: Path) -> None:
    wrong = run_module(ROOT, "training.data", "fashoin", "--out", str(tmp_path / "out"))
    assert wrong.returncode == 2 and "invalid choice: 'fashoin' (choose from" in wrong.stderr
    failed = run_module(
        ROOT, "training.data", "fashion", "--out", str(tmp_path / "out"), "--source", str(tmp_path / "no")
    )
    assert failed.returncode == 1 and "four Fashion-MNIST idx files" in failed.stderr
    assert "Traceback" not in failed.stderr and len(failed.stderr.splitlines()) == 1


def test_the_command_prepares_what_the_loader_reads(tmp_path: Path, idx: Path) -> None:
    done = run_module(ROOT, "training.data", "fashion", "--out", str(tmp_path / "out"), "--source", str(idx))
    assert done.returncode == 0, done.stderr
    assert load_fashion(tmp_path / "out").images.shape == (12, 1, 28, 28)
