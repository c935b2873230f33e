"""The pieces of the page, without a browser."""

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from fresh_processes import run_elsewhere
from PIL import Image

from pipelines import (
    ClassifierFreeGuidancePipeline,
    ClassifierGuidancePipeline,
    DDPMPipeline,
    NoisyClassifier,
    PatchedUNet2DModel,
)
from pipelines.cpu import cpu_flags, usable_cores
from training.metrics.features import FeatureClassifier
from ui import controls, device, image_metadata, run
from ui.catalogue import Catalogue, describe
from ui.device import Placement
from ui.fields import FIELDS
from ui.outputs import grid
from ui.run import StopRequests, draw
from ui.samplers import SCHEDULERS
from ui.settings import Settings, problems
from ui.snippet import snippet
from ui.tabs.generate import GenerateTab

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"0": "Bag", "1": "Coat", "2": "Ankle boot"}
PROCESS = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "timestep_spacing": "trailing"}


def tiny_unet(classes: int | None) -> PatchedUNet2DModel:
    """A network of a few thousand weights over 8 x 8 grey pixels."""
    torch.manual_seed(0)
    return PatchedUNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 16),
        attention_head_dim=8,
        norm_num_groups=4,
        num_class_embeds=classes,
    )


def save_models(folder: Path) -> dict[str, Path]:
    """A guided and an unconditional model in their folders."""
    guided, plain = folder / "tiny-cfg", folder / "tiny-ddpm"
    ClassifierFreeGuidancePipeline(tiny_unet(4), DDIMScheduler(**PROCESS), NAMES).save_pretrained(guided)
    DDPMPipeline(tiny_unet(None), DDPMScheduler(**PROCESS)).save_pretrained(plain)
    return {"tiny-cfg": guided, "tiny-ddpm": plain}


