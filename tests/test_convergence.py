"""The errors of samplers on ground truth fall with their steps, by the order of each."""

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import convergence

STEPS = (40, 80, 160)


def orders(errors: convergence.Errors) -> dict[str, float]:
    return {name: convergence.order(STEPS, values) for name, values in errors.items()}


def test_maps_without_noise_reach_the_exact_one() -> None:
    errors = convergence.without_noise(STEPS)
    expected = {"flow, Euler": 1, "flow, midpoint": 2, "flow, Heun": 2, "DDIM": 1, "VP ODE, Heun": 2}
    assert orders(errors) == pytest.approx(expected, abs=0.25)
    assert all(row[-1] < 0.02 for row in errors.values())


def test_ddpm_and_ncsn_are_discretisations_of_their_sdes() -> None:
    """Path by path under the same Brownian motion, in first order: the noise does not depend on x."""
    errors = convergence.with_noise(STEPS)
    assert orders(errors) == pytest.approx(dict.fromkeys(errors, 1.0), abs=0.25)
    assert len(errors) == 2 and all(row[-1] < 0.03 for row in errors.values())


def test_the_command_prints_orders_and_draws_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(convergence, "without_noise", lambda: {"Euler": [0.1, 0.05, 0.025, 0.0125, 0.00625]})
    monkeypatch.setattr(convergence, "with_noise", lambda: {"DDPM": [0.1, 0.05, 0.025, 0.0125, 0.00625]})
    convergence.main(["--output", str(tmp_path / "plot.png")])
    assert "1.00" in capsys.readouterr().out
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > 1000
