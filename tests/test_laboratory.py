"""The laboratory: shipped samplers on exact distributions, its settings and links, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr
import pytest
import torch

from benchmarks import laboratory
from pipelines import ddim, ddpm, flow_matching, langevin, score_sde
from pipelines.sde import LinearDrift
from ui.laboratory import choices, distributions, field, overlay, processes, settings
from ui.laboratory import distance as distance_view
from ui.laboratory.density import plane_density
from ui.laboratory.distributions import DISTRIBUTIONS
from ui.laboratory.fields import FIELDS, ROWS
from ui.laboratory.lab import Lab
from ui.laboratory.processes import KINDS
from ui.laboratory.views import VIEWS
from ui.tabs.laboratory import LaboratoryTab

LINE, PLANE = "1-D, two Gaussians", "2-D, three Gaussians"
QUICK = {"steps": 6, "particles": 5}


def lab(**values: Any) -> Lab:
    return settings.checked({"distribution": LINE, **values})


def end(**values: Any) -> torch.Tensor:
    """Where the particles of an experiment arrive, (N, D)."""
    return processes.run(lab(**values)).states[-1]


def distance(x: torch.Tensor, truth: torch.Tensor) -> float:
    """Between two samples of a line: mean distance of equal quantiles."""
    shares = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    return float((x.flatten().quantile(shares) - truth.flatten().quantile(shares)).abs().mean())


def test_the_names_that_the_page_is_built_from_are_those_of_what_computes() -> None:
    assert choices.PROCESSES == tuple(KINDS) and choices.PAIRS == tuple(overlay.PAIRS)
    assert choices.COMPARED == tuple(distance_view.SAMPLERS)


# ------------------------------------------------------------------------------------------------------------- samplers


@pytest.mark.parametrize("process", KINDS)
def test_particles_reach_the_distribution(process: str) -> None:
    steps = 200 if process == "Langevin" else 100
    truth, _ = lab().mixture.sample(20_000, torch.Generator().manual_seed(0))
    assert distance(end(process=process, particles=500, steps=steps), truth) < 0.12


@pytest.mark.parametrize("guidance", ["classifier", "classifier-free"])
@pytest.mark.parametrize("process", KINDS)
def test_guidance_leads_to_the_class(process: str, guidance: str) -> None:
    steps = 150 if process == "Langevin" else 30
    x = end(process=process, steps=steps, particles=100, guidance=guidance, guidance_scale=1.0, class_number=1)
    assert float((x > 0).double().mean()) > 0.93


@pytest.mark.parametrize("process", ["DDIM", "VP ODE", "VE ODE", "flow", "VP SDE", "Langevin"])
def test_both_kinds_of_guidance_are_one_by_the_rule_of_bayes(process: str) -> None:
    one, other = (
        end(process=process, guidance=guidance, guidance_scale=2.5, **QUICK)
        for guidance in ("classifier", "classifier-free")
    )
    # at t = 1 a flow holds no signal, so that a classifier has nothing to say there
    assert torch.allclose(one, other, atol=0.2 if process == "flow" else 1e-8)


class Reached(Exception):
    """A function of pipelines/ was called."""


@pytest.mark.parametrize(
    ("values", "owner", "name"),
    [
        ({"process": "DDPM"}, ddpm, "ancestral_step"),
        ({"process": "DDIM"}, ddim, "ddim_step"),
        ({"process": "VP SDE"}, score_sde.PREDICTORS, "reverse_diffusion"),
        ({"process": "VE SDE", "predictor": "euler_maruyama"}, score_sde.PREDICTORS, "euler_maruyama"),
        ({"process": "sub-VP SDE", "corrector_steps": 1}, score_sde, "langevin_corrector"),
        ({"process": "VE ODE"}, LinearDrift, "probability_flow_drift"),
        ({"process": "Langevin"}, langevin, "langevin_step"),
        ({"process": "flow", "solver": "heun"}, flow_matching.STEPS, "heun"),
    ],
)
def test_the_shipped_samplers_are_what_runs(
    values: dict[str, Any], owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*args: Any, **kwargs: Any) -> None:
        raise Reached

    (monkeypatch.setitem if isinstance(owner, dict) else monkeypatch.setattr)(owner, name, reached)
    with pytest.raises(Reached):
        processes.run(lab(**values, **QUICK))


@pytest.mark.parametrize("process", KINDS)
def test_a_particle_is_the_same_whatever_their_number_and_times_run_from_noise_to_data(process: str) -> None:
    run = processes.run(lab(process=process, steps=20, particles=7))
    few = end(process=process, steps=20, particles=3)
    assert torch.allclose(run.states[-1, :3], few, atol=1e-12)
    assert len(run.times) == len(run.states) and run.times[0] == 1 and run.times[-1] == 0
    assert run.times == sorted(run.times, reverse=True)


# ------------------------------------------------------------------------------------------------------ what is shown


@pytest.mark.parametrize("process", ["DDPM", "VE SDE", "flow"])
@pytest.mark.parametrize("distribution", [LINE, PLANE, "2-D, two moons"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_draws_finite_plots_in_the_form_that_the_canvas_takes(
    view: str, distribution: str, process: str
) -> None:
    chosen = distribution
    if DISTRIBUTIONS[distribution].dimensions not in VIEWS[view].dimensions:
        chosen = distributions.names(VIEWS[view].dimensions)[0]
    drawn = VIEWS[view].plots(settings.checked({"view": view, "distribution": chosen, "process": process, **QUICK}))
    for plot in json.loads(json.dumps(drawn, allow_nan=False)):
        assert plot["title"] and plot["description"] and len(plot["frame_labels"]) == plot["frames"]
        assert all(math.isfinite(value) for value in (*plot["x"], *plot["y"]))
        for layer in plot["layers"]:
            assert layer["kind"] in ("heat", "lines", "points", "arrows", "handles")
            assert len(layer.get("frames", [0])) in (1, plot["frames"])
            assert layer["kind"] != "handles" or len(layer["at"]) == len(layer["radius"])


def test_the_density_of_a_grid_is_that_of_its_points() -> None:
    chosen, kind = lab(distribution="2-D, spiral"), KINDS["VE SDE"]
    x, t = torch.linspace(-2, 2, 5, dtype=torch.float64), torch.tensor([0.7, 0.2], dtype=torch.float64)
    found = plane_density(chosen.mixture, kind, t, x)
    points = torch.stack(torch.meshgrid(x, x, indexing="xy"), -1).reshape(-1, 2)
    for at, each in zip(t, found, strict=True):
        c = kind.scale(at)
        expected = chosen.mixture.log_prob(points * c, *kind.process.marginal(at)).exp() * c.square()
        assert torch.allclose(each.flatten(), expected, rtol=1e-9)


@pytest.mark.parametrize("process", ["DDPM", "VE ODE", "flow"])
def test_density_shown_follows_the_velocity_shown(process: str) -> None:
    """The continuity equation on a line: d/dt p = d/dx (velocity p), the velocity being that from noise to data."""
    chosen, kind = lab(process=process), KINDS[process]
    t, x, h = 0.4, torch.linspace(-1.5, 1.5, 13, dtype=torch.float64)[:, None], 1e-4

    def density(at: torch.Tensor, time: float) -> torch.Tensor:
        c = kind.scale(time)
        return chosen.mixture.log_prob(at * c, *kind.path.marginal(time)).exp() * c

    def flux(at: torch.Tensor) -> torch.Tensor:
        return field.velocity(chosen, kind, at, t)[:, 0] * density(at, t)

    change = (density(x, t + h) - density(x, t - h)) / (2 * h)
    assert torch.allclose(change, (flux(x + h) - flux(x - h)) / (2 * h), atol=1e-5)


# --------------------------------------------------------------------------------------------------- settings and links


def test_links_open_the_same_experiment() -> None:
    moved = "[[0.5,0.2,1,0],[-1,0.1,2,3]]"
    for values in (
        {},
        {"view": "velocity", "process": "DDIM", "eta": 0.35, "distribution": "2-D, ring", "seed": 2**32 - 1},
        {"components": moved, "guidance": "classifier", "class_number": 3, "guidance_scale": 4.5},
        {"process": "VE SDE", "corrector_steps": 2, "snr": 0.2, "predictor": "euler_maruyama"},
        {"process": "Langevin", "step_size": 0.5, "steps": 250},
    ):
        asked = settings.checked(values)
        link = dict(parse_qsl(settings.query(asked)[1:], keep_blank_values=True))
        assert link["tab"] == "laboratory" and settings.recalled(link) == (asked, {})


def test_what_a_link_cannot_have_is_left_out_and_named() -> None:
    opened, left_out = settings.recalled({"steps": "0", "process": "DDIM", "view": "none", "eta": "0.5"})
    assert (opened.process, opened.eta, opened.steps) == ("DDIM", 0.5, FIELDS["steps"].default)
    assert set(left_out) == {"steps", "view"} and "1 to 250, got '0'" in left_out["steps"]


FORM = r"\[x, std, weight, class\]"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be a whole number from 1 to 250, got 0"),
        ({"steps": 1e300}, "steps must be"),
        ({"steps": math.nan}, "steps must be"),
        ({"particles": 10**9}, "particles must be a whole number from 1 to 500"),
        ({"eta": "nan"}, "eta must be a number from 0 to 1, got 'nan'"),
        ({"seed": -1}, "seed must be"),
        ({"process": "ddpm"}, "process must be one of DDPM, .*; got 'ddpm'"),
        ({"process": ["DDPM"]}, "process must be one of"),
        ({"guidance": "on"}, "guidance must be one of off, classifier, classifier-free; got 'on'"),
        ({"view": "density", "distribution": "3-D"}, "distribution must be one of"),
        ({"guidance": "classifier", "class_number": 5}, "class_number must be one of 0, 1 with .* got 5"),
        ({"components": "[]"}, f"components must be a JSON list of 1 to 12 components, each {FORM}, got 0"),
        ({"components": "[[0,1,1,0]"}, f"components must be a JSON list of {FORM}, got"),
        ({"components": "{}"}, "components must be a JSON list of 1 to 12"),
        ({"components": "1"}, "components must be a JSON list of 1 to 12"),
        ({"components": "[" * 3000}, "components must be a JSON list"),
        ({"components": "[[1,2]]"}, f"components must each be {FORM} with numbers, got '.1, 2.' as 1"),
        ({"components": "[[0,0,0.2,1,0]]"}, f"components must each be {FORM}"),
        ({"components": '[[0,0.2,"1",0]]'}, f"components must each be {FORM}"),
        ({"components": "[[0,true,1,0]]"}, f"components must each be {FORM}"),
        ({"components": "[[NaN,0.2,1,0]]"}, f"components must each be {FORM}"),
        ({"components": "[[1e999,0.2,1,0]]"}, f"components must each be {FORM}"),
        ({"components": "[[1" + "0" * 3000 + ",0.2,1,0]]"}, f"components must each be {FORM}"),
        ({"components": "[[7,0.2,1,0]]"}, "as position a number from -3 to 3, component 1 has 7"),
        ({"components": "[[0,0,1,0]]"}, "as std a number from 0.02 to 2, component 1 has 0"),
        ({"components": "[[0,0.2,1,0],[0,0.2,0,0]]"}, "as weight a number from 0.01 to 100, component 2 has 0"),
        ({"components": "[[0,0.2,1,0.5]]"}, "as class a whole number from 0 to 7, component 1 has 0.5"),
        ({"components": "[" + "[0,0.2,1,0]," * 12 + "[0,0.2,1,0]]"}, "1 to 12 components, each .*, got 13"),
        ({"components": "9" * 5000}, "components must have at most 4000 characters, got 5000"),
        ({"components": 5}, "components must be text, got 5"),
        ({"components": "[[0,0.2,1,0]]", "distribution": "2-D, ring"}, "components must be empty with distribution"),
    ],
)
def test_bad_input_is_named_before_any_work(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        settings.checked(values)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert settings.recalled(values)[1], "a link with it opens without it"


@pytest.mark.parametrize("process", KINDS)
def test_components_on_top_of_each_other_are_one(process: str) -> None:
    twice, once = "[[0.5,0.2,1,0],[0.5,0.2,1,1]]", "[[0.5,0.2,1,0]]"
    values = {"process": process, "steps": 10, "particles": 4}
    assert torch.allclose(end(components=twice, **values), end(components=once, **values))
    guided = end(components=twice, guidance="classifier-free", **values)
    assert guided.isfinite().all()


def test_components_are_moved_added_and_removed() -> None:
    own = lab().movable
    at = [[0, 0.25], [0, -2]]
    assert json.loads(distributions.moved(own, at, [0.2, 0.4], 1)) == [[0.25, 0.2, 0.4, 0], [-2, 0.4, 0.6, 1]]
    more = distributions.parsed(distributions.with_one_more(own, 1), 1)
    assert len(more) == 3 and more[2].label == 2
    for wrong in (None, [[0, 1]], [[0, math.inf], [0, 0]], [[0, "a"], [0, 0]], [[0], [0]], 5):
        with pytest.raises(ValueError, match="components must"):
            distributions.moved(own, wrong, [0.2, 0.4], 1)
    with pytest.raises(ValueError, match="got 12"):
        distributions.with_one_more(own * 6, 1)
    with pytest.raises(ValueError, match="got 0"):
        settings.checked({"components": distributions.written(())})


def test_a_setting_counts_where_its_process_takes_it() -> None:
    values: dict[str, Callable[..., bool]] = {row.name: row.default for row in ROWS}
    assert not settings.has("eta", values) and settings.has("eta", values | {"process": "DDIM"})
    assert settings.has("components", values)
    assert not settings.has("components", values | {"distribution": "2-D, ring"})
    assert not settings.has("class_number", values)


# ------------------------------------------------------------------------------------------------------ the page's part


def test_the_tab_follows_a_choice_and_says_what_is_wrong() -> None:
    with gr.Blocks():
        tab = LaboratoryTab()
    values = [row.default for row in ROWS]
    plots, said, text, link, *_ = tab.redraw(*values)
    assert json.loads(plots) and "DDPM, 50 steps" in said and "density" in text and link.startswith("?tab=laboratory")
    wrong = tab.redraw(*[0 if name == "steps" else value for name, value in zip(FIELDS, values, strict=True)])
    assert 'role="alert">Steps must be a whole number from 1 to 250, got 0' in wrong[1]
    chosen = dict(zip(FIELDS, values, strict=True)) | {"distribution": "2-D, ring", "components": "[[0,0.2,1,0]]"}
    shown = dict(zip(FIELDS, tab.follow("distribution", [*chosen.values()]), strict=True))
    assert shown["components"]["value"] == "" and not shown["components"]["visible"]
    assert not shown["eta"]["visible"] and shown["variance"]["visible"]
    at = {"at": [[0, 0.5], [0, 1]], "radius": [0.2, 0.3]}
    components, _ = tab.move(SimpleNamespace(**at), *values)
    assert json.loads(components) == [[0.5, 0.2, 0.4, 0], [1, 0.3, 0.6, 1]]
    assert 'role="alert"' in tab.move(SimpleNamespace(at="x", radius=[]), *values)[1]


def test_the_benchmark_times_each_process() -> None:
    rows = laboratory.run_all(laboratory.Options(repeats=1, steps=2, visitors=0))
    assert [row["process"] for row in rows] == [*KINDS]
    assert "| VE ODE" in laboratory.show(rows) and "2-D, spiral" in laboratory.show(rows)
    with pytest.raises(ValueError, match="view must be one of"):
        laboratory.Options(view="none")
