"""Draws many images batch by batch, so that a run that is killed loses at most the current batch.

Each batch is written to the cache as soon as it is drawn, under a key of everything that its images depend on. A run
that is started again reads it from there. Several processes share the work through the same files.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from training.data.cache import key_of
from training.evaluation.processes import Processes
from training.evaluation.sampling import Batch, Model, draw_batch
from training.files import write_whole
from training.machine import versions


@dataclass(frozen=True)
class Drawn:
    """8-bit images (N, C, H, W), seconds of drawing summed over the processes, and network evaluations per image.

    `resumed`: number of images that an earlier run had drawn.
    """

    pixels: np.ndarray
    seconds: float
    nfe: float
    resumed: int = 0


class BatchCache:
    """The batches of one row of settings on disk."""

    def __init__(self, cache_dir: Path, *decides: object) -> None:
        self.folder = cache_dir / f"drawn-{key_of(*decides)}"

    def read(self, chosen: range) -> Batch | None:
        """The batch of the images with these numbers; None if it is absent or damaged."""
        try:
            with np.load(self._place(chosen)) as entry:
                return Batch(entry["pixels"], float(entry["evaluations"]), float(entry["seconds"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def write(self, chosen: range, batch: Batch) -> None:
        """Write a batch, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, pixels=batch.pixels, evaluations=batch.evaluations, seconds=batch.seconds)
        write_whole(self._place(chosen), buffer.getvalue())

    def remove(self) -> None:
        """Delete all batches."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, chosen: range) -> Path:
        return self.folder / f"{chosen.start:07d}-{chosen.stop:07d}.npz"


def depends_on(model: Model, pipeline: str, seed: int, dtype: str, settings: dict[str, Any]) -> list[Any]:
    """Everything that the images of a batch depend on, for the key of a `BatchCache`.

    `pipeline` is `pipeline_hash` of the model's folder. The versions and the device or number of threads are included,
    because the last bits depend on them.
    """
    device = model.pipe.device.type
    machine = torch.cuda.get_device_name(model.pipe.device) if device == "cuda" else torch.get_num_threads()
    return [pipeline, model.scheduler, seed, dtype, settings, versions(), device, machine]


def draw(
    model: Model,
    count: int,
    batch_size: int,
    seed: int,
    name: str,
    kept: BatchCache | None = None,
    processes: Processes | None = None,
    **settings: Any,
) -> Drawn | None:
    """Draw `count` images with `draw_batch`; `name` is shown in the progress bar.

    Batches that are in `kept` are not drawn again. Each of several processes draws its share of the missing batches and
    passes it on through `kept`, which they need; the first process returns all images, the others None.

    Raises:
        ValueError: the model drew values that are not finite.
    """
    processes = processes or Processes()
    parts = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    ready = {chosen: kept.read(chosen) for chosen in parts} if kept else {}
    missing = [chosen for chosen in parts if ready.get(chosen) is None]
    processes.wait()  # until all have seen the same batches missing; then the first one may be written
    mine = missing[processes.index :: processes.count]
    total = sum(map(len, mine))
    silent = None if processes.first else True
    with tqdm(total=total, desc=f"Drawing {name}", unit="img", disable=silent, leave=False) as bar:
        for chosen in mine:
            ready[chosen] = draw_batch(model, chosen, seed, **settings)
            if kept:
                kept.write(chosen, ready[chosen])
            bar.update(len(chosen))
    processes.wait()
    if not processes.first:
        return None
    batches = [ready.get(chosen) or kept.read(chosen) for chosen in parts]
    return Drawn(
        np.concatenate([batch.pixels for batch in batches]),
        sum(batch.seconds for batch in batches),
        sum(batch.evaluations for batch in batches) / count,
        count - sum(map(len, missing)),
    )
