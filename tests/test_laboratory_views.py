"""The views of the laboratory against closed forms, numerical integration and other solvers."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from scipy.stats import norm, wasserstein_distance
from torch.distributions import Categorical, MixtureSameFamily, Normal

from pipelines.schedule import NoiseSchedule
from ui.laboratory import distance, overlay, reverse_conditional, velocity_fields
from ui.laboratory.canvas import packed
from ui.laboratory.choices import GUIDES
from ui.laboratory.fields import FIELDS
from ui.laboratory.lab import Lab
from ui.laboratory.processes import KINDS, VP
from ui.laboratory.settings import checked, has, recalled
from ui.laboratory.views import VIEWS


def lab_of(view: str, **values: Any) -> Lab:
    return checked({"view": view, **values})


def numbers(value: Any) -> list[float]:
    """All of them in a plot's JSON."""
    if isinstance(value, dict):
        return [each for item in value.values() for each in numbers(item)]
    if isinstance(value, list):
        return [each for item in value for each in numbers(item)]
    return [value] if isinstance(value, float) else []


CASES = [
    {"view": "gases", "distribution": "2-D, one point", "process": "flow", "steps": 8},
    {"view": "gases", "distribution": "2-D, ring", "process": "VE SDE", "steps": 8},
    *({"view": "gases", "guidance": guidance, "class_number": 1, "steps": 8} for guidance in GUIDES),
    *({"distribution": "1-D, one point", "guidance": guidance, "steps": 8} for guidance in GUIDES),
    *({"view": "reverse conditional", "process": name} for name in KINDS),
    {"view": "reverse conditional", "time": 1.0, "x_t": -3.0, "process": "flow", "distribution": "1-D, one point"},
    *({"view": "overlay", "pair": name, "steps": 1} for name in overlay.PAIRS),
    {"view": "overlay", "steps": 127, "guidance": "classifier-free"},
    {"view": "distance", "distribution": "2-D, ring"},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case.values())))
def test_a_view_draws_what_is_asked_for(case: dict[str, Any]) -> None:
    lab = checked(case)
    plots = json.loads(packed(VIEWS[lab.view].plots(lab)))
    assert plots and all(plot["description"] and plot["layers"] for plot in plots)
    assert all(math.isfinite(number) for number in numbers(plots))
    assert all(min(plot["x"]) < max(plot["x"]) and min(plot["y"]) < max(plot["y"]) for plot in plots)
    assert all(min(plot[axis]) > 0 for plot in plots for axis in "xy" if plot[f"log_{axis}"])
    for plot in plots:
        moving = [layer["frames"] for layer in plot["layers"] if len(layer.get("frames", [])) > 1]
        assert all(len(frames) == plot["frames"] == len(plot["frame_labels"]) for frames in moving)


# -------------------------------------------------------------------------------------------------- reverse conditional


@pytest.mark.parametrize("process", ["DDPM", "sub-VP SDE", "VE SDE", "flow"])
@pytest.mark.parametrize(("t", "s"), [(0.6, 0.0), (0.3, 0.25), (1.0, 0.4)])
def test_the_reverse_conditional_is_that_of_the_joint_density(process: str, t: float, s: float) -> None:
    """p(x_s, x_t) from torch.distributions and q(x_t | x_s), normalised and averaged over by numerical integration."""
    mixture, kind = lab_of("reverse conditional").mixture, KINDS[process]
    (a, b), (a_s, b_s) = (tuple(map(float, kind.process.marginal(time))) for time in (t, s))
    x_t = 0.3 * math.hypot(a, b)
    deviations = (a_s**2 * mixture.variances[:, 0] + b_s**2).sqrt()
    prior = MixtureSameFamily(Categorical(logits=mixture.log_weights), Normal(a_s * mixture.means[:, 0], deviations))
    step = norm(scale=math.sqrt(b**2 - (a / a_s) ** 2 * b_s**2))

    def joint(x: float) -> float:
        return float(prior.log_prob(torch.tensor(x, dtype=torch.float64)).exp() * step.pdf(x_t - a / a_s * x))

    at = torch.tensor([s], dtype=torch.float64)
    mean, std = (float(value) for value in reverse_conditional.moments(mixture, kind.process, at, x_t, t))
    ends = {"limit": 400, "points": [mean - std, mean, mean + std]}
    low, high = mean - 12 * std, mean + 12 * std
    whole = quad(joint, low, high, **ends)[0]
    expected = quad(lambda x: x * joint(x), low, high, **ends)[0] / whole
    spread = quad(lambda x: (x - expected) ** 2 * joint(x), low, high, **ends)[0] / whole
    assert (mean, std) == pytest.approx((expected, math.sqrt(spread)), rel=1e-5, abs=1e-7)
    x = torch.linspace(mean - 3 * std, mean + 3 * std, 9, dtype=torch.float64)[None]
    density = reverse_conditional.conditional(mixture, kind.process, x, at, x_t, t)[0]
    assert density.tolist() == pytest.approx([joint(each) / whole for each in x[0].tolist()], rel=1e-5, abs=1e-9)


