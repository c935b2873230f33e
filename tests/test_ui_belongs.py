"""What the page draws is what it shows: seeds and links win, errors are said, and all parts speak of the same run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from test_ui import final_pixels, save_models, save_steered

from pipelines.about import of_class, pipeline_names
from ui import build_demo, controls, device, image_metadata, links
from ui.api import PARAMETERS
from ui.catalogue import Catalogue
from ui.controls import looks
from ui.device import Placement
from ui.fields import FIELDS, LABELS, ROWS
from ui.run import PREVIEWS
from ui.settings import Settings, misfits, problems
from ui.tabs import generate
from ui.tabs.generate import GenerateTab

BROKEN = ({"guidance_high": 0.1}, {"guidance_low": 0.9}, {"guidance_low": 0.2, "guidance_high": 0.1})
VISITOR = SimpleNamespace(session_hash="visitor")
FAST = {"steps": 3, "count": 2}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    root = tmp_path_factory.mktemp("belongs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "detect", lambda: Placement("cpu", "float32"))
        yield Catalogue({**save_models(root), "steered": save_steered(root / "steered")})


@pytest.fixture(scope="module")
def demo(catalogue: Catalogue) -> gr.Blocks:
    return build_demo(catalogue)


@pytest.fixture(scope="module")
def endpoint(demo: gr.Blocks) -> Any:
    (found,) = [handler for handler in demo.fns.values() if handler.api_name == "generate"]
    return found


@pytest.fixture(scope="module")
def tab(catalogue: Catalogue) -> GenerateTab:
    with gr.Blocks():
        return GenerateTab(catalogue)


def opened(tab: GenerateTab, remembered: dict[str, Any] | None = None, **query: Any) -> tuple[dict[str, Any], str, str]:
    """The values of the controls, the mode of the seed, and what was left out, of a page with this address."""
    answer = tab.restore(remembered, SimpleNamespace(query_params={name: str(text) for name, text in query.items()}))
    values = {name: update["value"] for name, update in zip(FIELDS, answer, strict=False)}
    return values, answer[len(FIELDS)], answer[len(FIELDS) + 2]


def ran(tab: GenerateTab, **values: Any) -> list[dict[str, Any]]:
    """Everything that a run shows, by part of the page."""
    settings = Settings.checked(FAST | values, tab.catalogue).as_dict()
    names = ["image", "status", "scrubber", "gallery", "code", "files", "frames", "draw", "stop", "link"]
    names += ["captions", "formula", "step code", "film", "step code box", "film file", "stage names", "stages"]
    return [dict(zip(names, shown, strict=True)) for shown in tab.run(VISITOR, *settings.values(), PREVIEWS[0], None)]


# ------------------------------------------------------------------------------------------------------ seeds and links


def test_a_new_seed_is_in_the_box_as_soon_as_draw_is_pressed(tab: GenerateTab) -> None:
    settings = Settings.checked({"seed": 3}, tab.catalogue).as_dict().values()
    _, _, kept, *_ = tab.begin(VISITOR, *settings, controls.KEEP_SEED, PREVIEWS[0], None, None)
    seeds = {tab.begin(VISITOR, *settings, controls.NEW_SEED, PREVIEWS[0], None, None)[2] for _ in range(3)}
    assert kept == gr.skip() and len(seeds) == 3 and all(0 <= seed < controls.SEEDS for seed in seeds)


def test_the_seed_of_a_link_is_kept(tab: GenerateTab) -> None:
    assert opened(tab)[1] == "new"
    values, mode, _ = opened(tab, {"seed_mode": "new", "seed": 3}, seed="1e1")
    assert (values["seed"], mode) == (10, "keep")
    assert opened(tab, {"seed_mode": "new"}, seed=-1)[1:] == (
        "new",
        "Seed must be a whole number from 0 to 4294967295, got '-1'",
    )
    assert opened(tab, {"seed_mode": "keep", "seed": 3})[1] == "keep"


def test_a_seed_that_is_typed_or_thrown_is_kept_in_the_browser_at_once(demo: gr.Blocks) -> None:
    found = [handler for handler in demo.fns.values() if handler.js in (controls.KEEP, controls.THROW)]
    assert [[(demo.blocks[i].label or demo.blocks[i].value, event) for i, event in each.targets] for each in found] == [
        [("Seed", "input")],
        [("⚄ New seed", "click")],
    ]
    assert all(each.fn is None and each.outputs[-1].label == "Next seed" for each in found)


@pytest.mark.parametrize(
    "chosen",
    [
        {"model": "tiny-cfg", "class_name": "Ankle boot", "sampler": "DDIM", "eta": 0.3, "guidance_high": 0.95},
        {"model": "tiny-ddpm", "sampler": "DDPM", "seed": 2**32 - 1, "count": 1},
        {"model": "steered", "guidance_scale": 2.0},
    ],
)
def test_a_copied_link_draws_the_same_images_whatever_the_browser_remembers(
    tab: GenerateTab, chosen: dict[str, Any]
) -> None:
    settings = Settings.checked(FAST | chosen, tab.catalogue)
    query = dict(parse_qsl(links.query(settings, tab.catalogue[settings.model])[1:], keep_blank_values=True))
    assert query.pop("draw") == "1"
    other = {"model": "tiny-cfg", "eta": 0.7, "steps": 5, "guidance_low": 0.6, "class_name": "Bag", "seed_mode": "new"}
    values, mode, left_out = opened(tab, other, **query)
    assert (mode, left_out) == ("keep", "")
    again = Settings.checked(values, tab.catalogue)
    assert np.array_equal(final_pixels(again, tab.catalogue), final_pixels(settings, tab.catalogue))


def test_a_link_is_stronger_than_what_the_browser_remembers(tab: GenerateTab) -> None:
    values, _, left_out = opened(tab, {"guidance_low": 0.6, "model": "steered"}, guidance_high=0.5, class_name="Coat")
    assert (values["guidance_low"], values["guidance_high"], left_out) == (0.2, 0.5, "")
    assert (values["model"], values["class_name"]) == ("steered", "Coat")


# ------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("broken", BROKEN)
def test_settings_that_do_not_fit_each_other_open_follow_and_are_named(
    tab: GenerateTab, endpoint: Any, broken: dict[str, float], tmp_path: Path
) -> None:
    values, _, left_out = opened(tab, **broken)
    assert problems(values, tab.catalogue) == {} and left_out.startswith("Guide ")
    assert opened(tab, broken)[2] == "", "a visitor is not told of what the browser remembers"
    shown = Settings.checked({}, tab.catalogue).as_dict() | broken
    for model in ("tiny-ddpm", "tiny-cfg"):
        tab.follow_model(*(shown | {"model": model}).values())
    tab.follow_setting(["eta"], *shown.values())
    path = image_metadata.save(Image.new("L", (4, 4)), tmp_path / "one.png", json.dumps(shown))
    said = tab.recall(str(path))[-1]
    assert "Left out of the file: Guide " in said and "to draw it again" not in said
    with pytest.raises(gr.Error, match=r"guidance_(low|high) must be .* guidance_(low|high) \("):
        next(endpoint.fn(**broken))


def test_what_is_wrong_is_said_beside_draw_in_the_words_of_the_labels_and_opens_its_part(tab: GenerateTab) -> None:
    good = Settings.checked({}, tab.catalogue).as_dict()
    said = tab.say_what_is_wrong(*(good | {"guidance_high": 0.1}).values())
    assert "Guide from must be at most Guide up to (0.1), got 0.2" in said[tab.status] and "alert" in said[tab.status]
    assert said[tab.controls.advanced] == gr.update(open=True) and tab.controls.start.box not in said
    assert tab.say_what_is_wrong(*(good | {"strength": 0}).values())[tab.controls.start.box] == gr.update(open=True)
    for row in ROWS:
        wrong = problems({row.name: ["<b>"]}, tab.catalogue, LABELS).get(row.name, "")
        assert wrong.startswith(f"{row.label} must be"), row.name
    said = tab.say_what_is_wrong(*(good | {"class_name": "<b>"}).values())
    assert "Class must be one of" in said[tab.status] and "<b>" not in said[tab.status]
    assert tab.say_what_is_wrong(*good.values()) == {tab.status: gr.skip()}


def test_errors_of_events_that_are_not_queued_are_said_in_the_page(
    tab: GenerateTab, demo: gr.Blocks, tmp_path: Path
) -> None:
    """Gradio shows them nowhere, so that none may be raised."""
    (tmp_path / "notes.png").write_text("<b>")
    answer = tab.recall(str(tmp_path / "notes.png"))
    assert "No settings were found: image must be a PNG" in answer[-1]
    assert "the log of the page" in tab.give_up(SimpleNamespace(session_hash="another"))[0]
    silent = [getattr(handler.fn, "func", handler.fn) for handler in demo.fns.values() if handler.queue is False]
    codes = {fn.__name__: fn.__code__ for fn in silent if fn}
    assert {"restore", "recall", "give_up", "follow_model", "introduce", "say_what_is_wrong"} <= set(codes)
    assert not [name for name, code in codes.items() if {"Error", "Warning", "Info"} & set(code.co_names)]


@pytest.mark.parametrize(("text", "value"), [("4.0", 4), ("1e1", 10), (4.0, 4), ("  7 ", 7)])
def test_a_number_is_one_wherever_it_comes_from(
    tab: GenerateTab, endpoint: Any, text: Any, value: int, tmp_path: Path
) -> None:
    assert opened(tab, steps=text)[0]["steps"] == opened(tab, {"steps": text})[0]["steps"] == value
    path = image_metadata.save(Image.new("L", (4, 4)), tmp_path / "one.png", json.dumps({"steps": text}))
    assert tab.recall(str(path))[list(FIELDS).index("steps")]["value"] == value
    shown = Settings.checked({}, tab.catalogue).as_dict() | {"steps": text, "guidance_low": "2e-1"}
    assert all(each["is_valid"] for each in tab.check(*shown.values(), "keep", PREVIEWS[0], None, None))
    assert all(each["is_valid"] for each in endpoint.validator(*map({"steps": text}.get, PARAMETERS)))
    *_, (_, report, _) = endpoint.fn(steps=text, count="1.0")
    assert (json.loads(report)["steps"], json.loads(report)["count"]) == (value, 1)


def test_what_programs_leave_out_is_what_is_documented(demo: gr.Blocks, endpoint: Any) -> None:
    parameters = demo.get_api_info()["named_endpoints"]["/generate"]["parameters"]
    sent = {each["parameter_name"]: each["parameter_default"] for each in parameters}
    texts = {each["parameter_name"]: each["python_type"]["description"] for each in parameters}
    assert sent["steps"] == 8 and sent["guidance_scale"] is None and sent["model"] == "tiny-cfg"
    assert "unless given 2.0 with tiny-cfg, 4.0 with steered" in texts["guidance_scale"]
    for given, drawn in (({}, 4.0), ({"guidance_scale": 2.0}, 2.0), ({"guidance_scale": 4.0}, 4.0)):
        *_, (_, report, _) = endpoint.fn(**sent | FAST | {"model": "steered"} | given)
        assert json.loads(report)["guidance_scale"] == drawn
    for name, text in texts.items():
        assert len(text) > 20 and f"    {name}: {text.removesuffix('.')}" in endpoint.fn.__doc__, name


# ----------------------------------------------------------------------------------------------- what belongs together


def test_a_run_that_is_stopped_or_fails_leaves_nothing_of_the_one_before(
    tab: GenerateTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, whole = ran(tab, seed=5)
    assert "tiny-cfg, seed 5" in whole["status"] and whole["gallery"]["visible"] and "range(5, 7)" in whole["code"]
    tab.stop_requests.press("visitor")
    *_, stopped = ran(tab, seed=9, model="tiny-ddpm")
    tab.stop_requests.clear("visitor")

    def failing(*args: Any, **kwargs: Any) -> Iterator[Any]:
        steps = draw(*args, **kwargs)
        yield next(steps)
        raise ValueError("<no> memory")

    draw = generate.draw
    monkeypatch.setattr(generate, "draw", failing)
    first, failed = ran(tab, seed=9, model="tiny-ddpm")
    assert len(first["frames"]) == 0, "of the run before nothing can be looked back on"
    assert "Stopped after step 1 of 3" in stopped["status"] and "tiny-ddpm, seed 9" in stopped["status"]
    assert "tiny-ddpm failed after step 1 of 3: &lt;no&gt; memory" in failed["status"]
    for ended in (stopped, failed):
        assert ended["gallery"] == gr.update(value=None, visible=False)
        assert "range(9, 11)" in ended["code"] and "tiny-ddpm" in ended["code"]
        assert "model=tiny-ddpm" in ended["link"] and "seed=9" in ended["link"] and len(ended["frames"]) == 1
        assert ended["draw"]["interactive"] and not ended["stop"]["interactive"]


def test_a_run_that_fails_before_its_first_step_leaves_all_of_the_one_before(
    tab: GenerateTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Iterator[Any]:
        raise ValueError("no such weights")
        yield

    monkeypatch.setattr(generate, "draw", failing)
    (failed,) = ran(tab)
    assert "Nothing new was drawn: no such weights" in failed.pop("status")
    assert failed.pop("draw")["interactive"] and not failed.pop("stop")["interactive"]
    assert all(part == gr.skip() for part in failed.values())


def test_another_model_shows_its_samples_or_leaves_the_run_that_is_shown(tab: GenerateTab) -> None:
    chosen = Settings.checked({"model": "steered", "seed": 3}, tab.catalogue)
    _, said, code, link, scrubber, gallery, files, wanting = tab.introduce(*chosen.as_dict().values(), None, False)
    assert "Model steered" in said and "steered" in code and "model=steered" in link and "seed=3" in link
    assert not scrubber["visible"] and not gallery["visible"] and not files["visible"] and wanting == ""
    *_, shown = ran(tab)
    for frames, asked in ((shown["frames"], False), (ran(tab)[0]["frames"], True), (None, True)):  # the last one waits
        assert tab.introduce(*chosen.as_dict().values(), frames, asked) == (gr.skip(),) * 8
        assert tab.open_with(*chosen.as_dict().values(), frames, asked, "") == (gr.skip(),) * 5
        assert tab.sample(*chosen.as_dict().values(), frames, asked, "", "steered") == (gr.skip(),) * 4


def test_the_first_images_of_a_model_are_drawn_unless_another_one_is_chosen_by_then(tab: GenerateTab) -> None:
    values = Settings.checked(FAST | {"model": "tiny-ddpm"}, tab.catalogue).as_dict().values()
    _, said, _, _, wanting = tab.open_with(*values, None, False, "Seed is odd")
    assert wanting == "tiny-ddpm" and "Loading tiny-ddpm" in said and "Left out of the link: Seed is odd" in said
    assert tab.sample(*values, None, False, "", "") == (gr.skip(),) * 4, "another model was chosen"
    _, said, _, link = tab.sample(*values, None, False, "Seed is odd", wanting)
    assert "Samples of tiny-ddpm" in said and "Left out of the link" in said and "model=tiny-ddpm" in link
    assert tab.open_with(*values, None, False, "")[-1] == "", "they are kept"


def test_a_link_to_another_model_takes_none_of_the_defaults_of_the_one_before(tab: GenerateTab) -> None:
    before = Settings.checked({"model": "steered", "seed": 11}, tab.catalogue).as_dict()
    fresh, mine = opened(tab, model="tiny-cfg")[0], opened(tab, before, model="tiny-cfg")[0]
    assert mine == fresh | {"seed": 11} and before["guidance_scale"] == 4.0 != fresh["guidance_scale"]
    assert opened(tab, before | {"steps": 13}, model="tiny-cfg")[0]["steps"] == 13, "chosen by hand"
    assert opened(tab, before, steps=9)[0]["guidance_scale"] == 4.0, "of the same model"


# -------------------------------------------------------------------------------------------------------- plain words


def test_every_setting_and_every_model_has_a_sentence(tab: GenerateTab, tmp_path: Path) -> None:
    assert not [row.name for row in ROWS if not row.derived and not row.info and row.name != "model"]
    assert tab.controls.seed_mode.info and "x₀ = " in tab.controls.preview.info
    shown = looks(tab.catalogue["steered"], Settings.checked({"model": "steered"}, tab.catalogue))
    assert shown["model"]["info"] == of_class("ClassifierGuidancePipeline").says["page"]["model"]["info"]
    for name in pipeline_names():
        sentence = of_class(name).says["page"]["model"]["info"]
        assert sentence.endswith(".") and "{" not in sentence and "](" not in sentence and len(sentence) < 110
    (tmp_path / "own.py").write_text(
        'class OwnPipeline:\n    about = {"summary": "Draws {subject} ([Me](https://a.b)). And more."}\n'
        "    def stream(self): ...\n"
    )
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": ["own", "OwnPipeline"]}))
    assert Catalogue({"own": tmp_path})["own"].own("model")["info"] == "Draws images."


def test_what_is_left_out_of_settings_is_named_once(catalogue: Catalogue) -> None:
    assert list(misfits({"guidance_low": 0.9, "guidance_high": 0.1, "steps": 3}, catalogue)) == [
        "guidance_low",
        "guidance_high",
    ]
    assert misfits({"steps": 3, "model": None}, catalogue) == {}
