"""The demo as a Space: it opens with the models that were pushed, installs no CUDA, and needs no special CPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from gradio_client import Client
from hub_runs import push
from hub_server import HubServer
from huggingface_hub import SpaceCard
from served import free_port, wait_for
from toys import ddpm, guided, tiny_unet

from training.sharing.space import is_of_the_space, requirements, sources


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
    expected = {p.relative_to(ROOT).as_posix() for folder in ("ui", "pipelines") for p in (ROOT / folder).rglob("*.py")}
    expected |= {"README.md", "requirements.txt", "app.py", "LICENSE", "docs/page.png", ".gitattributes"}
    assert set(space.files) == expected
    assert not any(str(ROOT).encode() in content for content in space.files.values())


def test_the_code_of_a_space_may_lie_in_folders_of_the_page(tmp_path: Path) -> None:
    names = ["pipelines/ddim.py", "ui/demo.py", "ui/tabs/generate.py", "ui/tabs/deep/er.py"]
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


def test_a_space_needs_a_pipeline(hub: HubServer, tmp_path: Path) -> None:
    tiny_unet().save_pretrained(tmp_path / "unet")
    refused = push(hub, tmp_path / "unet", "me/unet", "--space")
    assert refused.stderr.startswith("error: --space needs a pipeline to draw with") and not hub.repositories


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
