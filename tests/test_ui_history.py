"""Images one by one: large, with settings and files of their own; and the runs of a session."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from test_ui import final_pixels, save_models

from ui import controls, device, image_metadata
from ui.catalogue import Catalogue
from ui.device import Placement
from ui.fields import FIELDS
from ui.history import KEPT, History, caption, pixels
from ui.outputs import files
from ui.run import draw
from ui.settings import Settings
from ui.viewer import Files, Viewer, alone


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "detect", lambda: Placement("cpu", "float32"))
        yield Catalogue(save_models(tmp_path_factory.mktemp("models")))


@pytest.fixture
def page(catalogue: Catalogue) -> SimpleNamespace:
    with gr.Blocks():
        return SimpleNamespace(controls=controls.build(catalogue), viewer=Viewer(catalogue), history=History())


def run_of(catalogue: Catalogue, folder: Path, **values: object) -> Files:
    """The files of a run."""
    settings = Settings.checked({"model": "tiny-cfg", "steps": 1, "count": 3, **values}, catalogue)
    *_, last = draw(settings, catalogue, previews=False)
    folder.mkdir(exist_ok=True)
    return files(settings, catalogue, last, folder)


def test_the_settings_of_an_image_draw_it_alone(catalogue: Catalogue, page: SimpleNamespace, tmp_path: Path) -> None:
    run = run_of(catalogue, tmp_path / "run", seed=40)
    for index, (path, words) in enumerate(run):
        settings = alone(image_metadata.read(path), catalogue)
        assert (settings.count, settings.seed) == (1, 40 + index)
        assert words == f"{settings.class_name} · seed {settings.seed}"
        assert (final_pixels(settings, catalogue)[0] == pixels(path)).all()
    taken = dict(zip([*FIELDS, "mode"], page.viewer.take_over(page.controls, (run, 2)), strict=False))
    assert taken["seed"]["value"] == 42 and taken["count"]["value"] == 1 and taken["mode"] == controls.KEEP_SEED
    assert taken["class_name"]["value"] in catalogue["tiny-cfg"].class_names
    of_none = run_of(catalogue, tmp_path / "none", model="tiny-ddpm")
    assert alone(image_metadata.read(of_none[1][0]), catalogue).class_name == "any"


def test_an_image_opens_with_its_words_and_two_files(
    catalogue: Catalogue, page: SimpleNamespace, tmp_path: Path
) -> None:
    run = run_of(catalogue, tmp_path / "run", class_name="Bag", seed=7)
    for index, ends in ((-1, (False, True)), (0, (False, True)), (1, (True, True)), (9, (True, False))):
        for shown, box, image, text, before, after, original, larger in page.viewer.show(run, index):
            at = min(max(index, 0), 2)
            assert shown[1] == at and box["visible"] and image["alt_text"] == f"Bag · seed {7 + at}"
            assert f"<b>Bag · seed {7 + at}</b> · image {at + 1} of 3" in text
            assert (before["interactive"], after["interactive"]) == ends
            assert original["value"] == run[at][0] and "8 x 8" in original["label"] and "64 x 64" in larger["label"]
            assert (pixels(larger["value"])[::8, ::8] == pixels(run[at][0])).all()
            assert image_metadata.read(larger["value"]) == image_metadata.read(run[at][0])


def test_words_of_others_are_escaped_and_large_images_have_one_file(page: SimpleNamespace, tmp_path: Path) -> None:
    path = image_metadata.save(Image.new("RGB", (200, 100)), tmp_path / "a.png", "{}")
    ((_, _, image, text, *_, larger),) = page.viewer.show([(str(path), "<b>x</b>")], 0)
    assert "&lt;b&gt;x" in text and image["value"] == str(path) and not larger["visible"]


def test_files_that_are_gone_close_the_large_image(page: SimpleNamespace) -> None:
    ((shown, box, *_),) = page.viewer.show([("/nowhere/one.png", "one")], 0)
    assert shown == ([], 0) and not box["visible"]


def test_earlier_runs_are_kept_once_and_packed(catalogue: Catalogue, page: SimpleNamespace, tmp_path: Path) -> None:
    first, second = (run_of(catalogue, tmp_path / str(seed), seed=seed) for seed in (1, 2))
    runs, box, tiles = page.history.keep([], first)
    assert len(runs) == 1 and box["visible"] and not tiles["visible"]  # the page shows it already
    runs, _, tiles = page.history.keep(runs, second)
    assert [words for _, words in tiles["value"]] == ["tiny-cfg · 3 images · seed 1 · 1 step"]
    assert Image.open(tiles["value"][0][0]).width > 200 and caption(runs[1]).endswith("seed 2 · 1 step")
    runs, _, tiles = page.history.keep(runs, first)
    assert len(runs) == 2 and "seed 2" in tiles["value"][0][1]
    kept, _, tiles = page.history.keep(runs, None)  # Stop: nothing is shown
    assert kept == runs and ["seed 1" in tiles["value"][0][1], "seed 2" in tiles["value"][1][1]] == [True, True]
    for packed in page.history.pack(runs):
        with zipfile.ZipFile(packed["value"]) as archive:
            names = archive.namelist()
            assert len(names) == 6 and {name.split("/")[0] for name in names} == {"run-01", "run-02"}
            (tmp_path / "out.png").write_bytes(archive.read(names[-1]))
    assert image_metadata.read(tmp_path / "out.png")["seed"] == 3
    Path(first[0][0]).unlink()
    assert [run.settings["seed"] for run in page.history.keep(runs, None)[0]] == [2]


def test_no_more_runs_than_a_visitor_looks_through(page: SimpleNamespace, tmp_path: Path) -> None:
    runs: list = []
    for seed in range(KEPT + 2):
        image = Image.fromarray(np.full((2, 2), seed, np.uint8))
        text = f'{{"model": "m", "seed": {seed}, "steps": 1}}'
        path = image_metadata.save(image, tmp_path / f"{seed}.png", text)
        runs, _, tiles = page.history.keep(runs, [(str(path), None)])
    assert len(runs) == KEPT and runs[0].settings["seed"] == 2 and len(tiles["value"]) == KEPT - 1
