"""A new setting of the page is one row in ui/fields.py, and a model may have its own choices, range and default."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from fresh_processes import run_elsewhere
from test_ui import ROOT, save_models
from toys import guided

from ui import build_demo
from ui.catalogue import Catalogue
from ui.controls import looks
from ui.device import Placement
from ui.fields import ROWS
from ui.settings import Settings, problems
from ui.snippet import snippet
from ui.tabs.generate import GenerateTab

# a pipeline without a network, whose images are as bright as `warp` says
TOY = """
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from diffusers import DiffusionPipeline


class ToyPipeline(DiffusionPipeline):
    about = {
        "page": {
            "sampler": {"choices": ("euler", "heun"), "value": "heun", "info": "heun costs two evaluations per step"},
            "steps": {"range": (2, 40), "value": 12},
            "warp": {"range": (1.0, 10.0), "value": 3.0},
            "guidance_rescale": {"visible": False},
        },
    }

    def __init__(self):
        super().__init__()

    def stream(self, batch_size=1, num_inference_steps=5, sampler="euler", warp=0.0, guidance_rescale=0.0,
               generator=None):
        assert sampler in ("euler", "heun") and guidance_rescale == 0.0
        images = torch.full((batch_size, 1, 4, 4), warp)
        for index in range(num_inference_steps):
            yield SimpleNamespace(index=index, num_steps=num_inference_steps, timestep=0.0, x_t=images,
                                  pred_original_sample=images, prev_sample=images)

    @contextmanager
    def counted_rows(self):
        yield lambda: 0

    def to_images(self, sample, output_type):
        pixels = (sample / 10).movedim(1, -1).numpy()
        return pixels if output_type == "np" else self.numpy_to_pil(pixels)
"""
ROW = """    Field(
        "warp",
        2.0,
        Number(0.0, 20.0, step=0.5),
        "Warp of the times",
        info="more steps near pure noise",
        argument="warp",
        advanced=True,
    ),
"""
# what the page with one more row does with a value of it, as JSON
PROBE = """
import json, sys
from types import SimpleNamespace
from PIL import Image
from ui import build_demo
from ui.catalogue import Catalogue
from ui.device import Placement
from ui.settings import Settings, problems
from ui.snippet import snippet

models = Catalogue({"toy": "toy", "other": sys.argv[1]})
demo = build_demo(models)
(control,) = [part for part in demo.blocks.values() if getattr(part, "label", None) == "Warp of the times"]
loads = [fn for fn in demo.fns.values() if "load" in dict(fn.targets).values()]
(opening,) = [fn for fn in loads if getattr(fn.fn, "__qualname__", "") == "GenerateTab.restore"]
(endpoint,) = [fn for fn in demo.fns.values() if fn.api_name == "generate"]
place = opening.outputs.index(control)
chosen = Settings.checked({"warp": 4.5, "count": 1}, models)
for files, _, _ in endpoint.fn(warp=4.5, count=1, steps=2):
    drawn = [(image.getpixel((0, 0)), json.loads(image.info["stepwise"])) for image in map(Image.open, dict(files))]
parameters = demo.get_api_info()["named_endpoints"]["/generate"]["parameters"]
print(json.dumps({
    "control": [type(control).__name__, control.value, control.minimum, control.maximum, control.info, control.visible],
    "link": opening.fn({}, SimpleNamespace(query_params={"warp": "4.5"}))[place],
    "browser": opening.fn({"warp": 5.5}, SimpleNamespace(query_params={}))[place]["value"],
    "other model": opening.fn({"model": "other"}, SimpleNamespace(query_params={}))[place]["visible"],
    "problems": [problems({"warp": value}, models) for value in ("wide", 21, 0.5)],
    "stream": chosen.stream_arguments(models["toy"]),
    "code": snippet(chosen, models["toy"], Placement("cpu", "float32")),
    "parameter": [each for each in parameters if each["parameter_name"] == "warp"],
    "doc": endpoint.fn.__doc__,
    "drawn": drawn,
}))
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The toy's folder: its code and nothing else."""
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.py").write_text(TOY)
    (tmp_path / "toy" / "model_index.json").write_text(json.dumps({"_class_name": ["toy", "ToyPipeline"]}))
    return tmp_path / "toy"


