"""`python -m training.evaluate`, end to end on a tiny random model and a tiny data set."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from evaluation_runs import NAMES, command, fill, measured, tiny_feature_classifier, tiny_stages
from PIL import Image
from text_models import text_pipeline
from toys import ddpm
from training_runs import noise_images

from training import evaluate, feature_classifier
from training.data import load_images
from training.evaluation.checks import check_schedulers, prompts_for
from training.evaluation.options import Options
from training.evaluation.sampling import open_model
from training.metrics.features import FeatureClassifier, classifier_hash, to_input
from training.sharing.card_tables import best_rows


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(autouse=True)
def cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWISE_CACHE", str(place / "cache"))
    monkeypatch.chdir(place)


def test_a_fresh_process_and_this_one_write_the_same_numbers(place: Path) -> None:
    written = [place / name / "metrics.json" for name in ("first", "second")]
    line = [sys.executable, "-m", "training.evaluate", *command("--output", str(written[0]))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "frechet_distance" in done.stdout and "real images" in done.stdout
    evaluate.main(command("--output", str(written[1])))
    assert measured(written[0]) == measured(written[1])
    (row,) = json.loads(written[0].read_text())["results"].values()
    assert set(row["measured"]) == {
        "class_accuracy",
        "class_entropy_bits",
        "frechet_distance",
        "kernel_distance",
        "monge_distance",
        "nearest_train_distance",
        "nearest_train_ratio",
        "precision",
        "recall",
        "nfe",
        "images_per_second",
    }
    assert row["measured"]["nfe"] == 4.0 and row["measured"]["frechet_distance"] > 0
    assert row["floor"]["num_samples"] == 12 and row["floor"]["frechet_distance"] > 0
    assert row["settings"]["seed"] == 0 and row["settings"]["guidance_scale"] == 2.0
    assert row["floor"]["nearest_train_ratio"] == 1.0 and row["real"]["nearest_samples"] == 12
    assert row["real"]["precision_recall_images"] == 30 and len(row["real"]["test"]["fingerprint"]) == 64
    assert row["command"].startswith("python -m training.evaluate cfg --dataset_name images")
    assert set(row["versions"]) == {"python", "torch", "diffusers", "numpy"}
    assert str(place) not in json.dumps({**row, "command": ""})
    with Image.open(written[0].with_name("samples.png")) as image:
        assert image.size == (3 * 8 * 3, 4 * 8 * 3)
        assert "guidance_scale=2.0" in image.info["settings"]


def test_the_numbers_do_not_depend_on_the_batch_size(place: Path) -> None:
    for size in ("1", "7"):
        evaluate.main(command("--batch_size", size, "--output", f"batch{size}/metrics.json", "--no_grid"))
    assert measured(place / "batch1/metrics.json") == measured(place / "batch7/metrics.json")
    assert not (place / "batch1/samples.png").exists()


def test_another_seed_gives_other_numbers(place: Path) -> None:
    for seed in ("0", "100"):
        evaluate.main(command("--seed", seed, "--output", "seeds/metrics.json", "--no_grid"))
    first, second = measured(place / "seeds/metrics.json")
    assert first["frechet_distance"] != second["frechet_distance"]


def test_a_sweep_writes_a_row_a_setting_and_keeps_the_others(place: Path) -> None:
    output = ["--output", "sweep/metrics.json", "--no_grid"]
    evaluate.main(command("--guidance_scale", "1", "3", *output, "--num_inference_steps", "1", "2"))
    evaluate.main(command("--guidance_scale", "3", *output, "--guidance_interval", "0", "0.6"))
    evaluate.main(command("--guidance_scale", "3", *output, "--scheduler", "heun"))
    evaluate.main(command("--guidance_scale", "3", *output))
    rows = list(json.loads((place / "sweep/metrics.json").read_text())["results"].values())
    settings = [row["settings"] for row in rows]
    assert [(s["num_inference_steps"], s["guidance_scale"]) for s in settings[:4]] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert settings[4]["guidance_interval"] == [0.0, 0.6] and settings[5]["scheduler"] == "Heun" and len(rows) == 6
    assert [row["measured"]["nfe"] for row in rows] == [1, 2, 2, 4, 3, 6]


def test_the_image_of_a_sweep_is_the_best_setting_s(place: Path) -> None:
    output = ["--output", "best/metrics.json"]
    evaluate.main(command("--guidance_scale", "0", "8", *output))
    evaluate.main(command("--guidance_scale", "0", "8", "1", "4", *output))  # two of them are there already
    rows = json.loads((place / "best/metrics.json").read_text())["results"].values()
    distances = {row["settings"]["guidance_scale"]: row["measured"]["frechet_distance"] for row in rows}
    with Image.open(place / "best/samples.png") as image:
        assert f"guidance_scale={min(distances, key=distances.get)} " in image.text["settings"]
    assert len(distances) == 4
    worse = max(distances, key=distances.get)
    evaluate.main(command("--guidance_scale", f"{worse:g}", "--overwrite", *output))
    with Image.open(place / "best/samples.png") as image:
        assert f"guidance_scale={min(distances, key=distances.get)} " in image.text["settings"], (
            "of all in metrics.json"
        )


def test_prompts_are_captions_of_test_images_or_of_training_images(place: Path, tmp_path: Path) -> None:
    """That they are drawn for stands in the row's key; it is refused where there are no prompts."""
    text_pipeline().save_pretrained(tmp_path / "text")
    model = open_model(str(tmp_path / "text"), torch.float32)
    options = Options(dataset_name="images", num_samples=4)
    data = replace(noise_images(8), captions=("a fox", "", ("a cat", "cat"), "", "a dog", "", "a cow", ""))
    assert prompts_for(model, options, data) == ("a fox", "a cat", "a dog", "a cow"), (
        "evenly spaced, the first of several"
    )
    with pytest.raises(SystemExit, match="training_prompts must be left out: cfg is told no prompts"):
        evaluate.main(command("--training_prompts"))
    rows = [
        {"settings": {"seed": 0} | more, "measured": {"frechet_distance": distance}, "floor": {}}
        for more, distance in (({"prompts": "training"}, 0.1), ({}, 0.2))
    ]
    assert best_rows(rows)[0]["measured"]["frechet_distance"] == 0.2, "the other row is easier"


