"""The page and /generate over a model that begins with images: uploads of every kind, masks, records and code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from saved_0_1_0.runs import FOLDER
from test_ui import save_models
from text_models import text_pipeline
from training_runs import noise

from ui import build_demo, device, image_metadata, links, uploads
from ui.api import PARAMETERS
from ui.catalogue import Catalogue
from ui.controls import looks
from ui.device import Placement
from ui.fields import FIELDS
from ui.outputs import files
from ui.run import PREVIEWS, Progress, draw
from ui.settings import Settings
from ui.snippet import snippet
from ui.start_image import FOLLOWERS, takes_image
from ui.tabs.generate import GenerateTab
from ui.uploads import Start, Upload, painted, read, read_mask, start_of

SHAPE = (16, 16, 3)  # of the images of the model below
PIXELS = noise(16, 16, 3, seed=5)
HALF = np.repeat([[255] * 8 + [0] * 8], 16, axis=0).astype(np.uint8)  # the left is drawn anew
WHOLE = {"model": "words", "steps": 4, "count": 2, "guidance_low": 0, "guidance_high": 1, "prompt": "a fox"}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    root = tmp_path_factory.mktemp("begun")
    text_pipeline().save_pretrained(root / "words")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "detect", lambda: Placement("cpu", "float32"))
        grey = save_models(root)["tiny-ddpm"]
        yield Catalogue({"words": root / "words", "plain": FOLDER / "ddpm", "grey": grey})


@pytest.fixture(scope="module")
def tab(catalogue: Catalogue) -> GenerateTab:
    with gr.Blocks():
        return GenerateTab(catalogue)


@pytest.fixture(scope="module")
def endpoint(catalogue: Catalogue) -> Any:
    (found,) = [handler for handler in build_demo(catalogue).fns.values() if handler.api_name == "generate"]
    return found


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    """Files of the image and of the mask above."""
    Image.fromarray(PIXELS).save(tmp_path / "fox.png")
    Image.fromarray(HALF).save(tmp_path / "left.png")
    return {"image": str(tmp_path / "fox.png"), "mask_image": str(tmp_path / "left.png")}


def start(masked: bool = False) -> Start:
    return Start(Image.fromarray(PIXELS), Image.fromarray(HALF) if masked else None)


def drawn(catalogue: Catalogue, begun: Start | None, **values: Any) -> Progress:
    settings = Settings.checked(WHOLE | values, catalogue).beginning_with(begun.kind if begun else "noise")
    *_, last = draw(settings, catalogue, begun)
    return last


# ------------------------------------------------------------------------------------------------------------ uploads


def saved(folder: Path, image: Image.Image, name: str = "upload.png", **options: Any) -> Upload:
    image.save(folder / name, **options)
    return read(str(folder / name))


def close(upload: Upload, pixels: np.ndarray, by: int = 0) -> bool:
    return upload.image.mode == "RGB" and int(np.abs(np.asarray(upload.image).astype(int) - pixels).max()) <= by


def test_images_of_every_mode_are_read_on_white(tmp_path: Path) -> None:
    image, grey = Image.fromarray(PIXELS), np.asarray(Image.fromarray(PIXELS).convert("L"))
    same = np.repeat(grey[..., None], 3, axis=2)
    assert close(saved(tmp_path, image), PIXELS)
    assert close(saved(tmp_path, Image.fromarray(grey)), same)
    assert close(saved(tmp_path, Image.fromarray(grey.astype(np.uint16) * 257)), same), "16 bits"
    assert close(saved(tmp_path, image.convert("CMYK"), "upload.jpg", quality=100, subsampling=0), PIXELS, 24)
    assert close(saved(tmp_path, image.convert("P")), np.asarray(image.convert("P").convert("RGB")))
    assert close(saved(tmp_path, Image.fromarray(grey > 99)), np.where(same > 99, 255, 0))
    clear = np.dstack([PIXELS, np.where(np.arange(16) < 8, 255, 0).repeat(16).reshape(16, 16).T.astype(np.uint8)])
    put = np.where(clear[..., 3:] > 0, PIXELS, 255)
    assert close(saved(tmp_path, Image.fromarray(clear)), put)
    assert close(saved(tmp_path, Image.fromarray(clear), "upload.webp", lossless=True), put)


def test_a_turned_photograph_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter to the left
    wide = Image.fromarray(PIXELS[:, :12])
    upload = saved(tmp_path, wide, exif=exif)
    assert close(upload, np.rot90(PIXELS[:, :12], -1)) and upload.size == (16, 12)


def test_an_animation_is_its_first_frame_and_the_page_says_so(tmp_path: Path) -> None:
    frames = [Image.new("L", (16, 16), shade) for shade in (200, 0, 90)]
    upload = saved(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    assert close(upload, np.full((16, 16, 3), 200)) and upload.note(16, 16) == "the first of 3 frames"


def test_what_is_large_or_oblong_is_cropped_to_the_middle_and_scaled(tmp_path: Path) -> None:
    bands = np.repeat([[50] * 1500 + [150] * 2000 + [250] * 1500], 2000, axis=0).astype(np.uint8)
    upload = saved(tmp_path, Image.fromarray(bands), compress_level=1)
    assert max(upload.image.size) == uploads.KEPT and upload.size == (5000, 2000)
    image = np.asarray(start_of(upload, None, SHAPE).image)
    assert image.shape == SHAPE and np.abs(image[:, 1:-1].astype(int) - 150).max() <= 1
    assert upload.note(16, 16) == "the middle 2000x2000 of 5000x2000 pixels, scaled to 16x16"
    tall = start_of(Upload(Image.fromarray(bands[:4, :9]), (9, 4)), None, (16, 8, 1)).image
    assert tall.size == (8, 16) and tall.mode == "L"


def test_an_image_of_the_models_size_stays_as_it_is_and_nothing_is_said(tmp_path: Path) -> None:
    upload = saved(tmp_path, Image.fromarray(PIXELS))
    assert (np.asarray(start_of(upload, None, SHAPE).image) == PIXELS).all() and upload.note(16, 16) == ""


@pytest.mark.parametrize("content", [b"hello", b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", None])
def test_what_is_no_image_is_refused_by_name(content: bytes | None, tmp_path: Path, tab: GenerateTab) -> None:
    path = tmp_path / "notes.png"
    Image.fromarray(noise(64, 64, 3, seed=1)).save(path)
    path.write_bytes(path.read_bytes()[:3000] if content is None else content)
    with pytest.raises(ValueError, match=r"^image must be an image that can be read \(PNG, .*\), got notes.png$"):
        read(str(path))
    said = tab.controls.start.receive(str(path), "words")
    assert said[1] is None and "got notes.png" in said[4]["value"]


def test_too_many_pixels_or_bits_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="^image must have 8 or 16 bits per channel, got 32 in deep.tiff"):
        saved(tmp_path, Image.fromarray(np.ones((4, 4), np.float32)), "deep.tiff")
    monkeypatch.setattr(uploads, "MOST_PIXELS", 100)
    with pytest.raises(ValueError, match="^image must have at most 100 pixels, got 16x16 in upload.png"):
        saved(tmp_path, Image.fromarray(PIXELS))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ValueError, match="^image must have at most 100 pixels, got more in upload.png"):
        read(str(tmp_path / "upload.png"))


def test_masks_of_the_image_or_of_the_model_are_taken_and_no_others(tmp_path: Path) -> None:
    upload = Upload(Image.new("RGB", (64, 32)), (64, 32))

    def of(array: np.ndarray) -> np.ndarray:
        Image.fromarray(array.astype(np.uint8)).save(tmp_path / "mask.png")
        return np.asarray(start_of(upload, read_mask(str(tmp_path / "mask.png"), upload, SHAPE), SHAPE).mask)

    assert (of(HALF) == HALF).all() and (of(HALF.clip(0, 127) + HALF // 255) == HALF).all(), "128 is white"
    assert (of(np.full((16, 16), 255)) == 255).all(), "all of it"
    dot = np.zeros((32, 64))
    dot[5, 16 + 9] = 255
    assert np.argwhere(of(dot)).tolist() == [[2, 4]], "one pixel of the middle 32 x 32, and it counts for a whole one"
    with pytest.raises(
        ValueError, match="^mask_image must be of 64x32, as the image, or 16x16, as the model draws, got 8"
    ):
        of(np.zeros((8, 8)))
    with pytest.raises(ValueError, match="^mask_image must be white where"):
        of(np.zeros((16, 16)))
    dot[:] = 0
    dot[5, 3] = 255
    with pytest.raises(ValueError, match="^mask_image must be white where"):
        of(dot)  # beside the middle


def test_strokes_become_a_mask_and_none_is_none() -> None:
    layer = np.zeros((64, 64, 4), np.uint8)
    assert painted([]) is None and painted([Image.fromarray(layer)]) is None
    layer[:, :32] = (124, 58, 237, 255)
    begun = start_of(Upload(Image.fromarray(PIXELS), (16, 16)), painted([Image.fromarray(layer)]), SHAPE)
    assert (np.asarray(begun.mask) == HALF).all() and begun.kind == "mask"


def test_a_single_pixel_of_a_large_mask_counts_for_the_pixel_that_it_lies_in() -> None:
    mask = np.zeros((3000, 3000), np.uint8)
    mask[1700, 900] = 255
    begun = start_of(Upload(Image.new("RGB", (1024, 1024)), (3000, 3000)), Image.fromarray(mask), (28, 28, 1))
    assert np.argwhere(np.asarray(begun.mask)).tolist() == [[1700 * 28 // 3000, 900 * 28 // 3000]]


# ------------------------------------------------------------------------------------------------------------ drawing


def test_only_models_that_take_images_ask_for_one(catalogue: Catalogue, tab: GenerateTab) -> None:
    assert tab.controls.start.box.visible and not tab.controls.start.box.open
    for model, takes in (("words", True), ("plain", False)):
        for value, seen in (("noise", False), ("image", takes), ("mask", takes)):
            settings = Settings.checked({"model": model, "start": value}, catalogue)
            shown = looks(catalogue[model], settings)
            assert shown["strength"]["visible"] is seen and not shown["start"]["visible"]
            assert ("strength" in settings.stream_arguments(catalogue[model])) is seen
        box, editor, _ = tab.controls.start.follow_model(None, model)
        assert box["visible"] is takes and editor["visible"] is False
        upload = Upload(Image.fromarray(PIXELS), (16, 16))
        assert tab.controls.start.follow_model(upload, model)[1]["visible"] is takes
        assert (tab.controls.start.given(catalogue[model], upload, None) is not None) is takes


def test_an_image_to_enlarge_is_none_to_start_from(catalogue: Catalogue) -> None:
    assert not takes_image(replace(catalogue["words"], accepts=frozenset({"image", "num_inference_steps"})))


def test_the_less_strength_the_fewer_steps_and_the_more_of_the_image(catalogue: Catalogue) -> None:
    runs = [drawn(catalogue, start(), strength=share) for share in (0.25, 0.75)]
    assert [run.num_steps for run in runs] == [1, 3]
    near, far = (np.square(run.frames.final - PIXELS.astype(float)).mean() for run in runs)
    assert near < far and not np.array_equal(runs[1].frames.final, drawn(catalogue, None).frames.final)


@pytest.mark.parametrize("sampler", ["Euler", "UniPC"])
def test_what_is_not_painted_is_exact_and_each_step_can_be_looked_back_on(catalogue: Catalogue, sampler: str) -> None:
    last = drawn(catalogue, start(masked=True), sampler=sampler)
    final = last.frames.final
    assert (final[:, :, 8:] == PIXELS[:, 8:]).all() and not (final[:, :, :8] == PIXELS[:, :8]).all()
    assert len(last.frames) == last.num_steps + 1 == 4
    assert all(last.frames.image(i, kind).shape == (2, 16, 16, 3) for i in range(3) for kind in PREVIEWS)


def test_a_mask_that_covers_all_draws_all(catalogue: Catalogue) -> None:
    everything = Start(Image.fromarray(PIXELS), Image.new("L", (16, 16), 255))
    final = drawn(catalogue, everything, strength=1.0).frames.final
    assert (final != PIXELS).any(-1).mean() > 0.95


def test_an_image_of_its_own_holds_that_it_began_with_one_but_not_that_one(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    last = drawn(catalogue, start(masked=True), strength=0.6)
    settings = Settings.checked(WHOLE | {"start": "mask", "strength": 0.6}, catalogue)
    path = files(settings, catalogue, last, tmp_path)[1][0]
    held = image_metadata.read(path)
    assert (held["start"], held["strength"], held["seed"]) == ("mask", 0.6, 8)
    assert Settings.recalled(held, catalogue) == settings.of_image(1)


def test_the_code_draws_the_same_images_from_the_files_beside_it(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for masked in (False, True):
        begun = start(masked)
        settings = Settings.checked(WHOLE | {"start": begun.kind, "strength": 0.5}, catalogue)
        written = begun.save(tmp_path)
        assert [Path(path).name for path in written] == ["image.png", "mask.png"][: 1 + masked]
        code = snippet(settings, catalogue["words"], device.detect())
        assert ("mask.png" in code) is masked and "    strength=0.5,\n" in code
        exec(compile(code, "pasted.py", "exec"), {})
        expected = drawn(catalogue, begun, strength=0.5).frames.final
        assert all((np.asarray(Image.open(f"{7 + i}.png")) == expected[i]).all() for i in range(2))
    Image.effect_noise((90, 40), 50).save("image.png")
    Image.new("L", (90, 40), 255).save("mask.png")
    exec(compile(code, "pasted.py", "exec"), {})  # images of another size, too
    for model in ("words", "plain"):
        code = snippet(Settings.checked({"model": model}, catalogue), catalogue[model], device.detect())
        assert "image=" not in code and "strength" not in code and "ImageOps" not in code


# ----------------------------------------------------------------------------------------------- a model over pixels

GREY = np.asarray(Image.fromarray(PIXELS).convert("L").resize((8, 8)))
TOP = np.repeat([[255]] * 4 + [[0]] * 4, 8, axis=1).astype(np.uint8)  # the top is drawn anew
OVER_PIXELS = {"model": "grey", "steps": 4, "count": 2, "strength": 1.0, "jump_length": 2, "jump_n_sample": 3}


def over_pixels(catalogue: Catalogue, **values: Any) -> tuple[Settings, Start, Progress]:
    begun = Start(Image.fromarray(GREY), Image.fromarray(TOP))
    settings = Settings.checked(OVER_PIXELS | {"start": "mask", "sampler": "UniPC"} | values, catalogue)
    *_, last = draw(settings, catalogue, begun)
    return settings, begun, last


@pytest.mark.parametrize("sampler", ["UniPC", "DDPM", "DDIM", "Heun"])
def test_a_model_over_pixels_keeps_what_is_not_painted_and_draws_the_rest_again(
    catalogue: Catalogue, sampler: str
) -> None:
    assert takes_image(catalogue["grey"])
    _, _, last = over_pixels(catalogue, sampler=sampler)
    _, _, once = over_pixels(catalogue, sampler=sampler, jump_n_sample=1)
    assert (last.frames.final[:, 4:, :, 0] == GREY[4:]).all() and (last.frames.final[:, :4, :, 0] != GREY[:4]).any()
    assert (once.num_steps, last.num_steps) == ((7, 15) if sampler == "Heun" else (4, 8))
    assert last.evaluations == last.num_steps and len(last.frames) == last.num_steps + 1


def test_jumps_are_asked_for_with_a_mask_on_a_model_over_pixels_alone(catalogue: Catalogue, tab: GenerateTab) -> None:
    names = {"jump_length", "jump_n_sample"}
    for model, begins, sent in (("grey", "mask", True), ("grey", "image", False), ("grey", "noise", False)):
        settings, seen = Settings.checked({"model": model, "start": begins}, catalogue), begins != "noise"
        shown = looks(catalogue[model], settings)
        assert {shown[name]["visible"] for name in names} == {seen}, "an image may yet be painted on"
        assert names & set(settings.stream_arguments(catalogue[model])) == (names if sent else set())
        kind, *updates = tab.controls.start.begun(begins, model)
        assert kind == begins and [update["visible"] for update in updates] == [seen] * 3
    settings = Settings.checked({"model": "words", "start": "mask"}, catalogue)
    assert not names & set(settings.stream_arguments(catalogue["words"]))
    assert not any(looks(catalogue["words"], settings)[name]["visible"] for name in names)


def test_code_files_and_links_of_a_model_over_pixels_hold_its_jumps(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings, begun, last = over_pixels(catalogue)
    begun.save(tmp_path)
    code = snippet(settings, catalogue["grey"], device.detect())
    assert "    jump_length=2,\n    jump_n_sample=3,\n" in code
    exec(compile(code, "pasted.py", "exec"), {})
    assert all((np.asarray(Image.open(f"{7 + i}.png")) == last.frames.final[i, :, :, 0]).all() for i in range(2))
    held = image_metadata.read(files(settings, catalogue, last, tmp_path)[1][0])
    assert (held["start"], held["jump_length"], held["jump_n_sample"]) == ("mask", 2, 3)
    assert Settings.recalled(held, catalogue) == settings.of_image(1)
    assert "jump_n_sample=3" in links.query(settings, catalogue["grey"])


def test_programs_inpaint_with_a_model_over_pixels(endpoint: Any, catalogue: Catalogue, tmp_path: Path) -> None:
    start = over_pixels(catalogue)[1]
    names = dict(zip(("image", "mask_image"), start.save(tmp_path), strict=True))
    pixels, report, _ = last_of(endpoint, **WHOLE | OVER_PIXELS | names | {"prompt": None})
    assert np.array_equal(pixels, over_pixels(catalogue)[2].frames.final[..., 0])
    assert (report["start"], report["jump_n_sample"], report["network_evaluations"]) == ("mask", 3, 8)
    with pytest.raises(gr.Error, match="jump_n_sample must be a whole number from 1 to 20, got 21"):
        next(endpoint.fn(**OVER_PIXELS | names | {"jump_n_sample": 21}))


# ----------------------------------------------------------------------------------------------------------- the page


def test_the_page_draws_from_what_it_was_given_and_from_noise_again(
    catalogue: Catalogue, tab: GenerateTab, given: dict[str, str]
) -> None:
    panel, request = tab.controls.start, SimpleNamespace(session_hash="visitor")
    _, upload, _, editor, note, _, begins, strength, *_ = panel.receive(given["image"], "words")
    assert begins == "image" and strength["visible"] and "Paint over" in note["value"]
    assert editor["value"]["background"].size == (512, 512)
    layer = np.zeros((512, 512, 4), np.uint8)
    layer[:, :256, 3] = 255
    values = [*Settings.checked(WHOLE | {"start": "image"}, catalogue).as_dict().values(), "keep", PREVIEWS[0]]
    given, kept = [*values[:-2], PREVIEWS[0]], {}
    for kind, stroke in (("image", []), ("mask", [Image.fromarray(layer)])):
        shown = editor["value"] | {"layers": stroke}
        begun, *_ = tab.begin(request, *values, upload, shown)
        *_, (_, said, scrubber, images, code, code_files, frames, *_) = tab.run(request, *given, begun)
        assert "Drawn in 3 steps" in said and scrubber["visible"] and len(frames) == 4
        assert f"strength=0.8,\n    image=image,\n{'    mask_image' if stroke else ''}" in code
        assert len(code_files["value"]) == 1 + len(stroke) and code_files["visible"] and len(images["value"]) == 2
        kept[kind] = frames.final
    assert (kept["mask"][:, :, 8:] == PIXELS[:, 8:]).all() and not np.array_equal(kept["image"], kept["mask"])
    assert all(validation["is_valid"] for validation in tab.check(*values, upload, shown))
    with pytest.raises(gr.Error, match="upload it again"):
        tab.begin(request, *values, None, shown)

    _, none, _, editor, note, _, begins, strength, *_ = panel.forget("words")
    assert none is editor["value"] is None and begins == "noise" and not strength["visible"] and not note["visible"]
    begun, *_ = tab.begin(request, *values, None, None)
    *_, (_, _, _, _, code, code_files, frames, *_) = tab.run(request, *given, begun)
    assert begun is None and "image" not in code.split("pipe(")[1].split("generator")[0] and not code_files["visible"]
    assert np.array_equal(frames.final, drawn(catalogue, None).frames.final)


def test_a_link_to_an_image_that_began_with_one_opens_and_says_that_it_is_missing(
    catalogue: Catalogue, tab: GenerateTab, tmp_path: Path
) -> None:
    place = list(FIELDS).index("strength")
    for query, asked in (("image", True), ("mask", True), ("noise", False), ("nonsense", False)):
        values = tab.restore({}, SimpleNamespace(query_params={"start": query, "strength": "0.35"}))
        box, *_, note, remove = values[-6:]
        assert values[place]["value"] == 0.35 and values[place]["visible"] is asked
        assert box["visible"] and box.get("open", False) is asked and note["visible"] is asked
        assert remove == gr.update(value="Begin with noise", visible=asked), "so that it is not said on each visit"
        assert "Upload it again" in note["value"]
    plain = tab.restore({}, SimpleNamespace(query_params={"start": "image", "model": "plain"}))
    assert not plain[-6]["visible"] and not plain[-2]["visible"]
    settings = Settings.checked(WHOLE | {"start": "mask"}, catalogue)
    path = image_metadata.save(Image.new("L", (4, 4)), tmp_path / "one.png", settings.as_json())
    *_, note, _, _, said = tab.recall(str(path))
    assert note["visible"] and "It began with an image and a mask, which the file does not hold" in said
    begun = dict(zip(["start", *FOLLOWERS], tab.controls.start.forget("words")[6:], strict=True))
    assert begun == {"start": "noise"} | dict.fromkeys(FOLLOWERS, gr.update(visible=False))


# -------------------------------------------------------------------------------------------------------- /generate


def last_of(endpoint: Any, **arguments: Any) -> tuple[np.ndarray, dict[str, Any], str]:
    for answer in endpoint.fn(**WHOLE | {"seed": 7} | arguments):  # the files are there until it is asked for more
        pixels = [np.asarray(Image.open(path)) for path, _ in answer[0]]
    return np.stack(pixels), json.loads(answer[1]), answer[2]


def test_programs_begin_with_files(endpoint: Any, catalogue: Catalogue, given: dict[str, str]) -> None:
    pixels, report, code = last_of(endpoint, **given, strength=0.6)
    assert (pixels[:, :, 8:] == PIXELS[:, 8:]).all() and (report["start"], report["strength"]) == ("mask", 0.6)
    assert np.array_equal(pixels, drawn(catalogue, start(masked=True), strength=0.6).frames.final)
    assert "mask_image=mask_image" in code
    pixels, report, _ = last_of(endpoint, image=given["image"])
    assert report["start"] == "image" and np.array_equal(pixels, drawn(catalogue, start()).frames.final)
    assert last_of(endpoint)[1]["start"] == "noise"


def test_the_parameters_of_programs_keep_their_places(endpoint: Any) -> None:
    first = PARAMETERS.index("negative_prompt")
    assert PARAMETERS[first : first + 5] == ("negative_prompt", "start", "strength", "image", "mask_image")
    assert PARAMETERS[first + 5 : first + 7] == ("jump_length", "jump_n_sample")
    assert "image: file of an image to begin with" in endpoint.fn.__doc__


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (("mask_image",), "mask_image must be left out without an image"),
        ({"model": "plain"}, "image must be left out with model plain, which takes none here"),
        ({"start": "image"}, "image must be given again for start 'image', got none: settings hold no image"),
        ({"start": "mask", "image": "fox.png"}, "mask_image must be given again for start 'mask', got none"),
        ({"start": "sketch"}, "start must be one of noise, image, mask; got 'sketch'"),
        ({"strength": 0}, "strength must be a number from 0.01 to 1, got 0"),
        ({"image": "nowhere.png"}, r"image must be an image that can be read \(.*\), got nowhere.png"),
    ],
)
def test_what_programs_cannot_begin_with_is_refused_by_name(
    endpoint: Any, given: dict[str, str], sent: Any, message: str
) -> None:
    if isinstance(sent, tuple):
        sent = {name: given[name] for name in sent}
    elif sent.get("model") or sent.get("image") == "fox.png":
        sent = sent | {"image": given["image"]}
    with pytest.raises(gr.Error, match=message):
        next(endpoint.fn(**sent))
    (wrong,) = [each for each in endpoint.validator(*map(sent.get, PARAMETERS)) if not each["is_valid"]]
    assert wrong["message"].startswith(message.split()[0]), "before it is queued"
