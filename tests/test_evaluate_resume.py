"""An evaluation that is killed goes on, a finished one is not repeated, and several processes find the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from evaluation_runs import command, fill, measured
from fresh_processes import launch

from training import evaluate
from training.evaluation import batches
from training.evaluation.batches import BatchCache, draw
from training.evaluation.sampling import Batch, open_model

COUNT = 40  # batches of the row that is killed
SLOW = ["--num_samples", str(COUNT), "--batch_size", "1", "--num_inference_steps", "15", "--no_grid"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("resume"))


@pytest.fixture(autouse=True)
def cache(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, and one thread, for the numbers are compared to the last bit."""
    monkeypatch.setenv("STEPWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(place)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "cache"
    torch.set_num_threads(threads)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    """The batches that are drawn in this process."""
    seen: list[range] = []
    real = batches.draw_batch

    def noted(model: Any, chosen: range, seed: int, **settings: Any) -> Batch:
        seen.append(chosen)
        return real(model, chosen, seed, **settings)

    monkeypatch.setattr(batches, "draw_batch", noted)
    return seen


def start(place: Path, arguments: list[str]) -> subprocess.Popen:
    line = [sys.executable, "-m", "training.evaluate", *arguments]
    return subprocess.Popen(line, cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)


def kill_when_some_are_drawn(process: subprocess.Popen, cache: Path) -> int:
    """SIGKILL once three batches are in the cache; how many there are then."""
    deadline = time.monotonic() + 120
    while len(list(cache.glob("drawn-*/[0-9]*.npz"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline, "it ended, or drew nothing"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return len(list(cache.glob("drawn-*/[0-9]*.npz")))


def test_killed_in_the_middle_of_a_row_it_goes_on_where_it_was(
    place: Path, cache: Path, drawn: list[range], capsys: pytest.CaptureFixture
) -> None:
    arguments = command(*SLOW, "--guidance_scale", "2", "3")
    process = start(place, [*arguments, "--output", "killed/metrics.json"])
    kept = kill_when_some_are_drawn(process, cache)
    assert 3 <= kept < COUNT and not (place / "killed/metrics.json").exists()
    evaluate.main([*arguments, "--output", "killed/metrics.json"])
    assert len(drawn) == 2 * COUNT - kept
    assert f"{kept} of {COUNT} images were drawn by an earlier run" in capsys.readouterr().out
    assert not list(cache.glob("drawn-*")), "the images of a finished row are of no more use"
    drawn.clear()
    evaluate.main([*arguments, "--output", "whole/metrics.json"])
    assert len(drawn) == 2 * COUNT
    assert measured(place / "killed/metrics.json") == measured(place / "whole/metrics.json")


def test_what_is_measured_is_not_measured_again(place: Path, drawn: list[range], capsys: pytest.CaptureFixture) -> None:
    arguments = command("--output", "again/metrics.json", "--no_grid", "--guidance_scale")
    evaluate.main([*arguments, "1"])
    drawn.clear()
    evaluate.main([*arguments, "1"])
    assert not drawn and "1 of 1 settings are in again/metrics.json already" in capsys.readouterr().out
    evaluate.main([*arguments, "1", "2"])
    assert len(drawn) == 3 and len(measured(place / "again/metrics.json")) == 2
    before = measured(place / "again/metrics.json")
    drawn.clear()
    evaluate.main([*arguments, "1", "2", "--overwrite"])
    assert len(drawn) == 6 and measured(place / "again/metrics.json") == before


def test_other_weights_or_data_are_measured_anew(place: Path, drawn: list[range]) -> None:
    path = place / "changed/metrics.json"
    arguments = command("--output", str(path), "--no_grid")
    evaluate.main(arguments)
    content = json.loads(path.read_text())
    for change in ("weights", "features", "data"):
        (row,) = json.loads(json.dumps(content))["results"].values()
        if change == "data":
            row["real"]["train"]["fingerprint"] = "of other images"
        elif change == "features":
            row["features"]["weights"] = "others"
        else:
            row["weights"] = "others"
        path.write_text(json.dumps({"results": dict.fromkeys(content["results"], row)}))
        drawn.clear()
        evaluate.main(arguments)
        assert len(drawn) == 3, change
        assert json.loads(path.read_text())["results"].keys() == content["results"].keys()


def test_a_row_without_a_newer_measure_is_completed(place: Path, drawn: list[range]) -> None:
    path = place / "older/metrics.json"
    evaluate.main(command("--output", str(path), "--no_grid"))
    content = json.loads(path.read_text())
    for row in content["results"].values():
        del row["measured"]["kernel_distance"]
    path.write_text(json.dumps(content))
    drawn.clear()
    evaluate.main(command("--output", str(path), "--no_grid"))
    assert len(drawn) == 3 and "kernel_distance" in measured(path)[0]


def test_a_damaged_batch_is_drawn_again(place: Path, cache: Path, drawn: list[range]) -> None:
    model = open_model(str(place / "plain"), torch.float32)
    kept = BatchCache(cache, "one")
    first = draw(model, 6, 2, 0, "images", kept, num_inference_steps=2)
    places = sorted(cache.glob("drawn-*/*.npz"))
    assert len(places) == 3 and first.resumed == 0
    places[1].write_bytes(places[1].read_bytes()[:50])
    places[2].unlink()
    drawn.clear()
    second = draw(model, 6, 2, 0, "images", kept, num_inference_steps=2)
    assert drawn == [range(2, 4), range(4, 6)] and second.resumed == 2
    assert np.array_equal(first.pixels, second.pixels) and first.nfe == second.nfe == 2.0


def test_other_settings_find_none_of_the_batches(place: Path) -> None:
    model = open_model(str(place / "plain"), torch.float32)
    keys = {
        json.dumps(batches.depends_on(model, *decides))
        for decides in [
            ("a", 0, "float32", {"num_inference_steps": 2}),
            ("b", 0, "float32", {"num_inference_steps": 2}),
            ("a", 1, "float32", {"num_inference_steps": 2}),
            ("a", 0, "bfloat16", {"num_inference_steps": 2}),
            ("a", 0, "float32", {"num_inference_steps": 3}),
        ]
    }
    model.use_scheduler("UniPC")
    keys.add(json.dumps(batches.depends_on(model, "a", 0, "float32", {"num_inference_steps": 2})))
    assert len(keys) == 6


def test_two_processes_find_the_numbers_of_one(place: Path, cache: Path) -> None:
    arguments = command("--guidance_scale", "2", "3", "--scheduler", "DDIM", "UniPC", "--no_grid")
    evaluate.main([*arguments, "--output", "one/metrics.json"])
    program = ["-m", "training.evaluate", *arguments, "--output", "two/metrics.json"]
    done = launch(place, program, processes=2, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-4000:]
    assert measured(place / "one/metrics.json") == measured(place / "two/metrics.json")
    rows = json.loads((place / "two/metrics.json").read_text())["results"].values()
    assert len(rows) == 4 and {row["processes"] for row in rows} == {2}
    assert done.stdout.count("real images") == 1 and not list(cache.glob("drawn-*"))


@pytest.mark.parametrize(("rank", "says"), [("0", "error: dataset_name must have labels"), ("1", "1")])
def test_of_several_processes_one_tells_of_a_mistake(rank: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(command("--output", "none/metrics.json", data="unnamed"))
    assert str(stopped.value).startswith(says)


def test_each_process_draws_its_share(place: Path, cache: Path, drawn: list[range]) -> None:
    class Second:
        """The second of two, whose peer has done nothing yet."""

        index, count, first = 1, 2, False

        def wait(self) -> None:
            pass

    model = open_model(str(place / "plain"), torch.float32)
    assert draw(model, 10, 2, 0, "images", BatchCache(cache, "two"), Second(), num_inference_steps=1) is None
    assert drawn == [range(2, 4), range(6, 8)]
