"""One image under a model: noised as the schedule says, predicted, stepped back, inverted and judged; bad uploads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from test_ui import PROCESS, save_models, save_steered, tiny_unet

from pipelines import DDIMPipeline, DDPMPipeline, NoiseSchedule
from training.metrics.likelihood import bound_term, prior_term, reverse_step
from ui import device, uploads
from ui.catalogue import Catalogue
from ui.device import Placement
from ui.own_image import process, samples, settings, shown
from ui.own_image.api import add_endpoints
from ui.own_image.bench import Bench, to_input, to_pixels
from ui.own_image.process import Whole, follow, look, timesteps_of
from ui.own_image.samples import OWN
from ui.tabs.own_image import OwnImageTab

SESSION = SimpleNamespace(session_hash="visitor", query_params={})
PIXELS = np.random.default_rng(3).integers(0, 256, (8, 8, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """A guided, an unconditional, a steered and a learned-variance model, in float32."""
    from diffusers import DDPMScheduler

    folder = tmp_path_factory.mktemp("models")
    models = save_models(folder) | {"tiny-steered": save_steered(folder / "tiny-steered")}
    torch.manual_seed(1)
    network = type(tiny_unet(None)).from_config(dict(tiny_unet(None).config) | {"out_channels": 2})
    scheduler = DDPMScheduler(**PROCESS | {"variance_type": "learned_range"})
    DDPMPipeline(network, scheduler).save_pretrained(folder / "tiny-learned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "detect", lambda: Placement("cpu", "float32"))
        yield Catalogue(models | {"tiny-learned": folder / "tiny-learned"})


@pytest.fixture(scope="module")
def tab(catalogue: Catalogue) -> OwnImageTab:
    with gr.Blocks() as demo:
        with gr.Tab("Your image") as opened:
            made = OwnImageTab(catalogue)
            made.connect(opened)
        made.open(demo)
    return made


def chosen(catalogue: Catalogue, **values: Any) -> settings.Settings:
    return settings.checked({"model": "tiny-ddpm", "steps": 5} | values, catalogue)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves of few points."""
    monkeypatch.setattr(process, "POINTS", 4)


def values_of(asked: settings.Settings, upload: Any = None) -> list[Any]:
    return [*asked.as_dict().values(), upload]


# ------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("model", ["tiny-ddpm", "tiny-cfg", "tiny-learned"])
def test_at_one_t_it_is_the_forward_process_the_prediction_and_a_step_of_ddim(catalogue: Catalogue, model: str) -> None:
    asked = chosen(catalogue, model=model, t=600, back=150, eta=0.5, seed=11)
    found = look(asked, catalogue, PIXELS)
    pipe = catalogue.pipeline(model)
    schedule, x0 = NoiseSchedule.from_scheduler(pipe.scheduler), to_input(PIXELS)
    eps, z = (torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(11 + i)).double()[None] for i in range(2))
    x_t = schedule.add_noise(x0, eps, 600)
    labels, _ = pipe.resolve_labels(None, 1)
    told = {} if labels is None else {"class_labels": labels}
    with torch.no_grad():
        output = pipe.network(x_t.float(), 600, **told).double()
    predicted = schedule.predict_x0(output[:, :1], x_t, 600, "v_prediction").clamp(-1, 1)
    eps_hat = schedule.predict_eps(predicted, x_t, 600, "sample")
    x_s = DDIMPipeline.step(schedule, x_t, eps_hat, 600, 450, 0.5, z)
    for name, expected in {"x0": x0, "x_t": x_t, "predicted": predicted, "x_s": x_s}.items():
        assert np.abs(found.images[name].astype(int) - to_pixels(expected)).max() <= 1, name
    assert (found.images["x0"] == PIXELS).all() and found.s == 450
    times = torch.tensor([600])
    kind = pipe.variance_type
    step = reverse_step(output, x_t, times, schedule, kind, "v_prediction", clip_denoised=True)
    assert found.loss == pytest.approx(float(bound_term(*step, x0, x_t, times, schedule)), rel=1e-6)
    assert found.error == pytest.approx(float((predicted - x0).square().mean().sqrt() / 2), rel=1e-6)


