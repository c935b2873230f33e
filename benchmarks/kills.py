"""Kill training and evaluation with SIGKILL, resume them, and compare what they end with to the last bit.

    python -m benchmarks.kills

27 kills are spread evenly over the time that a small run spends in preparing its data, in updates, in saves
(checkpoints and the model at the end), and that an evaluation takes. Each run has folders of its own; it is killed, and
its command is repeated. Everything that it leaves is compared with what the unbroken run left: the decoded images, the
weights and all other state of the last checkpoints, the model, the grids of samples, the record but for its clock; of
an evaluation metrics.json and the plots. A file that is left over counts as a difference.
"""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from benchmarks.forks import Moment, Phases, run, spread
from benchmarks.table import Row, check_at_least, command_line, table
from training import evaluate, train
from training.loop import Trainer
from training.metrics.features import FeatureClassifier

SHARES = {"preparation": 4, "updates": 9, "saves": 8, "evaluation": 6}  # of 27 kills
PHASES: Phases = {
    "preparation": [(train, "load_data")],
    "updates": [(Trainer, "update")],
    "saves": [(Trainer, "_save_checkpoint"), (Trainer, "_finish")],
    "evaluation": [(evaluate, "run")],
}
NAMES = ("cat", "dog")
NETWORK = {
    "_class_name": "UNet2DModel",
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "dropout": 0.1,
}
TRAINING = """--recipe conditional --max_train_steps 12 --checkpointing_steps 3 --validation_steps 6
    --train_batch_size 4 --gradient_accumulation_steps 2 --lr_warmup_steps 2 --ddpm_num_steps 5 --random_flip
    --second_ema_decay 0.5 --mixed_precision no --report_to none --resume_from_checkpoint latest""".split()
EVALUATION = "--num_samples 24 --batch_size 4 --num_inference_steps 2 4 --dtype float32".split()
OF_THE_CLOCK = ("seconds", "images_per_second", "command")  # entries in which two equal runs may differ
LEFT_BY_TRAINING, LEFT_BY_EVALUATION = ("run", "cache"), ("run",)
WENT_ON = re.compile(r"at step (\d+)$|^(\d+ of \d+ (?:images|settings))", re.MULTILINE)


@dataclass
class Options:
    """The options of the command."""

    kills: int = field(default=27, metadata={"help": "how many; each takes two runs of a second or two"})
    folder: str | None = field(default=None, metadata={"help": "keep the runs and their logs in this new folder"})
    json: str | None = field(default=None, metadata={"help": "write the rows to this file, too"})

    def __post_init__(self) -> None:
        check_at_least(self, kills=1)


@dataclass(frozen=True)
class Commands:
    """The two commands, over the images in a folder, each for a folder of its own."""

    given: Path

    def prepare(self) -> None:
        """Write what they read: images in class folders and as parquet, a network's config, a feature classifier."""
        import datasets

        pixels = np.random.default_rng(0).integers(0, 256, (60, 16, 16), dtype=np.uint8)
        images, labels = [Image.fromarray(image) for image in pixels], [index % 2 for index in range(60)]
        for index, image in enumerate(images):
            path = self.given / "images" / NAMES[labels[index]] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
        (self.given / "parquet" / "data").mkdir(parents=True)
        for split, part in (("train", slice(0, 30)), ("test", slice(30, 60))):
            rows = datasets.Dataset.from_dict({"image": images[part], "label": labels[part]}, features=kinds)
            rows.to_parquet(self.given / "parquet" / "data" / f"{split}-00000-of-00001.parquet")
        (self.given / "network.json").write_text(json.dumps(NETWORK))
        torch.manual_seed(0)
        shape = {"block_out_channels": (8, 8), "layers_per_block": (1, 1), "num_classes": 2, "sample_size": 16}
        FeatureClassifier(**shape, class_names=NAMES).eval().save_pretrained(self.given / "features")

    def train(self, place: Path) -> Callable[[], None]:
        """The command that trains, and that goes on."""
        paths = {"train_data_dir": self.given / "images", "output_dir": place / "run"}
        paths["model_config_name_or_path"] = self.given / "network.json"
        arguments = [*TRAINING, *(f"--{name}={path}" for name, path in paths.items())]
        return lambda: train.main(arguments)

    def evaluate(self, place: Path) -> Callable[[], None]:
        """The command that measures, and that goes on."""
        paths = ["--dataset_name", str(self.given / "parquet"), "--features", str(self.given / "features")]
        return lambda: evaluate.main([str(place / "run"), *paths, *EVALUATION])


def contents(place: Path, folders: tuple[str, ...]) -> dict[str, Any]:
    """All files of a run by their paths: the bytes, or of JSON the values without those of the clock."""
    paths = [path for folder in folders for path in sorted((place / folder).rglob("*")) if path.is_file()]
    return {str(path.relative_to(place)): _content(path) for path in paths}


