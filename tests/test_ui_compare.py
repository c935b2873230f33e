"""Compare: what is drawn for two settings, in which order, from which noise, and what its image holds."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from test_ui import final_pixels, save_models, save_steered

from ui import comparison, device, image_metadata
from ui.catalogue import Catalogue
from ui.comparison import NONE, OFFERED, read
from ui.comparison_sheet import EMPTY, Sheet
from ui.device import Placement
from ui.fields import FIELDS, NOISE
from ui.run import draw
from ui.settings import Settings
from ui.start_image import StartImage
from ui.tabs.compare import CompareTab
from ui.timing import Timing, in_words

VISITOR = SimpleNamespace(session_hash="visitor")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """A guided, an unconditional and a steered model in float32."""
    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "detect", lambda: Placement("cpu", "float32"))
        yield Catalogue({**save_models(root), "steered": save_steered(root / "steered")})


@pytest.fixture(scope="module")
def tab(catalogue: Catalogue) -> CompareTab:
    with gr.Blocks():
        return CompareTab(catalogue, [], StartImage(catalogue))


def asked(x: str, in_x: list[Any], y: str = NONE, in_y: list[Any] | None = None, **base: Any) -> list[Any]:
    """What the controls send: both axes, then the settings of Generate."""
    return [x, in_x, y, in_y or [], *(base.get(name) for name in FIELDS)]


def shown(tab: CompareTab, values: list[Any]) -> list[tuple[Any, ...]]:
    return list(tab.run(VISITOR, *values))


def images_of(updates: list[tuple[Any, ...]]) -> list[Image.Image]:
    return [update[0]["value"] for update in updates if "value" in update[0]]


def test_each_cell_is_what_generate_draws_and_appears_alone(tab: CompareTab, catalogue: Catalogue) -> None:
    base = {"model": "tiny-cfg", "seed": 3, "steps": 2, "count": 9}
    values = asked("steps", ["1, 2"], "class_name", ["Bag", "Coat"], **base)
    updates = shown(tab, values)
    sheets = images_of(updates)
    assert len(sheets) == 1 + 4 + 1  # blank, after each cell, the end
    changed = [np.argwhere((np.asarray(a) != np.asarray(b)).any(2)) for a, b in zip(sheets, sheets[1:], strict=False)]
    corners = [(at[:, 0].min(), at[:, 1].min()) for at in changed[:4]]
    assert len(set(corners)) == 4 and corners == sorted(corners) and changed[4].size == 0
    (top, left), sheet = corners[3], np.asarray(sheets[-1])
    one = final_pixels(Settings.checked({**base, "class_name": "Coat", "count": 1}, catalogue), catalogue)[0]
    side = int(np.ptp(changed[3][:, 0])) + 1
    assert side == 224 and (sheet[top : top + side : 28, left : left + side : 28, :1] == one).all()
    assert "4 images drawn" in updates[-1][1] and updates[-1][0]["alt_text"].endswith("4 of 4 images")


@pytest.mark.parametrize("name", ["steps", "sampler", "guidance_scale", "eta", "class_name"])
def test_every_image_begins_with_the_same_noise(name: str, catalogue: Catalogue) -> None:
    base = Settings.checked({"model": "tiny-cfg", "steps": 2, "sampler": "DDIM"}, catalogue)
    offered = [value for value in comparison.offered(name, base, catalogue["tiny-cfg"]) if value != "Heun"]
    noise = []  # Heun has the same, but begins half a step later
    for run in read(base.as_dict(), (name, offered), (NONE, []), catalogue).runs:
        steps = draw(run, catalogue)
        noise.append(next(steps).preview["noisy x_t"])
        steps.close()
    assert len(noise) > 2 and all((each == noise[0]).all() for each in noise)


def test_a_cell_stays_empty_where_the_values_mean_nothing_together(catalogue: Catalogue) -> None:
    x, y = ("model", ["tiny-cfg", "tiny-ddpm", "steered"]), ("class_name", ["Bag", "Coat"])
    found = read({"model": "tiny-cfg"}, x, y, catalogue)
    assert [found.cells[row, 1] for row in (0, 1)] == [None, None] and len(found.runs) == 4
    assert {run.model for run in found.runs} == {"tiny-cfg", "steered"}
    found = read({"model": "tiny-cfg"}, ("sampler", ["UniPC", "DDIM"]), ("eta", [0, "1"]), catalogue)
    assert [run.sampler for run in found.runs] == ["DDIM"] * 2 and [run.eta for run in found.runs] == [0.0, 1.0]
    sheet = Sheet(found, 8, "")
    assert sheet.image.getpixel(sheet._corner(1, 0)) == EMPTY


def test_another_model_keeps_what_fits_it(catalogue: Catalogue) -> None:
    base = {"model": "tiny-cfg", "class_name": "Bag", "steps": 3, "seed": 5}
    of_cfg, of_ddpm = read(base, ("model", ["tiny-cfg", "tiny-ddpm"]), (NONE, []), catalogue).runs
    assert of_cfg.class_name == "Bag" and of_ddpm.class_name == "any" and of_ddpm.steps == 3 and of_ddpm.seed == 5


@pytest.mark.parametrize(
    ("x", "y", "base", "said"),
    [
        (("steps", []), (NONE, []), {}, "X must have at least one value of Steps"),
        (("steps", [0]), (NONE, []), {}, "X: Steps must be a whole number"),
        (("steps", ["two"]), (NONE, []), {}, "got 'two'"),
        (("guidance_scale", ["1", "nan"]), (NONE, []), {}, "X: Guidance scale must be a number"),
        (("steps", ["2000"]), (NONE, []), {}, "from 1 to 1000"),
        (("steps", [1]), ("steps", [2]), {}, "two settings, got Steps twice"),
        (("seed", list(range(7))), ("steps", list(range(1, 7))), {}, "at most 36 images, got 7 x 6 = 42"),
        (("seed", list(range(37))), (NONE, []), {}, "at most 36 images, got 37"),
        (("class_name", ["Bag", "Unicorn"]), (NONE, []), {}, "got 'Unicorn'"),
        (("class_name", ["Bag"]), (NONE, []), {"model": "tiny-ddpm"}, "Class must be one of any"),
        (("eta", [0, 1]), (NONE, []), {"sampler": "UniPC"}, "Eta counts only with Sampler DDIM, which is UniPC"),
        (("guidance_scale", [1]), (NONE, []), {"model": "tiny-ddpm"}, "no setting of model tiny-ddpm"),
        (("steps", [1]), (NONE, []), {"seed": -3}, "In Generate: Seed must be"),
        (("count", [1]), (NONE, []), {}, "X must be one of Steps"),
        (("steps", [1]), ("nonsense", [1]), {}, "Y must be one of Steps"),
        (("model", ["none"]), (NONE, []), {}, "Model must be one of"),
    ],
)
def test_what_cannot_be_compared_is_said_before_any_work(
    x: tuple[str, list[Any]], y: tuple[str, list[Any]], base: dict[str, Any], said: str, tab: CompareTab
) -> None:
    values = asked(*x, *y, **base)
    (text,) = tab.estimate(*values)
    assert said in text.replace("&#x27;", "'")
    with pytest.raises(gr.Error) as error:
        tab.begin(VISITOR, *values)
    assert said in error.value.message and said in tab.give_up(VISITOR, *values)[0].replace("&#x27;", "'")


def test_thirty_six_are_drawn_and_each_value_once(catalogue: Catalogue) -> None:
    six = read({}, ("seed", ["1 2;3", 4, "5,6", "6"]), ("steps", [1, "2", 3.0, 4, 5, 6]), catalogue)
    assert six.x.values == (1, 2, 3, 4, 5, 6) and len(six.runs) == 36
    wide = read({}, ("seed", list(range(36))), (NONE, []), catalogue)
    assert Sheet(wide, 8, "").image.width < 1000  # six columns, the others below


def test_the_image_holds_the_comparison_and_draws_it_again(
    tab: CompareTab, catalogue: Catalogue, tmp_path: Path
) -> None:
    base = {"model": "tiny-cfg", "seed": 3, "sampler": "DDPM"}
    values = asked("steps", ["1", "2"], "guidance_scale", ["0.25", "2"], **base)
    *_, last = images_of(shown(tab, values))
    text = last.info[image_metadata.KEY]
    path = image_metadata.save(last, tmp_path / "sheet.png", text)
    assert json.loads(text)["compare"]["y"] == {"setting": "guidance_scale", "values": [0.25, 2.0]}
    *settings, x, in_x, y, in_y = tab.recall(str(path))[:-7]
    again = asked(x, in_x["value"], y, in_y["value"], **{n: u["value"] for n, u in zip(FIELDS, settings, strict=True)})
    assert np.array_equal(images_of(shown(tab, again))[-1], last)
    assert Settings.recalled(image_metadata.read(path), catalogue).seed == 3  # Generate takes it, too
    assert "Settings of the comparison recalled" in tab.recall(str(path))[-1]
    elsewhere = image_metadata.save(last, tmp_path / "other.png", text.replace('"tiny-cfg"', '"gone"'))
    *_, upload, _, editor, _, _, said = tab.recall(str(elsewhere))
    assert "Left out of the file: Model must be one of" in said and "gone" in said
    assert upload is None and editor == gr.update(value=None, visible=False), "Generate begins with noise, as it says"
    Image.new("L", (4, 4)).save(tmp_path / "holiday.png")
    one = image_metadata.save(Image.new("L", (4, 4)), tmp_path / "one.png", Settings("tiny-cfg").as_json())
    for other in (tmp_path / "holiday.png", one):
        with pytest.raises(gr.Error, match="image must be"):
            tab.recall(str(other))


@pytest.mark.parametrize(
    "compare", ["x", [], {"x": 3}, {"x": {"setting": [], "values": 3}}, {"x": {"setting": "steps"}}]
)
def test_a_damaged_comparison_is_refused(compare: Any, catalogue: Catalogue) -> None:
    with pytest.raises(ValueError, match="must"):
        comparison.recalled({"model": "tiny-cfg", "compare": compare}, catalogue)


def test_stop_keeps_what_is_drawn(tab: CompareTab) -> None:
    values = asked("steps", ["3", "4"], model="tiny-ddpm")
    tab.begin(VISITOR, *values)
    run = tab.run(VISITOR, *values)
    while not next(run)[0].get("alt_text", "").endswith(": 1 of 2 images"):
        pass
    asyncio.run(tab.stop(VISITOR))
    *_, last = run
    assert "Stopped after 1 of 2 images" in last[1] and last[2]["interactive"] and not last[3]["interactive"]


def test_a_model_that_fails_is_said_and_the_visitor_can_go_on(
    tab: CompareTab, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise ValueError(f"{name} holds <NaN>")

    monkeypatch.setattr(catalogue, "pipeline", broken)
    values = asked("seed", ["1"], model="tiny-ddpm", sampler="DDPM")
    tab.timing = Timing(catalogue)
    assert "tiny-ddpm holds &lt;NaN&gt;" in [*tab.estimate(*values)][-1]
    *_, last = shown(tab, values)
    assert "tiny-ddpm holds &lt;NaN&gt;" in last[1] and last[2]["interactive"] and not last[3]["interactive"]


def test_the_time_is_estimated_before(tab: CompareTab, catalogue: Catalogue) -> None:
    values = asked("sampler", ["UniPC", "Heun"], "seed", ["1", "2"], model="tiny-ddpm", steps=5)
    tab.timing = Timing(catalogue)
    at_once, then = tab.estimate(*values)
    assert "4 images, 20 steps: timing" in at_once
    assert re.search("4 images, 20 steps: (less than a second|about)", then) and [then] == [*tab.estimate(*values)]
    runs = read({"model": "tiny-ddpm", "steps": 5}, ("seed", ["1", "2"]), (NONE, []), catalogue).runs
    tab.timing._seconds[("tiny-ddpm", "UniPC")] = (2.0, 0.5)
    assert tab.timing.seconds(runs) == 21.0 and in_words(21.0) == "about 21 s" and in_words(150.0) == "about 2 minutes"


def test_values_follow_the_setting_and_the_model(tab: CompareTab) -> None:
    values = Settings("tiny-cfg").as_dict().values()
    assert tab.offer("sampler", *values)["value"][:2] == ["DPM-Solver++", "UniPC"]
    assert tab.offer(NONE, *values) == gr.update(choices=[], value=[], visible=False)
    assert tab.offer("class_name", *values)["choices"] == ["Bag", "Coat", "Ankle boot"]
    _, in_x, y, in_y = tab.follow_settings("steps", ["77"], "class_name", ["Coat", "Dress"], *values)
    assert y == "class_name" and (in_x["value"], in_y["value"]) == (["77"], ["Coat"])
    values = Settings("tiny-ddpm").as_dict().values()
    assert tab.follow_settings("steps", ["2"], "class_name", ["Coat"], *values)[2] == NONE
    assert tab.follow_settings("class_name", ["Coat"], "steps", ["2"], *values)[0] == "seed"
    assert tab.follow_settings("model", ["tiny-cfg"], "class_name", ["Coat"], *values)[2] == "class_name"
    of_no_model = {"prompt", "adapter", "adapter_strength"}
    assert {name for _, name in comparison.choices(tab.catalogue)} == set(OFFERED) - of_no_model


def test_long_labels_of_any_script_stay_in_their_places(catalogue: Catalogue) -> None:
    found = read({}, ("seed", [1, 2]), (NONE, []), catalogue)
    object.__setattr__(found.x, "values", ("n" * 260, "a red apple in the snow, " * 20))
    sheet = Sheet(found, 8, "größer 苹果 " * 100)
    assert sheet.image.width < 700 and sheet.image.height < 700


def test_a_comparison_begins_with_noise(catalogue: Catalogue) -> None:
    found = read({"start": "image", "seed": 5}, ("steps", [1]), (NONE, []), catalogue)
    assert found.runs[0].start == NOISE and found.base.seed == 5
