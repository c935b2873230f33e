"""Names that others read are those of version 0.1.0: in metrics.json, on the page, at its endpoint, in its images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from evaluation_runs import command, fill
from PIL import Image
from saved_0_1_0.runs import FOLDER
from saved_by_0_1_0 import on_the_page

from training import evaluate
from training.card import render
from ui import build_demo
from ui.catalogue import Catalogue
from ui.fields import FIELDS
from ui.settings import Settings

SETTINGS = set(
    "model class_name steps guidance_scale seed count sampler eta guidance_low guidance_high guidance_rescale".split()
)
ABOUT = "settings real weights batch_size processes device command versions measured"
# the parts of a row of metrics.json by dotted path; "" is the row itself
RESULT = {
    "": f"{ABOUT} features floor",
    "settings": "model scheduler num_inference_steps guidance_scale guidance_interval num_samples seed dtype dataset "
    "features",
    "features": "name weights test_accuracy",
    "real": "test train precision_recall_images neighbours nearest_samples",
    "real.test": "split fingerprint frechet_images",
    "real.train": "split fingerprint",
    "versions": "python torch diffusers numpy",
    "measured": "class_entropy_bits frechet_distance kernel_distance precision recall nearest_train_distance "
    "nearest_train_ratio nfe images_per_second",
    "floor": "num_samples class_accuracy class_entropy_bits frechet_distance kernel_distance precision recall "
    "nearest_train_distance nearest_train_ratio",
}
LIKELIHOOD = {
    "": f"{ABOUT} curve",
    "settings": "model variance num_inference_steps num_images timesteps_per_image seed dtype dataset",
    "real.test": "split fingerprint",
    "versions": RESULT["versions"],
    "measured": "bits_per_dim standard_error prior decoder",
    "curve": "timesteps bits_per_dim",
}


def assert_keys(row: dict[str, Any], expected: dict[str, str]) -> None:
    """All of the names are there; more may be."""
    for path, names in expected.items():
        part = row
        for key in path.split(".") if path else ():
            part = part[key]
        assert set(names.split()) <= set(part), path


@pytest.mark.parametrize("name", ["fashion-cfg", "fashion-ddpm", "fashion-classifier-guidance"])
def test_the_keys_are_those_of_the_shipped_results(name: str) -> None:
    content = json.loads((FOLDER.parents[1] / "model_cards" / name / "metrics.json").read_text())
    assert set(content) <= {"results", "likelihood"}
    for section, expected in (("results", RESULT), ("likelihood", LIKELIHOOD)):
        for row in content.get(section, {}).values():
            if row["settings"].get("method") != "ode":  # a later kind of row
                assert_keys(row, expected)


@pytest.mark.parametrize("name", ["free_guidance", "ddpm_learned"])
def test_metrics_keep_their_keys(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(fill(tmp_path))
    shutil.copytree(FOLDER / name, tmp_path / name)
    bits = ["--bits_per_dim", "2", "--bits_per_dim_steps", "4"] if name == "ddpm_learned" else []
    evaluate.main(command(*bits, model=name))
    content = json.loads((tmp_path / name / "metrics.json").read_text())
    ((key, row),) = content["results"].items()
    assert_keys(row, RESULT)
    assert ("class_accuracy" in row["measured"]) == (name == "free_guidance")
    assert key.startswith(f"{name} scheduler=DD") and "num_inference_steps=2" in key
    assert f"| {row['measured']['frechet_distance']:.3f} |" in render(tmp_path / name)
    assert len(content.get("likelihood", {})) == bool(bits)
    for bound in content.get("likelihood", {}).values():
        assert_keys(bound, LIKELIHOOD)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """All of the folders on the page."""
    return on_the_page()


@pytest.fixture(scope="module")
def demo(catalogue: Catalogue) -> gr.Blocks:
    """The page, not served."""
    return build_demo(catalogue)


def test_the_page_remembers_and_reads_addresses_by_the_same_names(demo: gr.Blocks, catalogue: Catalogue) -> None:
    assert set(FIELDS) >= SETTINGS
    (memory,) = [part for part in demo.blocks.values() if isinstance(part, gr.BrowserState)]
    assert (memory.storage_key, memory.secret) == ("stepwise-settings", "stepwise")
    chosen = Settings("guidance", "lines", 3, 1.5, 11, 2, "DDIM", 0.25, 0.1, 0.9, 0.3).as_dict()
    assert set(chosen) >= SETTINGS
    (opening,) = [
        handler
        for handler in demo.fns.values()
        if memory in handler.inputs and ("load" in dict(handler.targets).values())
    ]
    address = {name: str(value) for name, value in chosen.items()} | {"seed_mode": "keep"}
    for remembered, query in ((chosen | {"seed_mode": "keep"}, {}), ({}, address)):
        updates = opening.fn(remembered, SimpleNamespace(query_params=query))
        values = [update["value"] for update in updates[: len(FIELDS)]]
        assert values == [chosen[name] for name in FIELDS] and "keep" in updates


def test_the_endpoint_and_its_images_keep_their_names(demo: gr.Blocks) -> None:
    known = demo.get_api_info()["named_endpoints"]["/generate"]["parameters"]
    assert {each["parameter_name"] for each in known} >= SETTINGS
    (endpoint,) = [handler for handler in demo.fns.values() if handler.api_name == "generate"]
    for images, said, _ in endpoint.fn(model="free_guidance", count=2, steps=2, seed=5):
        texts, report = [Image.open(path).info for path, _ in images], json.loads(said)
    assert set(report) >= SETTINGS | {"seconds", "network_evaluations"}
    inside = [json.loads(text["stepwise"]) for text in texts]
    assert [settings["seed"] for settings in inside] == [5, 6]
    assert all(set(settings) >= SETTINGS for settings in inside) and texts[0]["Software"] == "Stepwise"
