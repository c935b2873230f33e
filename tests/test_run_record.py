"""The records beside a model, and what its model_index.json says."""

import hashlib
import json
from pathlib import Path

import pytest
from toys import guided
from training_runs import noise_images, small_settings

from training.files import weights_hash, write_json
from training.model_index import is_pipeline, parse_index, read_index
from training.run_record import PUSHED, origin, pushed_id, pushed_revision


@pytest.fixture
def pushed(tmp_path: Path) -> Path:
    """A model's folder that remembers that it was pushed."""
    folder = tmp_path / "model"
    guided().save_pretrained(folder)
    write_json(folder / PUSHED, {"repo_id": "me/cats", "revision": "f00", "weights": weights_hash(folder)})
    return folder


def test_the_revision_is_told_while_the_weights_are_those_that_were_pushed(pushed: Path, tmp_path: Path) -> None:
    assert (pushed_id(pushed), pushed_revision(pushed)) == ("me/cats", "f00")
    (pushed / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"others")
    assert (pushed_id(pushed), pushed_revision(pushed)) == ("me/cats", None)
    assert (pushed_id(tmp_path), pushed_revision(tmp_path)) == (None, None)


def test_a_fine_tune_does_not_hash_the_weights_it_starts_from(pushed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: hashed.append(file.name) or real(file, kind))
    recipe, _ = small_settings(pushed.parent / "run", pretrained_model_name_or_path=str(pushed))
    assert origin(recipe, {}, noise_images())["base_model"] == "me/cats"
    assert not hashed
    pushed_revision(pushed)
    assert hashed, "the weights would have been seen"


def test_the_index_of_a_carried_and_of_a_stock_pipeline(pushed: Path) -> None:
    index = read_index(pushed)
    assert is_pipeline(pushed) and not is_pipeline(pushed / "unet")
    assert index.class_name == "ClassifierFreeGuidancePipeline" and (pushed / f"{index.source}.py").is_file()
    assert index.class_names == ["Cat", "Dog", "Fish"]
    assert index.components["scheduler"] == ("diffusers", "DDIMScheduler") and set(index.components) >= {"unet"}
    stock = parse_index(
        {
            "_class_name": "DDPMPipeline",
            "_diffusers_version": "0",
            "unet": ["diffusers", "UNet2DModel"],
            "safety_checker": [None, None],
            "guidance_interval": [0.2, 0.8],
            "id2label": {"10": "ten", "9": "nine"},
        }
    )
    assert (stock.class_name, stock.source, stock.class_names) == ("DDPMPipeline", None, ["nine", "ten"])
    assert stock.components == {"unet": ("diffusers", "UNet2DModel")}


@pytest.mark.parametrize("declared", [None, 7, ["alone"]])
def test_an_index_without_a_class_is_refused_by_name(declared: object, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": declared}))
    with pytest.raises(ValueError, match="model_index.json must name the pipeline's class as _class_name, got"):
        read_index(tmp_path)
