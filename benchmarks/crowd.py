"""Many clients at once: is every job answered, with its own images, and does memory stay?

    python -m benchmarks.crowd

50 clients send 200 jobs over three models to one page. Each answer is compared with what was asked: the settings of
the report and of every PNG. 60 of the jobs are then drawn again, alone, and compared to the pixel. At last 500 images
are drawn one after the other, and the server's memory is read before and after.
"""

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gradio_client import Client
from PIL import Image
from tqdm.auto import tqdm

from benchmarks.served import PATIENCE, ROOT, Server, served
from benchmarks.table import Row, check_at_least, command_line, table
from ui import image_metadata
from ui.catalogue import Catalogue

MODELS = ("fashion-cfg", "fashion-flow", "fashion-ddpm")
FULL = "queue"  # what Gradio says of a queue that is full has this word
WAIT = 0.5  # seconds before a client that was turned away by a full queue asks again


@dataclass
class Options:
    """The options of the command."""

    models: list[str] = field(
        default_factory=lambda: [str(ROOT / "model_cards" / name) for name in MODELS],
        metadata={"help": "folders or Hub ids"},
    )
    clients: int = field(default=50, metadata={"help": "how many send jobs at the same time"})
    jobs: int = field(default=200, metadata={"help": "how many jobs they send together"})
    redrawn: int = field(default=60, metadata={"help": "how many of the jobs are drawn again alone, and compared"})
    drawings: int = field(default=500, metadata={"help": "how many images are drawn while memory is watched"})
    steps: int = field(default=8, metadata={"help": "most steps of a job; each has from 2 to so many"})
    seed: int = field(default=0, metadata={"help": "of the jobs"})
    json: str | None = field(default=None, metadata={"help": "write the rows to this file, too"})

    def __post_init__(self) -> None:
        check_at_least(self, clients=1, jobs=1, redrawn=0, drawings=0, steps=2)
        if self.redrawn > self.jobs:
            raise ValueError(f"redrawn must be at most jobs ({self.jobs}), got {self.redrawn}")


@dataclass
class Answer:
    """What a client got for a job.

    Attributes:
        images: (N, H, W, C) uint8; None for none
        told: the settings of the report and of each PNG
        refused: how often a full queue turned it away before
    """

    seconds: float
    images: np.ndarray | None = None
    told: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0
    error: str = ""

    def belongs_to(self, job: dict[str, Any]) -> bool:
        """Whether all that came back is of this job: image i has the seed of the job plus i."""
        wanted = [job, *(job | {"seed": job["seed"] + i} for i in range(job["count"]))]
        if self.images is None or len(self.images) != job["count"] or len(self.told) != len(wanted):
            return False
        pairs = zip(self.told, wanted, strict=True)
        return all(told.get(name) == value for told, want in pairs for name, value in want.items())


def jobs_of(options: Options) -> list[dict[str, Any]]:
    """Settings of every job, drawn from the seed of the command."""
    names = {Path(model).name: model for model in options.models}
    catalogue, rng, jobs = Catalogue(names), random.Random(options.seed), []
    for index in range(options.jobs):
        info = catalogue[catalogue.names[index % len(catalogue.names)]]
        job = {"model": info.name, "seed": rng.randrange(2**31), "count": rng.randint(1, 4)}
        job |= {"steps": rng.randint(2, options.steps)}
        jobs.append(job | ({"class_name": rng.choice(info.class_names)} if info.class_names else {}))
    rng.shuffle(jobs)
    return jobs


def ask(client: Client, job: dict[str, Any]) -> Answer:
    """Send a job, again where the queue is full, and read what comes back."""
    started, refused = time.perf_counter(), 0
    while True:
        try:
            gallery, report, _ = client.predict(**job, api_name="/generate")
            break
        except Exception as error:  # whatever it is, it is what the client got
            if FULL not in str(error).lower():
                return Answer(time.perf_counter() - started, refused=refused, error=str(error) or type(error).__name__)
            refused += 1
            time.sleep(WAIT)
    seconds, paths = time.perf_counter() - started, [entry["image"] for entry in gallery]
    images = np.stack([_pixels(path) for path in paths]) if paths else None
    return Answer(seconds, images, [json.loads(report), *map(image_metadata.read, paths)], refused)


def _pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).reshape(*image.size[::-1], -1)