def test_the_loss_is_the_bound_of_the_evaluation_at_every_t_of_the_curves(catalogue: Catalogue) -> None:
    *_, whole = follow(chosen(catalogue, model="tiny-learned", steps=2), catalogue, PIXELS)
    assert whole.timesteps == timesteps_of(1000) and whole.timesteps[0] == 0 and whole.timesteps[-1] == 999
    bench = Bench(catalogue.pipeline("tiny-learned"), chosen(catalogue, model="tiny-learned"))
    x0 = to_input(PIXELS).expand(process.DRAWS, 1, 8, 8)
    noise = torch.stack(
        [torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(7 + i)).double() for i in range(process.DRAWS)]
    )
    for index in (0, 1, 3):
        t = whole.timesteps[index]
        times = torch.full((process.DRAWS,), t)
        x_t = bench.schedule.add_noise(x0, noise, t)
        output = bench.network(x_t, t)
        step = reverse_step(output, x_t, times, bench.schedule, "learned_range", "v_prediction", clip_denoised=True)
        expected = bound_term(*step, x0, x_t, times, bench.schedule, cdf="normal").mean()
        assert whole.losses[index] == pytest.approx(float(expected), rel=1e-6)
    assert whole.prior == pytest.approx(float(prior_term(to_input(PIXELS), bench.schedule)), rel=1e-9)


def test_the_way_to_noise_is_ddim_inversion_and_the_way_back_is_ddim(catalogue: Catalogue) -> None:
    """The untrained network says v = 0 or so: 20 steps return nearer than 2, as the first order of D3 says."""
    errors = {}
    for steps in (2, 20):
        *_, whole = follow(chosen(catalogue, steps=steps), catalogue, PIXELS)
        assert whole.done == whole.total == len(whole.timesteps) + 2 * steps and whole.returned.shape == (8, 8, 1)
        errors[steps] = whole.return_error
    assert errors[20] < errors[2] / 3
    pipe = catalogue.pipeline("tiny-ddpm")
    inverted = DDIMPipeline(pipe.unet, pipe.scheduler).invert(to_input(PIXELS).float(), 20)
    t, last = whole.up[-1]
    assert t == 999 and np.abs(last.astype(int) - to_pixels(inverted)).max() <= 1
    assert whole.noise_std == pytest.approx(float(inverted.std()), rel=1e-3)
    assert [t for t, _ in whole.up] == sorted(t for t, _ in whole.up)
    assert [t for t, _ in whole.down] == sorted((t for t, _ in whole.down), reverse=True)


def test_the_classifier_is_asked_about_the_noisy_image(catalogue: Catalogue) -> None:
    asked = chosen(catalogue, model="tiny-steered", t=300, steps=1)
    found = look(asked, catalogue, PIXELS)
    pipe = catalogue.pipeline("tiny-steered")
    noise = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(7)).double()
    x_t = NoiseSchedule.from_scheduler(pipe.scheduler).add_noise(to_input(PIXELS), noise[None], 300)
    with torch.no_grad():
        expected = pipe.classifier(x_t.float(), 300).double().softmax(1)[0]
    assert found.opinion == pytest.approx(expected.tolist(), abs=1e-6)
    *_, whole = follow(asked, catalogue, PIXELS)
    assert len(whole.opinions) == len(whole.timesteps)
    assert [sum(row) for row in whole.opinions] == pytest.approx([1.0] * len(whole.opinions))
    plots = shown.plots_of(whole, catalogue["tiny-steered"])
    assert [plot["title"] for plot in plots][-1] == "The classifier's opinion"
    assert {layer["label"] for layer in plots[-1]["layers"]} == {"Bag", "Coat", "Ankle boot"}
    assert not look(chosen(catalogue), catalogue, PIXELS).opinion


