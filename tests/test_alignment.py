"""Whether images show what their prompts ask for: nearest real images, chance, CIELAB hues, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training_runs import noise

from training.evaluation import alignment
from training.evaluation.alignment import colours, hues_of_real, hues_of_words
from training.evaluation.prompts import Known, prompts_of, recoloured, recombined
from training.files import write_json
from training.metrics.alignment import agreement, chance, dominant_hue, lab, mean_hue, named_hue, nearest

ROWS = [
    {"text": f"a {name}, {vendor} style", "name": name, "tags": [], "hexcode": name, "vendor": vendor, "label": 0,
     "sublabel": 1}
    for name, vendor in [("red apple", "noto"), ("red apple", "twemoji"), ("fox", "noto"), ("blue heart", "twemoji")]
]  # fmt: skip


def test_the_nearest_is_found_and_an_own_row_left_out() -> None:
    rng = np.random.default_rng(0)
    known = rng.normal(size=(30, 8))
    features = known[[3, 7, 20]] + 1e-3 * rng.normal(size=(3, 8))
    assert nearest(features, known).tolist() == [3, 7, 20]
    expected = []
    for row in (3, 7, 20):
        distances = np.linalg.norm(known - known[row], axis=1)
        distances[row] = np.inf
        expected.append(int(distances.argmin()))
    assert nearest(known[[3, 7, 20]], known, without=[3, 7, 20]).tolist() == expected


def test_chance_is_the_mean_frequency_of_what_was_wanted() -> None:
    assert agreement(["a", "b", "c"], ["a", "c", "c"]) == pytest.approx(2 / 3)
    assert chance(["a", "b", "z"], ["a", "a", "b", "c"]) == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert chance([1, 2], [1, 1, 2]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "colour, expected",  # of the CIE's own tables for sRGB under D65
    [
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 128, 0), (46.23, -51.70, 49.90)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((10, 10, 10), (2.74, 0.0, 0.0)),
    ],
)
def test_cielab_is_that_of_the_tables(colour: tuple, expected: tuple) -> None:
    np.testing.assert_allclose(lab(np.array(colour)), expected, atol=0.02)


def test_the_dominant_hue_is_of_the_colour_and_not_of_white_or_grey() -> None:
    image = np.full((3, 32, 32), 255, np.uint8)
    assert dominant_hue(image) is None
    image[:, 8:20, 8:20] = np.array([200, 20, 30])[:, None, None]
    image[:, 22:26, 8:20] = np.array([20, 30, 200])[:, None, None]
    red = dominant_hue(image)
    assert abs(red - np.degrees(np.arctan2(*lab(np.array([200, 20, 30]))[:0:-1])) % 360) <= 5
    assert named_hue(red, {"red": 40.0, "blue": 300.0}) == "red"
    assert named_hue(350.0, {"red": 40.0, "purple": 327.0}) == "purple" and named_hue(None, {"red": 40.0}) is None
    assert mean_hue([350.0, 20.0]) == pytest.approx(5.0)


def test_recombined_prompts_are_those_that_nobody_drew() -> None:
    found = {(prompt.about["hexcode"], prompt.about["vendor"]) for prompt in recombined(ROWS)}
    assert found == {("fox", "twemoji"), ("blue heart", "noto")}
    assert {prompt.text for prompt in recombined(ROWS)} == {"a fox, twemoji style", "a blue heart, noto style"}


def test_prompts_are_of_training_images_held_back_images_and_new_pairs() -> None:
    known = Known(np.zeros((4, 3, 8, 8), np.uint8), np.zeros((4, 2)), ROWS, 3)
    found = prompts_of(known, 2)
    assert [prompt.row for prompt in found["training"]] == [0, 1] and [p.row for p in found["held back"]] == [3]
    assert [prompt.text for prompt in found["recombined"]] == ["a fox, twemoji style"]


def test_each_colour_word_is_replaced_by_each_other() -> None:
    asked = recoloured(ROWS[2:], 6)
    assert asked[0] == ("a blue heart, twemoji style", "blue") and len(asked) == 6
    assert ("an orange heart, twemoji style", "orange") in asked and len({colour for _, colour in asked}) == 6


def save_words(folder: Path) -> None:
    """A data set of `ROWS`, the last of them held back, with noise as images."""
    import io

    from datasets import Dataset, Features, Image, List, Value
    from PIL import Image as Pillow

    (folder / "data").mkdir(parents=True)
    kinds = {name: Value("string") for name in ("text", "name", "hexcode", "vendor")}
    kinds |= {"tags": List(Value("string")), "label": Value("int64"), "sublabel": Value("int64"), "image": Image()}

    def png(i: int) -> dict:
        buffer = io.BytesIO()
        Pillow.fromarray(noise(16, 16, 3, seed=i)).save(buffer, format="png")
        return {"bytes": buffer.getvalue(), "path": f"{i}.png"}

    for split, rows in (("train", ROWS[:3]), ("test", ROWS[3:])):
        listed = [row | {"image": png(i)} for i, row in enumerate(rows)]
        place = folder / "data" / f"{split}-00000-of-00001.parquet"
        Dataset.from_list(listed, features=Features(kinds)).to_parquet(place)


PAINT = {"red": (200, 20, 30), "green": (20, 160, 40), "blue": (30, 40, 220)}


def painted(colour: str) -> np.ndarray:
    """A disc of one colour on white, (3, 16, 16)."""
    image = np.full((3, 16, 16), 255, np.uint8)
    image[:, 4:12, 4:12] = np.array(PAINT[colour], np.uint8)[:, None, None]
    return image


def test_colours_are_judged_by_real_ones_and_changed_words_from_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that paints each word but green, and what it is compared with."""
    names = ["red apple", "green apple", "blue heart", "blue and red flag", "blue car"]
    shown = ["red", "green", "blue", "red", "green"]  # the car is not blue
    about = [{"name": name, "vendor": "noto"} for name in names]
    known = Known(np.stack([painted(colour) for colour in shown]), np.zeros((5, 2)), about, 5)
    hues = hues_of_words(known)
    assert {*hues} == {"red", "green", "blue"}, "a name with two colours says nothing"
    hues = {colour: dominant_hue(painted(colour)) for colour in PAINT}
    assert hues_of_real(known, hues) == {"real images": pytest.approx(3 / 4)}

    drawn_from = []

    def draw(model: object, texts: list[str], options: object, scale: float) -> np.ndarray:
        drawn_from.append(len(texts))
        words = [next((word for word in ("red", "blue") if word in text), "red") for text in texts]
        return np.stack([painted(word) for word in words])

    monkeypatch.setattr(alignment, "draw_prompts", draw)
    asked = recoloured(about[:3], 18)
    found = colours(None, asked, hues, None, 3.0)
    assert drawn_from == [3] * 6, "image k of each colour has the noise of name k"
    assert found["names"] == 3 and found["own"] == pytest.approx(2 / 3), "green is drawn red"
    # of 5 other words each: red -> blue alone is right, green -> red and blue, blue -> red
    assert found["changed"] == pytest.approx(4 / 15)
    assert found["both"] == pytest.approx((2 + 4) / 18) and found["chance"] == pytest.approx(1 / 6)
    # drawn otherwise than the own word: blue once, blue once, and all but blue
    assert found["different"] == pytest.approx((1 + 1 + 5) / 15)


