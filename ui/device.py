"""Which device, number format and memory layout are fastest on this machine, decided without running the model.

bfloat16 is faster on most CPUs that have instructions to multiply it; any other emulates it. channels_last saves
oneDNN's convolutions a reordering of their input, except in bfloat16 without AMX, where it makes them a fifth slower.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from pipelines.allocator import keep_freed_memory
from pipelines.cpu import own_cores, own_flags, prefers_bfloat16, repeat_products_to_the_bit


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


def choose(cpu_flags: frozenset[str], bfloat16: bool, cuda: bool = False, mps: bool = False) -> Placement:
    """The fastest with these accelerators and CPU flags (as in /proc/cpuinfo); `bfloat16`: faster on that CPU."""
    if cuda:
        return Placement("cuda", "bfloat16")
    if mps:
        return Placement("mps", "float32", channels_last=False)
    if bfloat16:
        return Placement("cpu", "bfloat16", channels_last="amx_bf16" in cpu_flags)
    return Placement("cpu", "float32")


@cache
def detect() -> Placement:
    """The fastest on this machine. Also sets torch's thread count to the usable cores, and keeps freed memory."""
    import torch

    keep_freed_memory()
    repeat_products_to_the_bit()
    torch.set_num_threads(min(torch.get_num_threads(), own_cores()))
    return choose(own_flags(), prefers_bfloat16(), torch.cuda.is_available(), torch.backends.mps.is_available())
