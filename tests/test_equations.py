"""Equations that run: the numbers that the page shows of a step are those of the run, and add up to its next sample."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from toys import SHIPPED, ddim, ddpm, flow, guided, score_sde, seeded, steered

from ui.equations import EQUATIONS, SOURCES, WATCHED, recorded_steps
from ui.formulas import FORMULAS
from ui.laboratory import one_step, processes, settings
from ui.laboratory.processes import KINDS
from ui.live_values import Call, Equation, Value, centre, equation_of, particle, read, recorded
from ui.source_lines import Statement, source_of
from ui.step_panel import Reading, equation_html, highlighted, lines_html, reading_of, where_of

DRIVEN = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
CLASS = {"class_labels": [0, 1]}
VE = {"sampler": "annealed_langevin", "sde": "ve", "corrector_steps": 2}
# by name: a pipeline, arguments, and the function that takes its steps
RUNS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "DDIM": (ddim, {"batch_size": 2, "eta": 0.7}, "ddim.py:ddim_step"),
    "DDPM": (ddpm, {"batch_size": 2}, "ddpm.py:ancestral_step"),
    "guided by a classifier": (lambda: steered(scheduler=DDPMScheduler(**SHIPPED)), CLASS, "ddpm.py:ancestral_step"),
    "euler": (flow, CLASS | {"sampler": "euler"}, "flow_matching.py:euler_step"),
    "midpoint": (flow, CLASS | {"sampler": "midpoint"}, "flow_matching.py:midpoint_step"),
    "heun": (flow, CLASS | {"sampler": "heun"}, "flow_matching.py:heun_step"),
    "euler_maruyama": (score_sde, CLASS | {"sampler": "euler_maruyama"}, "score_sde.py:sde_steps"),
    "corrected": (
        score_sde,
        CLASS | {"sampler": "reverse_diffusion", "corrector_steps": 2},
        "langevin.py:langevin_corrector",
    ),
    "ode_heun": (score_sde, CLASS | {"sampler": "ode_heun"}, "score_sde.py:heun_steps"),
    "annealed_langevin": (score_sde, CLASS | VE, "langevin.py:annealed_langevin_steps"),
    "DPM-Solver++": (
        lambda: guided(scheduler=DPMSolverMultistepScheduler(**DRIVEN)),
        CLASS,
        "scheduling_dpmsolver_multistep.py:DPMSolverMultistepScheduler.multistep_dpm_solver_second_order_update",
    ),
    "UniPC": (
        lambda: guided(scheduler=UniPCMultistepScheduler(**DRIVEN)),
        CLASS,
        "scheduling_unipc_multistep.py:UniPCMultistepScheduler.multistep_uni_c_bh_update",
    ),
    "Heun": (
        lambda: guided(scheduler=HeunDiscreteScheduler(**DRIVEN)),
        CLASS,
        "scheduling_heun_discrete.py:HeunDiscreteScheduler.step",
    ),
    "Heun of flows": (
        lambda: flow(scheduler=FlowMatchHeunDiscreteScheduler()),
        CLASS,
        "scheduling_flow_match_heun_discrete.py:FlowMatchHeunDiscreteScheduler.step",
    ),
}


def readings_of(name: str, steps: int = 4) -> list[tuple[Any, Reading]]:
    """Each step of a run, with what is shown of it."""
    make, arguments, _ = RUNS[name]
    run = make().stream(num_inference_steps=steps, generator=seeded(), **arguments)
    return [(step, reading_of(step, calls, centre)) for step, calls in recorded_steps(run, centre)]


@pytest.mark.parametrize("name", RUNS)
def test_the_numbers_shown_add_up_to_the_next_sample_of_the_run(name: str) -> None:
    """Fresh noise included: what was traced is that run, which is that of nobody watching to the last bit."""
    make, arguments, function = RUNS[name]
    unwatched = list(make().stream(num_inference_steps=4, generator=seeded(), **arguments))
    read_of = readings_of(name)
    assert len(unwatched) == len(read_of)
    for (step, reading), alone in zip(read_of, unwatched, strict=True):
        assert torch.equal(step.prev_sample, alone.prev_sample)
        last = reading.equations[-1]
        summed = sum(factor * at[0] for factor, _, at in last.terms)
        truth = float(step.prev_sample[0, 0, 4, 4])
        assert last.result == reading.after.at == (truth,) and summed == pytest.approx(truth, rel=1e-4, abs=1e-4)
        shown = (reading.x_t.at[0], reading.x0.at[0], reading.eps.at[0])
        assert shown == tuple(float(part[0, 0, 4, 4]) for part in (step.x_t, step.pred_original_sample, step.eps))
        assert sys.gettrace() is None
    keys = {call.source.key for _, reading in read_of for call in reading.calls}
    assert function in keys and keys <= WATCHED
    pairs = zip(read_of, read_of[1:], strict=False)
    if not name.startswith(("Heun", "annealed")):  # shown: the input as it is scaled, the last of several small steps
        assert all(now[1].after.at == then[1].x_t.at for now, then in pairs)


def test_adaptive_steps_show_the_sum_of_their_slopes_while_all_images_move() -> None:
    arguments = CLASS | {"sampler": "ode_adaptive", "rtol": 1e-2, "atol": 1e-2}
    run = score_sde().stream(generator=seeded(), **arguments)
    found = [equation for _, calls in recorded_steps(run, centre) for equation in Reading(calls=calls).equations]
    assert any([name for _, name, _ in equation.terms][:2] == ["x_t", "k_1"] for equation in found)
    assert found[-1].symbol == "x̂_0" and [name for _, name, _ in found[-1].terms] == ["x_s", "score"]


def test_lines_are_those_of_the_file_with_the_values_that_they_assigned() -> None:
    step, reading = readings_of("DDIM")[1]
    calls = {call.source.title: call for call in reading.calls}
    assert list(calls) == ["pipelines/solvers.py:predict", "pipelines/ddim.py:ddim_step"]
    rows = {statement.text: dict(values) for statement, values in calls["pipelines/ddim.py:ddim_step"].rows}
    assert list(rows)[0] == "def ddim_step(schedule, x0, eps, t, s, eta, noise):"
    assert [name for values in rows.values() for name in values] == [
        *("x0", "eps", "t", "s", "eta", "abar_t", "abar_s", "sigma", "x_s", "noise()", "returns")
    ]
    values = {name: value for row in rows.values() for name, value in row.items()}
    sigma, z = values["sigma"].at[0], values["noise()"].at[0]
    assert values["x_s"].at[0] + sigma * z == pytest.approx(float(step.prev_sample[0, 0, 4, 4]), abs=1e-6)
    assert values["returns"].mean == pytest.approx(float(step.prev_sample.mean()), abs=1e-6)
    assert values["returns"].std == pytest.approx(float(step.prev_sample.std(correction=0)), abs=1e-6)
    lines = (Path(__file__).parent.parent / "pipelines" / "ddim.py").read_text().splitlines()
    for statement, _ in calls["pipelines/ddim.py:ddim_step"].rows[1:]:
        assert lines[statement.first - 1].strip() == statement.text.splitlines()[0]


def test_only_lines_that_the_result_follows_from_are_shown() -> None:
    (_, reading), *_ = readings_of("UniPC")
    (call,) = [call for call in reading.calls if call.source.title.endswith("multistep_uni_p_bh_update")]
    names = {name for _, values in call.rows for name, _ in values}
    assert {"x_t", "h", "B_h"} <= names and not names & {"factorial_i", "h_phi_k", "s0"}


def test_every_function_that_is_watched_is_there() -> None:
    """By the name that the tracer looks for: one that was renamed would be shown no more."""
    import importlib

    import diffusers.schedulers

    for key in EQUATIONS.keys() | SOURCES:
        file, _, path = key.partition(":")
        package = diffusers.schedulers.__name__ if file.startswith("scheduling_") else "pipelines"
        found = importlib.import_module(f"{package}.{file.removesuffix('.py')}")
        for part in path.split("."):
            found = getattr(found, part)
        source = source_of(getattr(found, "__wrapped__", found).__code__)
        assert source is not None and source.key == key


def test_threads_see_their_own_runs_alone() -> None:
    """Two visitors at once, with the same functions."""
    found: dict[str, list[set[str]]] = {}

    def draw(name: str) -> None:
        found[name] = [{call.source.key for call in reading.calls} for _, reading in readings_of(name, 6)]

    threads = [threading.Thread(target=draw, args=(name,)) for name in ("DDIM", "DDPM")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {
        "DDIM": [{"solvers.py:predict", "ddim.py:ddim_step"}] * 6,
        "DDPM": [{"solvers.py:predict", "ddpm.py:ancestral_step"}] * 6,
    }


def test_an_error_of_a_step_leaves_no_trace_function() -> None:
    def broken() -> Iterator[Any]:
        raise ValueError("broken")
        yield

    with pytest.raises(ValueError, match="broken"):
        list(recorded(broken(), WATCHED, EQUATIONS, centre))
    assert sys.gettrace() is None


def test_a_sum_that_is_not_the_result_is_not_shown() -> None:
    def terms(known: Any) -> Any:
        return "x_s", known["return"], [(2.0, "x_t", known["x"])]

    assert equation_of(terms, {"x": 1.5, "return": 3.0}, centre) == Equation("x_s", ((2.0, "x_t", (1.5,)),), (3.0,))
    assert equation_of(terms, {"x": 1.5, "return": 3.1}, centre) is None
    assert equation_of(terms, {"x": float("nan"), "return": 3.0}, centre) is None
    assert equation_of(terms, {"x": 1.5}, centre) is None


def test_what_is_kept_are_numbers() -> None:
    """A few kilobytes per step, whatever the size of the images."""
    import pickle

    *_, (_, reading) = readings_of("UniPC")
    assert len(pickle.dumps(reading)) < 20_000
    assert read(torch.zeros(2, 3, 4, 4), centre) == Value((0.0,), (2, 3, 4, 4), 0.0, 0.0)
    assert read(torch.tensor(3), centre) == read(3, centre) == Value((3.0,))
    assert read(torch.tensor([1.0, 3.0]), centre) == Value(None, (2,), 2.0, 1.0)
    assert [read(other, centre) for other in (None, True, "word", torch.tensor([True]), torch.zeros(0))] == [None] * 5
    assert particle(1)(torch.tensor([[1.0, 2.0], [3.0, 4.0]])) == (3.0, 4.0)
    assert particle(1)(torch.zeros(2, 1, 8, 8)) is None and particle(5)(torch.zeros(2, 2)) is None


# -------------------------------------------------------------------------------------------------------------- as HTML


def test_everything_is_escaped() -> None:
    bad = "<script>alert('x')</script>"
    statement = Statement(1, 1, f"x = '{bad}'")
    source = source_of(test_everything_is_escaped.__code__)
    call = Call(type(source)(bad, bad, statement, {}), ((statement, ((bad, Value((1.0,))),)),))
    equation = Equation(bad, ((1.0, bad, (2.0,)),), (2.0,))
    shown = Reading(Value((1.0,), (1, 1, 2, 2)), calls=(Call(call.source, call.rows, equation),))
    html = lines_html(shown, bad) + equation_html(shown, bad)
    assert "<script" not in html and html.count("&lt;script&gt;") >= 6


def test_an_equation_reads_as_it_is_written() -> None:
    equation = Equation("x_s", ((0.5, "x̂_0", (-0.25,)), (-2.0, "ε̂", (0.125,)), (1.0, "z", (3.0,))), (2.625,))
    reading = Reading(Value((1.0,)), Value((-0.25,)), Value((0.125,)), calls=(_call(equation),))
    html = equation_html(reading, "Here")
    assert "x<sub>s</sub> = 0.5 x̂<sub>0</sub> − 2 ε̂ + z<br>= 0.5 · (−0.25) − 2 · 0.125 + 3 = <b>2.62</b>" in html
    assert "Here: x<sub>t</sub> = 1, x̂<sub>0</sub> = −0.25, ε̂ = 0.125" in html
    assert equation_html(Reading(), "Here") == lines_html(Reading(), "Here") == ""
    assert where_of((16, 1, 28, 28)) == "At row 15, column 15 of the first image"


def _call(equation: Equation) -> Call:
    return Call(source_of(_call.__code__), (), equation)


@pytest.mark.parametrize(
    "text",
    ["x = f(1.5, 'a')  # why", "for i, (t, s) in enumerate(times):", "return (\n    x\n    + 1\n)", "if x", "'''open"],
)
def test_highlighting_changes_no_letter(text: str) -> None:
    import html
    import re

    assert html.unescape(re.sub(r"<[^>]+>", "", highlighted(text))) == text
    assert 'class="k">for' in highlighted("for i in x:") and 'class="n">1.5' in highlighted("x = 1.5")


# -------------------------------------------------------------------------------------------------------- laboratory


@pytest.mark.parametrize("process", KINDS)
@pytest.mark.parametrize("distribution", ["1-D, two Gaussians", "2-D, three Gaussians"])
def test_the_laboratory_shows_each_step_of_a_particle_of_the_run_of_its_plots(process: str, distribution: str) -> None:
    values = {"process": process, "distribution": distribution, "steps": 12, "particles": 4, "step": 3, "particle": 2}
    lab = settings.checked(values)
    told, run = one_step.readings(lab), processes.run(lab)
    assert [t for t, _ in told] == run.times[:-1]
    for (_, reading), after in zip(told, run.states[1:], strict=True):
        assert reading.equations[-1].result == reading.after.at
        if process == "Langevin":  # whose plots show what its last step at a level begins with
            continue
        assert reading.after.at == pytest.approx(tuple(after[1].tolist()))
        summed = [sum(factor * at[i] for factor, _, at in reading.equations[-1].terms) for i in range(lab.dimensions)]
        assert summed == pytest.approx(after[1].tolist(), rel=1e-4, abs=1e-4)
    html = one_step.html(lab)
    assert "Step 3 of 1" in html and "Particle 2" in html and 'class="numbers"' in html and "pipelines/" in html
    assert one_step.formula_of(lab) in FORMULAS.values()


def test_no_two_parts_of_the_laboratory_have_one_name() -> None:
    """The line of a setting, lab-step say, and what stands below the plots."""
    import gradio as gr

    from ui.tabs.laboratory import LaboratoryTab

    with gr.Blocks() as demo:
        LaboratoryTab()
    names = [block.elem_id for block in demo.blocks.values() if block.elem_id]
    assert len(names) == len(set(names)) and {"lab-step", "lab-one-step"} <= set(names)
