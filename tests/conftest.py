"""What every test needs: the project on the path, wherever pytest was started from, and no network."""

import gc
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
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as the programs do: pipelines.cpu.repeat_products_to_the_bit
gc.disable()  # while modules are imported, which leaves nothing to collect


# the files that take longest, first: a worker that begins one at the end would leave the others idle for minutes
LONGEST = (
    "readme_blocks",
    "page",
    "hub_models",
    "hub_training",
    "hub_push",
    "processes",
    "resume",
    "evaluate_resume",
    "saving",
    "one_edit",
    "autoencoder_training",
    "latent_training",
    "saved_by_0_1_0",
    "evaluate",
    "prompts",
    "shipped",
    "kills",
    "staging",
    "space",
    "finetune",
    "objectives",
    "run_folders",
    "text_training",
    "ui",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers take files in the order of collection (pyproject.toml); without workers it stays alphabetical."""
    place = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish() -> None:
    """Modules stay: no later collection of garbage looks at the million objects that they are."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def hub_server() -> Iterator["HubServer"]:
    """One address for all tests, so that they can share what reads it as it starts."""
    from hub_server import HubServer

    with HubServer() as server:
        yield server


@pytest.fixture
def hub(hub_server: "HubServer") -> "HubServer":
    """A Hub that nothing has been pushed to, for a test of its own."""
    hub_server.clear()
    return hub_server


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads of torch: on a single one a pipeline pads small batches further, and a spy would see the padding."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of images and of data sets of this test's own, and no network."""
    monkeypatch.setenv("STEPWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """accelerate starts anew in this test, on one thread of a CPU, with a cache of its own."""
    import training_runs

    with training_runs.alone(tmp_path / "cache"):
        yield


@pytest.fixture(scope="session")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like facebook/DiT-XL-2-256, only to be read."""
    from latent_folders import save_dit

    return save_dit(tmp_path_factory.mktemp("dit"))


@pytest.fixture
def bfloat16_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that is faster with bfloat16, whatever this machine's is."""
    from training import machine

    monkeypatch.setattr(machine, "prefers_bfloat16", lambda: True)
