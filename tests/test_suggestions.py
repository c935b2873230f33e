"""Style chips and example prompts: what a model's folder says, how they change a prompt, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from latent_folders import tiny_vae
from text_models import text_pipeline, text_unet, tiny_bert, tiny_tokenizer
from toys import latent, quiet

from pipelines import LatentDiffusionPipeline
from ui.catalogue import Catalogue, describe
from ui.fields import FIELDS
from ui.prompts import MOST
from ui.settings import Settings
from ui.suggestions import Suggestions, styles_in, with_style

STYLES = ["noto style", "noto v1 style", "twemoji style"]
EXAMPLES = ["a red apple, noto style", "a fox"]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    root = tmp_path_factory.mktemp("suggesting")
    text_pipeline(prompt_styles=STYLES, example_prompts=EXAMPLES).save_pretrained(root / "words")
    latent().save_pretrained(root / "latent")
    return Catalogue({"words": root / "words", "latent": root / "latent"})


@pytest.fixture(scope="module")
def suggestions(catalogue: Catalogue) -> Iterator[Suggestions]:
    with gr.Blocks():
        yield Suggestions(catalogue)


@pytest.mark.parametrize(
    "prompt, style, expected",
    [
        ("a fox", "noto style", "a fox, noto style"),
        ("a fox, twemoji style", "noto style", "a fox, noto style"),
        ("a fox, noto style", "", "a fox"),
        ("family: man, Noto  V1 STYLE , girl", "noto style", "family: man, girl, noto style"),
        ("", "noto style", "noto style"),
        ("noto style", "", ""),
        ("a fox, ", "noto style", "a fox, noto style"),
        ("a fox, ", "", "a fox, "),
        ("一个红苹果\n🍎", "noto style", "一个红苹果\n🍎, noto style"),
    ],
)
def test_a_style_takes_the_place_of_another_and_leaves_the_rest(prompt: str, style: str, expected: str) -> None:
    assert with_style(prompt, style, STYLES) == expected
    assert styles_in(expected, STYLES) == [style] * bool(style)


def test_a_chip_is_pressed_where_the_prompt_names_its_style(suggestions: Suggestions) -> None:
    assert suggestions.follow_prompt("words", "a fox, Noto v1 style") == ["noto v1 style"]
    assert suggestions.follow_prompt("words", "a fox in noto style") == []
    first = suggestions.choose_style("words", "a fox", ["noto style"])
    assert first == ("a fox, noto style", ["noto style"])
    other = suggestions.choose_style("words", first[0], ["noto style", "twemoji style"])
    assert other == ("a fox, twemoji style", ["twemoji style"])
    assert suggestions.choose_style("words", other[0], []) == ("a fox", [])


def test_each_model_has_its_own_suggestions_or_none(suggestions: Suggestions) -> None:
    styles, examples = suggestions.follow_model("words", "a fox, noto style")
    assert styles["choices"][0] == ("noto", "noto style") and styles["value"] == ["noto style"] and styles["visible"]
    assert examples["samples"] == [[prompt] for prompt in EXAMPLES] and examples["visible"]
    assert suggestions.choose_example("words", 1) == "a fox"
    assert not any(update["visible"] for update in suggestions.follow_model("latent", "a fox"))


@pytest.mark.parametrize("found", [None, 3, {"a": 1}, ["noto style"], "x" * 101, " | "])
def test_what_a_stranger_s_folder_says_wrongly_is_left_out(catalogue: Catalogue, found: object, tmp_path: Path) -> None:
    index = json.loads((catalogue["words"].folder / "model_index.json").read_text())
    for path in catalogue["words"].folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"prompt_styles": found}))
    assert describe("it", tmp_path).styles == ()
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"prompt_styles": "|".join(map(str, range(99)))}))
    assert len(describe("it", tmp_path).styles) == MOST


def test_the_first_example_is_drawn_unless_something_else_is_written(catalogue: Catalogue) -> None:
    assert Settings.checked({}, catalogue).prompt == EXAMPLES[0]
    assert Settings.checked({"prompt": ""}, catalogue).prompt == ""
    assert Settings.checked({"model": "latent"}, catalogue).prompt == ""


def test_what_a_client_fills_in_for_the_first_model_is_not_asked_of_another(catalogue: Catalogue) -> None:
    from ui.api import _chosen, _defaults

    sent = _defaults(catalogue)
    assert Settings.checked(_chosen(sent, catalogue), catalogue) == Settings.checked({}, catalogue)
    own = Settings.checked(_chosen(sent | {"model": "latent", "seed": 3}, catalogue), catalogue)
    assert own == Settings.checked({"model": "latent", "seed": 3}, catalogue)
    assert own.guidance_scale == FIELDS["guidance_scale"].default and own.guidance_high == 0.8 and own.prompt == ""


def test_they_stay_with_a_model_that_is_loaded_and_saved_again(catalogue: Catalogue, tmp_path: Path) -> None:
    pipe = quiet(LatentDiffusionPipeline.from_pretrained(catalogue["words"].folder))
    pipe.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "model_index.json").read_text())
    assert (again["prompt_styles"], again["example_prompts"]) == ("|".join(STYLES), "|".join(EXAMPLES))
    assert "prompt_styles" not in json.loads((catalogue["latent"].folder / "model_index.json").read_text())


def test_a_run_on_captions_records_the_endings_that_many_share() -> None:
    from training.caption_embeddings import CaptionEmbeddings
    from training.objectives.flow_matching import FlowMatching
    from training.objectives.text import Captions, common_endings

    told = ["a fox, noto style", "family: man, woman, girl", "a fox, twemoji style", "a fox", "a fox, "]
    assert common_endings(told * 5) == ["noto style", "girl", "twemoji style"]
    assert common_endings(told * 4) == [], "four images have no style"
    assert common_endings([*told[:1] * 50, *told[2:3] * 5, *["a fox"] * 100]) == ["noto style"]
    import torch

    embedded = CaptionEmbeddings({"": 0}, torch.zeros(1, 32, dtype=torch.float16))
    captions = Captions(tiny_bert(), tiny_tokenizer(), embedded, [], STYLES)
    options = FlowMatching.Options(example_prompts=" a red apple, noto style | a fox|")
    network = text_unet()
    pipe = FlowMatching(options, network, None, tiny_vae(), captions).pipeline(network)
    assert (pipe.config.prompt_styles, pipe.config.example_prompts) == ("|".join(STYLES), "|".join(EXAMPLES))