def test_its_mean_is_the_posterior_mean_of_ddpm_at_the_predicted_x0() -> None:
    """E[x_{t-1} | x_t] = E[q(x_{t-1} | x_t, x_0) | x_t], which is linear in x_0."""
    mixture = lab_of("reverse conditional").mixture
    schedule = NoiseSchedule.linear(10, 0.01, 0.3)

    class Discrete:
        def marginal(self, t: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
            return schedule.marginal(torch.as_tensor(t).long())

    x_t, t = torch.tensor([[0.4]], dtype=torch.float64), 6
    expected = schedule.posterior_mean(mixture.predict_x0(x_t, *schedule.marginal(t)), x_t, t)
    mean, _ = reverse_conditional.moments(mixture, Discrete(), torch.tensor([t - 1.0]), 0.4, t)
    assert float(mean) == pytest.approx(float(expected), rel=1e-12)


def test_it_becomes_gaussian_in_order_three_halves() -> None:
    mixture = lab_of("reverse conditional").mixture
    steps = torch.tensor([0.3, 0.02, 0.005], dtype=torch.float64)
    far, near, nearer = reverse_conditional.distances(mixture, VP, 0.3 - steps, 0.3, 0.3).tolist()
    assert far > 0.1 and math.log(near / nearer) / math.log(4) == pytest.approx(1.5, abs=0.1)


def test_of_one_gaussian_it_is_gaussian_for_any_step() -> None:
    lab = lab_of("reverse conditional", distribution="1-D, one point")
    steps = torch.tensor([0.3, 0.1, 0.001], dtype=torch.float64)
    assert float(reverse_conditional.distances(lab.mixture, VP, 0.3 - steps, 0.5, 0.3).max()) < 1e-9


# ------------------------------------------------------------------------------------------------------ velocity fields


def test_gases_together_have_the_mean_of_their_velocities() -> None:
    lab = lab_of("gases", distribution="2-D, three Gaussians", process="flow")
    mixture, kind = lab.mixture, KINDS["flow"]
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    each = velocity_fields.class_velocities(mixture, kind, x, t)
    shares = velocity_fields.class_densities(mixture, kind, x, t).softmax(0)  # all three have the same weight
    for index, time in enumerate(t.tolist()):
        together = -mixture.denoiser(kind.path, "flow_prediction")(x, time)
        mean = (shares[:, index, :, None] * each[:, index]).sum(0)
        assert torch.allclose(mean, together, atol=1e-12)


@pytest.mark.parametrize("process", ["DDIM", "VE ODE", "flow"])
def test_the_velocity_of_a_point_carries_its_density_along(process: str) -> None:
    """x_t = a m + b z for each z: its derivative, in x / scale, by differences in t."""
    lab = lab_of("gases", distribution="2-D, one point", components="[[0.8, 0.5, 0.02, 1, 0]]", process=process)
    kind, z, m, h = KINDS[process], torch.tensor([[0.7, -1.2]]).double(), lab.mixture.means, 1e-5

    def shown(t: float) -> torch.Tensor:
        a, b = kind.path.marginal(t)
        return (a * m + (a.square() * 0.02**2 + b.square()).sqrt() * z) / _scale(kind, t)

    found = velocity_fields.class_velocities(lab.mixture, kind, shown(0.5), torch.tensor([0.5]).double())[0, 0]
    tolerance = 1e-2 if process == "DDIM" else 1e-5  # whose scale is that of its discrete schedule
    assert torch.allclose(found, -(shown(0.5 + h) - shown(0.5 - h)) / (2 * h), rtol=tolerance, atol=1e-6)


def _scale(kind: Any, t: float) -> torch.Tensor:
    a, b = kind.path.marginal(t)
    return (a.square() + b.square()).sqrt() if kind.spreads else torch.ones(())


def test_particles_of_a_gas_end_in_its_class() -> None:
    lab = lab_of("gases", distribution="2-D, three Gaussians", process="flow", steps=20)
    left, right = VIEWS["gases"].plots(lab)
    by_class = [layer["frames"][-1] for layer in left["layers"] if layer["kind"] == "points"]
    means = np.array([component.at for component in lab.movable])
    assert [len(points) for points in by_class] == [velocity_fields.PARTICLES] * 3
    for own, points in enumerate(by_class):
        far = np.linalg.norm(np.array(points)[:, None] - means, axis=-1)
        assert (far.argmin(1) == own).all()
    assert right["frames"] == velocity_fields.FRAMES


# -------------------------------------------------------------------------------------------------------------- overlay


def test_the_exact_paths_are_those_of_scipys_solver() -> None:
    lab = lab_of("overlay")
    x = torch.tensor([[-1.5], [-0.2], [0.6]], dtype=torch.float64)
    score = lab.mixture.score

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(y)[:, None]
        return VP.probability_flow_drift(y, score(y, *VP.marginal(t)), t)[:, 0].numpy()

    expected = solve_ivp(slope, (1.0, overlay.ODE_END), x[:, 0].numpy(), rtol=1e-9, atol=1e-11).y[:, -1]
    assert overlay.ode(lab, x)[-1].numpy() == pytest.approx(expected, abs=2e-3)


def test_the_discrete_process_has_the_marginals_of_its_sde() -> None:
    schedule = overlay.schedule_of(VP, 20)
    a, b = VP.marginal(torch.arange(1, 21).double() / 20)
    assert torch.allclose(torch.stack(schedule.marginal(torch.arange(20))), torch.stack([a, b]), atol=1e-14)
    assert torch.allclose(torch.cumprod(1 - schedule.betas, 0), a.square(), atol=1e-14)


@pytest.mark.parametrize("pair", list(overlay.PAIRS))
def test_two_processes_come_together_in_first_order(pair: str) -> None:
    found = overlay.PAIRS[pair].overlay(lab_of("overlay", pair=pair, steps=16))
    errors = list(found.distances.values())[-1]
    numbers_of_steps = np.log(list(errors))[1:]
    order = -np.polyfit(numbers_of_steps, np.log(list(errors.values()))[1:], 1)[0]
    assert order == pytest.approx(1.0, abs=0.35)
    assert len(found.sampler.x) == 17 and torch.equal(found.sampler.x[0], found.limit.x[0])


def test_ddim_takes_eulers_steps_of_the_linear_flow() -> None:
    found = overlay.ddim_and_flow(lab_of("overlay", steps=7))
    assert torch.allclose(found.sampler.x, found.limit.x, atol=1e-12)
    assert max(found.distances["at the same levels of noise"].values()) < 1e-12


@pytest.mark.parametrize("steps", [1, 7, 50, 127, 250])
def test_the_same_motion_can_be_divided_among_all_that_is_compared(steps: int) -> None:
    lab = lab_of("overlay", steps=steps)
    finest = overlay._finest(lab)
    numbers_of_steps = overlay.counts(finest)
    assert len(numbers_of_steps) > 1 and all(finest % n == 0 for n in (*numbers_of_steps, steps))
    _, noise = overlay.brownian(lab, finest)
    few, many = noise(numbers_of_steps[0]), noise(finest)
    together = sum(many() for _ in range(finest // numbers_of_steps[0]))
    assert torch.allclose(few(), together / math.sqrt(finest // numbers_of_steps[0]))


# ------------------------------------------------------------------------------------------------------------- distance


def test_quantiles_are_where_the_distribution_function_has_that_value() -> None:
    mixture = lab_of("distance").mixture
    found = distance.quantiles(mixture, 10)[:, 0].numpy()
    weights, means, stds = mixture.log_weights.exp(), mixture.means[:, 0], mixture.variances[:, 0].sqrt()
    parts = zip(weights.tolist(), means.tolist(), stds.tolist(), strict=True)
    assert sum(w * norm.cdf(found, m, s) for w, m, s in parts) == pytest.approx((np.arange(10) + 0.5) / 10, abs=1e-12)


def test_the_distance_is_scipys_and_in_a_plane_that_of_shadows() -> None:
    generator = torch.Generator().manual_seed(0)
    plane = lab_of("distance", distribution="2-D, three Gaussians")
    x, _ = plane.mixture.sample(300, generator)
    truth, many = distance.quantiles(plane.mixture, 300), plane.mixture.sample(50_000, generator)[0]
    along = distance.directions_of(2)
    expected = np.mean([wasserstein_distance(x @ each, many @ each) for each in along])
    assert distance.wasserstein(x, truth) == pytest.approx(expected, abs=1e-2)
    line = lab_of("distance").mixture
    truth = distance.quantiles(line, 300)
    assert distance.wasserstein(truth.flip(0) + 0.25, truth) == pytest.approx(0.25, abs=1e-12)


def test_evaluations_are_counted_and_errors_fall_as_the_theory_says() -> None:
    lab = lab_of("distance")
    found, floor = distance.measured(lab)
    rows = distance.SAMPLERS["without noise"]
    assert {name: round(distance.slope(line)) for name, line in found.items()} == {n: r.order for n, r in rows.items()}
    assert [nfe for nfe, _ in found["DDIM"]] == list(distance.EVALUATIONS)
    assert [nfe for nfe, _ in found["flow, Heun"]] == [nfe - 1 for nfe in distance.EVALUATIONS]  # its last is Euler's
    assert all(line[-1][1] < floor for line in found.values())


def test_samplers_with_noise_come_near_the_data_too() -> None:
    found, floor = distance.measured(lab_of("distance", compared="with noise"))
    assert all(line[-1][1] < line[0][1] for line in found.values())
    assert max(found["DDPM"][-1][1], found["VP SDE"][-1][1]) < 3 * floor
    assert [nfe for nfe, _ in found["VP SDE, corrected"]] == list(distance.EVALUATIONS)


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"view": "reverse conditional", "time": 0.0}, "time must be a number from 0.02 to 1, got 0.0"),
        ({"view": "overlay", "distribution": "2-D, ring"}, "with view 'overlay', got '2-D, ring'"),
        ({"view": "gases", "distribution": "1-D, one point"}, "with view 'gases', got '1-D, one point'"),
        ({"view": "overlay", "pair": "DDPM"}, "pair must be one of DDIM, probability-flow ODE, DDPM, reverse SDE"),
        ({"view": "distance", "compared": "all"}, "compared must be one of without noise, with noise; got 'all'"),
    ],
)
def test_wrong_settings_of_the_views_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        checked(values)
    assert said in str(error.value)


@pytest.mark.parametrize("view", ["reverse conditional", "overlay"])
def test_settings_that_a_view_leaves_out_change_nothing_in_it(view: str) -> None:
    others = {"process": "flow", "guidance": "classifier-free", "particles": 5, "seed": 8, "steps": 9, "eta": 1.0}
    lab = lab_of(view, steps=4)
    known = {name: value for name, value in others.items() if name in VIEWS[view].without}
    assert packed(VIEWS[view].plots(replace(lab, **known))) == packed(VIEWS[view].plots(lab))


def test_the_links_of_the_equations_open_what_they_name() -> None:
    """Each names settings that there are, with values that they take, and none that its view leaves out."""
    text = (Path(__file__).resolve().parent.parent / "docs" / "equations.md").read_text()
    links = [dict(parse_qsl(query)) for query in re.findall(r"\(/\?(tab=laboratory[^)]*)\)", text)]
    assert {link.get("view") for link in links} >= {"gases", "reverse conditional", "overlay", "distance"}
    for link in links:
        given = {name: value for name, value in link.items() if name != "tab"}
        lab, left_out = recalled(given)
        assert not left_out and set(given) <= {name for name in FIELDS if has(name, lab.as_dict())}, link
