"""The equation of a step with the numbers of a run in it: for each function that takes a step, what it adds up.

Each row takes the local variables at the end of a call, and "name()" for what a function it was given returned, to

    result = sum of factor times quantity

in the symbols of formulas.py; "return" is what the call returned. It is shown only where the sum is the result.
"""

from collections.abc import Iterator
from typing import Any

from .live_values import Call, Known, Place, Terms, recorded

Parts = tuple[str, Any, list[tuple[Any, str, Any]]]


def _ddim(v: Known) -> Parts:
    sigma, kept = v["sigma"], v["abar_s"]
    parts = [(kept**0.5, "x̂_0", v["x0"]), (max(1 - kept - sigma**2, 0.0) ** 0.5, "ε̂", v["eps"])]
    return "x_s", v["return"], parts + ([(sigma, "z", v["noise()"])] if sigma else [])


def _ancestral(v: Known) -> Parts:
    schedule, t, x0, x_t = v["schedule"], v["t"], v["x0"], v["x_t"]
    beta, kept = float(schedule.betas[t]), float(schedule.alphas_cumprod[t])
    before = float(schedule.alphas_cumprod_prev[t])
    parts = [
        (beta * before**0.5 / (1 - kept), "x̂_0", x0),
        ((1 - before) * (1 - beta) ** 0.5 / (1 - kept), "x_t", x_t),
    ]
    if v["shift"] is not None:
        parts.append((1.0, "s Σ ∇log p(y)", v["mean"] - schedule.posterior_mean(x0, x_t, t)))
    if t > 0:
        parts.append(((0.5 * v["log_variance"]).exp(), "z", v["noise()"]))
    return "x_s", v["return"], parts


def _euler(v: Known) -> Parts:
    dt = v["s"] - v["t"]
    return "x_s", v["return"], [(1.0, "x_t", v["x"]), (dt, "v_t", v["u"])]


def _midpoint(v: Known) -> Parts:
    dt, slope = v["s"] - v["t"], v["velocity()"]
    return "x_s", v["return"], [(1.0, "x_t", v["x"]), (dt, "v_m", slope)]


def _heun(v: Known) -> Parts:
    if v["s"] <= 0:
        return _euler(v)
    half, first, second = (v["s"] - v["t"]) / 2, v["u"], v["velocity()"]
    parts = [(1.0, "x_t", v["x"]), (half, "v_t", first), (half, "v_s", second)]
    return "x_s", v["return"], parts


def _reverse_sde(v: Known) -> Parts:
    sde, t, dt, x, score, last = v["sde"], v["t"], v["dt"], v["x"], v["slope"], v["i"] + 1 == v["num_steps"]
    if v["predictor"] == "euler_maruyama":
        square, std = float(sde.diffusion(t)) ** 2 * dt, float(sde.diffusion(t)) * dt**0.5
        parts = [(1 - float(sde.drift_rate(t)) * dt, "x_t", x), (square, "score", score)]
    else:
        factor, std = map(float, sde.reverse_step_coefficients(t, dt))
        parts = [(2 - factor, "x_t", x), (std**2, "score", score)]
    noise = [] if last else [(std, "z", v["noise()"])]
    return "x_s", v["step"].prev_sample, parts + noise


def _probability_flow(v: Known) -> Parts:
    half = (v["s"] - v["t"]) / 2
    parts = [(1.0, "x_t", v["x"]), (half, "d_t", v["first"]), (half, "d_s", v["second"])]
    return "x_s", v["step"].prev_sample, parts


def _tweedie(v: Known) -> Parts:
    a, b = float(v["a"]), float(v["b"])
    return "x̂_0", v["step"].prev_sample, [(1 / a, "x_s", v["x"]), (b * b / a, "score", v["score()"])]


def _dormand_prince(v: Known) -> Parts:
    """Of the first image, while all still move."""
    if len(v["rows"]) < len(v["state"].x) or not bool(v["accepted"][0]):
        return "", None, []
    h, weights = float(v["h"][0]), v["weights"]  # of the last stage, which is the result
    parts = [
        (h * weight, f"k_{i + 1}", slope) for i, (weight, slope) in enumerate(zip(weights, v["slopes"], strict=False))
    ]
    return "x_s", v["ahead"], [(1.0, "x_t", v["x"]), *parts]


def _annealed_langevin(v: Known) -> Parts:
    if v["i"] + 1 == len(v["times"]):
        parts = [(float(v["sde"].sigma(v["t"])) ** 2, "score", v["slope"])]
    else:
        alpha = float(v["alpha"])
        parts = [(alpha / 2, "score", v["slope"]), (alpha**0.5, "z", v["noise()"])]
    return "x", v["x"], [(1.0, "x", v["before"]), *parts]