def test_a_cascade_is_measured_on_images_that_it_draws_and_on_real_ones_made_small(place: Path) -> None:
    whole, enlarging = tiny_stages(NAMES)
    whole.save_pretrained("cascade")
    enlarging.save_pretrained("enlarging")
    more = ["--no_grid", "--pipeline_arguments", "conditioning_augmentation=0.25"]
    for name, model, given in (
        ("drawn", "cascade", []), ("real", "cascade", ["--real_inputs"]), ("alone", "enlarging", [])
    ):  # fmt: skip
        evaluate.main(command(*more, *given, "--output", f"stages/{name}.json", model=model))
    drawn, real, alone = (measured(place / f"stages/{name}.json")[0] for name in ("drawn", "real", "alone"))
    assert (drawn["nfe"], real["nfe"]) == (8, 4) and real == alone
    assert drawn["frechet_distance"] != real["frechet_distance"]
    (row,) = json.loads((place / "stages/alone.json").read_text())["results"].values()
    assert row["settings"]["inputs"] == "real" and row["settings"]["conditioning_augmentation"] == 0.25
    for given, told in (
        (["--real_inputs"], "real_inputs must be False: cfg enlarges no images"),
        (["--scheduler", "Heun"], "scheduler must be left out: each stage of cascade has its own"),
        (["--bits_per_dim", "2"], "bits_per_dim must be 0 for CascadePipeline"),
    ):
        with pytest.raises(SystemExit, match=told):
            evaluate.main(command(*given, model="cfg" if "--real_inputs" in given else "cascade"))


def test_the_default_place_is_the_models_own_folder_and_an_unconditional_model_has_no_accuracy(place: Path) -> None:
    evaluate.main(command(model="plain"))
    (row,) = json.loads((place / "plain/metrics.json").read_text())["results"].values()
    assert "class_accuracy" not in row["measured"] and row["settings"]["guidance_scale"] is None
    assert 0 <= row["measured"]["class_entropy_bits"] <= np.log2(3) and row["measured"]["nfe"] == 2.0
    with Image.open(place / "plain/samples.png") as image:
        assert image.size == (10 * 8 * 3, 8 * 3)


