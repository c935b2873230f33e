"""`python -m benchmarks.kills` is a command and no test; these are its parts."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.forks import Moment, run, spread
from benchmarks.kills import SHARES, contents, differences, plan


def test_kills_are_spread_evenly_over_the_time_of_each_phase() -> None:
    moments = spread([1.0, 3.0], 4, "saves")
    assert moments == [Moment("saves", 0, 0.5), *(Moment("saves", 1, seconds) for seconds in (0.5, 1.5, 2.5))]
    calls = {"preparation": [0.1], "updates": [0.01] * 12, "saves": [0.1] * 5, "evaluation": [1.0]}
    assert Counter(moment.phase for moment in plan(calls, 27)) == SHARES and sum(SHARES.values()) == 27
    assert len(plan(calls, 5)) == 5
    assert all(0 < moment.seconds < calls[moment.phase][moment.call] for moment in plan(calls, 27))


def test_a_process_is_killed_at_its_moment_and_reports_its_calls(tmp_path: Path) -> None:
    work = SimpleNamespace(step=time.sleep)

    def program(seconds: float) -> None:
        for index in range(3):
            print(f"step {index}", flush=True)
            work.step(seconds if index == 1 else 0)

    whole = run(lambda: program(0), {"steps": [(work, "step")]}, tmp_path)
    assert (whole.signal, whole.status) == (0, 0) and len(whole.calls["steps"]) == 3
    assert all(0 <= seconds < 60 for seconds in whole.calls["steps"])
    (tmp_path / "log").unlink()
    killed = run(lambda: program(600), {"steps": [(work, "step")]}, tmp_path, Moment("steps", 1, 0.01))
    assert killed.signal == signal.SIGKILL and (tmp_path / "log").read_text() == "step 0\nstep 1\n"
    assert run(lambda: work.missing(), {}, tmp_path).status == 1 and "AttributeError" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("harm", ["other", "missing", "more"])
def test_a_difference_is_found(harm: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "weights").write_bytes(b"weights")
        record = {"steps": 3, "seconds": name, "results": [{"images_per_second": name, "fid": 1.0}]}
        (tmp_path / name / "run" / "training.json").write_text(json.dumps(record))
    one = contents(tmp_path / "one", ("run",))
    assert differences(one, contents(tmp_path / "two", ("run",))) == []
    weights, hidden = tmp_path / "two" / "run" / "weights", tmp_path / "two" / "run" / ".run.left"
    {"other": lambda: weights.write_bytes(b"Weights"), "missing": weights.unlink, "more": hidden.touch}[harm]()
    (found,) = differences(one, contents(tmp_path / "two", ("run",)))
    assert found == ("run/.run.left" if harm == "more" else "run/weights")
