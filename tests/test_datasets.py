"""Data sets that `datasets.load_dataset` opens: what there is instead of what was asked for, and classes of numbers."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from image_files import parquet_folder
from PIL import Image
from training_runs import noise

from training import train
from training.data import load_images
from training.data.hub import Opened

pytestmark = pytest.mark.usefixtures("own_caches")
CONFIGS = """---
configs:
- config_name: large
  data_files:
  - split: train
    path: data/train-*
- config_name: small
  data_files:
  - split: test
    path: data/test-*
---
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two configurations of one split each."""
    parquet_folder(tmp_path / "set", {"train": noise(4, 6, 6), "test": noise(2, 6, 6, seed=1)}, ("a", "b"))
    (tmp_path / "set/README.md").write_text(CONFIGS)
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("config", "split", "said"),
    [
        (None, "train", r"dataset_config_name=None: .*set has 'large', 'small'; choose one with --dataset_config_name"),
        ("huge", "train", r"dataset_config_name='huge': .*set has 'large', 'small'; choose"),
        ("small", "train", r"split='train': .*set has 'test'$"),
        ("large", "train[:x]", r"split='train\[:x\]': Unrecognized instruction format"),
    ],
)
def test_an_unknown_split_or_configuration_says_what_there_is(
    config: str | None, split: str, said: str, folder: Path
) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        load_images(dataset_name=str(folder), dataset_config_name=config, split=split)
    assert "\n" not in str(refused.value)


def test_a_configuration_and_a_part_of_a_split_are_read(folder: Path) -> None:
    assert len(load_images(dataset_name=str(folder), dataset_config_name="small", split="test").images) == 2
    assert len(load_images(dataset_name=str(folder), dataset_config_name="large", split="train[:3]").images) == 3


def test_a_loading_script_is_one_line_and_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "script").mkdir()
    (tmp_path / "script/script.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for name in ("script", "script/script.py"):
        arguments = ["--recipe", "unconditional", "--dataset_name", str(tmp_path / name)]
        with pytest.raises(SystemExit, match=r"^error: dataset_name='.*' is a loading script.*found script\.py"):
            train.main([*arguments, "--output_dir", str(tmp_path / "out"), "--resolution", "8"])
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"PAR1junk", b"", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_damaged_file_and_a_folder_without_data_are_one_line(content: bytes, folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "data/train-00000-of-00001.parquet").write_bytes(content)
    for name in (folder, folder / "nothing"):
        name.mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=f"dataset_name='{name}', split='train': ") as refused:
            load_images(dataset_name=str(name))
        assert "\n" not in str(refused.value)


def write_labels(root: Path, kind: datasets.Features, splits: dict[str, list]) -> str:
    features = datasets.Features(image=datasets.Image(), label=kind)
    for split, labels in splits.items():
        images = [Image.fromarray(noise(4, 4, seed=i)) for i in range(len(labels))]
        rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        rows.to_parquet(root / f"data/{split}-00000-of-00001.parquet")
    return str(root)


def test_numbers_of_classes_are_those_present_in_all_splits(tmp_path: Path) -> None:
    numbers = datasets.Value("int64")
    name = write_labels(tmp_path / "sparse", numbers, {"train": [100000, 5, 5], "test": [100000]})
    for split, labels in {"train": [1, 0, 0], "test": [1]}.items():
        data = load_images(dataset_name=name, split=split)
        assert data.labels is not None and data.labels.tolist() == labels and data.class_names == ("5", "100000")
    name = write_labels(tmp_path / "dense", numbers, {"train": [0, 1, 2], "test": [2, 0], "hidden": [-1]})
    data = load_images(dataset_name=name, split="test")
    assert data.labels is not None and data.labels.tolist() == [2, 0] and data.class_names is None
    assert load_images(dataset_name=name, split="hidden").labels is None
    named = datasets.ClassLabel(names=["a", "b", "c", "d"])
    data = load_images(dataset_name=write_labels(tmp_path / "named", named, {"train": [3, 1]}))
    assert data.labels is not None and data.labels.tolist() == [3, 1] and data.class_names == ("a", "b", "c", "d")


def test_columns_that_may_be_the_labels_are_offered(tmp_path: Path) -> None:
    rows = {"image": [Image.fromarray(noise(4, 4))], "fine_class": [1]}
    features = datasets.Features(image=datasets.Image(), fine_class=datasets.Value("int64"))
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set/train.parquet")
    said = "the data set has no column 'label'; columns: image, fine_class; --label_column fine_class?"
    assert load_images(dataset_name=str(tmp_path / "set")).unlabelled == said


def test_a_folder_with_a_card_is_read_as_it_is_now(tmp_path: Path) -> None:
    """`datasets` by itself answers with what such a folder held when it was first read."""
    place = tmp_path / "set" / "data" / "train-00000-of-00001.parquet"
    place.parent.mkdir(parents=True)
    (tmp_path / "set" / "README.md").write_text(CONFIGS.partition("- config_name: small")[0] + "---\n")
    found = []
    for i, more in enumerate(({}, {"captions": ["new"]})):
        datasets.Dataset.from_dict({"number": [i], **more}).to_parquet(place)
        rows = Opened(str(tmp_path / "set"), None, "train").dataset
        found.append((rows.column_names, rows["number"][:]))
    assert found == [(["number"], [0]), (["number", "captions"], [1])]
