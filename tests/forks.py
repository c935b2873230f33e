"""Programs in processes of their own, without the seconds in which each would import torch.

One process imports torch and other libraries that ask the environment for nothing that tests set in it, and forks for
each program. A fork has an environment, a folder, arguments, an output and a `__main__` of its own. It imports what its
environment changes or what is tested for itself: diffusers, transformers, accelerate, huggingface_hub and this project.
"""

import gc
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import traceback
import types
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

FIRST = ("torch", "torch._dynamo", "scipy.stats", "scipy.optimize", "PIL.Image", "httpx", "jinja2", "safetensors.torch")


def run_forked(
    place: Path, program: str, arguments: Sequence[str], environment: dict[str, str], seconds: int = 300
) -> tuple[int, str, str]:
    """`python -c PROGRAM ARGUMENTS` in the folder `place`: exit status, standard output and standard error.

    After `seconds` it is ended, with status -1, which is also that of any other end by a signal.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as connection:
        output = [f"{folder}/stdout", f"{folder}/stderr"]
        task = {"place": str(place), "program": program, "arguments": arguments, "seconds": seconds}
        connection.settimeout(seconds + 10)
        connection.connect(_forks()[0])
        connection.sendall(json.dumps(task | {"environment": environment, "output": output}).encode() + b"\n")
        status = connection.recv(16) or b"-1"
        return int(status), *(Path(path).read_text() for path in output)


@cache
def _forks() -> tuple[str, subprocess.Popen]:
    """The process that forks, and its socket; it ends with this one."""
    address = f"{tempfile.mkdtemp()}/forks"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_", "STEPWISE"))}
    forks = subprocess.Popen([sys.executable, __file__, address], cwd="/", env=kept, stdout=subprocess.PIPE)
    assert forks.stdout.readline() == b"ready\n"
    return address, forks


class Fork(socketserver.StreamRequestHandler):
    """One connection, in a process of its own: a line with the task; the answer is the exit status."""

    def handle(self) -> None:
        self.wfile.write(b"%d" % _status_of(json.loads(self.rfile.readline())))


def _status_of(task: dict) -> int:
    """Run a task in this process as the interpreter would have."""
    signal.alarm(task["seconds"])
    for descriptor, path in enumerate(task["output"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(task["place"])
    os.environ.clear()
    os.environ.update(task["environment"])
    sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    sys.argv = ["-c", *task["arguments"]]
    sys.path[0:1] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        exec(compile(task["program"], "<string>", "exec"), main.__dict__)
        return 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return 1 if isinstance(stop.code, str) else stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class Forks(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Serves until the process that started it has ended."""

    parent = os.getppid()

    def service_actions(self) -> None:
        super().service_actions()
        if os.getppid() != self.parent:
            os.unlink(self.server_address)
            os.rmdir(os.path.dirname(self.server_address))
            os._exit(0)


if __name__ == "__main__":
    for name in FIRST:
        import_module(name)
    gc.freeze()  # what forks share needs no look in each of them
    with Forks(sys.argv[1], Fork) as server:
        print("ready", flush=True)
        server.serve_forever()
