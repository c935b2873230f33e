"""What this machine's CPU can do: whether bfloat16 is faster on it, and how many cores a process may keep busy."""

import math
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

# x86's names, and Arm's; a CPU without emulates bfloat16, many times slower than float32
BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """The flags of the first processor in the text of /proc/cpuinfo; empty where it names none."""
    for line in cpuinfo.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


@cache
def own_flags() -> frozenset[str]:
    """The flags of this machine's processor; empty where the system tells none."""
    return cpu_flags(read_system("/proc/cpuinfo"))


def bfloat16_speedup(size: int = 256, times: int = 5) -> float:
    """How many times faster than in float32 this CPU multiplies matrices in bfloat16: a measurement of a few ms."""
    import torch

    repeat_products_to_the_bit()  # the first product of a program may be one of these

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(size, size, dtype=dtype)
        taken = []
        for _ in range(times + 1):  # the first one also prepares the product
            start = time.perf_counter()
            matrix @ matrix
            taken.append(time.perf_counter() - start)
        return min(taken[1:])

    return seconds(torch.float32) / seconds(torch.bfloat16)


def faster_in_bfloat16(flags: frozenset[str], speedup: Callable[[], float] = bfloat16_speedup) -> bool:
    """Whether a CPU with these flags computes faster in bfloat16 than in float32.

    With AMX it does, without any of the instructions it does not. The others tell only when timed: with AVX512-BF16 and
    no AMX, one CPU took half the time of float32, and another one twice.
    """
    if "amx_bf16" in flags or not flags & BF16_FLAGS:
        return "amx_bf16" in flags
    return speedup() > 1


@cache
def prefers_bfloat16() -> bool:
    """Whether this machine's CPU computes faster in bfloat16 than in float32."""
    return faster_in_bfloat16(own_flags())


def repeat_products_to_the_bit() -> None:
    """Let MKL's products of several threads not depend on where in memory a matrix lies, as they do on some CPUs.

    MKL reads this when it first computes; what the user has set stays.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def usable_cores(affinity: int, quota: str = "max 100000") -> int:
    """Cores that this process may keep busy: its affinity, or the share of a container (`cpu.max` of cgroup 2)."""
    limit, _, period = quota.strip().partition(" ")
    if limit == "max" or not period:
        return affinity
    return max(1, min(affinity, math.ceil(int(limit) / int(period))))


def own_cores() -> int:
    """Cores of this machine that this process may keep busy."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return usable_cores(affinity, read_system("/sys/fs/cgroup/cpu.max"))


def read_system(path: str) -> str:
    """The text of a file that the system writes; empty where it does not."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""