def _content(path: Path) -> Any:
    return _without_clock(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clock(item) for key, item in value.items() if key not in OF_THE_CLOCK}
    return [_without_clock(item) for item in value] if isinstance(value, list) else value


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The files that one of two runs lacks, or that differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


@dataclass(frozen=True)
class Whole:
    """The unbroken run."""

    commands: Commands
    place: Path
    left: dict[str, dict[str, Any]]  # by phase: what a run that was killed in it must leave
    calls: dict[str, list[float]]  # by phase: the seconds of each call


def whole_run(root: Path) -> Whole:
    """Train and evaluate without a kill."""
    commands, place = Commands(root / "given"), root / "whole"
    place.mkdir(parents=True)
    _completed(commands.prepare, root)
    calls = _completed(commands.train(place), place)
    trained = contents(place, LEFT_BY_TRAINING)
    shutil.copytree(place / "run", root / "trained")
    calls |= {"evaluation": _completed(commands.evaluate(place), place)["evaluation"]}
    left = dict.fromkeys(PHASES, trained) | {"evaluation": contents(place, LEFT_BY_EVALUATION)}
    return Whole(commands, place, left, calls)


def _completed(program: Callable[[], None], place: Path) -> dict[str, list[float]]:
    outcome = run(program, PHASES, place)
    if outcome.status:
        raise ValueError(f"a run that nothing happened to failed: see {place / 'log'}")
    return outcome.calls


def killed_run(whole: Whole, place: Path, moment: Moment, kept: Path) -> Row | None:
    """Kill a run and repeat its command; None if it had ended before the kill."""
    of_evaluation = moment.phase == "evaluation"
    if of_evaluation:
        shutil.copytree(kept, place / "run")
    place.mkdir(parents=True, exist_ok=True)
    command = (whole.commands.evaluate if of_evaluation else whole.commands.train)(place)
    if not run(command, PHASES, place, moment).signal:
        return None
    before = len((place / "log").read_text())
    again = run(command, PHASES, place)
    went_on = WENT_ON.search((place / "log").read_text()[before:])
    found = contents(place, LEFT_BY_EVALUATION if of_evaluation else LEFT_BY_TRAINING)
    return {
        "phase": moment.phase,
        "call": moment.call + 1,
        "milliseconds": round(1000 * moment.seconds, 1),
        "went_on": next(filter(None, went_on.groups())) if went_on else "start",
        "status": again.status,
        "different": differences(found, whole.left[moment.phase]),
    }


def kill_all(options: Options, root: Path) -> list[Row]:
    """The rows of all kills."""
    whole, rows = whole_run(root), []
    for moment in tqdm(plan(whole.calls, options.kills), desc="Killing", disable=None):
        for attempt in range(6):
            row = killed_run(whole, root / f"{len(rows) + 1}-{attempt}", moment, root / "trained")
            if row is not None:
                break
            moment = replace(moment, seconds=moment.seconds / 2)  # it was faster than the unbroken run
        if row is None:
            raise ValueError(f"a run ended before it could be killed at {moment}")
        rows.append(row)
    return rows


def plan(calls: dict[str, list[float]], kills: int) -> list[Moment]:
    """When to kill: each phase gets its share of the kills, spread evenly over its time."""
    total, taken, moments = sum(SHARES.values()), 0, []
    for phase, share in SHARES.items():
        upto = round((taken + share) * kills / total)
        moments += spread(calls[phase], upto - round(taken * kills / total), phase)
        taken += share
    return moments


def run_all(options: Options) -> list[Row]:
    """Kill and resume, in a folder that is kept or in a temporary one."""
    if options.folder and Path(options.folder).exists():
        raise ValueError(f"folder must be a new one, got {options.folder!r}")
    kept = nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory(prefix="kills-")
    with kept as folder:
        return kill_all(options, Path(folder).resolve())


def show(rows: list[Row]) -> str:
    """The table of all kills, and how many of them left no trace."""
    heads = ["killed in", "call", "ms into it", "went on from", "compared with the unbroken run"]
    lines = [
        [row["phase"], *(str(row[key]) for key in ("call", "milliseconds", "went_on")), _verdict(row)] for row in rows
    ]
    good = sum(_verdict(row) == "equal" for row in rows)
    return f"{table(heads, lines)}\n\n{good} of {len(rows)} killed runs ended bit for bit where the unbroken one did"


def _verdict(row: Row) -> str:
    if row["status"]:
        return f"failed with status {row['status']}"
    return f"differs: {', '.join(row['different'])}" if row["different"] else "equal"


def main(arguments: list[str] | None = None) -> None:
    """The command line; exits with status 1 unless all runs are equal."""
    rows = command_line(Options, run_all, show, "benchmarks.kills", __doc__, arguments)
    if any(_verdict(row) != "equal" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
