"""Folders under temporary names: what a killed process leaves is swept, what a living one writes and what is not ours
stays, and a volume whose parent cannot be written can be saved to."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT
from fresh_processes import contents
from image_files import class_folders
from toys import ddim

from pipelines import staging
from training.data import load_images
from training.data.parquet_folder import SPLITS, parquet_of, write_folder

WRITER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from staging import staged
with staged(Path(sys.argv[2])) as temporary:
    temporary.mkdir()
    (temporary / "half").write_text("of it")
    print(temporary, flush=True)
    time.sleep(60)
"""


def writer(target: Path) -> tuple[subprocess.Popen, Path]:
    """A process that writes a folder and does not finish, and where."""
    command = [sys.executable, "-c", WRITER, str(ROOT / "pipelines"), str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def leftover(target: Path) -> Path:
    """What a killed process has left of a target, without the process."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    (folder / target.name / "unet").mkdir(parents=True)
    (folder / target.name / "unet" / "half").write_text("of it")
    return folder


def test_the_two_copies_are_equal() -> None:
    assert (ROOT / "pipelines" / "staging.py").read_text() == (ROOT / "training" / "data" / "staging.py").read_text()


def test_a_living_writer_is_left_alone_and_a_killed_one_swept(tmp_path: Path) -> None:
    target = tmp_path / "my.model"
    process, folder = writer(target)
    try:
        with staging.staged(target) as mine:
            assert (folder / "half").is_file() and mine.parent != folder.parent
    finally:
        kill(process)
    assert (folder / "half").is_file()
    with staging.staged(target) as mine:
        assert [path.name for path in tmp_path.iterdir()] == [mine.parent.name]
    assert not list(tmp_path.iterdir())


def test_folders_of_others_with_such_names_stay(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    for name in (".mine.original", ".minestudio1", ".mine.old", "mine.abcdefgh", ".other.abcdefgh"):
        (tmp_path / name / "kept").mkdir(parents=True)
    (tmp_path / ".mine.a_file_8").write_text("a file")
    before = contents(tmp_path), sorted(tmp_path.rglob("*"))
    with staging.staged(target):
        pass
    assert (contents(tmp_path), sorted(tmp_path.rglob("*"))) == before


def test_many_writers_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    def write(number: int) -> str:
        with staging.staged(tmp_path / "mine") as temporary:
            temporary.write_text(str(number))
            return temporary.read_text()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write, range(200))) == [str(number) for number in range(200)]
    assert not list(tmp_path.iterdir())


# --- where they are used ---


def test_a_model_is_saved_where_the_parent_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a mounted volume; root could write anyway."""
    make, volume = tempfile.mkdtemp, tmp_path / "volume"
    volume.mkdir()

    def refuse(prefix: str, dir: Path) -> str:
        if Path(dir) == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))
        return make(prefix=prefix, dir=dir)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    for _ in range(2):
        ddim().save_pretrained(volume)
    assert (volume / "model_index.json").is_file() and not list(volume.rglob(".*"))
    with pytest.raises(PermissionError):
        ddim().save_pretrained(tmp_path / "new")


def test_the_next_save_sweeps_what_killed_ones_left_beside_and_inside(tmp_path: Path) -> None:
    target = tmp_path / "model"
    leftover(target)
    ddim().save_pretrained(target)
    leftover(target)
    leftover(target / "model")
    ddim().save_pretrained(target)
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and not list(target.rglob(".*"))


def test_the_next_decoding_and_the_next_preparation_sweep_what_killed_ones_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPWISE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    leftover(tmp_path / "cache" / f"images-{'0a' * 12}")
    class_folders(tmp_path / "set")
    load_images(train_data_dir=tmp_path / "set")
    (entry,) = (tmp_path / "cache").iterdir()
    assert re.fullmatch(r"images-[0-9a-f]{24}", entry.name)

    leftover(tmp_path / "data")
    write_folder(tmp_path / "data", "set", ("image",), lambda made: [parquet_of(made, s).touch() for s in SPLITS])
    assert (tmp_path / "data" / "data").is_dir() and not list(tmp_path.glob(".*"))
