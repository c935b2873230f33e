"""Which device, number format and memory layout draw fastest here, decided without running the model.

bfloat16 pays on a CPU whose instructions multiply it (AVX512-BF16, AMX): everywhere else it is emulated. channels_last
saves the convolutions of oneDNN a reordering of their input, except in bfloat16 without AMX, where it costs a fifth.
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
class FastPath:
    """`device` and `dtype` by name, as torch spells them."""

    device: str = "cpu"
    dtype: str = "float32"
    channels_last: bool = True

    def place(self, pipe: Any) -> Any:
        """Move `pipe`, loaded in `dtype`, to the device and its networks to the layout, in place; return it."""
        import torch

        pipe.to(self.device)
        for part in pipe.components.values() if self.channels_last else ():
            if isinstance(part, torch.nn.Module):
                part.to(memory_format=torch.channels_last)
        return pipe


def choose(cpu_flags: frozenset[str], cuda: bool = False, mps: bool = False) -> FastPath:
    """The fast path of a machine with these CPU flags (as in /proc/cpuinfo) and accelerators."""
    if cuda:
        return FastPath("cuda", "bfloat16")
    if mps:
        return FastPath("mps", "float32", channels_last=False)
    if cpu_flags & BF16_FLAGS:
        return FastPath("cpu", "bfloat16", channels_last="amx_bf16" in cpu_flags)
    return FastPath("cpu", "float32")


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
def detect() -> FastPath:
    """The fast path of this machine; sets torch's thread count to the cores that it may use, and keeps freed memory."""
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