def test_a_network_without_an_answer_is_told_in_a_line(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = catalogue.pipeline("tiny-ddpm")
    monkeypatch.setattr(type(pipe), "network", lambda self, x_t, t, **told: x_t * torch.nan)
    with pytest.raises(ValueError, match=r"^model tiny-ddpm predicts nothing here: NaN or infinite at t = 400$"):
        look(chosen(catalogue), catalogue, PIXELS)
    monkeypatch.setattr(type(pipe), "network", lambda self: None)
    with pytest.raises(ValueError, match=r"^model tiny-ddpm cannot show this: TypeError"):
        look(chosen(catalogue), catalogue, PIXELS)


# ------------------------------------------------------------------------------------------------------- the uploads


def save(path: Path, image: Image.Image) -> str:
    image.save(path)
    return str(path)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.new("RGBA", (20, 10), (0, 0, 0, 0)), "the middle 10x10 of 20x10 pixels, scaled to 8x8, in grey"),
        (Image.fromarray(np.full((8, 8), 255 << 8, np.uint16)), "in grey"),
        (Image.new("RGB", (300, 300), "white"), "scaled to 8x8, in grey"),
    ],
    ids=["transparent", "16 bits", "another size"],
)
def test_an_upload_of_any_kind_is_seen_as_the_model_draws_and_that_is_said(
    tab: OwnImageTab, catalogue: Catalogue, tmp_path: Path, image: Image.Image, said: str
) -> None:
    upload, _, name, note = tab.receive(save(tmp_path / "mine.png", image))
    assert name == OWN and note == ""
    pixels = samples.given(OWN, upload, catalogue["tiny-ddpm"])
    assert pixels.shape == (8, 8, 1) and (pixels == 255).all(), "white: what is transparent lies on white"
    assert samples.note(OWN, upload, catalogue["tiny-ddpm"]) == said
    html, problem, note, link = tab.look(*values_of(chosen(catalogue, image=OWN), upload))
    assert "x̂₀" in html and problem == "" and said in note and "image=your+own" in link


