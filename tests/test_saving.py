"""A saved folder carries its code: it loads in a fresh process elsewhere, saves again unchanged, and leaks nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from conftest import ROOT
from diffusers import DDIMScheduler, DDPMScheduler, HeunDiscreteScheduler
from fresh_processes import contents, fresh
from safetensors.torch import load_file
from toys import CLASSES, SHIPPED, ddim, ddpm, guided, patched_unet, quiet, seeded, steered, tiny_unet, two

import pipelines
from pipelines import NoisyClassifier
from pipelines.base import StepwisePipeline

KEPT = ("cfg", "steered", "ddpm", "ddim", "old")
LABELLED = {"class_labels": "Dog", "guidance_scale": 5.0}
OPTIONS = dict(batch_size=2, num_inference_steps=3, output_type="np")


def patched() -> StepwisePipeline:
    return quiet(
        pipelines.ClassifierFreeGuidancePipeline(patched_unet(4), DDIMScheduler(**SHIPPED), CLASSES),
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved models: guided without and with a classifier, DDPM, DDIM, and DDIM saved by an older version."""
    root = tmp_path_factory.mktemp("saved")
    made = {"cfg": patched(), "steered": steered(patched_unet()), "ddpm": ddpm(patched_unet()), "ddim": ddim()}
    for name, pipe in made.items():
        pipe.save_pretrained(root / name)
    old = root / "old project"
    shutil.copytree(ROOT / "pipelines", old / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    base = old / "pipelines" / "base.py"
    text = base.read_text()
    assert text.count("pixels = (sample / 2 + 0.5)") == 1
    base.write_text(text.replace("pixels = (sample / 2 + 0.5)", "pixels = 1 - (sample / 2 + 0.5)"))
    job = {"folder": root / "ddim", "named": "DDIMPipeline", "project": old, "save": root / "old"}
    fresh(root / "old process", [job])
    return {name: root / name for name in KEPT}


@pytest.fixture(scope="module")
def reloaded(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[np.ndarray, Path]]:
    """Each folder, and one in bfloat16, drawn with and saved again by one fresh process that holds all of them."""
    root = tmp_path_factory.mktemp("again")
    jobs = [
        {"folder": folder, "save": root / name, "options": LABELLED if name == "steered" else {}}
        for name, folder in folders.items()
    ]
    jobs.append({"folder": folders["cfg"], "bfloat16": True, "options": {"class_labels": "Dog"}, "save": root / "half"})
    pixels = fresh(root / "process", jobs)
    return {job["save"].name: (images, job["save"]) for job, images in zip(jobs, pixels, strict=True)}


NAMED = {
    "steered": "ClassifierGuidancePipeline",
    "cfg": "ClassifierFreeGuidancePipeline",
    "ddpm": "DDPMPipeline",
    "ddpm as ddim": "DDIMPipeline",
    "old": "DDIMPipeline",
}


@pytest.fixture(scope="module")
def third(
    folders: dict[str, Path], reloaded: dict[str, tuple[np.ndarray, Path]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    """In another fresh process: what was saved again, by its own code; then the first folders, by named classes."""
    jobs = {name: {"folder": reloaded[name][1]} for name in KEPT}
    for name, cls in NAMED.items():
        jobs[f"named {name}"] = {"folder": folders[name.split()[0]], "named": cls, "project": ROOT}
    for name in ("steered", "named steered"):
        jobs[name]["options"] = LABELLED
    return dict(zip(jobs, fresh(tmp_path_factory.mktemp("third") / "process", list(jobs.values())), strict=True))


def drawn(pipe: StepwisePipeline, **options: object) -> np.ndarray:
    return pipe(generator=seeded(), **OPTIONS | options).images


# --- with its own code ---


def test_a_folder_draws_the_same_in_a_fresh_process(reloaded: dict) -> None:
    made = {"cfg": patched(), "steered": steered(patched_unet()), "ddpm": ddpm(patched_unet()), "ddim": ddim()}
    for name, pipe in made.items():
        expected = drawn(pipe, **LABELLED if name == "steered" else {})
        np.testing.assert_allclose(reloaded[name][0], expected, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", KEPT)
def test_saved_again_it_is_the_same_folder(name: str, folders: dict, reloaded: dict) -> None:
    first, second = contents(folders[name]), contents(reloaded[name][1])
    assert sorted(first) == sorted(second)
    assert first == second


def test_loaded_again_it_draws_the_same(reloaded: dict, third: dict[str, np.ndarray]) -> None:
    for name in KEPT:
        assert np.array_equal(third[name], reloaded[name][0]), name


def test_two_versions_in_one_process_keep_their_own_behaviour(reloaded: dict) -> None:
    new, old = reloaded["ddim"][0], reloaded["old"][0]
    assert float(new.std()) > 0.1
    np.testing.assert_allclose(old, 1 - new, rtol=0, atol=1e-6)


def test_names_of_sources_are_unique_to_their_content(folders: dict) -> None:
    new, old = ({p.name for p in folders[name].glob("*.py")} for name in ("ddim", "old"))
    stems = {name.rsplit("_", 1)[0] for name in new}
    expected = "base conditions ddim facts from_image image_inputs lora packaging process repaint run saved_files"
    assert stems == {*expected.split(), "schedule", "solvers", "staging"}
    assert {name.rsplit("_", 1)[0] for name in old} == stems and len(new) == len(old) == len(stems)
    assert {name.rsplit("_", 1)[0] for name in new - old} == {"base", "ddim"}  # what changed, and what imports it


def test_bfloat16_on_request(reloaded: dict) -> None:
    images, folder = reloaded["half"]
    exact = drawn(patched(), class_labels="Dog")
    assert float(abs(images - exact).mean()) < 0.05
    weights = load_file(next((folder / "unet").glob("*.safetensors")))
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


# --- by the name of a class ---


def test_a_named_class_runs_the_working_tree_without_trust(third: dict[str, np.ndarray]) -> None:
    made = [steered(patched_unet()), patched(), ddpm(patched_unet()), ddim(patched_unet()), ddim()]
    for name, pipe in zip(NAMED, made, strict=True):
        expected = drawn(pipe, **LABELLED if name == "steered" else {})
        np.testing.assert_allclose(third[f"named {name}"], expected, rtol=0, atol=1e-5, err_msg=name)


def test_a_named_class_keeps_names_and_types(folders: dict) -> None:
    pipe = pipelines.ClassifierFreeGuidancePipeline.from_pretrained(folders["cfg"], dtype=torch.bfloat16)
    assert isinstance(pipe.unet, pipelines.PatchedUNet2DModel)
    assert pipe.unet.dtype == torch.bfloat16
    assert pipe.class_names == ["Cat", "Dog", "Fish"]
    assert pipe.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("asked", [{"unet": torch.bfloat16}, {"default": torch.bfloat16, "classifier": torch.float32}])
def test_each_component_is_loaded_in_its_own_dtype(asked: dict, folders: dict) -> None:
    pipe = pipelines.ClassifierGuidancePipeline.from_pretrained(folders["steered"], dtype=asked)
    assert (pipe.unet.dtype, pipe.classifier.dtype) == (torch.bfloat16, torch.float32)


def test_a_device_is_that_of_every_component(folders: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, load = [], NoisyClassifier.from_pretrained
    monkeypatch.setattr(
        NoisyClassifier, "from_pretrained", lambda *a, **k: asked.append(k["device_map"]) or load(*a, **k)
    )
    pipelines.ClassifierGuidancePipeline.from_pretrained(folders["steered"], device_map="cpu")
    assert asked == ["cpu"]
    with pytest.raises(ValueError, match="^device_map must be left out, got 'balanced': DiffusionPipeline"):
        pipelines.ClassifierGuidancePipeline.from_pretrained(folders["steered"], device_map="balanced")


@pytest.mark.parametrize("having", ["unet", "classifier"])
def test_a_variant_that_some_components_have_is_loaded_where_it_is(having: str, folders: dict, tmp_path: Path) -> None:
    folder = shutil.copytree(folders["steered"], tmp_path / "model")
    pipe = steered(patched_unet())
    part = getattr(pipe, having)
    weight = next(part.parameters())
    weight.data.fill_(7)
    part.save_pretrained(folder / having, variant="fp16")
    loaded = pipelines.ClassifierGuidancePipeline.from_pretrained(folder, variant="fp16")
    filled = {name: bool((next(getattr(loaded, name).parameters()) == 7).all()) for name in ("unet", "classifier")}
    assert filled == {name: name == having for name in filled}
    with pytest.raises(ValueError, match="variant=bf16"):
        pipelines.ClassifierGuidancePipeline.from_pretrained(folder, variant="bf16")


def test_remote_code_is_not_run_without_trust(folders: dict) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        diffusers.DiffusionPipeline.from_pretrained(folders["cfg"])


# --- what a folder holds ---


def test_a_folder_holds_safetensors_sources_and_no_path_of_this_machine(folders: dict, reloaded: dict) -> None:
    for folder in [*folders.values(), *(path for _, path in reloaded.values())]:
        files = contents(folder)
        kinds = {Path(name).suffix for name in files}
        assert kinds == {".json", ".py", ".safetensors"}, folder
        for name, text in files.items():
            if name.endswith(".json"):
                assert b"_name_or_path" not in text, name
                assert str(folder.parent).encode() not in text and str(ROOT).encode() not in text, name
        assert not list(folder.rglob(".*")), "nothing hidden is left behind"
    index = json.loads((folders["cfg"] / "model_index.json").read_text())
    assert index["_class_name"][1] == "ClassifierFreeGuidancePipeline"
    assert index["unet"][1] == "PatchedUNet2DModel"
    assert index["id2label"] == CLASSES


@pytest.mark.parametrize("arguments", [((), {"safe_serialization": False}), ((False,), {})])
def test_pickles_are_refused(arguments: tuple[tuple, dict], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^safe_serialization must"):
        ddim().save_pretrained(tmp_path / "model", *arguments[0], **arguments[1])
    assert list(tmp_path.iterdir()) == []


class BreakingScheduler(DDIMScheduler):
    """Fails when it is saved, after the other components may have been written."""

    def save_pretrained(self, *args: object, **kwargs: object) -> None:
        raise OSError("disk full")


def test_a_save_that_fails_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "model"
    ddim().save_pretrained(target)
    before = contents(target)
    pipe = ddim(tiny_unet(layers_per_block=2))
    pipe.scheduler = BreakingScheduler.from_config(pipe.scheduler.config)
    for folder in (target, tmp_path / "new"):
        with pytest.raises(OSError, match="disk full"):
            pipe.save_pretrained(folder)
    assert contents(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_saving_over_another_model_leaves_no_stale_source(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("the card")
    ddim().save_pretrained(tmp_path)
    patched().save_pretrained(tmp_path)
    alone = tmp_path / "alone"
    patched().save_pretrained(alone)
    assert {p.name for p in tmp_path.glob("*.py")} == {p.name for p in alone.glob("*.py")}
    assert (tmp_path / "README.md").read_text() == "the card"


EVERY_ORDER = ("1GB", "100KB", "200KB", "1GB", "200KB", "100KB", "1GB")  # one file, and shards large and small


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_save_in_one_form_replaces_every_other_form(variant: str | None, tmp_path: Path) -> None:
    """A loader prefers an index of old shards to a new file, and says nothing."""
    target, other, pipe = tmp_path / "model", None if variant else "fp16", ddim()
    pipe.save_pretrained(target, max_shard_size="100KB", variant=other)  # stays: it is no other form of the same
    beside = set(contents(target))
    for fill, size in enumerate(EVERY_ORDER):
        pipe.unet.conv_in.weight.data.fill_(fill)
        pipe.save_pretrained(target, variant=variant, max_shard_size=size)
        named = {Path(name).name for name in set(contents(target)) - beside}
        index = [json.loads((target / "unet" / name).read_text()) for name in named if name.endswith(".json")]
        assert len(index) == (size != "1GB")
        assert len(named) == 1 + sum(len(set(one["weight_map"].values())) for one in index), (size, named)
        loaded = pipelines.DDIMPipeline.from_pretrained(target, variant=variant)
        assert float(loaded.unet.conv_in.weight.detach().max()) == fill, size


def test_a_compiled_network_is_saved_unwrapped(tmp_path: Path) -> None:
    pipe = patched()
    pipe.save_pretrained(tmp_path / "plain")
    pipe.unet = torch.compile(pipe.unet)
    pipe.save_pretrained(tmp_path / "compiled")
    assert contents(tmp_path / "compiled") == contents(tmp_path / "plain")


# --- without code, for the stock classes ---


@pytest.mark.parametrize("clip", [True, False])
def test_the_stock_ddpm_pipeline_opens_a_folder_without_code(clip: bool, tmp_path: Path) -> None:
    pipe = ddpm(clip_sample=clip, beta_schedule="linear")
    pipe.save_pretrained(tmp_path, carry_code=False)
    assert not list(tmp_path.rglob("*.py"))
    stock = quiet(diffusers.DiffusionPipeline.from_pretrained(tmp_path))
    assert type(stock) is diffusers.DDPMPipeline
    both = [p(generator=two(), **OPTIONS).images for p in (pipe, stock)]
    np.testing.assert_allclose(*both, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("clip", "eta"), [(False, 0.0), (False, 1.0)])
def test_the_stock_ddim_pipeline_opens_a_folder_without_code(clip: bool, eta: float, tmp_path: Path) -> None:
    pipe = ddim(clip_sample=clip, beta_schedule="linear")
    pipe.save_pretrained(tmp_path, carry_code=False)
    stock = quiet(diffusers.DDIMPipeline.from_pretrained(tmp_path))
    options = OPTIONS | {"num_inference_steps": 4, "eta": eta}  # a divisor of 1000: elsewhere the stock steps are off
    both = [p(generator=two(), **options).images for p in (pipe, stock)]
    np.testing.assert_allclose(*both, rtol=0, atol=2e-4)


def test_a_folder_without_code_loads_here_too(tmp_path: Path) -> None:
    pipe = ddpm()
    pipe.save_pretrained(tmp_path)
    pipe.save_pretrained(tmp_path, carry_code=False)
    assert not list(tmp_path.rglob("*.py"))
    again = quiet(pipelines.DDPMPipeline.from_pretrained(tmp_path))
    assert np.array_equal(drawn(again), drawn(pipe))
    again.save_pretrained(tmp_path)
    assert any(path.name.startswith("ddpm_") for path in tmp_path.glob("*.py"))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: quiet(pipelines.DDPMPipeline(patched_unet(), DDPMScheduler())), "component 'unet'"),
        (lambda: quiet(pipelines.DDIMPipeline(tiny_unet(3), DDIMScheduler())), "component 'unet'"),
        (guided, "ClassifierFreeGuidancePipeline"),
        (lambda: quiet(pipelines.DDIMPipeline(tiny_unet(out_channels=2), DDIMScheduler())), "learned a variance"),
        (lambda: quiet(pipelines.DDPMPipeline(tiny_unet(), HeunDiscreteScheduler())), "DDPMScheduler alone, got Heun"),
    ],
    ids=["custom component", "class labels", "custom algorithm", "learned variance", "another scheduler"],
)
def test_what_needs_its_own_code_is_not_saved_without(make: object, named: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^carry_code=False: .*{named}"):
        make().save_pretrained(tmp_path / "model", carry_code=False)
    assert list(tmp_path.iterdir()) == []