def test_the_command_measures_prompts_of_all_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from text_models import text_pipeline
    from training_runs import alone

    from training.evaluation.alignment import main
    from training.sharing.card_text import render

    text_pipeline().save_pretrained(tmp_path / "model")
    save_words(tmp_path / "words")
    flags = ["--num_prompts", "2", "--num_inference_steps", "2", "--dataset_name", str(tmp_path / "words")]
    with alone(tmp_path / "cache"):
        main([str(tmp_path / "model"), *flags, "--guidance_scale", "1", "2"])
        said = capsys.readouterr().out
        main([str(tmp_path / "model"), *flags, "--guidance_scale", "1"])
        main([str(tmp_path / "model"), *flags, "--guidance_scale", "2", "--guidance_interval", "0.2", "1"])
        assert "guidance 2 within 0.2 to 1" in capsys.readouterr().out
    rows = json.loads((tmp_path / "model" / "metrics.json").read_text())["alignment"]
    assert len(rows) == 3 and "held back" in said and "guidance 2" in said and "other drawings" in said
    row = next(iter(rows.values()))
    assert 0 <= row["references"]["training"]["reconstructions"]["concept"] <= 1
    assert row["references"]["recombined"] == {"chance": row["references"]["recombined"]["chance"]}
    assert row["references"]["training"]["chance"]["group"] == 1.0
    card = render(tmp_path / "model")
    shares = " | ".join(
        f"{row['measured']['held back'][name]:.1%}" for name in ("concept", "subgroup", "group", "vendor")
    )
    assert (
        f"| held back | drawn: FlowMatchEulerDiscrete, 2 steps, guidance 1 | {shares} |" in card
        and "for 2 captions each" in card
    )
    assert 'pipe("a red apple", ' in card and "pipeline_tag: text-to-image" in card and "what a prompt asks for" in card
    assert "went through the autoencoder, real images whose own drawing does not count and chance." in card
    for row in rows.values():
        row["measured"]["colours"] = {"own": 0.5, "changed": 0.25}  # as rows of before, which are measured anew
    write_json(tmp_path / "model" / "metrics.json", {"results": {}, "alignment": rows})
    card = render(tmp_path / "model")
    assert "50.0% of images whose name has a colour word show its hue, and 25.0% that of another word" in card
    with alone(tmp_path / "cache"):
        main([str(tmp_path / "model"), *flags, "--guidance_scale", "1", "2"])
    again = json.loads((tmp_path / "model" / "metrics.json").read_text())["alignment"]
    old = ["colours" in row["measured"] for row in again.values()]
    assert old == [False, False, True], "of noise there is no hue to name; the last one was not asked for"


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--num_prompts", "0"], "num_prompts must be at least 1, got 0"),
        (["--scheduler", "Magic"], "scheduler must be one of"),
        (["--guidance_interval", "0.8", "0.2"], "guidance_interval must be LOW HIGH"),
        (["--guidance_scale", "-1"], "guidance_scale must be a finite number of at least 0"),
    ],
)
def test_bad_options_are_refused_by_name(flags: list[str], message: str, tmp_path: Path) -> None:
    from training.evaluation.alignment import main

    with pytest.raises(SystemExit, match=message):
        main([str(tmp_path), "--dataset_name", "x", *flags])
