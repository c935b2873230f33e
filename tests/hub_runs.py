"""Folders to push, and commands against `hub_server`, each in a process of its own."""

import atexit
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from conftest import ROOT
from fresh_processes import run_elsewhere
from hub_server import HubServer
from toys import ddpm

# Imports the command once, which takes seconds, and forks for each line of tasks: so each push still has a process,
# an environment, a client and connections of its own. Its answer to each line is the exit status. A dry run before
# that imports what a push does as it goes. What huggingface_hub reads from its environment as it is imported is that
# of the fork server, unless a task imports it anew. Waits between attempts would be real seconds: they are only noted.
PUSHES = """
import contextlib, importlib, io, json, os, signal, sys, time, traceback
from training import hub

def import_anew():
    for name in [name for name in sys.modules if name.split(".")[0] in ("huggingface_hub", "training")]:
        del sys.modules[name]
    return importlib.import_module("training.hub")

def status_of(arguments, anew):
    try:
        (import_anew() if anew else hub).main(arguments)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return 1 if isinstance(stop.code, str) else stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    hub.main(["push", sys.argv[1], "me/any", "--dry_run"])
for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(300)
        for descriptor, path in enumerate(task["output"], start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        os.environ.clear()
        os.environ.update(task["environment"])
        slept = []
        time.sleep = slept.append
        status = status_of(task["arguments"], task["anew"])
        with open(task["slept"], "w") as file:
            json.dump(slept, file)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # the interpreter would take torch down first, for more than a second
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

LOAD = """
import hashlib, json, os, sys, torch
from diffusers import DiffusionPipeline
task = json.loads(sys.argv[1])
def load(source, **options):
    pipe = DiffusionPipeline.from_pretrained(source, trust_remote_code=True, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe
def draw(pipe):
    if not hasattr(pipe, "stream"):  # an autoencoder
        images = torch.linspace(0, 1, 3 * 128 * 128).reshape(1, 3, 128, 128)
        return hashlib.sha256(pipe(images, output_type="pt").images.numpy().tobytes()).hexdigest()
    options = {"class_labels": 1} if "Classifier" in type(pipe).__name__ or pipe.class_names else {}
    if getattr(pipe, "takes_prompts", False):
        options = {"prompt": "a red apple, noto style", "guidance_scale": 3.0}
    out = pipe(num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt", **options)
    return hashlib.sha256(out.images.float().numpy().tobytes()).hexdigest()
"""
# For each model of the task: load it, draw with it, and perhaps save and push it again; its digest, or what went wrong.
ROUND_TRIP = (
    LOAD
    + """
for model in task:
    try:
        pipe = load(model["id"])
        said = draw(pipe)
        if "again" in model:
            pipe.save_pretrained(model["saved"])
            pipe.push_to_hub(model["again"])
    except Exception as error:
        said = f"{model['id']}: {error!r}".replace(" ", "_")
    print(said)
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


@dataclass
class Done(subprocess.CompletedProcess):
    """A command that ran; `slept` are the seconds of each wait that it asked for."""

    args: list[str]
    returncode: int
    stdout: str
    stderr: str
    slept: list[float]


def push(
    hub: HubServer,
    folder: Path,
    *arguments: str,
    token: str | None = "hf_me_writes",
    command: str = "push",
    **environment: str,
) -> Done:
    """`python -m training.hub COMMAND FOLDER ARGUMENTS`, without its imports and its waits.

    With `environment` the client is imported anew, and reads it."""
    line = [command, str(folder), *arguments]
    given = hub.environment(folder.parent / "home", token, HF_HUB_DISABLE_PROGRESS_BARS="1", **environment)
    pushes = _pushes(hub)
    with tempfile.TemporaryDirectory() as place:
        output, slept = [f"{place}/stdout", f"{place}/stderr"], Path(place, "slept")
        task = {"arguments": line, "environment": given, "output": output, "slept": str(slept)}
        print(json.dumps(task | {"anew": bool(environment)}), file=pushes.stdin, flush=True)
        status = int(pushes.stdout.readline())
        waits = json.loads(slept.read_text()) if slept.exists() else []
        return Done(line, status, *(Path(path).read_text() for path in output), waits)


@cache
def _pushes(hub: HubServer) -> subprocess.Popen:
    """The process that forks; huggingface_hub reads the Hub's address as it is imported, so it has one for life."""
    home = tempfile.TemporaryDirectory()  # where no user has logged in
    environment = hub.environment(Path(home.name), token=None)
    pushes = subprocess.Popen(
        [sys.executable, "-c", PUSHES, str(trained_folder(Path(home.name, "any")))],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(home.cleanup)
    atexit.register(pushes.communicate)  # it ends with its tasks
    return pushes


def elsewhere(hub: HubServer, home: Path, program: str, task: dict | list, **environment: str) -> list[str]:
    """What a program prints in a fresh process with the home `home`, in a folder where there is no project."""
    return run_elsewhere(home, program, json.dumps(task), environment=hub.environment(home, **environment)).split()
