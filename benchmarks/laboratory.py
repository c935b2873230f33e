"""Seconds per redraw of the laboratory by process, and 20 visitors in it while another one draws with a network.

    python -m benchmarks.laboratory

A redraw is what the page waits for: the run, the density, and the plots as JSON. Each process is timed on a line, in a
plane, and on a classic set. Then a page is started; 20 clients ask it for experiments, each again a second after its
answer, while one client draws with a model, which is also timed alone before.
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from gradio_client import Client

from benchmarks.served import PATIENCE, ROOT, Server, served
from benchmarks.table import Row, check_at_least, command_line, table
from benchmarks.timing import alternate
from ui.laboratory import settings
from ui.laboratory.canvas import packed
from ui.laboratory.processes import KINDS
from ui.laboratory.views import VIEWS

DISTRIBUTIONS = ("1-D, two Gaussians", "2-D, three Gaussians", "2-D, spiral")
PAUSE = 1.0  # seconds between an answer and the same visitor's next question


@dataclass
class Options:
    """The flags of the command."""

    repeats: int = field(default=20, metadata={"help": "timed redraws of each process; medians are shown"})
    steps: int = field(default=50, metadata={"help": "sampling steps of each experiment"})
    view: str = field(default="density", metadata={"help": "the view that is drawn"})
    visitors: int = field(default=20, metadata={"help": "clients in the laboratory; 0: no page is started"})
    drawings: int = field(default=5, metadata={"help": "how often the one with a network draws, alone and among them"})
    model: str = field(
        default=str(ROOT / "model_cards" / "fashion-cfg"), metadata={"help": "the folder or Hub id it draws with"}
    )
    json: str | None = field(default=None, metadata={"help": "write the rows to this file, too"})

    def __post_init__(self) -> None:
        check_at_least(self, repeats=1, steps=1, visitors=0, drawings=1)
        if self.view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}, got {self.view!r}")


def redraw(values: dict[str, Any]) -> float:
    """Seconds from settings to what the page is sent."""
    started = time.perf_counter()
    lab = settings.checked(values)
    packed(VIEWS[lab.view].plots(lab))
    return time.perf_counter() - started


def redraw_rows(options: Options) -> list[Row]:
    """The median of each process on each distribution that the view shows."""
    shown = [name for name in DISTRIBUTIONS if not settings.problems({"view": options.view, "distribution": name})]
    kinds = [*itertools.product(KINDS, shown)]
    runs: dict[Any, Callable[[], float]] = {
        (process, name): partial(
            redraw, {"view": options.view, "process": process, "distribution": name, "steps": options.steps}
        )
        for process, name in kinds
    }
    times = alternate(runs, options.repeats, 1, "Redraws")
    return [
        {"process": process, "seconds": {name: round(median(times[process, name]), 3) for name in shown}}
        for process in KINDS
    ]


# --------------------------------------------------------------------------------------------------------------- crowd


def crowd_rows(options: Options) -> list[Row]:
    """How long visitors wait for a redraw, and the one with a network for images, alone and together."""
    with served([options.model]) as server, tempfile.TemporaryDirectory(prefix="laboratory-") as folder:
        draws = _drawer(server, folder)
        draws()  # loads the model
        alone = [draws() for _ in range(options.drawings)]
        waits, together = _together(server, options, draws)
    waits.sort()
    late = waits[min(len(waits) - 1, int(0.95 * len(waits)))]
    return [
        {"what": f"redraws of {options.visitors} visitors", "value": len(waits)},
        {"what": "seconds until a redraw, median", "value": round(median(waits), 2)},
        {"what": "seconds until a redraw, 95 of 100", "value": round(late, 2)},
        {"what": "seconds of a drawing with a network, alone", "value": round(median(alone), 2)},
        {"what": "seconds of a drawing with a network, among them", "value": round(median(together), 2)},
    ]


def _client(server: Server, folder: str) -> Client:
    return Client(server.url, verbose=False, download_files=folder, httpx_kwargs={"timeout": PATIENCE})


def _drawer(server: Server, folder: str) -> Callable[[], float]:
    client = _client(server, folder)

    def draws() -> float:
        started = time.perf_counter()
        client.predict(count=16, api_name="/generate")
        return time.perf_counter() - started

    return draws


def _together(server: Server, options: Options, draws: Callable[[], float]) -> tuple[list[float], list[float]]:
    """The waits of the visitors, and of the one who draws among them."""
    over = threading.Event()

    def visit(number: int) -> list[float]:
        client, waits = _client(server, "unused"), []
        processes = itertools.islice(itertools.cycle(KINDS), number, None)
        while not over.is_set():
            started = time.perf_counter()
            client.predict(view=options.view, process=next(processes), steps=options.steps, api_name="/laboratory")
            waits.append(time.perf_counter() - started)
            over.wait(PAUSE)
        return waits

    with ThreadPoolExecutor(options.visitors) as pool:
        visitors = [pool.submit(visit, number) for number in range(options.visitors)]
        time.sleep(2 * PAUSE)
        try:
            together = [draws() for _ in range(options.drawings)]
        finally:
            over.set()
        return [wait for visitor in visitors for wait in visitor.result()], together


# ---------------------------------------------------------------------------------------------------------------- shown


def run_all(options: Options) -> list[Row]:
    """Both parts."""
    return redraw_rows(options) + (crowd_rows(options) if options.visitors else [])


def show(rows: list[Row]) -> str:
    """Two tables."""
    timed, crowd = [row for row in rows if "process" in row], [row for row in rows if "what" in row]
    names = [*timed[0]["seconds"]]
    lines = [[row["process"], *(f"{row['seconds'][name]:.3f}" for name in names)] for row in timed]
    tables = [table(["seconds per redraw", *names], lines)]
    if crowd:
        tables.append(table(["together", "measured"], [[row["what"], str(row["value"])] for row in crowd]))
    return "\n\n".join(tables)


def main(arguments: list[str] | None = None) -> list[Row]:
    """The command line."""
    return command_line(Options, run_all, show, "benchmarks.laboratory", __doc__, arguments)


if __name__ == "__main__":
    main()
