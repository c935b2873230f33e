"""What a run computes on: its share of the CPU's cores, and the versions of the libraries."""

import os
import platform

import diffusers
import numpy as np
import torch


def share_cores(processes: int) -> None:
    """Give torch this process's share of the usable cores: accelerate launch leaves each process one thread."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, usable // processes))


def versions() -> dict[str, str]:
    """The versions that numbers and images depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "numpy": np.__version__,
    }
