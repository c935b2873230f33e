"""A push is one commit of what belongs to a model: whole or not at all, whatever breaks, and says what to do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_runs import contents, push, trained_folder
from hub_server import HubServer
from huggingface_hub import ModelCard

MODEL = ("model", "me/cats")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(trained_folder(tmp_path_factory.mktemp("made") / "cats"))


@pytest.fixture
def folder(made: dict[str, bytes], tmp_path: Path) -> Path:
    for name, content in made.items():
        (tmp_path / "cats" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cats" / name).write_bytes(content)
    return tmp_path / "cats"


def unhashed(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem[:-9]}.py" if suffix == "py" else name


def test_what_leaves_is_the_model_its_card_and_its_record(hub: HubServer, folder: Path) -> None:
    done = push(hub, folder, "cats")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories[MODEL]
    assert sorted(map(unhashed, repository.files)) == [
        ".gitattributes",
        "README.md",
        "base.py",
        "ddpm.py",
        "model_index.json",
        "schedule.py",
        "scheduler/scheduler_config.json",
        "training.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    assert len(repository.revisions) == 2  # the one that created it, and one commit
    assert repository.head in done.stdout and f"{hub.url}/me/cats" in done.stdout
    assert done.stderr == ""
    listed = push(hub, folder, "cats", "--dry_run").stdout.split()
    assert sorted(listed) == sorted(set(repository.files) - {".gitattributes"})


def test_no_path_of_this_machine_leaves(hub: HubServer, folder: Path) -> None:
    push(hub, folder, "cats")
    files = hub.repositories[MODEL].files
    local = (folder / "training.json").read_text()
    where = local.partition('"train_data_dir": "')[2].partition("/cats")[0]
    assert Path(where).is_dir()
    assert b'"train_data_dir": "cats"' in files["training.json"]
    assert not any(where.encode() in content for content in files.values())


@pytest.mark.parametrize("words", ["hf_me_writes", "see {home}/diary.txt"])
def test_a_card_of_ones_own_goes_as_it_is_unless_it_tells_too_much(hub: HubServer, folder: Path, words: str) -> None:
    card = "---\nlicense: mit\n---\n\n# My cats\n"
    (folder / "README.md").write_text(card)
    assert push(hub, folder, "cats").returncode == 0
    assert hub.repositories[MODEL].files["README.md"].decode() == card == (folder / "README.md").read_text()
    (folder / "README.md").write_text(card + words.format(home=folder.parent / "home"))
    refused = push(hub, folder, "cats")
    assert refused.returncode == 1 and refused.stderr.startswith("error: README.md ")
    assert hub.repositories[MODEL].files["README.md"].decode() == card


def test_the_card_parses_and_pins_the_revision_once_pushed(hub: HubServer, folder: Path) -> None:
    push(hub, folder, "cats")
    repository = hub.repositories[MODEL]
    card = ModelCard(repository.files["README.md"].decode())
    assert card.data.library_name == "diffusers" and card.data.pipeline_tag == "unconditional-image-generation"
    assert 'from_pretrained("me/cats", trust_remote_code=True)' in card.text
    assert "--recipe unconditional --train_data_dir cats" in card.text and "24 pictures" in card.text
    pinned = f'from_pretrained("me/cats", revision="{repository.head}", trust_remote_code=True)'
    assert pinned in (folder / "README.md").read_text()
    (folder / "unet" / "config.json").write_text((folder / "unet" / "config.json").read_text() + "\n")
    push(hub, folder, "cats")  # another model: what was pinned is not it
    assert "revision=" not in repository.files["README.md"].decode()


def test_files_that_the_model_no_longer_has_go_and_those_of_others_stay(hub: HubServer, folder: Path) -> None:
    push(hub, folder, "cats")
    repository = hub.repositories[MODEL]
    stale = {"base_00000000.py": b"", "unet/diffusion_pytorch_model.fp16.safetensors": b"old"}
    repository.commit(repository.files | stale | {"PAPER.pdf": b"theirs", "examples/cat.png": b"theirs"})
    (folder / "unet" / "config.json").write_text((folder / "unet" / "config.json").read_text() + "\n")
    before = len(repository.revisions)
    assert push(hub, folder, "me/cats").returncode == 0
    assert len(repository.revisions) == before + 1
    assert not set(stale) & set(repository.files)
    assert {"PAPER.pdf", "examples/cat.png"} < set(repository.files)


@pytest.mark.parametrize("how", ["503", "drop", "lose the answer"])
def test_broken_once_at_each_request_it_ends_with_the_new_revision(hub: HubServer, folder: Path, how: str) -> None:
    push(hub, folder, "cats")
    repository, config = hub.repositories[MODEL], folder / "unet" / "config.json"
    for number in range(1, 20):
        config.write_text(config.read_text() + "\n")
        before = len(repository.revisions)
        hub.break_request(number, how)
        done = push(hub, folder, "cats")
        assert done.returncode == 0, done.stderr
        assert repository.files["unet/config.json"] == config.read_bytes()
        assert len(repository.revisions) == before + 1
        if len(hub.requests) < number:
            break
    assert 5 < number < 19


@pytest.mark.parametrize("how", ["503", "drop", "lose the answer"])
def test_broken_for_good_it_holds_the_old_or_the_new_revision(hub: HubServer, folder: Path, how: str) -> None:
    push(hub, folder, "cats")
    hub.heal()
    repository, config = hub.repositories[MODEL], folder / "unet" / "config.json"
    card = folder / "README.md"
    config.write_text(config.read_text() + "\n")
    push(hub, folder, "cats")
    requests = len(hub.requests)
    for number in range(2, requests + 1):  # the first only asks who is there
        old = repository.files
        config.write_text(config.read_text() + "\n")
        local = contents(folder)
        hub.break_request(number, how, forever=True)
        done = push(hub, folder, "cats")
        new = old | {"unet/config.json": config.read_bytes(), "README.md": repository.files["README.md"]}
        committed = repository.files != old
        assert repository.files in (old, new)
        assert committed == (how == "lose the answer" and number == requests)
        assert done.returncode == 1, (number, hub.requests)
        assert done.stderr.splitlines()[-1].startswith("error: the Hub broke off 3 times"), done.stderr
        assert "Traceback" not in done.stderr
        assert contents(folder) == local and card.is_file()


@pytest.mark.parametrize(
    ("repo_id", "options", "said"),
    [
        ("me/cats", {"token": None}, "a token with the right to write is needed"),
        ("me/cats", {"token": "hf_stale"}, "the Hub refused the token"),
        ("me/cats", {"token": "hf_me_reads"}, "no right to write to me/cats"),
        ("you/cats", {}, "no right to write to you/cats"),
        ("a/b/c", {}, "must be NAME or OWNER/NAME, got 'a/b/c'"),
        ("my cats", {}, "must be NAME or OWNER/NAME, got 'my cats'"),
        ("me/cats", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ("me/cats", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "no Hub at http://127.0.0.1:9"),
    ],
)
def test_what_cannot_work_ends_in_one_line(
    hub: HubServer, folder: Path, repo_id: str, options: dict, said: str
) -> None:
    before = contents(folder)
    done = push(hub, folder, repo_id, **options)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ") and said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert contents(folder) == before and not hub.repositories


def test_a_folder_without_a_model_or_with_other_weights_is_refused(hub: HubServer, folder: Path) -> None:
    assert "must hold a model_index.json" in push(hub, folder / "unet" / "nothing", "cats").stderr
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    assert "must hold weights as .safetensors" in push(hub, folder, "cats").stderr
    assert not hub.repositories


def test_private_means_private(hub: HubServer, folder: Path) -> None:
    assert push(hub, folder, "cats", "--private").returncode == 0
    assert hub.repositories[MODEL].private
    assert push(hub, folder, "open").returncode == 0
    refused = push(hub, folder, "open", "--private")
    assert refused.returncode == 1 and "me/open exists and is public" in refused.stderr
