"""`python -m training.contact_sheet`: fixed prompts or classes at several scales, or beside training images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_runs import fill
from PIL import Image
from text_models import text_pipeline
from training_runs import noise_images

from training import contact_sheet, evaluate
from training.contact_sheet import PROMPTS, main, read_prompts
from training.evaluation import alignment, reconstruction

QUICK = ["--num_inference_steps", "1", "--dtype", "float32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = fill(tmp_path_factory.mktemp("sheets"))
    text_pipeline().save_pretrained(place / "text")
    (place / "few.txt").write_text("a red apple\n\na fox with a hat\n", encoding="utf-8-sig")
    return place


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWISE_CACHE", str(place / "cache"))
    monkeypatch.chdir(place)


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The cells of the sheets that are drawn."""
    seen: list[Any] = []
    real = contact_sheet.sheet
    monkeypatch.setattr(contact_sheet, "sheet", lambda some, *rest: seen.extend(some) or real(some, *rest))
    return seen


def test_prompts_are_drawn_at_each_scale_with_one_seed_each(cells: list[Any]) -> None:
    main(["text", "--prompts", "few.txt", "--seed", "5", *QUICK])
    assert [cell.text for cell in cells] == ["a red apple", "a fox with a hat"]
    pipe = text_pipeline()
    for number, cell in enumerate(cells):
        for image, scale in zip(cell.images, (1, 3, 6), strict=True):
            generator = [generator_of(5 + number)]
            alone = pipe(cell.text, generator=generator, num_inference_steps=1, guidance_scale=scale, output_type="np")
            assert np.abs(image / 255 - alone.images[0].transpose(2, 0, 1)).max() < 0.01
    with Image.open("text/guidance_sheet.png") as written:
        assert "guidance_scale=1 3 6" in written.text["settings"]


def generator_of(seed: int) -> Any:
    return torch.Generator().manual_seed(seed)


def test_classes_are_drawn_with_as_many_seeds_each_and_nothing_is_guided_that_cannot_be(cells: list[Any]) -> None:
    main(["cfg", "--guidance_scale", "2", *QUICK])
    names = [cell.text.split(" (")[0] for cell in cells]
    assert {name: names.count(name) for name in names} == {"dots": 21, "lines": 21, "noise": 21}
    assert cells[1].text == "dots (seed\N{NO-BREAK SPACE}3)" and len(cells[0].images) == 1
    cells.clear()
    main(["plain", *QUICK, "--output", "elsewhere/sheet.png"])
    assert len(cells) == 64 and Path("elsewhere/sheet.png").is_file()


def test_beside_each_image_stand_the_nearest_training_images(cells: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the training images are those that will be drawn: each is found, with a ratio of 0."""
    main(["cfg", "--guidance_scale", "3", *QUICK])
    drawn = np.stack([cell.images[0] for cell in cells])
    cells.clear()
    train = noise_images(5)
    known = type(train)(np.concatenate([train.images, drawn]), None, None, ("a dog",) * 68, 0, "x")
    monkeypatch.setattr(contact_sheet, "load_trained_on", lambda *which: known)
    monkeypatch.setattr(contact_sheet, "open_features", lambda name: None)
    monkeypatch.setattr(
        contact_sheet, "extract", lambda net, pixels, name: (pixels.reshape(len(pixels), -1) / 1.0, None)
    )
    monkeypatch.setattr(
        contact_sheet, "extract_cached", lambda net, pixels, *rest: (pixels.reshape(len(pixels), -1) / 1.0, None)
    )
    main(["cfg", "--dataset_name", "images", *QUICK])
    assert all(np.array_equal(cell.images[0], cell.images[1]) and cell.text.startswith("0.00 ") for cell in cells)
    assert len(cells[0].images) == 3 and Path("cfg/nearest_sheet.png").is_file()


def test_the_prompts_of_the_lists_are_different_ones() -> None:
    fixed, unseen = (read_prompts(PROMPTS.with_name(name)) for name in ("prompts.txt", "unseen_prompts.txt"))
    assert len(fixed) == len(set(fixed)) == 64 and {"a blue apple", "a fox with a hat, twemoji style"} <= set(unseen)
    assert not set(fixed) & set(unseen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cfg", "--prompts", "few.txt"], "prompts must be left out: cfg is told none"),
        (["text", "--prompts", "none.txt"], "prompts must be a text file in UTF-8, got 'none.txt'"),
        (["text", "--prompts", "text/model_index.json/x"], "prompts must be a text file"),
        (["plain", "--guidance_scale", "2"], "guidance_scale must be left out: DDPMPipeline does not take it"),
        (["cfg", "--guidance_scale", "-1"], "guidance_scale must be a finite number of at least 0, got -1.0"),
        (["cfg", "--guidance_scale", "1", "2", "--dataset_name", "images"], "guidance_scale must be one number"),
        (["cfg", "--dataset_name", "large"], "cfg draws 1 channel(s) of 8x8, large has 1 channel(s) of 12x12"),
        (["cfg", "--seed", "-1"], "seed must be at least 0, got -1"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_sheet, "draw_batch", lambda *args, **more: pytest.fail("work was done"))
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, *QUICK])
    assert message in str(stopped.value) and "\n" not in str(stopped.value)


@pytest.mark.parametrize("command", [evaluate.main, alignment.main, reconstruction.main, main])
def test_help_says_that_a_model_s_own_code_is_run(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "A model's own code is run (trust_remote_code): measure only models that you trust" in said
