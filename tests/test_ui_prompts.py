"""The page over a model that is told prompts: its settings, samplers of flows, files, code, and long prompts."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlencode

import gradio as gr
import numpy as np
import pytest
from text_models import text_pipeline
from toys import latent

from ui import image_metadata
from ui.catalogue import Catalogue
from ui.controls import looks
from ui.demo import build_demo
from ui.device import Placement
from ui.fields import FIELDS
from ui.outputs import files, grid, report
from ui.run import PREVIEWS, Progress, draw
from ui.samplers import FLOW_SCHEDULERS
from ui.settings import Settings
from ui.snippet import snippet
from ui.tabs.generate import GenerateTab


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    root = tmp_path_factory.mktemp("told")
    text_pipeline().save_pretrained(root / "words")
    latent().save_pretrained(root / "latent")
    yield Catalogue({"words": root / "words", "latent": root / "latent"})


def drawn(catalogue: Catalogue, **values: object) -> Progress:
    settings = Settings.checked(
        {"model": "words", "steps": 3, "count": 2, "guidance_low": 0, "guidance_high": 1} | values, catalogue
    )
    *_, last = draw(settings, catalogue)
    return last


def test_only_a_model_that_is_told_prompts_asks_for_them(catalogue: Catalogue) -> None:
    for name, seen in (("words", True), ("latent", False)):
        shown = looks(catalogue[name], Settings.checked({"model": name}, catalogue))
        assert shown["prompt"]["visible"] is shown["negative_prompt"]["visible"] is seen
    assert catalogue["words"].samplers == tuple(FLOW_SCHEDULERS) and catalogue["words"].class_names == ()


@pytest.mark.parametrize("sampler", FLOW_SCHEDULERS)
def test_prompts_decide_the_images_with_every_sampler_of_flows(catalogue: Catalogue, sampler: str) -> None:
    apple, again, fox = (drawn(catalogue, prompt=p, sampler=sampler) for p in ("a red apple", "a red apple", "fox"))
    assert np.array_equal(apple.frames.final, again.frames.final)
    assert not np.array_equal(apple.frames.final, fox.frames.final)
    assert apple.evaluations == (10 if sampler == "Heun" else 6)


def test_a_negative_prompt_counts(catalogue: Catalogue) -> None:
    plain, led = drawn(catalogue, prompt="fox"), drawn(catalogue, prompt="fox", negative_prompt="hat")
    assert not np.array_equal(plain.frames.final, led.frames.final)


def test_the_code_on_the_page_draws_the_same_images(catalogue: Catalogue, tmp_path: Path) -> None:
    from fresh_processes import run_elsewhere
    from PIL import Image

    from ui import device

    values = {"model": "words", "steps": 3, "count": 2, "prompt": 'a "red" apple', "sampler": "UniPC"}
    values |= {"guidance_low": 0, "guidance_high": 1}
    settings = Settings.checked(values, catalogue)
    code = snippet(settings, catalogue["words"], device.detect())
    assert 'prompt="a \\"red\\" apple",' in code and "batch_size=2," in code and "use_flow_sigmas=True" in code
    run_elsewhere(tmp_path, code)
    made = [np.asarray(Image.open(tmp_path / f"{seed}.png")) for seed in (7, 8)]
    assert np.abs(np.stack(made).astype(int) - drawn(catalogue, **values).frames.final).max() <= 1


def test_files_are_named_by_the_prompt_and_hold_it(catalogue: Catalogue, tmp_path: Path) -> None:
    prompt = 'a fox / with "hats" & <b>' + " and more" * 30
    settings = Settings.checked({"model": "words", "steps": 1, "count": 1, "prompt": prompt}, catalogue)
    *_, last = draw(settings, catalogue)
    ((path, caption),) = files(settings, catalogue, last, tmp_path)
    assert Path(path).name.startswith("a-fox---with--hats-----b-") and len(Path(path).name) < 90
    assert prompt in caption
    assert image_metadata.read(path)["prompt"] == prompt


def test_steps_are_shown_by_the_linear_map_and_the_decoder_runs_once_per_image(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = catalogue.pipeline("words").vae
    factors = np.random.default_rng(0).normal(size=(3, 4)) / 8
    mapped = {**vae.config, "latent_rgb_factors": factors.tolist(), "latent_rgb_bias": [0.5, 0.25, -0.5]}
    monkeypatch.setattr(vae, "_internal_dict", type(vae.config)(mapped))
    decoded, decode = [], vae.decode
    monkeypatch.setattr(vae, "decode", lambda z, *a, **k: decoded.append(z.float()) or decode(z, *a, **k))
    last = drawn(catalogue, prompt="a fox")
    assert [len(z) for z in decoded] == [1, 1] and len(last.frames) == 4
    shown = last.frames.previews[PREVIEWS[0]][-1]
    expected = np.stack([(factors @ z[0].flatten(1).numpy()).reshape(3, 8, 8) for z in decoded])
    expected = ((expected + np.array([0.5, 0.25, -0.5])[:, None, None]) / 2 + 0.5).clip(0, 1) * 255
    assert np.abs(shown.astype(float) - expected.transpose(0, 2, 3, 1)).max() < 2, "the last x_0 is what is decoded"
    assert last.frames.image(0, PREVIEWS[1]).shape == last.frames.final.shape == (2, 16, 16, 3)


def test_who_does_not_look_pays_for_no_previews(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = catalogue.pipeline("words").vae
    decoded, decode = [], vae.decode
    monkeypatch.setattr(vae, "decode", lambda z, *a, **k: decoded.append(1) or decode(z, *a, **k))
    *_, last = draw(Settings.checked({"model": "words", "steps": 2, "count": 2}, catalogue), catalogue, previews=False)
    assert len(decoded) == 2 and len(last.frames) == 1 and last.frames.image(0, PREVIEWS[0]).shape == (2, 16, 16, 3)


def test_what_is_not_read_of_a_prompt_is_said_on_the_page(catalogue: Catalogue) -> None:
    long = drawn(catalogue, prompt="one " * 10 + "<apple> " * 30)
    assert "not read of the prompt, as it is unknown or too long: &lt;apple&gt;" in report(long)
    assert "not read of the prompt, as it is unknown or too long: 🍎" in report(drawn(catalogue, prompt="🍎, a fox"))
    assert "not read" not in report(drawn(catalogue, prompt="a fox"))
    unwanted = report(drawn(catalogue, prompt="a fox", negative_prompt="one " * 10 + "<apple> " * 30))
    assert "not read of the negative prompt, as it is unknown or too long: &lt;apple&gt;" in unwanted
    assert "of the prompt" not in unwanted


ANY_TEXT = {
    "none": "",
    "emoji": "🍎 👩‍🚀",
    "Chinese": "一个红苹果",
    "quotes": """a "red" 'apple' \\ \\n \\u0041 {x} %s $HOME ''\' """,
    "lines": "a red\napple\r\n\tor two\x00\x0c\u2028",
    "HTML": "<img src=x onerror=alert(1)></p>&amp;",
    "long": "apple " * 1666,
}


