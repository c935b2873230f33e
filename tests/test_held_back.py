"""Images that a run holds back, so that training.evaluate measures on images that the model has not seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_runs import tiny_feature_classifier
from image_files import parquet_folder, save
from training_runs import NETWORK, alone, command, image_folder, network_file, noise, run_here

from training import evaluate
from training.data import load_images
from training.data.held_back import held_back
from training.evaluation.prepare import features_for
from training.evaluation.real_images import load_real
from training.sharing.card_text import _note
from training.train import parse


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9])
def test_the_share_is_rounded_down_spread_over_classes_and_leaves_one_of_each(share: float) -> None:
    labels = [0] * 40 + [1] * 20 + [2] * 3 + [3]
    found = held_back(len(labels), labels, share)
    kept = [labels[i] for i in range(len(labels)) if i not in set(found)]
    assert found == sorted(set(found)) and int(share * 64) - 2 <= len(found) <= int(share * 64)
    assert set(kept) == {0, 1, 2, 3}, "each class stays"
    assert abs(sum(labels[i] == 0 for i in found) - share * 40) <= 1
    assert held_back(len(labels), labels, share) == found


def test_of_images_without_labels_as_many_are_held_back_from_all_over() -> None:
    found = held_back(1000, None, 0.1)
    assert len(found) == 100 and held_back(30, None, 0.1) == sorted(held_back(30, None, 0.1))
    assert len(held_back(30, None, 0.1)) == 3 and np.ptp(found) > 900
    assert held_back(1, None, 0.9) == [] and held_back(3, [0, 1, 2], 0.9) == []


def test_the_two_parts_are_all_images_once(tmp_path: Path, own_caches: None) -> None:
    mine = image_folder(tmp_path / "mine", 40)
    whole, train = load_images(train_data_dir=mine), load_images(train_data_dir=mine, validation_share=None)
    test = load_images(train_data_dir=mine, validation_share=0.1, is_held_back=True)
    assert (len(train.images), len(test.images)) == (36, 4) and train.class_names == test.class_names
    both = np.concatenate([train.images, test.images]).reshape(40, -1)
    assert {row.tobytes() for row in both} == {row.tobytes() for row in np.array(whole.images).reshape(40, -1)}
    assert train.loaded["validation_share"] == 0.1 and whole.loaded["validation_share"] == 0.0
    assert len({data.fingerprint for data in (whole, train, test)}) == 3


def test_nothing_is_held_back_where_there_is_a_split_or_too_few_unless_it_is_asked_for(
    tmp_path: Path, own_caches: None
) -> None:
    few = image_folder(tmp_path / "few", 30)
    assert len(load_images(train_data_dir=few, validation_share=None).images) == 30
    assert len(load_images(train_data_dir=few, validation_share=0.1).images) == 27
    for name in ("Test", "val"):
        split = tmp_path / f"with-{name}"
        image_folder(split / "train", 60)
        image_folder(split / name, 4)
        for share in (None, 0.1):
            data = load_images(train_data_dir=split, validation_share=share)
            assert len(data.images) == 60 and data.loaded["validation_share"] is None
    pixels = noise(60, 8, 8)
    parquet = parquet_folder(tmp_path / "parquet", {"train": pixels[:50], "test": pixels[50:]}, ("a", "b"))
    assert len(load_images(dataset_name=str(parquet), validation_share=0.1).images) == 50
    alone_there = parquet_folder(tmp_path / "one", {"train": pixels}, ("a", "b"))
    assert len(load_images(dataset_name=str(alone_there), validation_share=None).images) == 54


@pytest.mark.parametrize("kind", ["parquet", "files"])
def test_all_rows_of_one_image_are_trained_on_or_held_back(kind: str, tmp_path: Path, own_caches: None) -> None:
    """Data with a row per caption have each image several times."""
    pixels = np.repeat(noise(20, 8, 8), 5, axis=0)[np.random.default_rng(0).permutation(100)]
    if kind == "parquet":
        given = {"dataset_name": str(parquet_folder(tmp_path / "parquet", {"train": pixels}, ()))}
    else:
        for index, image in enumerate(pixels):
            save(tmp_path / "mine" / f"{index:02}.png", image)
        given = {"train_data_dir": tmp_path / "mine"}
    train, held = (load_images(**given, validation_share=0.2, is_held_back=part) for part in (False, True))
    assert len(train.images) == 80 and len(held.images) == 20
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in held.images}


def test_a_share_that_holds_back_too_few_is_said(
    tmp_path: Path, own_caches: None, caplog: pytest.LogCaptureFixture
) -> None:
    mine = image_folder(tmp_path / "mine", 20)
    load_images(train_data_dir=mine, validation_share=0.01)
    assert "training.evaluate needs 4 images that were held back" in caplog.text
    with pytest.raises(ValueError, match="validation_share must hold back an image of .*mine, 0.01 holds back none"):
        load_images(train_data_dir=mine, validation_share=0.01, is_held_back=True)


def test_a_run_that_goes_on_keeps_its_share_and_one_of_before_holds_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for saved, expected in (({"validation_share": 0.25}, 0.25), ({}, 0.0)):
        checkpoint = tmp_path / f"run{expected}" / "checkpoint-1"
        (checkpoint / "pipeline").mkdir(parents=True)
        record = {"steps": 1, "images": 1, "seconds": 1, "dataset_fingerprint": "x"}
        recipe = {"recipe": "conditional", "objective": "denoising", **saved}
        (checkpoint / "training.json").write_text(json.dumps(record | {"recipe": recipe}))
        monkeypatch.setattr("training.train.checkpoint_of", lambda arguments, found=checkpoint: found)
        going_on = ["--resume_from_checkpoint", str(checkpoint), "--max_train_steps", "9"]
        assert parse(going_on)[0].validation_share == expected
        with pytest.raises(ValueError, match=f"validation_share must be {expected}, as in .*, got 0.5"):
            parse([*going_on, "--validation_share", "0.5"])


@pytest.mark.parametrize("share", ["-0.1", "1", "nan"])
def test_a_share_that_leaves_nothing_is_refused(share: str) -> None:
    with pytest.raises(ValueError, match=r"validation_share must be in \[0, 0.9\]"):
        parse(["--recipe", "conditional", "--validation_share", share])


# --------------------------------------------------------------------------------------------------------- evaluating


def test_a_run_on_ones_own_images_is_measured_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photos of several sizes, of which a run holds some back: no flag says again how they are loaded."""
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "mine", 24, size=8)
    image_folder(tmp_path / "mine", 24, size=9, names=("cat", "bird"))  # the same names: half are of another size
    image_folder(tmp_path / "mine" / "cat", 20, size=11, names=())
    tiny_feature_classifier(("bird", "cat")).save_pretrained(tmp_path / "features")
    network = network_file(tmp_path / "network.json", NETWORK | {"dropout": 0.0})
    with alone(tmp_path / "cache"):
        flags = {"train_data_dir": "mine", "output_dir": "runs/mine", "resolution": 8, "validation_share": 0.2}
        run_here(command("--recipe conditional", max_train_steps=1, model_config_name_or_path=network, **flags))
        capsys.readouterr()
        quick = ["--num_samples", "8", "--num_inference_steps", "2", "--features", "features"]
        evaluate.main(["runs/mine", "--dataset_name", "mine", *quick])
    said = capsys.readouterr().out
    record = json.loads(Path("runs/mine/training.json").read_text())
    (row,) = json.loads(Path("runs/mine/metrics.json").read_text())["results"].values()
    held = row["real"]["test"]["frechet_images"]
    assert record["recipe"]["validation_share"] == 0.2 and held >= 6
    assert record["dataset_images"] + held == len(list(Path("mine").rglob("*.png")))
    assert row["real"]["train"]["fingerprint"] == record["dataset_fingerprint"] != row["real"]["test"]["fingerprint"]
    assert f"held {held} images back" in said and f"measured on {held} grey images of mine (held back, 0.2)" in said
    assert "features of features" in said and Path("runs/mine/contact_sheet.png").is_file()
    (Path("mine") / "cat" / "00.png").unlink()
    with alone(tmp_path / "cache"), pytest.raises(SystemExit, match="'mine' has changed since"):
        evaluate.main(["runs/mine", "--dataset_name", "mine", *quick])


