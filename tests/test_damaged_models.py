"""Models of others on the page: names that break files and HTML, damaged folders, weights that are missing or NaN."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from test_ui import PROCESS, save_models, tiny_unet
from text_models import text_pipeline

import app
from pipelines import ClassifierFreeGuidancePipeline
from ui import build_demo, device
from ui.catalogue import Catalogue, describe
from ui.device import Placement
from ui.loading import load
from ui.outputs import files, status
from ui.run import Frames, Progress, draw
from ui.settings import Settings

DEEP = '{"a":' * 100_000  # no JSON reader goes that deep
CPU = Placement("cpu", "float32")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "detect", lambda: CPU)
        yield save_models(tmp_path_factory.mktemp("good"))["tiny-ddpm"]


def changed(good: Path, place: Path, change: Callable[[dict[str, torch.Tensor]], object], part: str = "unet") -> Path:
    """A copy of a model whose weights of a part were changed."""
    shutil.copytree(good, place)
    (path,) = (place / part).glob("*.safetensors")
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})
    return place


# --------------------------------------------------------------------------------------------------------------- names


def test_classes_of_any_name_are_drawn_saved_and_read_back(tmp_path: Path) -> None:
    names = ["B" * 260, "\U00020000" * 260, "İ" * 260, "../../etc/passwd", "a\0b\n", "\ud800x", " "]
    scheduler, labels = DDIMScheduler(**PROCESS), {str(i): name for i, name in enumerate(names)}
    ClassifierFreeGuidancePipeline(tiny_unet(8), scheduler, labels).save_pretrained(tmp_path / "model")
    models = Catalogue({"model": tmp_path / "model"})
    for name, shown in zip(names, models["model"].class_names, strict=True):
        assert shown.encode() and (shown == name or "\ud800" in name), "a page is UTF-8"
        settings = Settings.checked({"class_name": shown, "steps": 1, "count": 2}, models)
        *_, last = draw(settings, models, previews=False)
        written = files(settings, models, last, tmp_path)
        assert [Path(path).parent for path, _ in written] == [tmp_path] * 2 and len({path for path, _ in written}) == 2
        assert json.loads(Image.open(written[1][0]).info["stepwise"])["class_name"] == shown


def test_names_and_messages_reach_the_page_as_text(good: Path, tmp_path: Path) -> None:
    assert "<p>Loading &lt;q&gt;&amp; …</p>" in status("Loading <q>& …")
    (tmp_path / "<q>bad").mkdir()
    page = build_demo(Catalogue({"<s>good": good, "<q>bad": tmp_path / "<q>bad", "caf\udce9": good}))
    shown = [part["props"].get("value") or "" for part in page.config["components"] if part["type"] == "html"]
    assert any("&lt;q&gt;bad is left out: model must hold" in text for text in shown)
    assert any("Loading &lt;s&gt;good" in text for text in shown) and not any(
        "<q>" in text or "<s>" in text for text in shown
    )
    json.dumps(page.config, ensure_ascii=False, default=str).encode()


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model_index.json").write_text(DEEP),
        lambda folder: (folder / "model_index.json").write_text("[1, 2]"),
        lambda folder: (folder / "model_index.json").write_bytes(b"\xff\xfe\x00"),
        lambda folder: (folder / "unet" / "config.json").write_text('{"sample_size": "large"}'),
        lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text("[]"),
        lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text('{"num_train_timesteps": "many"}'),
        lambda folder: shutil.rmtree(folder),
    ],
    ids=["deep", "list", "bytes", "size", "scheduler", "timesteps", "gone"],
)
def test_a_damaged_folder_keeps_no_other_model_from_opening(
    damage: Callable[[Path], object], good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "cards" / "a-cfg-bad"
    shutil.copytree(good, bad)
    damage(bad)
    shutil.copytree(good, tmp_path / "cards" / "good")
    models = Catalogue({"bad": bad, "good": good})
    assert models.names == ["good"] and list(models.left_out) == ["bad"]
    assert str(bad) in models.left_out["bad"] and "\n" not in models.left_out["bad"]
    with pytest.raises(ValueError, match="model"):
        Catalogue({"bad": bad})
    monkeypatch.setattr(app, "CARDS", tmp_path / "cards")
    assert Catalogue(app.shipped_models()).names == ["good"]


# ------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights["conv_out.weight"].fill_(float("nan")),
            "unet has weights .* NaN or infinite: conv_out",
        ),
        (
            lambda weights: weights["conv_in.bias"].fill_(float("inf")),
            "unet has weights .* NaN or infinite: conv_in",
        ),
        (lambda weights: weights.pop("conv_out.weight"), "unet lacks conv_out.weight$"),
        (lambda weights: [weights.pop(name) for name in list(weights)[:9]], "unet lacks .* and 8 more$"),
        (lambda weights: weights.update({"conv_out.weight": torch.zeros(3)}), "conv_out.weight expected shape"),
    ],
    ids=["nan", "infinite", "missing", "nine", "shape"],
)
def test_weights_that_cannot_draw_are_named(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, good: Path, tmp_path: Path
) -> None:
    models = Catalogue({"mine": changed(good, tmp_path / "mine", change), "good": good})
    with pytest.raises(ValueError, match=f"^model mine cannot be loaded: .*{message}") as caught:
        next(draw(Settings("mine", steps=1, count=1), models))
    assert "\n" not in str(caught.value)
    assert next(draw(Settings("good", steps=1, count=1), models)).index == 1
    models.warm("mine").join()  # says so in the log, too


def test_a_text_encoder_is_not_drawn_at_random(tmp_path: Path) -> None:
    text_pipeline().save_pretrained(tmp_path / "whole")
    load(describe("whole", tmp_path / "whole"), CPU)
    lost = changed(
        tmp_path / "whole", tmp_path / "lost", lambda weights: weights.pop(sorted(weights)[3]), "text_encoder"
    )
    with pytest.raises(ValueError, match="model lost cannot be loaded: text_encoder lacks"):
        load(describe("lost", lost), CPU)


@pytest.mark.parametrize("code", ["import nothing_of_that_name", "import sys; sys.exit(3)", "1 / 0", "def"])
def test_code_that_fails_is_said_in_a_line(code: str, good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "mine")
    info = describe("mine", tmp_path / "mine")
    for source in (tmp_path / "mine").glob("*.py"):
        source.write_text(code + "\n" + source.read_text())
    with pytest.raises(ValueError, match="^model mine cannot be loaded: .+") as caught:
        load(info, CPU)
    assert "\n" not in str(caught.value)


def test_values_that_overflow_while_drawing_are_no_black_images(good: Path, tmp_path: Path) -> None:
    huge = changed(good, tmp_path / "huge", lambda weights: [weight.fill_(3e38) for weight in weights.values()])
    models = Catalogue({"huge": huge})
    with pytest.raises(ValueError, match="model huge draws no image with these settings: NaN or infinite after"):
        list(draw(Settings("huge", steps=2, count=1), models, previews=False))


def test_a_failure_of_the_models_code_names_the_model(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Catalogue({"mine": good})
    monkeypatch.setattr(type(models.pipeline("mine").unet), "forward", lambda *args, **kwargs: {}["sample"])
    with pytest.raises(ValueError, match="^model mine cannot draw this: KeyError: 'sample'$"):
        list(draw(Settings("mine", steps=2, count=1), models))


def test_files_of_a_run_have_names_that_every_system_takes(good: Path, tmp_path: Path) -> None:
    name = "\U00020000" * 200
    models = Catalogue({name: good})
    frames = Frames(final=np.zeros((1, 2, 2, 1), np.uint8))
    progress = Progress(frames, 1, 1, 1.0, 1.0, [Image.new("L", (2, 2))])
    ((path, _),) = files(Settings(name, seed=2**32 - 1, count=1), models, progress, tmp_path)
    assert len(Path(path).name.encode()) <= 255