def test_class_accuracy_is_the_share_recognised_as_the_class_asked_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Oracle:
        """Knows the class by the order of the images, and is wrong on every fourth."""

        def extract(self, classifier: object, pixels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
            wrong = (np.arange(len(pixels)) % 4 == 0).astype(int)
            return np.random.default_rng(0).normal(size=(len(pixels), 8)), (np.arange(len(pixels)) + wrong) % 3

    monkeypatch.setattr("training.metrics.sample_quality.extract", Oracle().extract)
    evaluate.main(command("--output", "oracle/metrics.json", "--no_grid"))
    (row,) = measured(place / "oracle/metrics.json")
    assert row["class_accuracy"] == 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (command(model="images"), "'images' has no model_index.json"),
        (command(model="./nowhere"), "model must be a pipeline's folder or a Hub id, got './nowhere'"),
        (command(data="unnamed"), "dataset_name must have labels"),
        (command(data="large"), "takes 1 channel(s) of 8x8, large has 1 channel(s) of 12x12"),
        (command(features="images"), "features must be a classifier from python -m training.feature_classifier"),
        (command(features="others"), "model and features must know the same classes"),
        (command("--guidance_scale", "nan"), "guidance_scale must be a finite number of at least 0, got nan"),
        (command("--guidance_scale", "1", "-2"), "guidance_scale must be a finite number of at least 0, got -2.0"),
        (command("--guidance_scale", "1", model="plain"), "guidance_scale must be left out: DDPMPipeline"),
        (command("--guidance_interval", "0.5"), "guidance_interval must be LOW HIGH"),
        (command("--scheduler", "DPMSolver"), "got 'DPMSolver'; did you mean DPMSolver++?"),
        (command("--scheduler", "DDIM", "Unipc2"), "got 'Unipc2'; did you mean UniPC?"),
        (command("--num_inference_steps", "2000"), "num_inference_steps must be at most 1000"),
        (command("--bits_per_dim", "31"), "bits_per_dim must be at most 30, the images of 'test', got 31"),
        (command("--bits_per_dim", "1"), "bits_per_dim must be 0, or at least 2"),
        (command("--bits_per_dim", "4", "--variance_type", "learned_range"), "cfg has learned no variance"),
        (command("--bits_per_dim", "4", "--variance_type", "small"), "variance_type must be one of fixed_small"),
        (command("--bits_per_dim", "4", "--bits_per_dim_steps", "1001"), "bits_per_dim_steps must be at most 1000"),
        (command("--ode_bits_per_dim", "31"), "ode_bits_per_dim must be at most 30, the images of 'test', got 31"),
        (command("--ode_bits_per_dim", "1"), "ode_bits_per_dim must be 0, or at least 2"),
        (command("--ode_tolerance", "0"), r"ode_tolerance must be in [1e-12, 1), got 0"),
        (command("--variance_type", "fixed_small"), "variance_type is of use with bits_per_dim only"),
        (
            command(features="efficientnet_lite0"),
            "features must be efficientnet-lite0, inception, a",
        ),
        (command(features="inception"), "features inception needs"),
        (command("--dtype", "float16"), "dtype must be one of bfloat16, float32, got 'float16'"),
        (command("--num_samples", "3"), "num_samples must be at least 4, got 3"),
        (command("--num_inference_steps", "0"), "num_inference_steps must be at least 1, got 0"),
        (command("--guidance_scales", "1"), "unknown flag --guidance_scales; did you mean --guidance_scale?"),
        (command("--output", "cfg/model_index.json"), "output must be a metrics.json of this command"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    arguments: list[str], message: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluate.draw", lambda *args, **more: pytest.fail("work was done before the check"))
    monkeypatch.setattr("training.evaluate.Measuring", lambda *args: pytest.fail("work was done before the check"))
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(arguments)
    text = str(stopped.value)
    assert message in text and text.startswith("error: ") and "\n" not in text


def test_a_model_of_another_size_than_the_data_is_refused(place: Path) -> None:
    tiny_feature_classifier(size=12).save_pretrained(place / "wide")
    with pytest.raises(SystemExit, match=r"cfg draws 1 channel\(s\) of 8x8, large has 1 channel\(s\) of 12x12"):
        evaluate.main(command(data="large", features="wide"))


def test_the_classifier_trains_to_a_folder_that_loads_the_same_twice(place: Path) -> None:
    for name in ("one", "two"):
        options = feature_classifier.Options(
            output_dir=name, dataset_name="images", num_train_epochs=1, train_batch_size=16, mixed_precision="no"
        )
        metrics = feature_classifier.run(options)
    one, two = (FeatureClassifier.from_pretrained(place / name) for name in ("one", "two"))
    assert classifier_hash(one) == classifier_hash(two) and list(one.config.class_names) == list(NAMES)
    assert {path.name for path in (place / "one").iterdir()} == {
        "README.md",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "metrics.json",
    }
    test = load_images(dataset_name="images", split="test")
    with torch.no_grad():
        recognised = two.eval()(to_input(test.images)).argmax(1).numpy()
    assert json.loads((place / "two/metrics.json").read_text()) == metrics
    assert metrics["test_accuracy"] == pytest.approx(np.mean(recognised == test.labels), abs=1e-4)
    assert "dots, lines, noise" in (place / "one/README.md").read_text()


def test_the_classifier_needs_labels() -> None:
    with pytest.raises(ValueError, match="unnamed has no labels"):
        feature_classifier.run(feature_classifier.Options(output_dir="none", dataset_name="unnamed"))


def test_a_scheduler_that_a_pipeline_only_reads_is_refused() -> None:
    """A DDPMPipeline takes its own steps with a DDIMScheduler too: a row that names DDIM would be wrong."""
    pipe = ddpm()
    model = SimpleNamespace(pipe=pipe, scheduler="DDPM", own_scheduler=pipe.scheduler, num_stages=1)
    check_schedulers(model, SimpleNamespace(scheduler=["DDPM", "UniPC"]))
    with pytest.raises(ValueError, match="^scheduler must not be DDIM: a DDPMPipeline takes steps of its own"):
        check_schedulers(model, SimpleNamespace(scheduler=["DDPM", "DDIM"]))