def page_with(row: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """What `PROBE` says in a copy of ui/ whose table has one more row at its end, and no other change."""
    shutil.copytree(ROOT / "ui", folder / "ui", ignore=shutil.ignore_patterns("__pycache__"))
    table = folder / "ui" / "fields.py"
    before, rest = table.read_text().split("\nROWS = (\n")
    rows, after = rest.split("\n)\n", 1)
    table.write_text(f"{before}\nROWS = (\n{rows}\n{row})\n{after}")
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n{PROBE}"
    printed = run_elsewhere(folder, code, *arguments, environment=dict(os.environ))
    return json.loads(printed.splitlines()[-1])


def test_a_new_setting_is_one_row(toy: Path, tmp_path: Path) -> None:
    said = page_with(ROW, tmp_path, str(save_models(tmp_path)["tiny-cfg"]))
    assert said["control"] == ["Slider", 3.0, 1.0, 10.0, "more steps near pure noise", True]
    assert said["link"]["value"] == 4.5 and said["link"]["visible"] and said["browser"] == 5.5
    assert not said["other model"], "its pipeline does not accept the argument"
    assert said["problems"] == [
        {"warp": "warp must be a number from 0 to 20, got 'wide'"},
        {"warp": "warp must be a number from 0 to 20, got 21"},
        {"warp": "warp must be at least 1 with model toy, got 0.5"},
    ]
    assert said["stream"] == {"batch_size": 1, "num_inference_steps": 12, "sampler": "heun", "warp": 4.5}
    assert "    warp=4.5,\n" in said["code"] and '    sampler="heun",\n' in said["code"]
    (parameter,) = said["parameter"]
    assert parameter["python_type"]["type"] == "float" and parameter["parameter_default"] == 3.0
    assert "warp: 0 to 20; more steps near pure noise" in said["doc"]
    ((brightness, inside),) = said["drawn"]
    assert brightness == round(0.45 * 255), "what `stream` was given"
    assert inside["warp"] == 4.5


def test_a_setting_is_shown_where_the_pipeline_accepts_its_argument(toy: Path) -> None:
    models = Catalogue({"toy": toy})
    shown = looks(models["toy"], Settings.checked({}, models))
    accepted = {"num_inference_steps", "sampler", "batch_size"}
    of_folder = {"class_name", "adapter", "adapter_strength"}  # what it has neither classes nor adapters for
    visible = {row.name for row in ROWS if row.name not in of_folder and row.argument in {None, *accepted}}
    assert {name for name, look in shown.items() if look["visible"]} == visible
    assert not shown["guidance_rescale"]["visible"], "the class says so"


def test_choices_range_and_default_come_from_the_class_of_the_model(toy: Path, tmp_path: Path) -> None:
    models = Catalogue({"toy": toy, "tiny-cfg": save_models(tmp_path)["tiny-cfg"]})
    chosen = Settings.checked({}, models)
    assert (chosen.sampler, chosen.steps) == ("heun", 12)
    shown = looks(models["toy"], chosen)
    assert shown["sampler"]["choices"] == ["euler", "heun"]
    assert shown["sampler"]["info"] == "heun costs two evaluations per step"
    assert (shown["steps"]["minimum"], shown["steps"]["maximum"]) == (2, 40)
    assert problems({"sampler": "DDIM"}, models) == {"sampler": "sampler must be one of euler, heun; got 'DDIM'"}
    assert problems({"steps": 41}, models) == {"steps": "steps must be at most 40 with model toy, got 41"}
    assert problems({"steps": 41, "sampler": "DDIM", "model": "tiny-cfg"}, models) == {}
    assert "sampler" not in Settings.checked({"model": "tiny-cfg"}, models).stream_arguments(models["tiny-cfg"])
    code = snippet(chosen, models["toy"], Placement("cpu", "float32", False))
    assert '    sampler="heun",\n' in code and "scheduler" not in code


def test_choosing_another_model_brings_its_own_defaults_and_keeps_what_was_chosen(toy: Path, tmp_path: Path) -> None:
    models = Catalogue({"toy": toy, "tiny-cfg": save_models(tmp_path)["tiny-cfg"]})
    with gr.Blocks():
        tab = GenerateTab(models)
    names = [row.name for row in ROWS]

    def followed(values: dict[str, Any]) -> dict[str, Any]:
        updates = tab.follow_model(*(values[name] for name in names))
        return {name: update["value"] for name, update in zip(names, updates, strict=True)}

    start = Settings.checked({}, models).as_dict()
    other = followed(start | {"model": "tiny-cfg", "count": 3})
    assert (other["sampler"], other["steps"], other["count"]) == ("UniPC", 8, 3)
    back = followed(other | {"model": "toy", "sampler": "DDIM", "steps": 9})
    assert (back["sampler"], back["steps"], back["count"]) == ("heun", 9, 3)
    for name in models.names:
        models.pipeline(name)  # is loading in the background


def test_a_program_that_sends_the_defaults_of_the_first_model_draws_with_another(toy: Path, tmp_path: Path) -> None:
    models = Catalogue({"tiny-cfg": save_models(tmp_path)["tiny-cfg"], "toy": toy})
    (endpoint,) = [handler for handler in build_demo(models).fns.values() if handler.api_name == "generate"]
    sent = Settings.checked({}, models).as_dict() | {"model": "toy", "count": 1, "steps": 2}
    *_, (_, report, _) = endpoint.fn(**sent)
    assert json.loads(report)["sampler"] == "heun"
    with pytest.raises(gr.Error, match="sampler must be one of euler, heun"):
        next(endpoint.fn(**sent | {"sampler": "DDIM"}))


def test_a_number_of_steps_that_nobody_gave_is_at_most_that_of_the_process(tmp_path: Path) -> None:
    """For the page, for a program that sends nothing, and for one that sends the first model's default."""
    guided(num_train_timesteps=3).save_pretrained(tmp_path / "short")
    models = Catalogue({"tiny-cfg": save_models(tmp_path)["tiny-cfg"], "short": tmp_path / "short"})
    first = Settings.checked({}, models)
    assert (first.steps, Settings.checked({"model": "short"}, models).steps) == (8, 3)
    (endpoint,) = [handler for handler in build_demo(models).fns.values() if handler.api_name == "generate"]
    for sent in ({}, first.as_dict()):
        *_, (_, report, _) = endpoint.fn(**sent | {"model": "short", "count": 1})
        assert json.loads(report)["steps"] == 3
    with pytest.raises(gr.Error, match="steps must be at most 3 with model short, got 4"):
        next(endpoint.fn(model="short", steps=4))


def test_whole_numbers_are_taken_however_a_link_writes_them(toy: Path) -> None:
    assert Settings.recalled({"steps": "8.0", "seed": "5"}, Catalogue({"toy": toy})).steps == 8
