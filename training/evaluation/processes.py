"""The processes that `accelerate launch` starts for one evaluation; the only file here that knows accelerate.

Each process draws its share of the batches and writes it to the cache, which all must see: one machine, or a shared
disk. The first process measures and writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

from pipelines.allocator import keep_freed_memory
from training.machine import check_connected, share_cores


class Processes:
    """This process: its `index` among `count` processes, and its `device`."""

    def __init__(self) -> None:
        self._state = None
        self.index, self.count = 0, 1
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @classmethod
    def launched(cls) -> Processes:
        """This process with the others that accelerate started, if any; each gets its share of the cores.

        Raises:
            ValueError: several processes were started, and this one is not connected to the others.
        """
        processes = cls()
        keep_freed_memory()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            processes._join()
        check_connected(processes.count)
        return processes

    def _join(self) -> None:
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        # the first process measures while the others wait, often for longer than accelerate's default of ten minutes
        state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(days=1))
        self._state, self.index, self.count, self.device = state, state.process_index, state.num_processes, state.device
        if state.device.type == "cpu":
            share_cores(self.count)

    @property
    def first(self) -> bool:
        """Whether this is the process that measures and writes."""
        return self.index == 0

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self._state is not None:
            self._state.wait_for_everyone()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the block in the first process before the others, which follow even if it raises."""
        if not self.first:
            self.wait()
        try:
            yield
        finally:
            if self.first:
                self.wait()

    def close(self) -> None:
        """Leave the group of processes."""
        if self._state is not None:
            self._state.destroy_process_group()
