"""Folders to push, and commands against `hub_server`, each in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from hub_server import HubServer
from toys import ddpm

# waits between attempts are real seconds; nothing here depends on them
PUSH = "import time; time.sleep = lambda seconds: None; from training.hub import main; main()"

LOAD = """
import hashlib, json, os, sys, torch
from diffusers import DiffusionPipeline
task = json.loads(sys.argv[1])
def load(source, **options):
    pipe = DiffusionPipeline.from_pretrained(source, trust_remote_code=True, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe
def draw(pipe):
    options = {"class_labels": 1} if "Classifier" in type(pipe).__name__ or pipe.class_names else {}
    out = pipe(num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt", **options)
    return hashlib.sha256(out.images.float().numpy().tobytes()).hexdigest()
"""
ROUND_TRIP = (
    LOAD
    + """
pipe = load(task["id"], **task.get("options", {}))
print(draw(pipe))
if task.get("again"):
    pipe.save_pretrained("saved")
    pipe.push_to_hub(task["again"])
assert "pipelines" not in sys.modules and "training" not in sys.modules
"""
)


def trained_folder(folder: Path) -> Path:
    """A tiny pipeline as a run leaves it: with its record, checkpoints, logs and images."""
    ddpm().save_pretrained(folder)
    recipe = {"recipe": "unconditional", "train_data_dir": str(folder.parent / "cats"), "prediction_type": "epsilon"}
    recipe |= {"learning_rate": 1e-3, "lr_scheduler": "cosine", "train_batch_size": 4, "ema_decay": 0.999}
    record = {"steps": 6, "images": 24, "seconds": 60.0, "processes": 1, "device": "cpu, 2 threads", "continues": None}
    record |= {"recipe": recipe | {"mixed_precision": "no"}, "dataset_images": 24}
    (folder / "training.json").write_text(json.dumps(record))
    for name in ("checkpoint-6/state/optimizer.bin", "logs/events.out", "samples/step-000006.png", ".cache/x.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not for others")
    (folder / "notes.txt").write_text("not for others")
    (folder / "unet" / "optimizer.pt").write_bytes(b"not for others")
    return folder


def push(
    hub: HubServer, folder: Path, *arguments: str, token: str | None = "hf_me_writes", **environment: str
) -> subprocess.CompletedProcess:
    """`python -m training.hub push FOLDER ARGUMENTS`, without its waits."""
    home = folder.parent / "home"
    command = [sys.executable, "-c", PUSH, "push", str(folder), *arguments]
    environment = hub.environment(home, token, HF_HUB_DISABLE_PROGRESS_BARS="1", **environment)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def elsewhere(hub: HubServer, home: Path, program: str, task: dict, **environment: str) -> list[str]:
    """What a program prints in a fresh process with the home `home`, in a folder where there is no project."""
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", program, json.dumps(task)]
    environment = hub.environment(home, **environment)
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
