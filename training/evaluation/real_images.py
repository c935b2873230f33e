"""The real images of an evaluation: what a model is measured on, and what it was trained on.

They are loaded as the run that trained the model loaded them, if its training.json says that it was trained on these:
in its size and channels, from its columns, and without the images that it held back. Those are measured on where the
data have no split for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data import ImageData, load_images
from training.data.images import open_source
from training.data.layout import holds_data
from training.data.sources import visible_files
from training.files import read_json_object
from training.machine import is_reporter
from training.metrics.sample_quality import NEIGHBOURS
from training.model_index import read_index

USUAL = {"image": ("image", "image"), "label": ("label", "label"), "text": ("caption", "text")}  # our names of columns
COLUMNS = [f"{name}_column" for name, _ in USUAL.values()]


@dataclass(frozen=True)
class RealImages:
    """`test` is measured on, `train` was trained on; `split` names the former, "train" if there are no others."""

    test: ImageData
    train: ImageData
    split: str


def record_of(folder: Path) -> dict[str, Any]:
    """The training.json of a model, or of the checkpoint whose pipeline it is; empty if there is none."""
    places = [folder / "training.json", *([folder.parent / "training.json"] if folder.name == "pipeline" else [])]
    return next((read_json_object(place) for place in places if place.is_file()), {})


def load_real(
    dataset_name: str,
    test_split: str | None,
    train_split: str,
    resolution: int | None,
    model: Path,
    channels: int | None = None,
) -> RealImages:
    """Load the images that the model in the folder `model` is measured on, and those that it was trained on.

    `resolution` and `channels` are those of the run unless given.

    Raises:
        ValueError: no such data or split, or images that have changed since the run held some of them back.
    """
    record, recipe, how = as_trained(dataset_name, resolution, model)
    how |= {} if channels is None else {"channels": channels}
    test_split = test_split or split_to_measure(how, train_split)
    if test_split is not None:
        test = load_images(split=test_split, **how | {"max_samples": None})
        return RealImages(test, load_images(split=train_split, **how), test_split)
    share = recipe.get("validation_share") or 0.0
    train = load_images(split=train_split, validation_share=share, **how)
    if not share:
        tell(f"{dataset_name} has no split to measure on, {why_on_all(model, record, bool(recipe))}")
        return RealImages(train, train, train_split)
    check_unchanged(dataset_name, train, record, resolution, model)
    test = load_images(split=train_split, validation_share=share, is_held_back=True, **how)
    if len(test.images) <= NEIGHBOURS:
        raise ValueError(
            f"model must have held at least {NEIGHBOURS + 1} images back, {model.name} held {len(test.images)}: train "
            "with a larger --validation_share, or measure on the training images with --test_split train"
        )
    tell(f"{model.name} held {len(test.images)} images back in training: it is measured on these")
    return RealImages(test, train, f"held back, {share:g}")


def load_trained_on(dataset_name: str, train_split: str, resolution: int | None, model: Path) -> ImageData:
    """The images that the model in the folder `model` was trained on, without those that its run held back.

    Raises:
        ValueError: no such data or split.
    """
    _, recipe, how = as_trained(dataset_name, resolution, model)
    return load_images(split=train_split, validation_share=recipe.get("validation_share") or 0.0, **how)


def as_trained(dataset_name: str, resolution: int | None, model: Path) -> tuple[dict[str, Any], ...]:
    """The record of a model's run, its recipe if that was on these images, and the arguments of `load_images`."""
    record = record_of(model)
    recipe = record.get("recipe", {}) if is_of(record, dataset_name) else {}
    return record, recipe, settings_of(dataset_name, recipe, record, resolution, model)


def why_on_all(model: Path, record: dict[str, Any], is_own: bool) -> str:
    """Why a model is measured on all images of a data set that has no split for it."""
    if is_own:
        return (
            f"and {model.name} held no images back: it is measured on the images that it was trained on, where copies "
            "score best"
        )
    if not record:
        return f"and {model.name} has no training.json that says which it was trained on: it is measured on all images"
    recipe = record.get("recipe", {})
    given = recipe.get("train_data_dir") or recipe.get("dataset_name")
    return (
        f"and {model.name} was trained on {given}: it is measured on all images. If these are the same ones, and the "
        "run held some of them back, call them by that name"
    )


def tell(line: str) -> None:
    """Print a line in one of several processes."""
    if is_reporter():
        print(line)


def split_to_measure(how: dict[str, Any], train_split: str) -> str | None:
    """The name of the split for testing, or else of that for validation; None if there is neither."""
    columns = {ours: how.get(f"{name}_column", usual) for ours, (name, usual) in USUAL.items()}
    places = (how.get(name) for name in ("dataset_name", "dataset_config_name", "train_data_dir"))
    return open_source(*places, train_split, columns).measured_on()


def is_of(record: dict[str, Any], dataset_name: str) -> bool:
    """Whether a run was trained on these images: by their path here, or by the name that is left of it on the Hub."""
    recipe = record.get("recipe", {})
    given = recipe.get("train_data_dir") or recipe.get("dataset_name")
    return isinstance(given, str) and (given == dataset_name or Path(given).name == Path(dataset_name).resolve().name)


def settings_of(
    dataset_name: str, recipe: dict[str, Any], record: dict[str, Any], resolution: int | None, model: Path
) -> dict[str, Any]:
    """The arguments of `load_images` but for the split: those of the run, if there is a `recipe`.

    Image files of other sources are converted to what the model draws; parquet is taken as it is.
    """
    is_folder = is_image_folder(Path(dataset_name).expanduser())
    source = {"train_data_dir" if is_folder else "dataset_name": dataset_name}
    source |= {"dataset_config_name": recipe.get("dataset_config_name")} if not is_folder else {}
    loaded = (record.get("dataset_loaded") or {}) if recipe else {}
    if loaded:
        how = {name: loaded[name] for name in ("resolution", "channels", "max_samples", "resize") if name in loaded}
    else:
        shape = read_index(model).facts(model).image_shape if is_folder else None
        how = {"resolution": shape[2], "channels": shape[0]} if shape else {"resolution": None}
    how |= {"resolution": resolution} if resolution is not None else {}
    return source | how | {name: recipe[name] for name in COLUMNS if name in recipe}


def is_image_folder(folder: Path) -> bool:
    """Whether a folder holds image files, and none that only `datasets` reads."""
    return folder.is_dir() and holds_data(folder) and not any(n.endswith(".parquet") for n in visible_files(folder))


def check_unchanged(
    dataset_name: str, train: ImageData, record: dict[str, Any], resolution: int | None, model: Path
) -> None:
    """Raise ValueError if the images are others than in training: then others would be held back now."""
    loaded = record.get("dataset_loaded") or {}
    if resolution in (None, loaded.get("resolution")) and loaded.get("fingerprint") != train.loaded["fingerprint"]:
        raise ValueError(
            f"dataset_name must hold the images that {model.name} was trained on ({record.get('dataset_images')}, and "
            f"those held back), but {dataset_name!r} has changed since ({len(train.images)} now): with --test_split "
            "train it is measured on all of them"
        )
