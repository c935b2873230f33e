"""Data: any folder or parquet becomes one uint8 array, broken files are named, the cache is used and is never stale."""

from __future__ import annotations

import gzip
import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import ImageData, cache, fashion, load_images
from training.data.decode import decode
from training.data.hub import contents_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has its own cache, and no network."""
    monkeypatch.setenv("STEPWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    image.save(path, **options)
    return path


def encoded(tmp_path: Path, image: Image.Image, name: str = "one.png", **options: object) -> bytes:
    return save(tmp_path / name, image, **options).read_bytes()


def class_folders(root: Path, size: int = 6) -> np.ndarray:
    """Three grey images in the folders cat and dog, in the order in which they are loaded: (3, 1, size, size)."""
    images = noise(3, 1, size, size)
    for name, image in zip(("cat/a.png", "cat/b.png", "dog/a.png"), images, strict=True):
        save(root / name, image[0])
    return images


# --- folders ---


def test_class_folders_give_exact_pixels_labels_and_names(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "set")
    (tmp_path / "set/dog/.DS_Store").write_bytes(b"x")
    (tmp_path / "set/dog/notes.txt").write_text("not an image")
    (tmp_path / "set/empty").mkdir()
    data = load_images(train_data_dir=tmp_path / "set")
    assert data.images.dtype == np.uint8 and np.array_equal(data.images, images)
    assert data.labels is not None and data.labels.dtype == np.int64 and data.labels.tolist() == [0, 0, 1]
    assert (data.class_names, data.captions, data.skipped) == (("cat", "dog"), None, 0)


def test_mixed_modes_and_sizes_become_colour_squares(tmp_path: Path) -> None:
    colour = Image.fromarray(noise(20, 31, 3))
    modes = {
        "RGB": "png",
        "L": "png",
        "P": "gif",
        "LA": "png",
        "RGBA": "webp",
        "1": "png",
        "I;16": "png",
        "CMYK": "jpg",
    }
    for mode, suffix in modes.items():
        image = Image.fromarray(noise(9, 8).astype(np.uint16) * 257) if mode == "I;16" else colour.convert(mode)
        save(tmp_path / "set" / f"{mode[0]}{len(mode)}.{suffix}", image)
    data = load_images(train_data_dir=tmp_path / "set", resolution=8)
    assert data.images.shape == (8, 3, 8, 8) and data.skipped == 0
    assert data.labels is None and data.class_names is None


def test_channels_follow_the_data_or_convert_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grey, colour = noise(5, 5), noise(5, 5, 3)
    save(tmp_path / "grey/0.png", grey)
    save(tmp_path / "grey/1.png", np.stack([grey] * 3, axis=-1))  # R = G = B is grey too
    save(tmp_path / "both/0.png", grey)
    save(tmp_path / "both/1.png", colour)
    save(tmp_path / "both/2.png", grey)
    assert np.array_equal(load_images(train_data_dir=tmp_path / "grey").images, np.stack([grey[None]] * 2))
    caplog.set_level(logging.INFO)
    both = load_images(train_data_dir=tmp_path / "both").images
    expected = [np.stack([grey] * 3), colour.transpose(2, 0, 1), np.stack([grey] * 3)]
    assert np.array_equal(both, expected)
    assert "2 grey images were given three equal channels" in caplog.text
    one = load_images(train_data_dir=tmp_path / "both", channels=1).images
    assert np.array_equal(one[1, 0], np.asarray(Image.fromarray(colour).convert("L")))
    assert "1 colour images were converted to grey" in caplog.text
    assert load_images(train_data_dir=tmp_path / "grey", channels=3).images.shape == (2, 3, 5, 5)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(("labels", "numbers", "names"), [(["b", "a"], [1, 0], ("a", "b")), ([3, 1], [3, 1], None)])
def test_metadata_gives_labels_and_captions(
    tmp_path: Path, kind: str, labels: list[str | int], numbers: list[int], names: tuple[str, ...] | None
) -> None:
    for i, name in enumerate(("z.png", "sub/y.png", "unlisted.png")):
        save(tmp_path / name, noise(4, 4, seed=i))
    rows = [("z.png", labels[0], "one, two"), ("sub/y.png", labels[1], 'é "q"')]
    if kind == "csv":
        quoted = [f'{file},{label},"{text.replace(chr(34), chr(34) * 2)}"' for file, label, text in rows]
        content = "\ufeff" + "\r\n".join(["file_name,label,text", *quoted]) + "\r\n"
    else:
        content = "\n".join(json.dumps({"file_name": f, "label": y, "text": t}) for f, y, t in rows) + "\n"
    (tmp_path / f"metadata.{kind}").write_bytes(content.encode())
    data = load_images(train_data_dir=tmp_path)
    assert np.array_equal(data.images[:, 0], [noise(4, 4, seed=0), noise(4, 4, seed=1)])
    assert data.labels is not None and data.labels.tolist() == numbers and data.class_names == names
    assert data.captions == ("one, two", 'é "q"')


def test_metadata_without_file_name_or_with_a_bad_line_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", noise(4, 4))
    (tmp_path / "metadata.jsonl").write_text('{"file": "a.png", "label": 1}\n')
    with pytest.raises(ValueError, match=r"'file_name'.*file, label"):
        load_images(train_data_dir=tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n{"file_name": \n')
    with pytest.raises(ValueError, match="line 2"):
        load_images(train_data_dir=tmp_path)


def test_broken_images_are_named_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = class_folders(tmp_path, size=40)
    (tmp_path / "cat/empty.png").write_bytes(b"")
    (tmp_path / "cat/a_corrupt.jpg").write_bytes(b"these are not pixels")
    whole = save(tmp_path / "dog/cut.png", noise(40, 40)).read_bytes()
    (tmp_path / "dog/cut.png").write_bytes(whole[: len(whole) // 2])
    data = load_images(train_data_dir=tmp_path)
    assert data.skipped == 3 and np.array_equal(data.images, images)
    assert data.labels is not None and data.labels.tolist() == [0, 0, 1]
    named = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    for name in ("cat/empty.png", "cat/a_corrupt.jpg", "dog/cut.png"):
        assert any(message.startswith(f"skipped {name}:") for message in named)
    assert any("3 images skipped" in message for message in named)
    caplog.clear()
    assert load_images(train_data_dir=tmp_path).skipped == 3 and "3 images skipped" in caplog.text


def test_nothing_to_decode_is_an_error_naming_the_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=f"{tmp_path}.*holds no images"):
        load_images(train_data_dir=tmp_path)
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=f"{tmp_path} holds no image that can be decoded"):
        load_images(train_data_dir=tmp_path)
    assert not list((tmp_path / "cache").iterdir()), "a failed build leaves nothing behind"


def test_sizes_that_differ_ask_for_a_resolution(tmp_path: Path) -> None:
    for i, (height, width) in enumerate([(6, 6), (6, 6), (9, 12), (20, 30)]):
        save(tmp_path / f"{i}.png", noise(height, width))
    with pytest.raises(ValueError, match=r"6x6, 12x9, 30x20.*--resolution 6"):
        load_images(train_data_dir=tmp_path)
    assert load_images(train_data_dir=tmp_path, resolution=6).images.shape == (4, 1, 6, 6)


def test_split_folders_and_splits_that_are_not_there(tmp_path: Path) -> None:
    root = tmp_path / "set"
    class_folders(root / "train")
    save(root / "test/dog/only.png", noise(6, 6))
    assert len(load_images(train_data_dir=root).images) == 3
    test = load_images(train_data_dir=root, split="test")
    assert test.labels is not None and test.labels.tolist() == [1], "dog has the number that it has in train"
    assert test.class_names == ("cat", "dog")
    with pytest.raises(ValueError, match="'valid'.*test, train"):
        load_images(train_data_dir=root, split="valid")
    with pytest.raises(ValueError, match="'test'.*has train"):
        load_images(train_data_dir=root / "train", split="test")


def test_max_samples_keeps_every_class(tmp_path: Path) -> None:
    for name in "abcd":
        for i in range(5):
            save(tmp_path / name / f"{i}.png", noise(4, 4, seed=i))
    data = load_images(train_data_dir=tmp_path, max_samples=4)
    assert data.labels is not None and data.labels.tolist() == [0, 1, 2, 3]


# --- one image ---


def test_resizing_crops_the_centre_and_averages(tmp_path: Path) -> None:
    image = Image.fromarray(noise(40, 120))
    shorter_side_then_crop = image.resize((30, 10), Image.Resampling.LANCZOS).crop((10, 0, 20, 10))
    assert np.array_equal(decode(encoded(tmp_path, image), 10, None).pixels[0], shorter_side_then_crop)
    checks = np.indices((64, 64)).sum(0) % 2 * 255  # a checkerboard averages to middle grey; sampling would alias
    small = decode(encoded(tmp_path, Image.fromarray(checks.astype(np.uint8))), 8, None).pixels
    assert np.abs(small.astype(int) - 127).max() <= 3


def test_transparency_is_laid_on_white_and_hidden_colours_stay_hidden(tmp_path: Path) -> None:
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[..., 0] = 255  # red everywhere, but seen nowhere
    assert (decode(encoded(tmp_path, Image.fromarray(rgba)), 4, 3).pixels == 255).all()
    rgba[..., 3] = 128
    assert decode(encoded(tmp_path, Image.fromarray(rgba)), 4, 3).pixels[:, 0, 0].tolist() == [255, 127, 127]
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 255, 10, 200, 30])
    assert decode(encoded(tmp_path, palette), None, None).pixels[:, 0, 0].tolist() == [10, 200, 30]
    assert (decode(encoded(tmp_path, palette, transparency=1), None, 3).pixels == 255).all()


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(decode(encoded(tmp_path, Image.fromarray(levels * 257)), None, None).pixels[0], levels)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    pixels = noise(4, 7)
    content = encoded(tmp_path, Image.fromarray(pixels), exif=exif)
    assert np.array_equal(decode(content, None, None).pixels[0], np.rot90(pixels, -1))


# --- the cache ---


def pixel_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*/pixels.npy"))


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


# --- Fashion-MNIST, from idx to parquet to arrays ---


def write_idx(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray) -> None:
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        path = folder / f"{prefix}-{kind}-ubyte.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(header + array.tobytes()))


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


def test_wrong_settings_are_refused_by_name(tmp_path: Path) -> None:
    for both in ({}, {"dataset_name": "a", "train_data_dir": "b"}):
        with pytest.raises(ValueError, match="one of dataset_name.*train_data_dir"):
            load_images(**both)
    for name, value in (("channels", 2), ("resolution", 0), ("resolution", 3.5), ("max_samples", -1)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            load_images(train_data_dir=tmp_path, **{name: value})


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


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training.data", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_the_command_lists_the_names_and_fails_in_one_line(tmp_path: Path) -> None:
    wrong = run_module("fashoin", "--out", str(tmp_path / "out"))
    assert wrong.returncode == 2 and "invalid choice: 'fashoin' (choose from" in wrong.stderr
    failed = run_module("fashion", "--out", str(tmp_path / "out"), "--source", str(tmp_path / "no"))
    assert failed.returncode == 1 and "four Fashion-MNIST idx files" in failed.stderr
    assert "Traceback" not in failed.stderr and len(failed.stderr.splitlines()) == 1


def test_the_command_prepares_what_the_loader_reads(tmp_path: Path, idx: Path) -> None:
    done = run_module("fashion", "--out", str(tmp_path / "out"), "--source", str(idx))
    assert done.returncode == 0, done.stderr
    assert load_fashion(tmp_path / "out").images.shape == (12, 1, 28, 28)
