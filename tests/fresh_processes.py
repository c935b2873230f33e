"""Programs in processes of their own: as a stranger would start them, and under `accelerate launch`."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
from forks import run_forked
from served import free_port

# Runs in a process of its own, which sees no project: job.json says what to load, how, and where to save it again.
FRESH = """
import json, sys
import numpy as np, torch
from diffusers import DiffusionPipeline

for job in json.load(open("job.json")):
    extra = {"dtype": torch.bfloat16} if job.get("bfloat16") else {}
    if "named" in job:
        sys.path.insert(0, job["project"])
        import pipelines
        cls = getattr(pipelines, job["named"])
        pipe = cls.from_pretrained(job["folder"], **extra)
        assert type(pipe) is cls, type(pipe)
    else:
        assert "pipelines" not in sys.modules
        pipe = DiffusionPipeline.from_pretrained(job["folder"], trust_remote_code=True, **extra)
    pipe.set_progress_bar_config(disable=True)
    options = {"batch_size": 2, "num_inference_steps": 3, "output_type": "np"} | job.get("options", {})
    images = pipe(generator=torch.Generator().manual_seed(0), **options).images
    np.save(job["pixels"], images)
    if "save" in job:
        pipe.save_pretrained(job["save"])
"""
MODULE = "import runpy; runpy.run_module({!r}, run_name='__main__', alter_sys=True)"


def of_a_stranger(home: Path) -> dict[str, str]:
    """The environment of someone who has not this project, nor a network, and keeps all of Hugging Face in `home`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_", "STEPWISE"))}
    return kept | {"HF_HOME": str(home / "hf"), "HOME": str(home), "HF_HUB_OFFLINE": "1"}


def run_elsewhere(place: Path, program: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """What a program prints in a process of its own in the folder `place`, where there is no project."""
    place.mkdir(parents=True, exist_ok=True)
    status, printed, errors = run_forked(place, program, arguments, environment or of_a_stranger(place))
    assert status == 0, errors[-4000:]
    return printed


def fresh(place: Path, jobs: list[dict]) -> list[np.ndarray]:
    """Run `jobs` in one new process in `place`, with its own caches, offline; the images of each."""
    place.mkdir(parents=True)
    jobs = [job | {"folder": str(job["folder"]), "pixels": f"{i}.npy"} for i, job in enumerate(jobs)]
    (place / "job.json").write_text(json.dumps(jobs, default=str))
    run_elsewhere(place, FRESH)
    return [np.load(place / job["pixels"]) for job in jobs]


def launch(
    place: Path, program: list[str], processes: int = 1, environment: dict[str, str] | None = None, **more: str
) -> subprocess.CompletedProcess:
    """`accelerate launch PROGRAM` in the folder `place`, with one or several processes of a CPU."""
    line = f"--num_processes {processes} --num_machines 1 --mixed_precision no"
    line += f" --dynamo_backend no --num_cpu_threads_per_process 1 --main_process_port {free_port()}"
    # with --cpu, accelerate 1.15 starts several processes through mpirun only; this way it does so by itself
    several = ["--multi_gpu"] if processes > 1 else []
    command = [*line.split(), *several, *program]
    environment = dict(environment or os.environ) | {"ACCELERATE_USE_CPU": "true"} | more
    return run_module(place, "accelerate.commands.launch", *command, environment=environment, seconds=900)


def run_module(
    place: Path, module: str, *arguments: str, environment: dict[str, str] | None = None, seconds: int = 300
) -> subprocess.CompletedProcess:
    """`python -m MODULE ARGUMENTS` in the folder `place`, in a process of its own."""
    done = run_forked(place, MODULE.format(module), arguments, environment or dict(os.environ), seconds)
    return subprocess.CompletedProcess([module, *arguments], *done)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their paths in it."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
