"""The film of a run: steps by their number, what stands beside what, the formula of each sampler, playing, saving."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image
from test_ui import PROCESS, save_models, tiny_unet
from text_models import text_pipeline

from pipelines import FlowMatchingPipeline, ScoreSDEPipeline
from pipelines.about import of_class, pipeline_names
from ui import device, film, formulas, run
from ui.catalogue import Catalogue
from ui.device import Placement
from ui.film import Film, explained, write_gif
from ui.outputs import grid, looked_back
from ui.run import BESIDE, PREVIEWS, VIEWS, Frames, draw
from ui.samplers import FLOW_SCHEDULERS, SCHEDULERS, with_sampler
from ui.settings import Settings
from ui.uploads import Start


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """A model of each kind: with classes, without, told text, a flow, an SDE."""
    root = tmp_path_factory.mktemp("films")
    text_pipeline().save_pretrained(root / "words")
    FlowMatchingPipeline(tiny_unet(None), FlowMatchEulerDiscreteScheduler()).save_pretrained(root / "flow")
    ScoreSDEPipeline(tiny_unet(None), DDPMScheduler(**PROCESS)).save_pretrained(root / "sde")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "detect", lambda: Placement("cpu", "float32"))
        yield Catalogue(save_models(root) | {name: root / name for name in ("words", "flow", "sde")})


def frames_of(catalogue: Catalogue, start: Start | None = None, **values: Any) -> Frames:
    settings = Settings.checked({"steps": 4, "count": 2, "guidance_low": 0.0} | values, catalogue)
    *_, last = draw(settings.beginning_with("image" if start else "noise"), catalogue, start)
    return last.frames


@pytest.fixture(scope="module")
def frames(catalogue: Catalogue) -> Frames:
    """Of a run of four steps."""
    return frames_of(catalogue, model="tiny-ddpm", sampler="DDIM", seed=7)


@pytest.fixture(scope="module")
def made() -> Film:
    with gr.Blocks():
        return Film()


# ---------------------------------------------------------------------------------------------------------- scrubbing


def test_the_scrubber_counts_steps(frames: Frames, made: Film) -> None:
    reach = made.reach(frames)
    assert reach["maximum"] == reach["value"] == 4 and made.scrubber.minimum == 1
    for step in (1, 2, 3):
        image, line, captions, text, _ = made.look_back(frames, step, BESIDE)
        assert f"step {step} of 4" in line and captions["visible"] and "Here t" in text["value"]
        assert image.tobytes() == looked_back(frames, step - 1, BESIDE).tobytes()
    image, line, captions, text, _ = made.look_back(frames, 4, BESIDE)
    assert image.tobytes() == grid(frames.final).tobytes() and "the images after step 4" in line
    assert not captions["visible"] and "Here t" not in text["value"]


def test_a_long_or_a_stopped_run_counts_steps_too(
    catalogue: Catalogue, made: Film, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "STORED_FRAMES", 5)
    long = frames_of(catalogue, model="tiny-ddpm", steps=13, count=1)
    assert made.reach(long)["maximum"] == 13
    near = {step: made.look_back(long, step, BESIDE)[1] for step in (1, 5, 9, 12, 13)}
    assert [f"step {n} of 13" in near[step] for step, n in ((1, 1), (5, 4), (9, 10), (12, 13))] == [True] * 4
    assert "the images" in near[13]
    long.final = None
    assert made.reach(long)["maximum"] == 13 and "step 13 of 13, t" in made.look_back(long, 13, BESIDE)[1]


def test_the_noisy_images_stand_left_of_the_predicted_ones(frames: Frames) -> None:
    both = np.asarray(looked_back(frames, 1, BESIDE))
    noisy, predicted = (np.asarray(grid(frames.image(1, kind), film_width())) for kind in reversed(PREVIEWS))
    assert (both[:, : noisy.shape[1]] == noisy).all() and (both[:, -predicted.shape[1] :] == predicted).all()
    assert both[:, noisy.shape[1] : -predicted.shape[1], -1].max() == 0 and not np.array_equal(noisy, predicted)


def film_width() -> int:
    from ui.outputs import WIDTH

    return WIDTH // 2


def test_playing_shows_each_step_and_ends_with_the_images(
    frames: Frames, made: Film, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(film, "FRAME_SECONDS", 0.0)

    async def played(step: float) -> list[list[Any]]:
        return [shown async for shown in made.play(frames, step, BESIDE)]

    whole = asyncio.run(played(4))
    assert [shown[5] for shown in whole[:-1]] == [1, 2, 3, 4, 4]
    assert "the images" in whole[-2][1] and whole[-1][6]["visible"] and not whole[-1][7]["visible"]
    assert [shown[5] for shown in asyncio.run(played(3))[:-1]] == [3, 4, 4]
    assert asyncio.run(_first(made.play(None, 1, BESIDE))) == [gr.skip()] * 8


async def _first(shown: Any) -> list[Any]:
    return await anext(shown)


# ----------------------------------------------------------------------------------------------------------- formulas


def test_every_sampler_has_its_formula() -> None:
    offered = {*SCHEDULERS, *FLOW_SCHEDULERS}
    for name in pipeline_names():
        offered |= set(of_class(name).says.get("page", {}).get("sampler", {}).get("choices", ()))
    assert offered == set(formulas.FORMULAS) and "ode_adaptive" in offered


def test_a_sampler_without_a_row_is_told_by_what_holds_for_all(catalogue: Catalogue) -> None:
    settings = Settings("sde", sampler="of one's own")
    assert formulas.formula_of(settings, catalogue["sde"]) == formulas.Formula()


@pytest.mark.parametrize(
    ("model", "sampler"),
    [
        *(("tiny-ddpm", sampler) for sampler in SCHEDULERS),
        ("tiny-cfg", "DDIM"),
        ("words", "Euler"),
        ("flow", "midpoint"),
        ("sde", "euler_maruyama"),
        ("sde", "annealed_langevin"),
        ("sde", "ode_heun"),
    ],
)
def test_the_numbers_of_each_step_hold(model: str, sampler: str, catalogue: Catalogue) -> None:
    """x_t = a x_0 + b eps in every process, with more signal and less noise from step to step."""
    own = {"words": {"prompt": "a fox"}, "sde": {"sde": "ve" if sampler == "annealed_langevin" else "vp"}}
    drawn = frames_of(catalogue, model=model, sampler=sampler, **own.get(model, {}))
    assert len(drawn.levels) == len(drawn.steps) and None not in drawn.levels
    a, b = np.array(drawn.levels).T
    assert (np.diff(np.arctan2(b, a)) <= 1e-6).all() and b[0] > 0.5
    if model == "flow":
        assert np.allclose(a + b, 1, atol=1e-4)
    assert drawn.formula == formulas.formula_of(Settings(model, sampler=sampler), catalogue[model])
    assert f"x<sub>t</sub> = {round(a[1], 4):.3g} x̂<sub>0</sub>" in explained(drawn.formula, 1.0, drawn.levels[1])


def test_a_run_from_an_image_has_its_film(catalogue: Catalogue, tmp_path: Path) -> None:
    start = Start(Image.fromarray(np.full((16, 16, 3), 120, np.uint8)))
    drawn = frames_of(catalogue, start, model="words", prompt="a fox", strength=0.5)
    assert len(drawn) == 3 and None not in drawn.levels and drawn.levels[0][0] > 0.2
    assert _opened(write_gif(drawn, BESIDE, tmp_path))[0].shape[2] == 3


def test_formulas_say_what_the_samplers_compute(catalogue: Catalogue) -> None:
    def steps(model: str, sampler: str) -> list[Any]:
        pipe = catalogue.pipeline(model)
        swapped = with_sampler(pipe, sampler if model == "tiny-ddpm" else None, 5)
        named = {} if model == "tiny-ddpm" else {"sampler": sampler}
        return list(swapped.stream(num_inference_steps=5, batch_size=1, **named))

    for model, sampler in (("tiny-ddpm", "DDIM"), ("tiny-ddpm", "DPM-Solver++"), ("flow", "euler")):
        before, step, after = steps(model, sampler)[1:4]
        (a, b), (a_s, b_s) = formulas.levels(step), formulas.levels(after)
        x_t, x0, eps = step.x_t, step.pred_original_sample, step.eps
        a_0, b_0 = formulas.levels(before)
        h, h_before = (np.log(p / q) - np.log(r / s) for p, q, r, s in ((a_s, b_s, a, b), (a, b, a_0, b_0)))
        d = x0 + (x0 - before.pred_original_sample) / (2 * h_before / h)
        said = {
            "DDIM": a_s * x0 + b_s * eps,
            "DPM-Solver++": b_s / b * x_t + a_s * (1 - np.exp(-h)) * d,
            "euler": x_t + (b_s - b) * (eps - x0),
        }
        assert np.allclose(said[sampler], step.prev_sample, atol=1e-3), sampler


def test_no_numbers_where_the_equation_does_not_hold() -> None:
    import torch

    x0, eps = torch.ones(1, 1, 2, 2), torch.arange(4.0).reshape(1, 1, 2, 2)
    step = run_step(torch.tensor([[[[1.0, -9.0], [3.0, 0.0]]]]), x0, eps)
    assert formulas.levels(step) is None and formulas.levels(run_step(x0, x0, x0)) is None
    assert "Here t = 5<" in explained(formulas.Formula(), 5.0, None)
    assert "= 0 x̂<sub>0</sub> + 1 ε̂" in explained(formulas.Formula(), 5.0, (-1e-14, 1.0))


def run_step(x_t: Any, x0: Any, eps: Any) -> Any:
    from pipelines.run import Step

    return Step(0, 1, 5, x_t, x0, eps, x0)


def test_formulas_are_marked_up() -> None:
    assert formulas.marked_up("x_t e^−h b_s²") == "x<sub>t</sub> e<sup>−h</sup> b<sub>s</sub>²"


# ------------------------------------------------------------------------------------------------------------- saving


def _opened(path: str) -> list[np.ndarray]:
    with Image.open(path) as moving:
        sheets = []
        for i in range(moving.n_frames):
            moving.seek(i)
            sheets.append(np.asarray(moving.convert("RGB")))
        return sheets


@pytest.mark.parametrize("view", VIEWS)
def test_a_film_is_saved_as_it_was_seen(view: str, frames: Frames, tmp_path: Path) -> None:
    path = write_gif(frames, view, tmp_path)
    sheets = _opened(path)
    assert Path(path).name == "tiny-ddpm-seed-7.gif" and len(sheets) >= len(frames) - 1  # equal ones are one
    shown = grid(frames.final, film_width()) if view == BESIDE else grid(frames.final)
    final = np.asarray(shown)
    inside = final[..., -1] > 0
    assert (sheets[-1][:, -final.shape[1] :, 0][inside] == final[..., 0][inside]).all()
    assert (sheets[-1][:, -final.shape[1] :][~inside] == 255).all()
    with Image.open(path) as moving:
        assert moving.info["duration"] == 120 and moving.info["loop"] == 0
        moving.seek(moving.n_frames - 1)
        assert moving.info["duration"] >= 2000


def test_nothing_to_save_is_said(made: Film) -> None:
    with pytest.raises(gr.Error, match="no film yet"):
        next(made.save(None, BESIDE))
