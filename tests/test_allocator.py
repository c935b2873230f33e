"""Freed memory that is kept is not mapped again."""

from __future__ import annotations

import platform
import subprocess
import sys

from conftest import ROOT

PROGRAM = """
import resource, sys, torch
from pipelines.allocator import keep_freed_memory
assert sys.argv[1] == "left" or keep_freed_memory()
def work():
    for _ in range(50):
        torch.ones(3_000_000), torch.ones(9_000_000)  # 12 MB, and 36 MB: above any limit that glibc learns
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_what_is_freed_is_used_again_without_page_faults() -> None:
    assert platform.libc_ver()[0] == "glibc", "written for the library that gives memory back"
    assert page_faults("kept") < 1000 < 50_000 < page_faults("left")
