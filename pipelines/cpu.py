"""What this machine's CPU can do: whether it multiplies bfloat16, and how many cores a process may keep busy."""

import math
from functools import cache
from pathlib import Path

# x86's names, and Arm's; a CPU without is taken to emulate bfloat16, many times slower than float32
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


def usable_cores(affinity: int, quota: str = "max 100000") -> int:
    """Cores that this process may keep busy: its affinity, or the share of a container (`cpu.max` of cgroup 2)."""
    limit, _, period = quota.strip().partition(" ")
    if limit == "max" or not period:
        return affinity
    return max(1, min(affinity, math.ceil(int(limit) / int(period))))


def read_system(path: str) -> str:
    """The text of a file that the system writes; empty where it does not."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""
