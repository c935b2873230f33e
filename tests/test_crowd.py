"""`python -m benchmarks.crowd` and `benchmarks.hostile` are commands and no tests; these are their parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.crowd import Answer, Options, crowd_rows, redrawn_rows
from benchmarks.hostile import ANSWERS, all_calls, chosen, generate, show, sorted_as

JOB = {"model": "m", "seed": 5, "count": 2, "steps": 3}


def answered(**changes: object) -> Answer:
    told = [JOB, JOB, JOB | {"seed": 6}]
    return Answer(**{"seconds": 1.0, "images": np.zeros((2, 4, 4, 1), np.uint8), "told": told} | changes)


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({}, True),
        ({"told": [JOB, JOB, JOB]}, False),
        ({"told": [JOB, JOB | {"model": "n"}, JOB | {"seed": 6}]}, False),
        ({"images": np.zeros((1, 4, 4, 1), np.uint8)}, False),
        ({"images": None, "told": [], "error": "lost"}, False),
    ],
)
def test_an_answer_belongs_to_its_job_or_not(changes: dict[str, object], good: bool) -> None:
    answer = answered(**changes)
    assert answer.belongs_to(JOB) is good
    first, mixed, lost, *_ = crowd_rows([JOB], [answer], 1.0)
    assert (first["value"], mixed["value"], lost["value"]) == (good, not good and not answer.error, bool(answer.error))


def test_pixels_are_compared() -> None:
    other = answered(images=np.ones((2, 4, 4, 1), np.uint8))
    crowd, alone = [answered(), answered(), answered()], [answered(), other, answered(images=None)]
    assert redrawn_rows(crowd, alone)[0]["value"] == 1
    with pytest.raises(ValueError, match="redrawn must be at most jobs"):
        Options(jobs=3, redrawn=4)


def test_there_are_150_hostile_calls_of_all_kinds(tmp_path: Path) -> None:
    calls = all_calls(tmp_path / "secret.txt")
    assert len(calls) >= 150 and len({call.kind for call in chosen(calls, 150)}) == 8
    assert {call.kind for call in chosen(calls, 40)} == {call.kind for call in calls}
    with pytest.raises(ValueError, match="calls must be at most"):
        chosen(calls, 10_000)


def test_answers_are_sorted_and_counted() -> None:
    call = generate("numbers", "steps", "-1")
    replies = {
        "refused by name": (400, "event: error\ndata: steps must be a whole number"),
        "refused": (404, "Not Found"),
        "answered": (200, "event: complete"),
        "no reason given": (400, "event: error\ndata: null"),
        "leaked": (200, "root:x:0:0:root"),
    }
    assert {sorted_as(call, *reply) for reply in replies.values()} == {*ANSWERS} - {"no answer"}
    rows = [{"kind": "numbers", "call": "c", "answer": name, "words": "w"} for name in replies]
    text = show([*rows, {"kind": "afterwards", "call": "", "answer": "answered"}])
    assert "5 calls; the page stands, and then draws as before" in text and text.count("numbers, c") == 2