def save_steered(folder: Path, names: dict[str, str] | None = NAMES) -> Path:
    """An unconditional network with a classifier of three."""
    classifier = NoisyClassifier(
        sample_size=8,
        in_channels=1,
        num_classes=3,
        block_out_channels=(16, 16),
        attention_head_dim=8,
        norm_num_groups=4,
    )
    process = DDIMScheduler(**PROCESS)
    ClassifierGuidancePipeline(tiny_unet(None), process, classifier, names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """Both models in float32, whatever this machine would choose."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "detect", lambda: Placement("cpu", "float32"))
        yield Catalogue(save_models(tmp_path_factory.mktemp("models")))


def final_pixels(settings: Settings, catalogue: Catalogue) -> np.ndarray:
    """(N, H, W, C) uint8."""
    *_, last = draw(settings, catalogue)
    return last.frames.final


# ------------------------------------------------------------------------------------------------------------- pieces


def test_grid_places_every_pixel_and_leaves_the_rest_transparent() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    sheet = np.asarray(grid(images, width=3 * 7 * 2 - 2))
    assert sheet.shape == (2 * 5 * 2 - 2, 3 * 7 * 2 - 2, 4)
    assert (sheet[10:18:2, 14:26:2, :3] == images[4]).all() and (sheet[11:18:2, 15:26:2, :3] == images[4]).all()
    assert (sheet[10:18, 28:, 3] == 0).all() and (sheet[8:10, :, 3] == 0).all() and sheet[..., 3].sum() == 255 * 5 * 96


def test_grid_never_shrinks_below_one_pixel() -> None:
    assert grid(np.zeros((1, 9, 9, 1), np.uint8), width=4).size == (9, 9)


def test_settings_survive_a_png(catalogue: Catalogue, tmp_path: Path) -> None:
    settings = Settings("tiny-cfg", "Ankle boot", 7, 1.5, 11, 3, "DDIM", 0.25, 0.1, 0.9, 0.3)
    path = image_metadata.save(Image.new("L", (8, 8)), tmp_path / "one.png", settings.of_image(2).as_json())
    recalled = Settings.recalled(image_metadata.read(path), catalogue)
    assert recalled == settings.of_image(2) and recalled.seed == 13


def test_settings_survive_the_png_that_gradio_writes(tmp_path: Path) -> None:
    from gradio.processing_utils import encode_pil_to_bytes

    path = tmp_path / "grid.png"
    tagged = image_metadata.tag(grid(np.zeros((1, 8, 8, 1), np.uint8)), Settings("größer").as_json())
    path.write_bytes(encode_pil_to_bytes(tagged, "png"))
    assert image_metadata.read(path)["model"] == "größer"


@pytest.mark.parametrize("content", [b"no image", None])
def test_a_file_without_settings_is_refused_by_name(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "holiday.png"
    Image.new("L", (4, 4)).save(path)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="holiday.png"):
        image_metadata.read(path)


def hostile_png(kind: str) -> bytes:
    """A small file that stands for much more: 40 MB of text, 30,000 x 30,000 pixels, or brackets in brackets."""
    side = {"pixels": 30_000, "more": 9_000}.get(kind, 4)
    packer = zlib.compressobj()
    text = {
        "text": lambda: b"".join(packer.compress(bytes(1_000_000)) for _ in range(40)) + packer.flush(),
        "deep": lambda: zlib.compress(b"[" * 100_000),
        "objects": lambda: zlib.compress(b'{"a":' * 100_000),
        "list": lambda: zlib.compress(b"[1, 2]"),
        "digits": lambda: zlib.compress(b'{"seed": ' + b"9" * 10_000 + b"}"),
    }.get(kind, lambda: zlib.compress(b"{}"))()
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0),
        b"zTXt": b"stepwise\0\0" + text,
        b"IDAT": zlib.compress(bytes(20)),
        b"IEND": b"",
    }
    packed = [struct.pack(">I", len(v)) + k + v + struct.pack(">I", zlib.crc32(k + v)) for k, v in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["text", "pixels", "more", "deep", "objects", "list", "digits"])
def test_a_file_that_stands_for_much_more_is_one_message(kind: str, catalogue: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(hostile_png(kind))
    with gr.Blocks():
        tab = GenerateTab(catalogue)
    *kept, text = tab.recall(str(path))
    assert "image must be a PNG that this page drew" in text and "bomb.png" in text
    assert [part for part in kept if part != gr.skip()] == [None], "the file goes, and all settings stay"


def test_what_no_longer_fits_is_forgotten_alone(catalogue: Catalogue) -> None:
    remembered = {"model": "tiny-ddpm", "class_name": "Bag", "steps": "nonsense", "count": 5, "unheard": 1}
    remembered |= {"seed": [1], "eta": {"a": 1}, "sampler": [["b"]], "guidance_scale": 10**400, "prompt": "\ud800"}
    assert Settings.recalled(remembered, catalogue) == Settings("tiny-ddpm", count=5)
    assert Settings.recalled({"model": "gone", "class_name": "Dress", "seed": 3}, catalogue) == Settings(
        "tiny-cfg", seed=3
    )


@pytest.mark.parametrize(
    ("flags", "bfloat16", "dtype", "channels_last"),
    [
        ({"avx512_bf16", "amx_bf16"}, True, "bfloat16", True),
        ({"avx512_bf16"}, True, "bfloat16", False),
        ({"avx512_bf16"}, False, "float32", True),
        ({"avx2", "avx512f"}, False, "float32", True),
    ],
)
def test_bfloat16_where_the_cpu_is_faster_with_it(
    flags: set[str], bfloat16: bool, dtype: str, channels_last: bool
) -> None:
    assert device.choose(frozenset(flags), bfloat16) == Placement("cpu", dtype, channels_last)


def test_an_accelerator_comes_first() -> None:
    assert device.choose(frozenset(), False, cuda=True).device == "cuda"
    assert device.choose(frozenset({"amx_bf16"}), True, mps=True) == Placement("mps", "float32", channels_last=False)


def test_cpuinfo_and_container_limits_are_read() -> None:
    assert cpu_flags("processor : 0\nflags\t\t: fpu amx_bf16\nflags : other\n") == {"fpu", "amx_bf16"}
    assert cpu_flags("") == frozenset()
    assert usable_cores(16, "200000 100000\n") == 2
    assert usable_cores(16, "max 100000") == 16 and usable_cores(4, "") == 4


def test_stop_concerns_one_visitor_until_cleared() -> None:
    stops = StopRequests()
    stops.press("a")
    assert stops.pressed("a") and not stops.pressed("b")
    stops.clear("a")
    assert not stops.pressed("a")


# --------------------------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 2.5),
        ("steps", 1001),
        ("steps", "many"),
        ("steps", 10**400),
        ("guidance_scale", float("nan")),
        ("guidance_scale", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("count", 17),
        ("count", True),
        ("class_name", "Unicorn"),
        ("class_name", ["Bag"]),
        ("model", "none"),
        ("sampler", "Euler"),
        ("eta", float("inf")),
        ("guidance_low", 0.8),
        ("guidance_rescale", 1.5),
    ],
)
def test_a_bad_value_is_answered_by_name(field: str, value: object, catalogue: Catalogue) -> None:
    wrong = problems({"guidance_high": 0.7, field: value}, catalogue)
    assert list(wrong) == [field] and field in wrong[field] and str(value).strip("[]") in wrong[field]
    with pytest.raises(ValueError, match=field):
        Settings.checked({"guidance_high": 0.7, field: value}, catalogue)


def test_no_more_steps_than_the_model_was_trained_with(tmp_path: Path) -> None:
    DDPMPipeline(tiny_unet(None), DDPMScheduler(num_train_timesteps=50)).save_pretrained(tmp_path / "short")
    wrong = problems({"steps": 51}, Catalogue({"short": tmp_path / "short"}))
    assert list(wrong) == ["steps"] and "at most 50" in wrong["steps"]


def test_good_values_pass_also_as_numbers_of_another_kind(catalogue: Catalogue) -> None:
    assert problems(Settings("tiny-cfg").as_dict(), catalogue) == {}
    assert Settings.checked({"steps": 3.0, "seed": "5"}, catalogue) == Settings("tiny-cfg", steps=3, seed=5)
    assert Settings.checked(dict.fromkeys(FIELDS), catalogue) == Settings("tiny-cfg")


# -------------------------------------------------------------------------------------------------------------- models


def test_what_a_model_can_do_is_read_from_its_files(catalogue: Catalogue) -> None:
    guided, plain = catalogue["tiny-cfg"], catalogue["tiny-ddpm"]
    assert guided.class_names == ("Bag", "Coat", "Ankle boot") and plain.class_names == ()
    assert "guidance_scale" in guided.accepts and "guidance_scale" not in plain.accepts
    assert guided.shape == (8, 8, 1) and set(guided.samplers) == set(plain.samplers) == set(SCHEDULERS)


def test_no_library_that_computes_is_imported_before_the_page_is_up(catalogue: Catalogue) -> None:
    code = (
        "import sys, app; from ui import build_demo; "
        f"build_demo({{'m': {str(catalogue['tiny-cfg'].folder)!r}}}); "
        "assert not {'torch', 'diffusers'} & set(sys.modules), 'too early'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_pipeline_without_steps_to_show_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(ValueError, match="StableDiffusionPipeline has no method 'stream'"):
        describe("m", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="model_index.json"):
        describe("m", tmp_path / "empty")
    with pytest.raises(ValueError, match="got none"):
        Catalogue({})


def test_a_folder_that_carries_no_code_runs_ours(tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, norm_num_groups=4, attention_head_dim=8, **blocks)
    DDPMPipeline(unet, DDPMScheduler(**PROCESS)).save_pretrained(tmp_path / "stock", carry_code=False)
    catalogue = Catalogue({"stock": tmp_path / "stock"})
    assert not catalogue["stock"].carries_code
    assert final_pixels(Settings("stock", steps=2, count=1), catalogue).shape == (1, 8, 8, 1)


# ------------------------------------------------------------------------------------------------------------- drawing


def test_a_model_that_a_classifier_guides_has_classes_and_its_own_scale(tmp_path: Path) -> None:
    steered = Catalogue({"named": save_steered(tmp_path / "a"), "numbered": save_steered(tmp_path / "b", None)})
    info = steered["named"]
    assert info.page and info.class_names == tuple(NAMES.values()) and "DDPM" in info.samplers
    assert steered["numbered"].labels == (0, 1, 2)
    shown = controls.looks(info, Settings("named"))
    assert shown["guidance_scale"]["info"].startswith("0 = off") and shown["guidance_scale"]["visible"]
    assert not shown["guidance_low"]["visible"]
    assert Settings.checked({"model": "named"}, steered).guidance_scale == 4.0
    for sampler in ("UniPC", "DDPM", "DDIM"):
        options = {"model": "named", "class_name": info.class_names[1], "steps": 3, "count": 2, "sampler": sampler}
        off, on = (final_pixels(Settings(**options, guidance_scale=s), steered) for s in (0.0, 30.0))
        assert not np.array_equal(off, on)


def test_a_scale_that_nobody_chose_changes_with_the_kind_of_guidance(tmp_path: Path) -> None:
    models = Catalogue({"steered": save_steered(tmp_path / "a"), **save_models(tmp_path)})
    with gr.Blocks():
        tab, place = GenerateTab(models), list(FIELDS).index("guidance_scale")
    for model, scale, expected in (
        ("steered", FIELDS["guidance_scale"].default, 4.0),
        ("tiny-cfg", 4.0, FIELDS["guidance_scale"].default),
        ("steered", 3.5, 3.5),
    ):
        values = Settings(model, guidance_scale=scale).as_dict()
        updates = tab.follow_model(*(values[name] for name in FIELDS))
        assert updates[place]["value"] == expected
    for model in ("steered", "tiny-cfg"):
        models.pipeline(model)  # is loading in the background


def test_models_that_load_at_the_same_time_leave_torch_as_it_was(tmp_path: Path) -> None:
    folders = save_models(tmp_path)
    for _ in range(5):
        models = Catalogue(folders)
        for thread in [models.warm(name) for name in models.names]:
            thread.join()
        assert all(models.is_loaded(name) for name in models.names)
        assert torch.nn.Linear(1, 1).weight.device.type == "cpu"


@pytest.mark.parametrize("sampler", SCHEDULERS)
@pytest.mark.parametrize("model", ["tiny-cfg", "tiny-ddpm"])
def test_every_sampler_draws_with_every_model(model: str, sampler: str, catalogue: Catalogue) -> None:
    whole = {"guidance_low": 0.0, "guidance_high": 1.0}
    *_, last = draw(Settings(model, steps=4, count=2, sampler=sampler, eta=0.5, **whole), catalogue)
    assert len(last.images) == 2 and last.frames.final.std() > 0
    halves = 2 if model == "tiny-cfg" else 1
    assert last.evaluations == halves * last.num_steps
    assert len(last.frames) == last.num_steps + 1 and last.num_steps == (7 if sampler == "Heun" else 4)


@pytest.mark.parametrize("sampler", SCHEDULERS)
@pytest.mark.parametrize("name", ["fashion-cfg", "fashion-classifier-guidance"])
def test_a_shipped_model_draws_a_bag_with_every_sampler(name: str, sampler: str) -> None:
    """A classifier that trains no generator says so; a solver that blows up leaves nothing between black and white."""
    shipped = Catalogue({name: ROOT / "model_cards" / name})
    given = {"model": name, "class_name": "Bag", "steps": 8, "count": 4, "sampler": sampler}
    pixels = torch.from_numpy(final_pixels(Settings.checked(given, shipped), shipped)).permute(0, 3, 1, 2) / 127.5 - 1
    judge = FeatureClassifier.from_pretrained(ROOT / "model_cards" / "fashion-features").eval()
    with torch.no_grad():
        said = [shipped[name].class_names[i] for i in judge(pixels).argmax(1)]
    assert said.count("Bag") >= 3, said
    assert float((pixels.abs() < 0.8).float().mean()) > 0.15


@pytest.mark.parametrize("class_name", ["any", "Coat"])
def test_an_image_does_not_depend_on_the_count(class_name: str, catalogue: Catalogue) -> None:
    batch = Settings("tiny-cfg", class_name, steps=3, count=4, sampler="DDPM")
    alone = Settings(**(batch.of_image(2).as_dict() | {"count": 1}))
    assert (final_pixels(batch, catalogue)[2] == final_pixels(alone, catalogue)[0]).all()


def test_any_class_means_different_ones(catalogue: Catalogue) -> None:
    classes = Settings("tiny-cfg", count=16).classes(catalogue["tiny-cfg"])
    assert set(classes) == {0, 1, 2}


def test_closing_a_run_stops_the_network(catalogue: Catalogue) -> None:
    calls = []
    unet = catalogue.pipeline("tiny-cfg").unet
    handle = unet.register_forward_hook(lambda *_: calls.append(1))
    run = draw(Settings("tiny-cfg", steps=50, count=1), catalogue)
    for _ in range(3):
        next(run)
    run.close()
    handle.remove()
    assert len(calls) == 3 and len(unet._forward_hooks) == 0


def test_two_visitors_do_not_disturb_each_other(catalogue: Catalogue) -> None:
    mine, theirs = (
        Settings("tiny-cfg", steps=4, count=1),
        Settings("tiny-cfg", steps=4, count=1, sampler="DDPM", seed=9),
    )
    expected = final_pixels(mine, catalogue)
    *_, (last, _) = zip(draw(mine, catalogue), draw(theirs, catalogue), strict=True)
    assert (last.frames.final == expected).all()


def test_a_long_run_keeps_a_bounded_number_of_frames(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "STORED_FRAMES", 5)
    *_, last = draw(Settings("tiny-ddpm", steps=13, count=1), catalogue)
    assert last.frames.steps == [1, 4, 7, 10, 13] and len(last.frames) == 6
    assert last.frames.caption(0).startswith("step 1 of 13") and "after step 13" in last.frames.caption(999)


# ------------------------------------------------------------------------------------------------------------ the code


def test_the_code_draws_the_same_images_in_a_fresh_process(catalogue: Catalogue, tmp_path: Path) -> None:
    runs = [
        Settings("tiny-cfg", steps=3, count=3, guidance_scale=1.7, seed=20),
        Settings("tiny-cfg", "Bag", steps=3, count=2, sampler="DDIM", eta=0.5, seed=30),
        Settings("tiny-ddpm", steps=3, count=2, sampler="DDPM", seed=40),
        Settings("tiny-ddpm", steps=3, count=2, sampler="DDIM", seed=50),
        Settings("tiny-ddpm", steps=3, count=2, sampler="Heun", seed=60),
    ]
    for i, settings in enumerate(runs):
        (tmp_path / f"{i}.py").write_text(snippet(settings, catalogue[settings.model], device.detect()))
    driver = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"for i in range({len(runs)}): exec(open(f'{{i}}.py').read(), {{}})"
    )
    run_elsewhere(tmp_path, driver, environment=dict(os.environ))
    for settings in runs:
        for i, expected in enumerate(final_pixels(settings, catalogue)):
            drawn = np.asarray(Image.open(tmp_path / f"{settings.seed + i}.png"))
            assert (drawn == expected[..., 0]).all(), settings


def test_the_code_says_what_the_fast_path_does(catalogue: Catalogue) -> None:
    text = snippet(Settings("tiny-cfg"), catalogue["tiny-cfg"], Placement("cuda", "bfloat16"))
    assert "dtype=torch.bfloat16" in text and '.to("cuda")' in text and "channels_last" in text
    assert "channels_last" not in snippet(
        Settings("tiny-ddpm"), catalogue["tiny-ddpm"], Placement("mps", "float32", False)
    )
