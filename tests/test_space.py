"""The demo as a Space: it opens with the models that were pushed, installs no CUDA, and needs no special CPU."""

import importlib.util
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from autoencoders import tiny
from conftest import ROOT
from gradio_client import Client
from hub_runs import push
from hub_server import HubServer
from huggingface_hub import SpaceCard
from served import free_port, wait_for
from toys import ddpm, guided, tiny_unet

from pipelines import AutoencoderPipeline
from training.sharing.space import is_of_the_space, requirements, sources
from ui import Catalogue
from ui.run import draw
from ui.settings import Settings


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name, pipe in {"cats": guided(), "dogs": ddpm()}.items():
        pipe.save_pretrained(tmp_path / "models" / name)
    return tmp_path / "models"


def test_a_space_names_the_models_that_were_pushed_to_it(hub: HubServer, models: Path) -> None:
    first = push(hub, models / "cats", "me/cats", "--space")
    assert first.returncode == 0, first.stderr
    assert f"{hub.url}/spaces/me/cats draws with it" in first.stdout
    for name in ("cats", "dogs"):
        assert push(hub, models / name, f"me/{name}", "--space", "me/demo").returncode == 0
    space = hub.repositories["space", "me/demo"]
    assert len(space.revisions) == 3
    card = SpaceCard(space.files["README.md"].decode())
    assert card.data.models == card.data.preload_from_hub == ["me/dogs", "me/cats"]
    assert card.data.sdk == "gradio" and card.data.app_file == "app.py"
    listed = subprocess.run(
        ["git", "ls-files", "ui", "pipelines"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    expected = {*listed.stdout.split()}
    assert {"ui/demo.py", "ui/icon.png", "ui/laboratory/canvas.js", "ui/laboratory/data/memorization.json"} <= expected
    expected |= {
        "README.md",
        "requirements.txt",
        "app.py",
        "LICENSE",
        "docs/page.png",
        ".gitattributes",
    }
    assert set(space.files) == expected
    assert not any(str(ROOT).encode() in content for content in space.files.values())


def test_the_code_of_a_space_may_lie_in_folders_of_the_page(tmp_path: Path) -> None:
    names = ["pipelines/ddim.py", "ui/demo.py", "ui/tabs/generate.py", "ui/tabs/deep/er.py", "ui/a.js", "ui/b/c.json"]
    names += ["ui/d.png"]
    for name in [*names, "training/train.py", "ui/tabs/notes.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert sources(tmp_path) == {name: tmp_path / name for name in names}
    assert all(is_of_the_space(name) for name in names), "the next push removes them if they are gone"


def test_what_the_owner_of_a_space_changed_stays(hub: HubServer, models: Path) -> None:
    push(hub, models / "cats", "me/cats", "--space", "me/demo")
    space = hub.repositories["space", "me/demo"]
    changed = space.files["README.md"].decode().replace("title: Stepwise", "title: My cats\npinned: true")
    space.commit(space.files | {"README.md": changed.encode()})
    done = push(hub, models / "dogs", "me/dogs", "--space", "me/demo", "--private")
    assert done.returncode == 1 and "me/demo exists and is public" in done.stderr
    assert push(hub, models / "dogs", "me/dogs", "--space", "me/demo").returncode == 0
    data = SpaceCard(space.files["README.md"].decode()).data
    assert data.title == "My cats" and data.pinned and data.models == ["me/dogs", "me/cats"]


def test_a_dry_run_lists_the_files_of_the_space_too(hub: HubServer, models: Path) -> None:
    dry = push(hub, models / "cats", "me/cats", "--space", "me/demo", "--dry_run", token=None)
    assert dry.returncode == 0 and not hub.requests
    assert dry.stderr == "would upload to the model me/cats:\nwould upload to the Space me/demo:\n"
    assert push(hub, models / "cats", "me/cats", "--space", "me/demo").returncode == 0
    pushed = [sorted(hub.repositories[each].files) for each in (("model", "me/cats"), ("space", "me/demo"))]
    assert dry.stdout.split() == [name for names in pushed for name in names if name != ".gitattributes"]


def test_a_hub_that_fails_once_makes_no_difference(hub: HubServer, models: Path) -> None:
    """At any request of the model's push and of the Space's, by being busy or by asking to wait."""
    push(hub, models / "cats", "me/cats", "--space", "me/demo")
    for number in range(1, 40):
        how = ("429", "503")[number % 2]
        hub.repositories["space", "me/demo"].commit({"README.md": b"---\nmodels: [me/dogs]\n---\n"})
        hub.break_request(number, how)
        done = push(hub, models / "cats", "me/cats", "--space", "me/demo")
        assert done.returncode == 0, (number, hub.requests, done.stderr)
        assert SpaceCard(hub.repositories["space", "me/demo"].files["README.md"].decode()).data.models[1:] == [
            "me/dogs"
        ]
        if len(hub.requests) < number:
            break
        assert how != "429" or max(done.slept) >= int(hub.retry_after), hub.requests[number - 1]
    assert 10 < number < 39


def test_where_a_space_costs_it_is_said_what_can_be_done(hub: HubServer, models: Path) -> None:
    hub.free = {"me"}
    refused = push(hub, models / "cats", "cats", "--space")
    assert refused.returncode == 1 and "holds" in refused.stdout and ("model", "me/cats") in hub.repositories
    (line,) = refused.stderr.splitlines()
    for said in (
        "no Space me/cats on cpu-basic",
        "402 Static Spaces are free",
        "The model is pushed",
        "huggingface.co/pro",
    ):
        assert said in line
    assert "`--space_hardware zero-a10g`" in line and "python app.py --model" in line
    assert push(hub, models / "cats", "cats", "--space", "--space_hardware", "zero-a10g").returncode == 0
    hosted = hub.repositories["space", "me/cats"]
    assert (
        hosted.hardware == "zero-a10g" and SpaceCard(hosted.files["README.md"].decode()).data.python_version == "3.12"
    )
    assert hosted.files["requirements.txt"] == (ROOT / "requirements.txt").read_bytes()  # torch for CUDA
    for name in ("cats", "me/cats"):  # one that exists is found, whoever pays, and keeps its hardware
        assert push(hub, models / "dogs", "dogs", "--space", name).returncode == 0
    assert b"+cpu" not in hosted.files["requirements.txt"] and len(hosted.revisions) == 3


def test_hardware_is_of_a_space_and_known(hub: HubServer, models: Path) -> None:
    refused = push(hub, models / "cats", "cats", "--space_hardware", "zero-a10g")
    assert refused.stderr == "error: --space_hardware zero-a10g needs --space: a model has no hardware\n"
    refused = push(hub, models / "cats", "cats", "--space", "--space_hardware", "moon")
    assert refused.returncode == 2 and "zero-a10g" in refused.stderr.splitlines()[-1] and not hub.requests


def test_a_space_needs_a_pipeline(hub: HubServer, tmp_path: Path) -> None:
    tiny_unet().save_pretrained(tmp_path / "unet")
    refused = push(hub, tmp_path / "unet", "me/unet", "--space")
    assert refused.stderr.startswith("error: --space needs a pipeline to draw with") and not hub.repositories
    AutoencoderPipeline(tiny()).save_pretrained(tmp_path / "autoencoder")
    refused = push(hub, tmp_path / "autoencoder", "me/autoencoder", "--space")
    assert refused.stderr.startswith("error: --space needs a pipeline that draws in steps") and not hub.repositories


def test_no_cuda_for_a_cpu() -> None:
    text = (ROOT / "requirements.txt").read_text()
    version = re.search(r"^torch==(.+)$", text, re.MULTILINE)[1]
    changed = requirements(text).splitlines()
    assert f"torch=={version}+cpu" in changed and f"torch=={version}" not in changed
    assert [line for line in text.splitlines() if not line.startswith("torch==")] == [
        line for line in changed if not line.startswith(("torch==", "--extra-index-url"))
    ]


def test_a_pushed_space_starts_elsewhere_and_draws_on_an_old_cpu(hub: HubServer, models: Path, tmp_path: Path) -> None:
    """From its own files alone; torch and oneDNN are kept to AVX2, as on a CPU without AVX-512 and AMX."""
    push(hub, models / "cats", "me/cats", "--space", "me/demo")
    for name, content in hub.repositories["space", "me/demo"].files.items():
        (tmp_path / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / name).write_bytes(content)
    port = free_port()
    old = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}
    environment = hub.environment(tmp_path / "home", token=None) | old | {"GRADIO_SERVER_PORT": str(port)}
    log = tmp_path / "log"
    with log.open("w") as output:
        command = [sys.executable, "app.py"]
        server = subprocess.Popen(
            command, cwd=tmp_path / "space", env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/", server, log)
            answer = Client(f"http://127.0.0.1:{port}/", verbose=False).predict(api_name="/generate")
        finally:
            server.terminate()
            server.wait(20)
    assert "me/cats" in str(answer), answer


# ----------------------------------------------------------------------------------------------------------- ZeroGPU


def lend(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """As `spaces.GPU` on ZeroGPU: what goes to the process that has the GPU, and what comes from there, is pickled."""

    def elsewhere(*args: Any) -> Iterator[Any]:
        for each in function(*pickle.loads(pickle.dumps(args))):
            yield pickle.loads(pickle.dumps(each))

    elsewhere.lends = function
    return elsewhere


def copy_of(name: str) -> ModuleType:
    """A module of ui/, executed anew."""
    spec = importlib.util.spec_from_file_location(f"ui.{name}", ROOT / "ui" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_drawing_is_what_a_gpu_is_lent_to(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`spaces` is a stand-in here: the package is installed in Spaces, and lends a GPU there alone."""
    catalogue = Catalogue({"cats": models / "cats"})
    settings = Settings.checked({"count": 2, "steps": 2}, catalogue)
    *_, expected = draw(settings, catalogue)
    assert not hasattr(draw, "lends")
    for name in ("ui.zero_gpu", "ui.run"):
        monkeypatch.setitem(sys.modules, name, sys.modules[name])  # put back at the end
    spaces = ModuleType("spaces")
    spaces.GPU = lend
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    assert not copy_of("zero_gpu").lent()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert sys.modules["ui.zero_gpu"].lent()
    drawn = copy_of("run").draw
    assert drawn.lends.__module__ == "ui.run"
    *_, last = drawn(settings, catalogue)
    assert np.array_equal(last.frames.final, expected.frames.final) and last.evaluations == expected.evaluations


def test_nothing_is_loaded_outside_of_drawing_where_a_gpu_is_lent(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = Catalogue({"cats": models / "cats"})
    monkeypatch.setattr("ui.zero_gpu.lent", lambda: True)
    catalogue.warm().join()
    assert not catalogue.is_loaded("cats")
    monkeypatch.setattr("ui.zero_gpu.lent", lambda: False)
    catalogue.warm().join()
    assert catalogue.is_loaded("cats")
