"""What every test needs: the project on the path, wherever pytest was started from, and no network."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hub_server import HubServer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads that wait for each other cost more than they do
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # launched runs have two: waiting by spinning doubled their time
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture
def hub() -> Iterator["HubServer"]:
    """A Hub of this test's own."""
    from hub_server import HubServer

    with HubServer() as server:
        yield server


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads of torch: on a single one a pipeline pads small batches further, and a spy would see the padding."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
