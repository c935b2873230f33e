"""At which level of noise a model loses what its images show: what is drawn on, how it is judged, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_alignment import save_words
from text_models import text_cascade, text_pipeline
from training_runs import alone, noise

from training.evaluation import restored
from training.evaluation.prompts import Known, Prompt
from training.evaluation.restored import DISTANCE, draw_on, main
from training.evaluation.sampling import open_model


def test_an_image_that_is_drawn_as_it_was_counts_as_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image is its own features: three drawings, of which one is the image itself and two are other images."""
    about = [{"hexcode": i, "sublabel": i // 2, "label": 0, "vendor": "noto"} for i in range(4)]
    features = 10 * np.eye(4, 6)
    known = Known(np.zeros((4, 3, 8, 8), np.uint8), features, about, 4)
    monkeypatch.setattr(restored, "extract", lambda network, made, name: (features[made], None))
    found = restored.measured(np.array([0, 1, 3]), [Prompt("", about[row], row) for row in (0, 0, 0)], None, known)
    assert found["concept"] == pytest.approx(1 / 3) and found["subgroup"] == pytest.approx(2 / 3)
    assert found["group"] == found["vendor"] == 1.0
    assert found[DISTANCE] == pytest.approx(2 / 3 * np.sqrt(200))


def test_drawing_on_is_image_to_image_with_own_captions_and_seeds(tmp_path: Path) -> None:
    text_pipeline().save_pretrained(tmp_path)
    model = open_model(str(tmp_path), torch.float32)
    images = np.stack([noise(16, 16, 3, seed=i).transpose(2, 0, 1) for i in range(3)])
    texts = ["a red apple", "a fox", "a pear"]
    options = restored.Options(dataset_name="x", batch_size=2, num_inference_steps=4, seed=7, guidance_scale=[2.0])
    made = draw_on(model, images, texts, options, 0.5)
    same = model.pipe(
        "a pear", image=torch.from_numpy(images[2:]).float() / 255, strength=0.5, num_inference_steps=4,
        guidance_scale=2.0, generator=torch.Generator().manual_seed(9), output_type="np",
    )  # fmt: skip
    assert same.nfe == 4, "two of four steps, guided"
    np.testing.assert_allclose(made[2], (same.images[0] * 255).round().transpose(2, 0, 1), atol=1)


def test_the_command_measures_each_strength_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text_pipeline().save_pretrained(tmp_path / "model")
    save_words(tmp_path / "words")
    flags = ["--num_prompts", "2", "--num_inference_steps", "4", "--dataset_name", str(tmp_path / "words")]
    with alone(tmp_path / "cache"):
        main([str(tmp_path / "model"), *flags, "--strength", "0.5", "1"])
        said = capsys.readouterr().out
        file = tmp_path / "model" / "metrics.json"
        first = file.read_text()
        main([str(tmp_path / "model"), *flags, "--strength", "0.5"])
    assert file.read_text() == first, "what was measured is not measured again"
    rows = json.loads(first)["restored"]
    half, whole = rows.values()
    assert half["settings"]["strength"] == 0.5 and whole["settings"]["strength"] == 1.0
    assert 0 <= half["measured"]["concept"] <= 1 and half["measured"] != whole["measured"]
    assert half["reconstructions"] == whole["reconstructions"]
    lines = said.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["strength", "reconstruction", "0.5", "1"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--strength", "0"], "strength must be above 0, and at most 1, got 0"),
        (["--strength", "0.5", "1.5"], "strength must be above 0, and at most 1, got 1.5"),
        (["--strength", "nan"], "strength must be above 0, and at most 1, got nan"),
        (["--guidance_scale", "1", "2"], "guidance_scale must be one number"),
    ],
)
def test_bad_options_are_refused_by_name(flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        main([str(tmp_path), "--dataset_name", "x", *flags])


def test_a_model_of_several_stages_is_refused(tmp_path: Path) -> None:
    text_cascade().save_pretrained(tmp_path)
    with pytest.raises(SystemExit, match="draw in one stage"):
        main([str(tmp_path), "--dataset_name", "x"])
