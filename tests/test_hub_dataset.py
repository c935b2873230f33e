"""A data set's folder goes to the Hub in one commit, and loads from there by its id."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hub_runs import push
from hub_server import HubServer
from image_files import parquet_folder
from training_runs import noise

REPOSITORY = ("dataset", "me/shapes")
CARD = "---\nlicense: mit\n---\n\n# Shapes\n"
LOAD = """
import json, sys
from training.data import load_images
data = load_images(dataset_name=sys.argv[1], split="test")
print(json.dumps([data.images.tolist(), data.labels.tolist(), data.class_names]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small data set with a card, and a file that is not for others."""
    splits = {"train": noise(6, 8, 8), "test": noise(3, 8, 8, seed=1)}
    parquet_folder(tmp_path / "shapes", splits, ("circle", "square"))
    (tmp_path / "shapes/README.md").write_text(CARD)
    (tmp_path / "shapes/notes.txt").write_text("not for others")
    return tmp_path / "shapes"


def load(hub: HubServer, home: Path, name: str) -> list:
    """What `load_images` reads of a data set on the Hub, in a process with a home of its own."""
    environment = hub.environment(home, STEPWISE_CACHE=str(home / "cache"))
    command = [sys.executable, "-c", LOAD, name]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def push_dataset(hub: HubServer, folder: Path, *arguments: str, **options: str | None) -> subprocess.CompletedProcess:
    return push(hub, folder, *arguments, command="push-dataset", **options)


def test_a_data_set_is_one_commit_and_loads_by_its_id(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    done = push_dataset(hub, folder, "shapes")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories[REPOSITORY]
    names = ["README.md", "data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"]
    assert sorted(repository.files) == [".gitattributes", *names] and len(repository.revisions) == 2
    assert f"{hub.url}/datasets/me/shapes" in done.stdout and repository.head in done.stdout
    assert repository.files["README.md"].decode() == CARD
    images, labels, names = load(hub, tmp_path / "home", "me/shapes")
    assert np.array_equal(np.array(images)[:, 0], noise(3, 8, 8, seed=1))
    assert labels == [0, 1, 0] and names == ["circle", "square"]


def test_a_dry_run_lists_the_files_and_pushes_nothing(hub: HubServer, folder: Path) -> None:
    listed = push_dataset(hub, folder, "me/shapes", "--dry_run")
    assert listed.stdout.split() == [
        "README.md",
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00001.parquet",
    ]
    assert not hub.repositories


def test_a_second_push_replaces_the_data_and_leaves_what_others_added(hub: HubServer, folder: Path) -> None:
    push_dataset(hub, folder, "shapes")
    repository = hub.repositories[REPOSITORY]
    theirs = {"examples.png": b"theirs"}
    repository.commit(repository.files | theirs | {"data/train-00000-of-00002.parquet": b"old"})
    before = len(repository.revisions)
    (folder / "README.md").write_text(CARD + "More.\n")
    assert push_dataset(hub, folder, "shapes").returncode == 0
    assert len(repository.revisions) == before + 1 and theirs.items() < repository.files.items()
    assert "data/train-00000-of-00002.parquet" not in repository.files


def test_a_hub_that_fails_once_makes_no_difference(hub: HubServer, folder: Path) -> None:
    push_dataset(hub, folder, "shapes")
    hub.heal()
    for number in range(1, 20):
        (folder / "README.md").write_text(f"{CARD}{number}\n")
        hub.break_request(number, "503" if number % 2 else "429")
        assert push_dataset(hub, folder, "shapes").returncode == 0
        assert hub.repositories[REPOSITORY].files["README.md"].decode() == f"{CARD}{number}\n"
        if len(hub.requests) < number:
            return
    raise AssertionError("a push made more requests than this test breaks")


def test_private_means_private(hub: HubServer, folder: Path) -> None:
    assert push_dataset(hub, folder, "shapes", "--private").returncode == 0
    assert hub.repositories[REPOSITORY].private


@pytest.mark.parametrize(
    ("missing", "said"),
    [("README.md", "must hold a README.md, its card"), ("data", "must hold data/*.parquet: `python -m training.data")],
)
def test_what_is_no_data_set_is_refused(hub: HubServer, folder: Path, missing: str, said: str) -> None:
    (folder / missing).rename(folder / "elsewhere")
    refused = push_dataset(hub, folder, "shapes")
    assert refused.returncode == 1 and said in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert not hub.repositories


def test_a_card_that_tells_too_much_and_a_token_that_may_not_are_refused(hub: HubServer, folder: Path) -> None:
    assert "no right to write to me/shapes" in push_dataset(hub, folder, "me/shapes", token="hf_me_reads").stderr
    (folder / "README.md").write_text(CARD + "hf_me_writes")
    assert push_dataset(hub, folder, "shapes").stderr.startswith("error: README.md contains your Hub token")
    assert not hub.repositories


def test_a_dry_run_refuses_what_a_push_refuses(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    (folder / "data").rename(tmp_path / "elsewhere")
    (folder / "data").symlink_to(tmp_path / "elsewhere")
    for more in ((), ("--dry_run",)):
        refused = push_dataset(hub, folder, "shapes", *more)
        assert refused.returncode == 1 and not refused.stdout
        assert refused.stderr.startswith(
            f"error: data/test-00000-of-00001.parquet is a link to {tmp_path / 'elsewhere'}"
        )
    assert not hub.requests