def send(server: Server, jobs: list[dict[str, Any]], clients: int, what: str) -> list[Answer]:
    """The answers to jobs that so many clients send, each its share, one after the other."""
    answers: list[Answer] = [Answer(0.0, error="not sent")] * len(jobs)
    with tempfile.TemporaryDirectory(prefix="crowd-") as folder, tqdm(total=len(jobs), desc=what, disable=None) as bar:

        def work(number: int) -> None:
            kept, patient = f"{folder}/{number}", {"timeout": PATIENCE}
            client = Client(server.url, verbose=False, download_files=kept, httpx_kwargs=patient)
            for index in range(number, len(jobs), clients):
                answers[index] = ask(client, jobs[index])
                bar.update()

        with ThreadPoolExecutor(clients) as pool:
            for done in [pool.submit(work, number) for number in range(min(clients, len(jobs)))]:
                done.result()
    return answers


def run_all(options: Options) -> list[Row]:
    """Start the page, send all jobs, redraw some, and watch the memory."""
    jobs = jobs_of(options)
    with served(options.models) as server:
        started = time.perf_counter()
        answers = send(server, jobs, options.clients, "Crowd")
        rows = crowd_rows(jobs, answers, time.perf_counter() - started)
        picked = random.Random(options.seed + 1).sample(range(len(jobs)), options.redrawn)
        alone = send(server, [jobs[index] for index in picked], 1, "Alone")
        rows += redrawn_rows([answers[index] for index in picked], alone)
        return rows + memory_rows(options, server.memory, lambda more: send(server, more, 1, "Memory"), jobs)


def crowd_rows(jobs: list[dict[str, Any]], answers: list[Answer], seconds: float) -> list[Row]:
    """Of the crowd: what was answered, mixed up and lost, and how long it took."""
    times = sorted(answer.seconds for answer in answers if not answer.error)
    good = sum(answer.belongs_to(job) for job, answer in zip(jobs, answers, strict=True))
    lost = [answer.error for answer in answers if answer.error]
    rows = [
        {"what": "jobs answered with their own images", "value": good, "of": len(jobs)},
        {"what": "jobs answered with others", "value": len(jobs) - good - len(lost), "of": len(jobs)},
        {"what": "jobs lost", "value": len(lost), "of": len(jobs), **({"first": lost[0]} if lost else {})},
        {"what": "turned away by a full queue, and asked again", "value": sum(answer.refused for answer in answers)},
        {"what": "seconds for all", "value": round(seconds, 1)},
    ]
    if times:
        middle, late = statistics.median(times), times[min(len(times) - 1, int(0.95 * len(times)))]
        rows += [{"what": "seconds until an answer, median", "value": round(middle, 2)}]
        rows += [{"what": "seconds until an answer, 95 of 100", "value": round(late, 2)}]
    return rows


def redrawn_rows(crowd: list[Answer], alone: list[Answer]) -> list[Row]:
    """How many jobs gave the same pixels in the crowd and alone."""
    pairs = zip(crowd, alone, strict=True)
    equal = sum(a.images is not None and b.images is not None and np.array_equal(a.images, b.images) for a, b in pairs)
    return [{"what": "redrawn alone, equal to the pixel", "value": equal, "of": len(alone)}]


def memory_rows(
    options: Options, memory: Callable[[], float], draw: Callable[[list[dict[str, Any]]], Any], jobs: list[Row]
) -> list[Row]:
    """The server's memory around `drawings` drawings of one image each; all models have been loaded before."""
    before = memory()
    draw([jobs[index % len(jobs)] | {"count": 1} for index in range(options.drawings)])
    after = memory()
    return [
        {"what": "MB before the drawings", "value": round(before, 1)},
        {"what": f"MB after {options.drawings} drawings", "value": round(after, 1)},
    ]


def show(rows: list[Row]) -> str:
    """The table, and what the first job that was lost was told."""
    lines = [[row["what"], f"{row['value']} of {row['of']}" if "of" in row else str(row["value"])] for row in rows]
    lost = "".join(f"\n\nthe first that was lost: {row['first']}" for row in rows if row.get("first"))
    return table(["of the crowd", "measured"], lines) + lost


def main(arguments: list[str] | None = None) -> list[Row]:
    """The command line."""
    return command_line(Options, run_all, show, "benchmarks.crowd", __doc__, arguments)


if __name__ == "__main__":
    main()
