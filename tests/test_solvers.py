"""The table of all samplers: no scheduler is left out, errors fall as they should, and the stock faults are in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import solvers
from benchmarks.exact_runs import Sampler, ours, stock_names
from benchmarks.solvers import Options, ddim_against_formula, floor, measured, stock

Pairs = list[tuple[Sampler, Sampler | None]]
SMALL = Options(evaluations=[10, 20], points=256)


@pytest.fixture(scope="module")
def of_diffusers() -> tuple[Pairs, dict[str, str]]:
    return stock()


def test_every_scheduler_of_diffusers_is_driven_or_named_with_a_reason(
    of_diffusers: tuple[Pairs, dict[str, str]],
) -> None:
    pairs, others = of_diffusers
    driven = {f"{theirs.name.split(',')[0]}Scheduler" for theirs, _ in pairs}
    assert sorted(driven | set(others)) == stock_names() and not driven & set(others)
    assert all(others.values()) and len(driven) >= 26


def test_without_noise_errors_fall_at_the_rate_of_the_method() -> None:
    by_name = {sampler.name: sampler for sampler in ours()}
    rows = [measured(by_name[name], SMALL) for name in ("flow, euler", "flow, midpoint")]
    assert rows[0]["evaluations"] == rows[1]["evaluations"] == [10, 20]
    assert rows[0]["order"] == pytest.approx(1, abs=0.1) and rows[1]["order"] == pytest.approx(2, abs=0.3)
    assert rows[0]["errors"] == rows[0]["of_trajectories"], "the map from noise to data is monotone"
    assert floor(Options(points=4096)) < floor(SMALL) < 0.2


def test_the_stock_ddim_leaves_its_formula_with_linspace_alone() -> None:
    assert ddim_against_formula("leading", 10) < 1e-3 < 0.01 < ddim_against_formula("linspace", 80)
    assert ddim_against_formula("trailing", 50) < 1e-3, "50 divides 1000"


def test_the_command_writes_table_and_plot(
    of_diffusers: tuple[Pairs, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    chosen = [sampler for sampler in ours() if sampler.name == "DDIM"]
    pairs = [pair for pair in of_diffusers[0] if pair[0].name in ("DDIM", "LCM")]
    monkeypatch.setattr(solvers, "ours", lambda: chosen)
    monkeypatch.setattr(solvers, "stock", lambda: (pairs, {"VQDiffusionScheduler": "is of a network of its own"}))
    rows = solvers.main(f"--evaluations 10 60 --points 64 --output {tmp_path}/solvers.md".split())
    assert [len(row["errors"]) for row in rows] == [2, 2, 1], "LCM has 50 steps at most"
    written = (tmp_path / "solvers.md").read_text()
    assert "| ours: DDIM" in written and "VQDiffusionScheduler: is of" in written and "solvers.png" in written
    assert (tmp_path / "solvers.png").stat().st_size > 5000 and "| ours: DDIM" in capsys.readouterr().out
