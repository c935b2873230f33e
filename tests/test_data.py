"""Folders of images become one uint8 array: labels, captions, sizes and colours; broken files are named."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from image_files import class_folders, encoded, save
from PIL import Image
from training_runs import noise

from training.data import load_images
from training.data.decode import decode

pytestmark = pytest.mark.usefixtures("own_caches")


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
@pytest.mark.parametrize(("labels", "numbers", "names"), [(["b", "a"], [1, 0], ("a", "b")), ([1, 0], [1, 0], None)])
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
    pixels = noise(16, 16)
    by_area = decode(encoded(tmp_path, Image.fromarray(pixels)), 4, None, "area").pixels[0]
    assert np.abs(by_area - pixels.reshape(4, 4, 4, 4).mean((1, 3))).max() <= 1, "as a cascade makes smaller images"


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


def test_wrong_settings_are_refused_by_name(tmp_path: Path) -> None:
    for both in ({}, {"dataset_name": "a", "train_data_dir": "b"}):
        with pytest.raises(ValueError, match="one of dataset_name.*train_data_dir"):
            load_images(**both)
    for name, value in (("channels", 2), ("resolution", 0), ("resolution", 3.5), ("max_samples", -1)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            load_images(train_data_dir=tmp_path, **{name: value})
