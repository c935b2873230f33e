"""Which device, number format and memory layout are fastest on this machine, decided without running the model.

bfloat16 is faster on a CPU that has instructions to multiply it (AVX512-BF16, AMX); any other emulates it.
channels_last saves oneDNN's convolutions a reordering of their input, except in bfloat16 without AMX, where it makes
them a fifth slower.
"""

import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.allocator import keep_freed_memory

BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})


@dataclass(frozen=True)
class Placement:
    """Where and how a model runs: `device` and `dtype` as torch spells them, and the memory layout of its networks."""

    device: str = "cpu"
    dtype: str = "float32"
    channels_last: bool = True

    def apply(self, pipe: Any) -> Any:
        """Move `pipe`, loaded in `dtype`, to the device and its networks to the layout, in place; return it."""
        import torch

        pipe.to(self.device)
        for part in pipe.components.values() if self.channels_last else ():
            if isinstance(part, torch.nn.Module):
                part.to(memory_format=torch.channels_last)
        return pipe


def choose(cpu_flags: frozenset[str], cuda: bool = False, mps: bool = False) -> Placement:
    """The fastest on a machine with these CPU flags (as in /proc/cpuinfo) and accelerators."""
    if cuda:
        return Placement("cuda", "bfloat16")
    if mps:
        return Placement("mps", "float32", channels_last=False)
    if cpu_flags & BF16_FLAGS:
        return Placement("cpu", "bfloat16", channels_last="amx_bf16" in cpu_flags)
    return Placement("cpu", "float32")


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """The flags of the first processor in the text of /proc/cpuinfo; empty where it names none."""
    for line in cpuinfo.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def usable_cores(affinity: int, quota: str = "max 100000") -> int:
    """Cores that this process may keep busy: its affinity, or the share of a container (`cpu.max` of cgroup 2)."""
    limit, _, period = quota.strip().partition(" ")
    if limit == "max" or not period:
        return affinity
    return max(1, min(affinity, math.ceil(int(limit) / int(period))))


@cache
def detect() -> Placement:
    """The fastest on this machine. Also sets torch's thread count to the usable cores, and keeps freed memory."""
    import torch

    keep_freed_memory()
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores(affinity, _read("/sys/fs/cgroup/cpu.max"))))
    return choose(cpu_flags(_read("/proc/cpuinfo")), torch.cuda.is_available(), torch.backends.mps.is_available())


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