def _corrector(v: Known) -> Parts:
    size = v["size"]
    parts = [(1.0, "x_t", v["x"]), (size, "score", v["score"]), ((2 * size).sqrt(), "z", v["noise"])]
    return "x_t", v["return"], parts


def _dpm_solver_first(v: Known) -> Parts:
    gain = -v["alpha_t"] * (-v["h"]).expm1()
    return "x_s", v["return"], [(v["sigma_t"] / v["sigma_s"], "x_t", v["sample"]), (gain, "x̂_0", v["model_output"])]


def _dpm_solver_second(v: Known) -> Parts:
    gain, share = -v["alpha_t"] * (-v["h"]).expm1(), v["sigma_t"] / v["sigma_s0"]
    parts = [(share, "x_t", v["sample"]), (gain, "x̂_0", v["D0"]), (gain / 2, "(x̂_0 − x̂_0′) / r", v["D1"])]
    return "x_s", v["return"], parts


def _unipc_predictor(v: Known) -> Parts:
    gain, share = -v["alpha_t"] * v["h_phi_1"], v["sigma_t"] / v["sigma_s0"]
    parts = [(share, "x_t", v["x"]), (gain, "x̂_0", v["m0"])]
    if v["D1s"] is not None:
        parts.append((-v["alpha_t"] * v["B_h"], "Σ ρ D", v["pred_res"]))
    return "x_s", v["return"], parts


def _unipc_corrector(v: Known) -> Parts:
    gain, share = -v["alpha_t"] * v["h_phi_1"], v["sigma_t"] / v["sigma_s0"]
    change = v["corr_res"] + v["rhos_c"][-1] * v["D1_t"]
    parts = [(share, "x′", v["x"]), (gain, "x̂_0′", v["m0"]), (-v["alpha_t"] * v["B_h"], "Σ ρ D", change)]
    return "x_t", v["return"], parts


def _heun_scheduler(v: Known) -> Parts:
    return "y_s", v["prev_sample"], [(1.0, "y_t", v["sample"]), (v["dt"], "d", v["derivative"])]


def _heun_of_flows(v: Known) -> Parts:
    return "x_s", v["prev_sample"], [(1.0, "x_t", v["sample"]), (v["dt"], "v", v["derivative"])]


EQUATIONS: dict[str, Terms] = {
    "ddim.py:ddim_step": _ddim,
    "ddpm.py:ancestral_step": _ancestral,
    "flow_matching.py:euler_step": _euler,
    "flow_matching.py:midpoint_step": _midpoint,
    "flow_matching.py:heun_step": _heun,
    "score_sde.py:sde_steps": _reverse_sde,
    "score_sde.py:heun_steps": _probability_flow,
    "score_sde.py:denoised_at_last": _tweedie,
    "ode.py:_attempt": _dormand_prince,
    "langevin.py:annealed_langevin_steps": _annealed_langevin,
    "langevin.py:langevin_corrector": _corrector,
    "scheduling_dpmsolver_multistep.py:DPMSolverMultistepScheduler.dpm_solver_first_order_update": _dpm_solver_first,
    "scheduling_dpmsolver_multistep.py:DPMSolverMultistepScheduler.multistep_dpm_solver_second_order_update": (
        _dpm_solver_second
    ),
    "scheduling_unipc_multistep.py:UniPCMultistepScheduler.multistep_uni_p_bh_update": _unipc_predictor,
    "scheduling_unipc_multistep.py:UniPCMultistepScheduler.multistep_uni_c_bh_update": _unipc_corrector,
    "scheduling_heun_discrete.py:HeunDiscreteScheduler.step": _heun_scheduler,
    "scheduling_flow_match_heun_discrete.py:FlowMatchHeunDiscreteScheduler.step": _heun_of_flows,
}
# these add nothing up, but say where what is added comes from
SOURCES = frozenset(
    {
        "solvers.py:predict",
        "solvers.py:scheduler_steps",
        "flow_matching.py:flow_steps",
        "flow_matching.py:scheduler_steps",
        "score_sde.py:euler_maruyama",
        "score_sde.py:reverse_diffusion",
        "langevin.py:langevin_step",
    }
)
WATCHED = SOURCES | EQUATIONS.keys()


def recorded_steps(steps: Iterator[Any], place: Place) -> Iterator[tuple[Any, tuple[Call, ...]]]:
    """Each step of a run, with the calls that took it: see `live_values.recorded`."""
    return recorded(steps, WATCHED, EQUATIONS, place)
