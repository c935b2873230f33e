"""The page in a process of its own, as `python app.py` starts it, for the commands that send it many calls."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 300  # seconds until the page answers, on a machine that may be busy


@dataclass(frozen=True)
class Server:
    """A page that answers at `url`, in the process `pid`; `log` is what it printed."""

    url: str
    pid: int
    log: Path

    def memory(self) -> float:
        """Resident memory, in MB.

        Raises:
            OSError: this system has no /proc, or the page has ended.
        """
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) / 1024


@contextmanager
def served(models: list[str]) -> Iterator[Server]:
    """Start the page over folders or Hub ids; end it in the end.

    Raises:
        ValueError: it ends or does not answer, with the last line of what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="served-") as place:
        port, log = _free_port(), Path(place) / "log"
        flags = [part for model in models for part in ("--model", model)]
        command = [sys.executable, str(ROOT / "app.py"), *flags, "--port", str(port)]
        environment = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": f"{place}/cache"}
        with log.open("w") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait(process, f"http://127.0.0.1:{port}/", log)
            yield Server(f"http://127.0.0.1:{port}/", process.pid, log)
        finally:
            process.terminate()
            process.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(process: subprocess.Popen, address: str, log: Path) -> None:
    for _ in range(PATIENCE * 4):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.25)
    raise ValueError(f"the page must answer, got: {(log.read_text().strip().splitlines() or ['nothing'])[-1]}")