def test_a_file_that_is_no_image_and_one_of_100_megapixels_are_refused(
    tab: OwnImageTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = save(tmp_path / "huge.png", Image.new("1", (10_000, 10_000)))
    kept, _, name, note = tab.receive(huge)
    assert kept == name == gr.skip() and "at most 80,000,000 pixels, got" in note and 'role="alert"' in note
    (tmp_path / "note.png").write_text("no image")
    assert "must be an image that can be read" in tab.receive(str(tmp_path / "note.png"))[3]
    monkeypatch.setattr(uploads, "MOST_PIXELS", 50)
    assert "got 8x8 in small.png" in tab.receive(save(tmp_path / "small.png", Image.new("L", (8, 8))))[3]


def test_an_upload_that_is_gone_is_asked_for_again(tab: OwnImageTab, catalogue: Catalogue) -> None:
    kept, said, *_ = tab.look(*values_of(chosen(catalogue, image=OWN)))
    assert kept == gr.skip() and "upload it again" in said
    with pytest.raises(gr.Error, match="upload it again"):
        tab.begin(SESSION, *values_of(chosen(catalogue, image=OWN)))


# -------------------------------------------------------------------------------------------------------- the settings


def test_only_models_that_denoise_pixels_on_a_schedule_are_offered(catalogue: Catalogue, tmp_path: Path) -> None:
    assert settings.fitting(catalogue) == ["tiny-steered", "tiny-cfg", "tiny-ddpm", "tiny-learned"]
    shipped = Path(__file__).resolve().parent.parent / "model_cards"
    names = ("fashion-flow", "fashion-ddpm", "fashion-cfg", "fashion-classifier-guidance")
    fitting = settings.fitting(Catalogue({name: shipped / name for name in names}))
    assert fitting == ["fashion-classifier-guidance", "fashion-ddpm", "fashion-cfg"]
    flow = Catalogue({"flow": shipped / "fashion-flow"})
    assert settings.fitting(flow) == []
    with gr.Blocks() as demo, gr.Tab("Your image") as opened:
        add_endpoints(flow)
        empty = OwnImageTab(flow)
        empty.connect(opened)
        empty.open(demo)


def test_a_class_is_for_networks_that_are_told_one(catalogue: Catalogue) -> None:
    visible = {name: settings.own_words(catalogue, name)["class_name"]["visible"] for name in catalogue.names}
    assert visible == {"tiny-cfg": True, "tiny-ddpm": False, "tiny-steered": False, "tiny-learned": False}
    with pytest.raises(ValueError, match="class_name must be one of none; got 'Bag'"):
        chosen(catalogue, model="tiny-steered", class_name="Bag")
    told, alone = (
        look(chosen(catalogue, model="tiny-cfg", class_name=name), catalogue, PIXELS) for name in ("Bag", "none")
    )
    assert (told.images["x_t"] == alone.images["x_t"]).all() and told.error != alone.error


def test_a_class_without_a_name_of_its_own_is_told_by_its_number(catalogue: Catalogue, tmp_path: Path) -> None:
    """Models without names, as converted ones are, and two classes of one name."""
    place, told = tmp_path / "nameless", []
    shutil.copytree(catalogue["tiny-cfg"].folder, place)
    index = json.loads((place / "model_index.json").read_text())
    for names in (None, {"0": "crane", "1": "crane", "2": "Boot"}):
        (place / "model_index.json").write_text(json.dumps(index | {"id2label": names}))
        own = Catalogue({"nameless": place})
        shown = own["nameless"].class_names[0]
        told.append(look(chosen(own, model="nameless", class_name=shown), own, PIXELS).error)
    named = chosen(catalogue, model="tiny-cfg", class_name=catalogue["tiny-cfg"].class_names[0])
    assert told == [look(named, catalogue, PIXELS).error] * 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"t": 1000}, "t must be at most 999 with model tiny-cfg, got 1000"),
        ({"t": "late"}, "t must be a whole number from 0 to 9999, got 'late'"),
        ({"steps": 0}, "steps must be a whole number from 1 to 10000, got 0"),
        ({"back": 0}, "back must be a whole number from 1 to 10000, got 0"),
        ({"eta": 1.5}, "eta must be a number from 0 to 1, got 1.5"),
        ({"class_name": "Cat"}, "class_name must be one of none, Bag, Coat, Ankle boot; got 'Cat'"),
        ({"image": "Cat"}, "image must be one of T-shirt/top, test image, "),
        ({"model": "emoji"}, "model must be one of tiny-steered, tiny-cfg, tiny-ddpm, tiny-learned; got 'emoji'"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, got -1"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(catalogue: Catalogue, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        settings.checked({"model": "tiny-cfg"} | values, catalogue)
    assert str(error.value).startswith(said)


def test_a_link_opens_the_tab_with_its_settings_and_says_what_it_left_out(
    tab: OwnImageTab, catalogue: Catalogue
) -> None:
    asked = chosen(catalogue, model="tiny-cfg", t=123, class_name="Coat", image="Bag, training image", steps=9)
    parts = dict(part.split("=") for part in settings.query(asked)[1:].split("&"))
    link = {name: value.replace("+", " ").replace("%2C", ",").replace("%2F", "/") for name, value in parts.items()}
    assert link["tab"] == "image"
    *controls, said = tab.restore(SimpleNamespace(query_params=link))
    assert [each["value"] for each in controls] == list(asked.as_dict().values()) and said == gr.skip()
    *controls, said = tab.restore(SimpleNamespace(query_params=link | {"t": "5000"}))
    assert controls[2]["value"] == 400 and "t must be at most 999" in said
    *controls, said = tab.restore(SimpleNamespace(query_params={"model": "tiny-cfg", "t": "5000"}))
    assert said == gr.skip(), "a link to another tab says nothing to this one"
    assert tab.look_opened(SimpleNamespace(query_params={}), *values_of(asked))[0] == gr.skip()


# -------------------------------------------------------------------------------------------------------------- the run


def test_a_run_shows_its_progress_and_stop_ends_it_where_it_is(
    tab: OwnImageTab, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.tabs.own_image.SHOWN_EVERY", 0.0)
    values = values_of(chosen(catalogue, steps=3))
    tab.begin(SESSION, *values)
    run = tab.run(SESSION, *values)
    *_, said, _, _ = next(run)
    assert "Step 1 of 10, over t" in said
    tab.stop_requests.press("visitor")
    *_, (plots, story, said, draw, stop) = run
    assert "Stopped after step 2 of 10" in said and draw["interactive"] and not stop["interactive"]
    assert "L<sub>T</sub>" in story and plots != gr.skip()
    tab.begin(SESSION, *values)
    *_, (_, story, said, _, _) = tab.run(SESSION, *values)
    assert "Followed over all t" in said and "returned" in story and "under tiny-ddpm, over t</h2>" in story


def test_a_run_that_fails_says_why_and_can_be_tried_again(
    tab: OwnImageTab, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Iterator[Whole]:
        raise ValueError("model tiny-ddpm cannot be loaded: no weights")
        yield

    monkeypatch.setattr("ui.tabs.own_image.follow", failing)
    (last,) = tab.run(SESSION, *values_of(chosen(catalogue)))
    assert "no weights" in last[2] and last[3]["interactive"] and last[0] == gr.skip()
