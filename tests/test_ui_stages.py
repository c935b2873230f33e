"""A cascade on the page: stages by name in the scrubber, low beside high resolution, an image of one's own enlarged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_runs import NAMES, tiny_stages
from PIL import Image
from text_models import text_cascade

from ui import device
from ui.api import _start_problems
from ui.catalogue import Catalogue
from ui.fields import NOISE
from ui.run import Progress, draw
from ui.settings import Settings, problems
from ui.snippet import snippet
from ui.stage_slider import StageSlider, as_large
from ui.stages import stage_limits
from ui.start_image import note
from ui.uploads import Start, Upload, start_of


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("stages")
    whole, enlarging = tiny_stages(NAMES)
    whole.register_to_config(augmentations=[0.25])
    whole.save_pretrained(folder / "cascade")
    enlarging.save_pretrained(folder / "enlarging")
    text_cascade().save_pretrained(folder / "words")
    return Catalogue({name: folder / name for name in ("cascade", "enlarging", "words")})


def drawn(catalogue: Catalogue, start: Start | None = None, **chosen: object) -> list[Progress]:
    values = {"model": "cascade", "steps": 2, "count": 2, "start": start.kind if start else NOISE}
    return list(draw(Settings.checked(values | chosen, catalogue), catalogue, start))


def test_what_a_cascade_offers_on_the_page(catalogue: Catalogue) -> None:
    info = catalogue["cascade"]
    assert info.shape == (8, 8, 1) and info.start_shape(False) == (4, 4, 1) and info.samplers == ()
    assert catalogue["enlarging"].start_shape(False) == (4, 4, 1) and info.class_names == NAMES
    usual = Settings.checked({"model": "cascade"}, catalogue)
    assert usual.conditioning_augmentation == 0.25 and usual.steps == 20
    assert usual.stream_arguments(info)["conditioning_augmentation"] == 0.25
    wrong = problems({"model": "cascade", "conditioning_augmentation": 0.6}, catalogue)
    assert wrong == {
        "conditioning_augmentation": "conditioning_augmentation must be at most 0.5 with model cascade, got 0.6"
    }


def test_the_steps_of_all_stages_are_looked_back_on_by_name_and_as_large_as_the_images(catalogue: Catalogue) -> None:
    *_, last = drawn(catalogue)
    frames = last.frames
    named = [frames.caption(position).rsplit(", t = ")[0] for position in range(4)]
    assert named == [f"stage {k} of 2, {size}, step {i} of 4" for i, (k, size) in enumerate(
        [(1, "4x4"), (1, "4x4"), (2, "8x8"), (2, "8x8")], 1
    )]  # fmt: skip
    assert {frames.image(position, kind).shape for position in range(4) for kind in frames.previews} == {(2, 8, 8, 1)}
    assert frames.small.shape == (2, 4, 4, 1) and frames.final.shape == (2, 8, 8, 1) and last.evaluations == 8
    shown, (low, high) = StageSlider().after(frames)
    assert shown["visible"]
    assert low.size == high.size
    np.testing.assert_array_equal(as_large(frames.small, frames.final)[:, ::2, 1::2], frames.small)


def test_a_cascade_that_is_told_prompts_draws_them_and_says_what_it_does_not_read(catalogue: Catalogue) -> None:
    (*_, red), (*_, fox) = (drawn(catalogue, model="words", prompt=prompt) for prompt in ("a red apple", "a fox"))
    assert (red.frames.final != fox.frames.final).any() and red.unread == {} and red.evaluations == 8
    *_, last = drawn(catalogue, model="words", prompt="a red apple " * 5)
    assert last.unread == {"prompt": "red apple a red apple"}, "12 tokens are read, two of which begin and end"


def test_an_image_of_ones_own_is_enlarged_without_the_first_stage(catalogue: Catalogue) -> None:
    info, upload = catalogue["cascade"], Upload(Image.new("RGB", (30, 20), "grey"), (30, 20))
    start = start_of(upload, None, info.start_shape(False))
    assert start.image.size == (4, 4) and "enlarges it" in note(upload, catalogue["enlarging"])
    assert "is given: the middle 20x20 of 30x20 pixels, scaled to 4x4" in note(upload, catalogue["enlarging"])
    either = note(upload, info)
    assert "shrunk to 4x4" in either and "paint on: the middle 20x20 of 30x20 pixels, scaled to 8x8" in either
    *_, last = drawn(catalogue, start)
    assert (last.num_steps, last.evaluations) == (2, 4) and (last.frames.small == 128).all()
    *_, alone = drawn(catalogue, start, model="enlarging", conditioning_augmentation=0.25)
    np.testing.assert_array_equal(alone.frames.final, last.frames.final)
    code = snippet(Settings.checked({"model": "cascade", "start": "image"}, catalogue), info, device.detect())
    assert "(4, 4))" in code and "image=image" in code and "conditioning_augmentation=0.25" in code
    with pytest.raises(ValueError, match="image must be given to a pipeline that only enlarges"):
        drawn(catalogue, model="enlarging")


def test_what_is_painted_over_is_drawn_anew_by_all_stages(catalogue: Catalogue) -> None:
    info, upload = catalogue["cascade"], Upload(Image.new("L", (8, 8), 90), (8, 8))
    painted = np.zeros((8, 8), np.uint8)
    painted[:, 5:] = 255
    start = start_of(upload, Image.fromarray(painted), info.start_shape(True))
    assert start.kind == "mask" and start.image.size == (8, 8)
    *_, last = drawn(catalogue, start, steps=4, jump_length=1, jump_n_sample=2)
    assert last.num_steps == (4 + 3) + 4, "the first stage alone goes back"
    assert (last.frames.final[:, :, :5] == 90).all() and (last.frames.final[:, :, 5:] != 90).any()
    assert (last.frames.small[:, :, :2] == 90).all() and (last.frames.small[:, :, 2:] != 90).any()
    code = snippet(Settings.checked({"model": "cascade", "start": "mask"}, catalogue), info, device.detect())
    assert "mask_image=mask_image" in code and code.count("(8, 8))") == 2 and "jump_n_sample=5" in code


def test_jumps_and_the_brush_are_of_cascades_that_inpaint(catalogue: Catalogue) -> None:
    for model, inpaints in (("cascade", True), ("enlarging", False)):
        info, settings = catalogue[model], Settings.checked({"model": model, "start": "image"}, catalogue)
        assert info.takes_mask is inpaints and settings.shows("jump_n_sample", info) is inpaints
    index = {"unet": ["pipelines", "A"], "max_augmentations": [0.5]}
    older = stage_limits(index, {"image"})
    assert older["start"]["choices"] == ("noise", "image") and older["jump_length"] == {"visible": False}


def test_a_mask_is_refused_for_a_model_that_only_enlarges(catalogue: Catalogue, tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    given = {"image": str(tmp_path / "a.png"), "mask_image": str(tmp_path / "a.png")}
    found = _start_problems(given, Settings.checked({"model": "enlarging"}, catalogue), catalogue)
    assert found == {"mask_image": "mask_image must be left out with model enlarging, which only enlarges the image"}
