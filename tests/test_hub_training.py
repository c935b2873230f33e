"""From a Hub id to a Hub id: fine-tuning on images of one's own with two processes, and pushing what came out."""

import json
import os
import subprocess
from pathlib import Path

from conftest import ROOT
from fresh_processes import launch
from hub_runs import ROUND_TRIP, elsewhere, push
from hub_server import HubServer
from huggingface_hub import ModelCard
from toys import guided
from training_runs import command, image_folder

# -m training.train, whose waits between attempts to reach a Hub that has failed would be half a minute
IMPATIENT = """
import runpy, time

sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.05))
runpy.run_module("training.train", run_name="__main__", alter_sys=True)
"""


def train(
    hub: HubServer, place: Path, arguments: str, processes: int = 2, program: tuple[str, ...] = ("-m", "training.train")
) -> subprocess.CompletedProcess:
    """`accelerate launch -m training.train ARGUMENTS` from the folder `place`."""
    line = [*program, *command(arguments, train_batch_size=2)]
    environment = hub.environment(place / "home") | {
        "PYTHONPATH": str(ROOT),
        "STEPWISE_CACHE": str(place / "cache"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return launch(place, line, processes=processes, environment=environment)


def test_from_a_hub_id_to_a_hub_id_with_two_processes(hub: HubServer, tmp_path: Path) -> None:
    guided().save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "training.json").write_text(json.dumps(RECORD))
    assert push(hub, tmp_path / "base", "me/fashion-cfg").returncode == 0
    image_folder(tmp_path / "mine")
    flags = "--recipe finetune --pretrained_model_name_or_path me/fashion-cfg --train_data_dir mine --output_dir out"
    done = train(hub, tmp_path, f"{flags} --push_to_hub --hub_model_id me/mine --hub_private_repo")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["model", "me/mine"]
    assert repository.private and repository.head in done.stdout
    names = {path for path in repository.files if not path.endswith(".py")}
    assert names == {
        ".gitattributes",
        "README.md",
        "model_index.json",
        "samples.png",
        "scheduler/scheduler_config.json",
        "training.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    card = ModelCard(repository.files["README.md"].decode())
    assert card.data.base_model == "me/fashion-cfg"
    assert card.data.to_dict().get("license") is None  # that of the images is not ours to state
    for said in ("2 processes", "(from `me/fashion-cfg`)", "--train_data_dir mine", "10 images", "bird, cat"):
        assert said in card.text
    assert "minutes on a far machine" in card.text  # the run before, from the repository of the base model
    record = json.loads(repository.files["training.json"])
    assert record["processes"] == 2 and not any("hub" in name for name in record["recipe"])
    assert not any(str(tmp_path).encode() in content for content in repository.files.values())
    pushed, local = {"id": "me/mine", "again": "me/again", "saved": "saved"}, {"id": str(tmp_path / "out")}
    one, two = elsewhere(hub, tmp_path / "one", ROUND_TRIP, [pushed, local])
    assert one == two and len(one) == 64 and len(hub.repositories["model", "me/again"].revisions) == 2


def test_a_hub_that_refuses_is_known_before_training(hub: HubServer, tmp_path: Path) -> None:
    image_folder(tmp_path / "mine")
    flags = "--recipe unconditional --train_data_dir mine --output_dir out --push_to_hub --hub_model_id you/mine"
    done = train(hub, tmp_path, flags)
    assert done.returncode != 0
    assert "error: the token gives no right to write to you/mine" in done.stderr
    assert not os.path.exists(tmp_path / "out") and not hub.repositories


def test_a_push_that_fails_leaves_the_model_and_says_how_to_go_on(hub: HubServer, tmp_path: Path) -> None:
    guided().save_pretrained(tmp_path / "base")
    image_folder(tmp_path / "mine")
    flags = "--recipe finetune --pretrained_model_name_or_path base --train_data_dir mine --output_dir out"
    hub.break_request(4, "drop", forever=True)  # after the repository was made
    (tmp_path / "impatient.py").write_text(IMPATIENT)
    done = train(hub, tmp_path, f"{flags} --push_to_hub", processes=1, program=("impatient.py",))
    assert done.returncode != 0
    assert "Training is done: `python -m training.hub push out out` pushes it" in done.stderr
    hub.heal()
    assert list(hub.repositories["model", "me/out"].files) == [".gitattributes"]
    assert push(hub, tmp_path / "out", "out").returncode == 0
    there = hub.repositories["model", "me/out"].files
    names = [path for path in there if path.endswith((".py", ".safetensors", "config.json", "model_index.json"))]
    assert len(names) > 10 and all(there[path] == (tmp_path / "out" / path).read_bytes() for path in names)


RECORD = {
    "steps": 6,
    "images": 24,
    "seconds": 60.0,
    "processes": 1,
    "device": "a far machine",
    "continues": None,
    "recipe": {
        "recipe": "fashion-cfg",
        "dataset_name": "data/fashion",
        "prediction_type": "v_prediction",
        "learning_rate": 1e-3,
        "lr_scheduler": "cosine",
        "train_batch_size": 4,
        "ema_decay": 0.999,
        "mixed_precision": "no",
    },
}
