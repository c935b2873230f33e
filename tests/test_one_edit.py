"""A new pipeline and a new objective are one file each, outside of the project and registered nowhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from evaluation_runs import tiny_feature_classifier
from fresh_processes import launch
from hub_runs import ROUND_TRIP, elsewhere, push
from hub_server import HubServer
from image_files import parquet_folder
from training_runs import SMALL, network_file, noise

from training.card import render
from training.evaluate import main as evaluate
from ui import Catalogue
from ui.run import draw
from ui.settings import Settings

PIPELINE = '''
"""Colder noise: x_T = temperature z, z ~ N(0, I), and DDIM's steps from there."""

import torch

from pipelines.base import Generators, ImagePipelineOutput, StepwisePipeline, check_number
from pipelines.classifier_free_guidance import guide
from pipelines.conditions import Labels
from pipelines.ddim import ddim_steps
from pipelines.solvers import Solver


class ColdPipeline(StepwisePipeline):
    about = {
        "summary": "Draws {subject} from colder noise.",
        "last_label_is_null": True,
        "example": {"num_inference_steps": 5, "guidance_scale": 3.0},
        "page": {"guidance_scale": {"value": 3.0, "info": "how cold it is"}},
    }

    def __init__(self, unet, scheduler, id2label: dict[str, str] | None = None) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(id2label=id2label)

    def start(self, class_labels, num_inference_steps, guidance_scale, temperature, generator):
        check_number("temperature", temperature, 0.0)
        conditions, count = self.conditions(class_labels, None)
        solver = Solver(self.scheduler, num_inference_steps)
        z, noise = self.streams(count, generator, None)
        denoiser = guide(self.network, conditions, self.nulls, guidance_scale)
        return solver.steps(ddim_steps, denoiser, temperature * z, noise)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        num_inference_steps: int = 10,
        guidance_scale: float = 3.0,
        temperature: float = 0.9,
        generator: Generators = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        self.check_output(output_type, ())
        run = self.stream(class_labels, num_inference_steps, guidance_scale, temperature, generator)
        return self.drain(run, output_type)
'''

OBJECTIVE = """
from diffusers import DDIMScheduler

from cold import ColdPipeline
from pipelines import NoiseSchedule
from training.networks.build import build_network
from training.objectives.base import Objective


class Absolute(Objective):
    schedule = NoiseSchedule.cosine(20)

    @classmethod
    def build(cls, recipe, options, data):
        objective = cls(options, build_network(recipe, data, len(data.class_names) + 1))
        objective.names = {str(i): name for i, name in enumerate(data.class_names)}
        return objective

    def loss(self, batch, rng):
        x0, t = batch["images"], (rng.uniform("t") * 20).long()
        eps = rng.normal("noise", x0.shape[1:]).to(x0)
        output = self.network(self.schedule.add_noise(x0, eps, t), t, class_labels=batch["labels"]).sample
        return (output - eps).abs().mean()

    def pipeline(self, network):
        scheduler = DDIMScheduler(20, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
        return ColdPipeline(network, scheduler, self.names)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside of the project with both files, data, and the model that a launched run left there."""
    place, pixels = tmp_path_factory.mktemp("outside"), noise(24, 8, 8)
    parquet_folder(place / "data", {"train": pixels, "test": pixels}, ("bird", "cat"))
    (place / "cold.py").write_text(PIPELINE)
    (place / "absolute.py").write_text(OBJECTIVE)
    flags = {name: SMALL[name] for name in ("train_batch_size", "max_train_steps", "lr_warmup_steps", "report_to")}
    flags |= {"dataset_name": "data", "output_dir": "cold-model", "validation_steps": 6}
    flags |= {"model_config_name_or_path": network_file(place / "network.json")}
    options = "-m training.train --recipe unconditional --objective absolute:Absolute".split()
    arguments = [*options, *(f"--{name}={value}" for name, value in flags.items())]
    done = launch(place, arguments, PYTHONPATH=f"{ROOT}:{place}", STEPWISE_CACHE=str(place / "cache"))
    assert done.returncode == 0, done.stderr
    return place


def test_the_run_kept_samples_and_says_what_it_was(place: Path) -> None:
    record = json.loads((place / "cold-model/training.json").read_text())
    assert (record["steps"], record["recipe"]["objective"]) == (6, "absolute:Absolute")
    assert (place / "cold-model/samples.png").is_file()


def test_the_page_offers_it_with_its_controls(place: Path) -> None:
    catalogue = Catalogue({"cold": place / "cold-model"})
    info = catalogue["cold"]
    assert info.class_names == ("bird", "cat") and "temperature" in info.accepts
    settings = Settings.checked({"model": "cold", "class_name": "cat", "steps": 3}, catalogue)
    assert settings.guidance_scale == 3.0, "the default that the literal gives the page"
    *_, last = draw(settings, catalogue)
    assert [image.size for image in last.images][:1] == [(8, 8)] and last.evaluations == 6


def test_evaluate_draws_from_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("STEPWISE_CACHE", str(place / "cache"))
    tiny_feature_classifier(("bird", "cat")).save_pretrained("features")
    evaluate("cold-model --dataset_name data --features features --num_samples 8 --num_inference_steps 2".split())
    (row,) = json.loads((place / "cold-model/metrics.json").read_text())["results"].values()
    assert row["measured"]["nfe"] == 4 and row["measured"]["frechet_distance"] > 0
    card = render(place / "cold-model")
    assert "Draws images of 2 classes (bird, cat) from colder noise." in card and "guidance_scale=3.0" in card


def test_it_loads_where_there_is_no_project_from_the_hub_and_from_a_folder(
    place: Path, hub: HubServer, tmp_path: Path
) -> None:
    done = push(hub, place / "cold-model", "me/cold")
    assert done.returncode == 0, done.stderr
    first = elsewhere(hub, tmp_path / "one", ROUND_TRIP, [{"id": "me/cold", "again": "me/again", "saved": "saved"}])
    again = elsewhere(hub, tmp_path / "two", ROUND_TRIP, [{"id": "me/again"}])
    assert first == again == elsewhere(hub, tmp_path / "three", ROUND_TRIP, [{"id": str(tmp_path / "one" / "saved")}])


@pytest.mark.parametrize("line", ["from pipelines import NoiseSchedule", "import pipelines.schedule as schedule"])
def test_an_import_that_cannot_travel_is_refused_by_its_line(
    line: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"cold_{abs(hash(line))}"
    (tmp_path / f"{name}.py").write_text(PIPELINE.replace("import torch\n", f"import torch\n{line}\n", 1))
    cold = __import__(name).ColdPipeline.from_pretrained(place / "cold-model")
    assert np.isfinite(cold("cat", num_inference_steps=2, output_type="np").images).all()
    with pytest.raises(ValueError, match=f"{name}.py cannot be saved with '{line}': import by file"):
        cold.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
