"""A push is one commit of what belongs to a model: whole or not at all, whatever breaks, and says what to do."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from fresh_processes import contents
from hub_runs import push, trained_folder
from hub_server import HubServer
from huggingface_hub import ModelCard

from training.files import weights_hash
from training.sharing.local_paths import without_path

MODEL = ("model", "me/cats")


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
        "conditions.py",
        "ddpm.py",
        "facts.py",
        "from_image.py",
        "image_inputs.py",
        "lora.py",
        "model_index.json",
        "packaging.py",
        "process.py",
        "repaint.py",
        "run.py",
        "saved_files.py",
        "schedule.py",
        "scheduler/scheduler_config.json",
        "solvers.py",
        "staging.py",
        "training.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    assert len(repository.revisions) == 2  # the one that created it, and one commit
    assert repository.head in done.stdout and f"{hub.url}/me/cats" in done.stdout
    assert done.stderr == ""
    listed = push(hub, folder, "cats", "--dry_run").stdout.split()
    assert sorted(listed) == sorted(set(repository.files) - {".gitattributes"})


@pytest.mark.parametrize("name", ["LICENSE", "unet/config.json", "unet", "model_index.json"])
def test_a_dry_run_refuses_what_a_push_refuses(hub: HubServer, folder: Path, name: str) -> None:
    """Here a link to what lies outside, of a file or of a folder."""
    outside = folder.parent / "private"
    if (folder / name).exists():
        shutil.move(folder / name, outside)
    else:
        outside.write_text("a diary")
    (folder / name).symlink_to(outside)
    pushed, dry = push(hub, folder, "cats"), push(hub, folder, "cats", "--dry_run")
    assert_refused(pushed, f"{name}")
    assert_refused(dry, f"is a link to {outside}")
    assert pushed.stderr == dry.stderr and not dry.stdout
    assert not hub.repositories and not hub.requests


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"repo_id": 3}', '{"repo_id": "me/cats", "weights": "0"}'])
def test_a_damaged_record_of_a_push_is_named(hub: HubServer, folder: Path, text: str) -> None:
    (folder / "pushed.json").write_text(text)
    for more in ((), ("--dry_run",)):
        refused = push(hub, folder, "cats", *more)
        assert_refused(refused, "pushed.json must ")
        assert len(refused.stderr.splitlines()) == 1
    assert not hub.requests


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
    assert push(hub, folder, "new").returncode == 1 and ("model", "me/new") not in hub.repositories
    refused = push(hub, folder, "cats")
    assert refused.returncode == 1 and refused.stderr.startswith("error: README.md ")
    assert hub.repositories[MODEL].files["README.md"].decode() == card


def test_the_card_parses_and_pins_the_revision_once_pushed(hub: HubServer, folder: Path) -> None:
    push(hub, folder, "cats")
    repository = hub.repositories[MODEL]
    card = ModelCard(repository.files["README.md"].decode())
    assert card.data.library_name == "diffusers" and card.data.pipeline_tag == "unconditional-image-generation"
    assert 'from_pretrained("me/cats", trust_remote_code=True)' in card.text
    assert "--recipe unconditional --train_data_dir cats" in card.text and "24 images" in card.text
    pinned = f'from_pretrained("me/cats", revision="{repository.head}", trust_remote_code=True)'
    assert pinned in (folder / "README.md").read_text()
    revisions = len(repository.revisions)
    for _ in range(2):  # the pin goes up, and then nothing is left to do
        push(hub, folder, "cats")
        assert pinned in repository.files["README.md"].decode()
        assert len(repository.revisions) == revisions + 1
    other_weights(folder)
    push(hub, folder, "cats")
    assert "revision=" not in repository.files["README.md"].decode()


def other_weights(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def test_numbers_of_other_weights_are_not_on_the_card(hub: HubServer, folder: Path) -> None:
    measured = {"frechet_distance": 1.25, "precision": 0.5, "recall": 0.75, "nfe": 5.0}
    settings = {"model": "cats", "scheduler": "DDPM", "num_inference_steps": 5, "guidance_scale": None}
    about = {"features": {"name": "eyes", "test_accuracy": 0.5}, "command": f"python -m training.evaluate {folder}"}
    real = {
        "test": {"split": "test", "frechet_images": 10},
        "train": {"split": "train"},
        "neighbours": 3,
        "precision_recall_images": 10,
    }
    row = {"settings": settings | {"num_samples": 10}, "measured": measured, "floor": measured | {"num_samples": 10}}
    row |= about | {"real": real, "weights": weights_hash(folder)}
    (folder / "metrics.json").write_text(json.dumps({"results": {"one": row}}))
    (folder / "steps.png").write_bytes(b"a plot")
    push(hub, folder, "cats")
    card = hub.repositories[MODEL].files["README.md"].decode()
    assert "| DDPM, 5 steps | 10 | 1.250 |" in card and "steps.png" in card and str(folder) not in card
    assert ModelCard(card).data.eval_results[0].metric_value == 1.25
    other_weights(folder)
    push(hub, folder, "cats")
    card = hub.repositories[MODEL].files["README.md"].decode()
    assert "Not measured yet" in card and "1.25" not in card and "steps.png" not in card


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("/mnt/alice/cats", "cats"),
        ("/mnt/My Pictures/cats/", "cats"),
        ("~/cats", "cats"),
        ("..\\cats", "cats"),
        ("\\\\server\\alice\\cats", "cats"),
        ("C:\\Users\\alice\\cats", "cats"),
        ("file:///mnt/alice/cats", "cats"),
        ("python -m x '/mnt/My Pictures/cats' --out=/mnt/alice/out", "python -m x cats --out=out"),
        ("data/fashion", "data/fashion"),
        ("me/cats", "me/cats"),
        ("cpu, 2 threads", "cpu, 2 threads"),
    ],
)
def test_paths_are_cut_to_their_last_part(text: str, cut: str) -> None:
    assert without_path(text) == cut


def test_files_that_the_model_no_longer_has_go_and_those_of_others_stay(hub: HubServer, folder: Path) -> None:
    push(hub, folder, "cats")
    repository = hub.repositories[MODEL]
    names = "PAPER.pdf examples/cat.png LICENSE docs/notes.txt lora/adapter_model.safetensors unet/notes.txt"
    theirs = dict.fromkeys(names.split(), b"theirs")
    stale = {"base_00000000.py": b"", "unet/diffusion_pytorch_model.fp16.safetensors": b"old"}
    repository.commit(repository.files | stale | theirs)
    (folder / "unet" / "config.json").write_text((folder / "unet" / "config.json").read_text() + "\n")
    before = len(repository.revisions)
    assert push(hub, folder, "me/cats").returncode == 0
    assert len(repository.revisions) == before + 1
    assert not set(stale) & set(repository.files)
    assert theirs.items() < repository.files.items()


@pytest.mark.parametrize("how", ["503", "429", "drop", "lose the answer"])
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
        assert how != "429" or max(done.slept) >= int(hub.retry_after), hub.requests[number - 1]
    assert 5 < number < 19


@pytest.mark.parametrize("number", [1, 2, 6])  # creates it, asks whether it may write, uploads
def test_a_hub_that_asks_to_wait_too_long_is_left_in_peace(hub: HubServer, folder: Path, number: int) -> None:
    hub.retry_after = "800"
    hub.break_request(number, "429", forever=True)
    assert_refused(push(hub, folder, "me/cats"), "the Hub takes no more requests for 800 s (429 too many requests)")


def test_a_hub_may_name_a_date_to_come_again(hub: HubServer, folder: Path) -> None:
    hub.retry_after = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    hub.break_request(1, "429")
    done = push(hub, folder, "me/cats")
    assert done.returncode == 0 and 50 < max(done.slept) <= 100


def test_a_login_page_of_the_network_is_no_hub(hub: HubServer, folder: Path) -> None:
    """From the first request on, or from any later one."""
    push(hub, folder, "cats")
    config = folder / "unet" / "config.json"
    for number in range(1, 20):
        config.write_text(config.read_text() + "\n")
        hub.break_request(number, "portal", forever=True)
        before = dict(hub.repositories[MODEL].revisions)
        done = push(hub, folder, "cats")
        if len(hub.requests) < number:
            break
        assert hub.repositories[MODEL].revisions == before
        assert_refused(done, f"no Hub at {hub.url}: what it answers is no answer of a Hub. A login page of the network")
        assert len(done.stderr.splitlines()) == 1
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
    for number in range(1, requests + 1):
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
        assert done.stderr.splitlines()[-1].startswith("error: the Hub failed 3 times"), done.stderr
        assert "Traceback" not in done.stderr
        assert contents(folder) == local and card.is_file()


@pytest.mark.parametrize(
    ("repo_id", "token", "said"),
    [
        ("me/cats", None, "a token with the right to write is needed"),
        ("me/cats", "hf_stale", "the Hub refused the token"),
        ("me/cats", "hf_me_reads", "no right to write to me/cats"),
        ("you/cats", "hf_me_writes", "no right to write to you/cats"),
        ("a/b/c", "hf_me_writes", "must be NAME or OWNER/NAME, got 'a/b/c'"),
        ("my cats", "hf_me_writes", "must be NAME or OWNER/NAME, got 'my cats'"),
    ],
)
def test_what_cannot_work_ends_in_one_line(
    hub: HubServer, folder: Path, repo_id: str, token: str | None, said: str
) -> None:
    before = contents(folder)
    assert_refused(push(hub, folder, repo_id, token=token), said)
    assert contents(folder) == before and not hub.repositories


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "no Hub at http://127.0.0.1:9"),
    ],
)
def test_without_a_hub_it_ends_in_one_line(hub: HubServer, folder: Path, environment: dict, said: str) -> None:
    before = contents(folder)
    assert_refused(push(hub, folder, "me/cats", **environment), said)
    assert contents(folder) == before and not hub.repositories


def assert_refused(done: CompletedProcess, said: str) -> None:
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and said in last


@pytest.mark.parametrize("token", ["hf_me_reads", "hf_you_write"])
def test_no_right_to_write_to_a_repository_that_is_there(hub: HubServer, folder: Path, token: str) -> None:
    push(hub, folder, "me/cats")
    revisions = dict(hub.repositories[MODEL].revisions)
    other_weights(folder)
    hub.heal()
    refused = push(hub, folder, "me/cats", token=token)
    assert refused.stderr.splitlines()[-1].startswith("error: the token gives no right to write to me/cats")
    assert hub.repositories[MODEL].revisions == revisions
    assert not any("commit" in request or "PUT" in request for request in hub.requests)  # known before any upload


def test_what_someone_else_pushed_meanwhile_is_not_mixed_in(hub: HubServer, folder: Path) -> None:
    push(hub, folder, "cats")
    repository = hub.repositories[MODEL]
    other_weights(folder)
    stale = {"unet/diffusion_pytorch_model.fp16.safetensors": b"of another push"}
    hub.before_commit = lambda: repository.commit(repository.files | stale)
    assert push(hub, folder, "cats").returncode == 0
    assert not set(stale) & set(repository.files)


def test_a_folder_without_a_model_or_with_other_weights_is_refused(hub: HubServer, folder: Path) -> None:
    assert "must hold a model_index.json" in push(hub, folder / "unet" / "nothing", "cats").stderr
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    assert "weights must be .safetensors" in push(hub, folder, "cats").stderr
    (folder / "unet" / "diffusion_pytorch_model.bin").rename(folder / "unet" / "diffusion_pytorch_model.safetensors")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "pipeline.py").write_text("")
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": ["pipeline", "Mine"]}))
    assert "model_index.json names pipeline.py, which a push leaves out" in push(hub, folder, "cats").stderr
    shutil.rmtree(folder / "unet")
    assert "folder must hold unet/, which its model_index.json names" in push(hub, folder, "cats").stderr
    for text in ("{", "[]", "{}"):
        (folder / "model_index.json").write_text(text)
        refused = push(hub, folder, "cats")
        assert refused.returncode == 1 and "Traceback" not in refused.stderr and "model_index.json" in refused.stderr
    assert not hub.repositories


def test_a_strangers_record_is_no_obstacle(hub: HubServer, folder: Path) -> None:
    (folder / "training.json").write_text('{"loss": 0.5, "recipe": {"recipe": "theirs"}}')
    assert push(hub, folder, "cats").returncode == 0
    assert "How this model was trained is not recorded" in hub.repositories[MODEL].files["README.md"].decode()


def test_the_pipeline_of_a_checkpoint_brings_its_record(hub: HubServer, folder: Path) -> None:
    checkpoint = folder.parent / "checkpoint-6"
    checkpoint.mkdir()
    (folder / "training.json").rename(checkpoint / "training.json")
    folder.rename(checkpoint / "pipeline")
    assert push(hub, checkpoint / "pipeline", "me/cats").returncode == 0
    files = hub.repositories[MODEL].files
    assert "training.json" in files and "24 images" in files["README.md"].decode()
    assert "# cats" in files["README.md"].decode()


def test_a_stock_folder_at_the_root_goes_with_its_shards_and_without_paths(hub: HubServer, folder: Path) -> None:
    """As the first published pipelines lie."""
    for path in [*folder.glob("*.py"), folder / "training.json"]:
        path.unlink()
    index = {"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"]}
    index |= {"unet": ["diffusers", "UNet2DModel"], "_name_or_path": "/mnt/alice/ddpm"}
    (folder / "model_index.json").write_text(json.dumps(index))
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "/mnt/alice/ddpm/unet"}))
    (folder / "scheduler" / "scheduler_config.json").rename(folder / "scheduler_config.json")
    for name in (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ):
        (folder / f"diffusion_pytorch_{name}").write_bytes(b"{}")
    shutil.rmtree(folder / "unet")
    shutil.rmtree(folder / "scheduler")
    assert push(hub, folder, "cats").returncode == 0
    files = hub.repositories[MODEL].files
    assert sorted(name for name in files if "model-" in name or "index" in name) == [
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
        "model_index.json",
    ]
    assert not any(b"alice" in content for content in files.values())
    card = files["README.md"].decode()
    assert "trust_remote_code" not in card and "diffusers' own `DDPMPipeline`" in card


def test_private_means_private(hub: HubServer, folder: Path) -> None:
    assert push(hub, folder, "cats", "--private").returncode == 0
    assert hub.repositories[MODEL].private
    assert push(hub, folder, "open").returncode == 0
    refused = push(hub, folder, "open", "--private")
    assert refused.returncode == 1 and "me/open exists and is public" in refused.stderr
