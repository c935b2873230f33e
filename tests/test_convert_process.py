"""The process of a published checkpoint: its betas, its spacing of the steps, what is predicted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from conversion_runs import GUIDED, IMPROVED, SMALL, converted, make

from pipelines import NoiseSchedule
from training import convert
from training.conversion.flags import parse_flags
from training.conversion.respacing import spacing_for


def published_betas(schedule: str, steps: int) -> np.ndarray:
    if schedule == "linear":
        return np.linspace(0.1 / steps, 20 / steps, steps)
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], 0.999)


@pytest.mark.parametrize("steps", [1000, 4000])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_process_is_the_published_one(schedule: str, steps: int) -> None:
    flags = parse_flags(GUIDED, f"--noise_schedule {schedule} --diffusion_steps {steps}")
    scheduler = convert.build_scheduler(flags)
    tables = NoiseSchedule.from_scheduler(scheduler)
    np.testing.assert_allclose(tables.betas.numpy(), published_betas(schedule, steps), rtol=1e-9)
    assert scheduler.config.clip_sample and scheduler.config.clip_sample_range == 1
    assert scheduler.config.timestep_spacing == "linspace"


# --- timestep_respacing ---


def published_timesteps(total: int, text: str) -> list[int] | None:
    """space_timesteps of respace.py for one count, or "ddim" and a count; None where it knows no stride."""
    if text.startswith("ddim"):
        count = int(text.removeprefix("ddim"))
        found = [list(range(0, total, i)) for i in range(1, total) if len(range(0, total, i)) == count]
        return found[0] if found else None
    stride, place, found = (total - 1) / max(int(text) - 1, 1), 0.0, []
    for _ in range(int(text)):
        found.append(round(place))
        place += stride
    return found


COMMON = (1, 2, 5, 10, 20, 25, 50, 100, 125, 200, 250, 500, 1000)


@pytest.mark.parametrize("steps", [1000, 4000])
def test_a_number_of_steps_is_our_linspace(steps: int) -> None:
    """At all common counts; at some of the odd ones from 21 on, halves that were added up are rounded otherwise."""
    tables = NoiseSchedule.linear(steps)
    for count in COMMON:
        spaced = tables.spaced_timesteps(count, "linspace")
        assert spaced[::-1] == published_timesteps(steps, str(count)), count
    counts = range(1, 300)
    ours = {n: np.array(tables.spaced_timesteps(n, "linspace")[::-1]) for n in counts}
    off = {n: np.abs(ours[n] - published_timesteps(steps, str(n))).max() for n in counts}
    assert {n for n in counts if off[n]} <= set(range(21, 300, 2)) and max(off.values()) == 1


@pytest.mark.parametrize("steps", [1000, 4000])
def test_ddim_and_a_number_is_our_leading_where_it_is_said_to_be(steps: int) -> None:
    tables, told = NoiseSchedule.linear(steps), []
    for count in range(1, 300):
        text = spacing_for(parse_flags(GUIDED, f"--diffusion_steps {steps} --timestep_respacing ddim{count}"))
        if "leading" in text:
            told.append(count)
            assert tables.spaced_timesteps(count, "leading")[::-1] == published_timesteps(steps, f"ddim{count}")
        else:
            assert text == f"no timestep_spacing has these {count} steps of {steps}"
    assert set(COMMON[1:11]) <= set(told)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("ddim25 --use_ddim True", "ddim25: a DDIMScheduler with timestep_spacing='leading', 25 steps"),
        ("250", "250: a DDPMScheduler with timestep_spacing='linspace', 250 steps"),
        ("10,10,20", "10,10,20: no timestep_spacing has sections of their own"),
        ("ddim30", "ddim30: no timestep_spacing has these 30 steps of 1000"),
    ],
)
def test_the_steps_of_the_sampling_are_told_in_our_terms(
    flags: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    converted(tmp_path, f"{SMALL} --timestep_respacing {flags}", make(num_heads=4))
    assert f"--timestep_respacing {told}" in capsys.readouterr().out.splitlines()


def test_images_that_were_not_clipped_are_not_clipped() -> None:
    assert convert.build_scheduler(parse_flags(IMPROVED, "--clip_denoised False")).config.clip_sample is False


@pytest.mark.parametrize(
    ("family", "flags", "prediction", "variance"),
    [
        (GUIDED, "", "epsilon", "fixed_large"),
        (GUIDED, "--learn_sigma True --use_kl True", "epsilon", "learned_range"),
        (GUIDED, "--predict_xstart=yes", "sample", "fixed_large"),
        (IMPROVED, "--sigma_small True", "epsilon", "fixed_small"),
        (IMPROVED, "--sigma_small True --learn_sigma True", "epsilon", "learned_range"),
    ],
)
def test_what_is_predicted_and_the_variance(family: str, flags: str, prediction: str, variance: str) -> None:
    config = convert.build_scheduler(parse_flags(family, flags)).config
    assert (config.prediction_type, config.variance_type) == (prediction, variance)