@pytest.mark.parametrize("text", ANY_TEXT.values(), ids=ANY_TEXT)
def test_any_text_is_drawn_and_comes_back_from_links_files_code_and_the_endpoint(
    catalogue: Catalogue, text: str, tmp_path: Path, tab: GenerateTab, endpoint: Any
) -> None:
    asked = {"model": "words", "prompt": text, "negative_prompt": text, "steps": "1", "count": "1"}
    query = dict(parse_qsl(urlencode(asked), keep_blank_values=True))
    recalled = dict(zip(FIELDS, tab.restore({}, SimpleNamespace(query_params=query)), strict=False))
    assert recalled["prompt"]["value"] == recalled["negative_prompt"]["value"] == text
    settings = Settings.checked(query, catalogue)
    *_, last = draw(settings, catalogue)
    ((path, _),) = files(settings, catalogue, last, tmp_path)
    assert Settings.recalled(image_metadata.read(path), catalogue) == settings
    page = tab.image.postprocess(image_metadata.tag(grid(last.frames.final), settings.as_json()))
    assert Settings.recalled(image_metadata.read(page.path), catalogue) == settings
    (call,) = (node for node in ast.walk(ast.parse(snippet(settings, catalogue["words"], Placement())))
               if isinstance(node, ast.Call) and any(k.arg == "negative_prompt" for k in node.keywords))  # fmt: skip
    given = {each.arg: each.value.value for each in call.keywords if isinstance(each.value, ast.Constant)}
    assert given["prompt"] == given["negative_prompt"] == text
    *_, (images, said, _) = endpoint.fn(**settings.as_dict())
    assert json.loads(said)["prompt"] == text and len(images) == 1
    assert "<img" not in report(last)


@pytest.fixture(scope="module")
def endpoint(catalogue: Catalogue) -> Any:
    (found,) = [handler for handler in build_demo(catalogue).fns.values() if handler.api_name == "generate"]
    return found


@pytest.fixture(scope="module")
def tab(catalogue: Catalogue) -> GenerateTab:
    with gr.Blocks():
        return GenerateTab(catalogue)


@pytest.mark.parametrize(
    "prompt, message",
    [
        ("x" * 10_001, "must have at most 10000 characters, got 10001"),
        (3, "must be text, got 3"),
        ("half a pair \ud83c", "must be text that UTF-8 can write, got 'half a pair \\\\ud83c'"),
    ],
)
def test_what_is_no_prompt_is_refused_by_name(catalogue: Catalogue, prompt: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^prompt {message}$"):
        Settings.checked({"prompt": prompt}, catalogue)


def test_a_prompt_guides_from_pure_noise_on_unless_the_model_says_otherwise(catalogue: Catalogue) -> None:
    told, plain = (Settings.checked({"model": name}, catalogue) for name in ("words", "latent"))
    assert (told.steps, told.guidance_scale, told.guidance_low, told.guidance_high) == (10, 4.0, 0.2, 1.0)
    assert (plain.guidance_scale, plain.guidance_low, plain.guidance_high) == (2.0, 0.2, 0.8)
    assert "prompt" in looks(catalogue["words"], told)["guidance_scale"]["info"]


def test_a_model_that_is_told_prompts_opens_the_page(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    import app

    monkeypatch.setattr(app, "CARDS", catalogue["words"].folder.parent)
    assert list(app.shipped_models()) == ["words", "latent"]


def test_new_rows_stand_at_the_end_of_the_api_and_the_prompt_at_the_top_of_the_page() -> None:
    from ui.controls import _on_the_page
    from ui.fields import ROWS

    new = ["prompt", "negative_prompt", "start", "strength", "jump_length", "jump_n_sample"]
    assert list(FIELDS)[-len(new) - 3 :] == [*new, "conditioning_augmentation", "adapter", "adapter_strength"]
    assert [row.name for row in _on_the_page(list(ROWS))][:3] == ["model", "class_name", "prompt"]
