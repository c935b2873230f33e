"""What a run computes on: its processes, its share of the CPU's cores, and the versions of the libraries."""

import os
import platform

import diffusers
import numpy as np
import torch

from pipelines.cpu import own_cores, prefers_bfloat16

_WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")  # of torchrun and of MPI


def is_reporter() -> bool:
    """Whether this process prints what all processes of a launch find alike: the first one does."""
    return os.environ.get("RANK", "0") == "0"


def check_connected(processes: int) -> None:
    """Raise ValueError if the launch has more processes than the `processes` that this one sees.

    Each would take itself for the only one, and all would write the same folder.
    """
    started = max(int(os.environ.get(name, "1")) for name in _WORLD_SIZES)
    if started > 1 and processes == 1:
        raise ValueError(
            f"WORLD_SIZE must be the number of connected processes, got {started} where one is seen: on a CPU use "
            f"ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {started} -m ..."
        )


def slow_in_bfloat16(on_cpu: bool) -> bool:
    """Whether bfloat16 is slower than float32: on most CPUs, which emulate it, and on no GPU."""
    return on_cpu and not prefers_bfloat16()


def usual_dtype() -> str:
    """The number format in which models are measured, on a GPU by CUDA or else on the CPU."""
    return "float32" if slow_in_bfloat16(on_cpu=not torch.cuda.is_available()) else "bfloat16"


def share_cores(processes: int) -> None:
    """Give torch this process's share of the usable cores: accelerate launch leaves each process one thread."""
    torch.set_num_threads(max(1, own_cores() // processes))


def versions() -> dict[str, str]:
    """The versions that numbers and images depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "numpy": np.__version__,
    }