def test_without_held_back_images_a_model_is_measured_on_its_own_and_that_is_said(
    tmp_path: Path, own_caches: None, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = image_folder(tmp_path / "mine", 12)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    record = {"recipe": {"train_data_dir": "elsewhere/mine"}}
    (tmp_path / "model" / "training.json").write_text(json.dumps(record))
    found = load_real(str(mine), None, "train", None, tmp_path / "model")
    assert found.test is found.train and found.split == "train" and len(found.test.images) == 12
    assert "where copies score best" in capsys.readouterr().out


def test_images_that_are_not_known_as_the_run_s_are_not_said_to_be(
    tmp_path: Path, own_caches: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that was renamed, or is another one, and a model that came without a record."""
    other, model = image_folder(tmp_path / "other", 12), tmp_path / "model"
    model.mkdir()
    (model / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    load_real(str(other), None, "train", None, model)
    assert "has no training.json" in capsys.readouterr().out
    recipe = {"train_data_dir": "mine", "validation_share": 0.1}
    (model / "training.json").write_text(json.dumps({"recipe": recipe}))
    assert len(load_real(str(other), None, "train", None, model).test.images) == 12
    said = capsys.readouterr().out
    assert "was trained on mine: it is measured on all images" in said and "copies score best" not in said


def test_a_card_says_what_the_images_were(tmp_path: Path) -> None:
    row = {"measured": {"nearest_train_ratio": 1.0, "nearest_to_second_ratio": 0.9}, "command": "c"}
    row["measured"] |= {"fd_effnet_lite0": 1.0}
    row["features"] = {"name": "some"}

    def note(split: str) -> str:
        real = {"test": {"split": split, "frechet_images": 30}, "train": {"split": "train"}}
        real |= {"neighbours": 3, "precision_recall_images": 30}
        return _note([row | {"real": real}], told_prompts=False)

    assert "all 30 training images" in note("train") and "not seen" not in note("train")
    assert "all 30 held-back images" in note("held back, 0.1")
    assert "stand those of held-back images, which were not seen" in note("held back, 0.1")
    assert "stand those of test images, which were not seen" in note("test")


def test_too_few_held_back_images_are_named(tmp_path: Path, own_caches: None) -> None:
    mine, model = image_folder(tmp_path / "mine", 20), tmp_path / "model"
    data = load_images(train_data_dir=mine, validation_share=0.1)
    recipe = {"train_data_dir": "elsewhere/mine", "validation_share": 0.1}
    model.mkdir()
    (model / "training.json").write_text(json.dumps({"recipe": recipe, "dataset_loaded": data.loaded}))
    with pytest.raises(ValueError, match="held at least 4 images back, model held 2: train with a larger --validation"):
        load_real(str(mine), None, "train", None, model)
    assert load_real(str(mine), "train", "train", None, model).split == "train"


def test_features_follow_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.evaluation.prepare.ROOT", tmp_path)
    tiny_feature_classifier(("bird", "cat")).save_pretrained(tmp_path / "model_cards" / "fashion-features")
    grey = load_images(train_data_dir=image_folder(tmp_path / "grey"), cache_dir=tmp_path / "cache")
    colour = load_images(train_data_dir=tmp_path / "grey", channels=3, cache_dir=tmp_path / "cache")
    large = load_images(train_data_dir=tmp_path / "grey", resolution=9, cache_dir=tmp_path / "cache")
    others = load_images(train_data_dir=image_folder(tmp_path / "o", names=("a", "b")), cache_dir=tmp_path / "cache")
    assert features_for(grey) == "model_cards/fashion-features"
    assert {features_for(images) for images in (colour, large, others)} == {"efficientnet-lite0"}
