"""What a run shows: a bar that is full when all is done, an early preview, what checkpoints cost, what comes next; and
where to look when a run is opened before it has ended."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from training_runs import alone, command, image_folder, network_file, run_here, small_trainer

from pipelines import DDPMPipeline
from training import card, progress
from training.evaluation.sampling import find_folder
from training.loop import Trainer
from training.networks.open import load_pipeline
from training.objectives.denoising import Denoising
from training.progress import Progress, next_commands, size_of
from training.recipes import RECIPES
from training.sharing.uploads import components
from training.train import parse
from ui.catalogue import Catalogue


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A run in a folder with a space in its name, and what it printed."""
    root = tmp_path_factory.mktemp("finished")
    with alone(root / "cache"), pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *text, **options: lines.append(" ".join(map(str, text))))
        patch.setattr(Progress, "note", lambda self, line: lines.append(line))
        flags = {"train_data_dir": image_folder(root / "images"), "output_dir": root / "my run"}
        flags["model_config_name_or_path"] = network_file(root / "network.json")
        run_here(command("--recipe conditional", max_train_steps=2, ddpm_num_steps=20, **flags))
        yield root / "my run", "\n".join(lines)


@pytest.mark.usefixtures("alone")
def test_the_bar_is_full_when_the_model_is_saved_and_says_what_takes_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, bars, bar = {}, [], progress.tqdm

    def watched(**options: Any) -> Any:
        bars.append(bar(**options | {"disable": False}))
        return bars[0]

    def noting(cls: type, name: str) -> None:
        method = getattr(cls, name)

        def noted(*args: object) -> object:
            seen[name] = bars[0].n, bars[0].desc
            return method(*args)

        monkeypatch.setattr(cls, name, noted)

    monkeypatch.setattr(progress, "tqdm", watched)
    noting(Denoising, "samples")
    for name in ("_save_checkpoint", "_finish"):
        noting(Trainer, name)
    small_trainer(tmp_path / "run", recipe="mine", max_train_steps=3).train()
    assert seen == {
        "samples": (2, "mine, drawing samples: "),
        "_save_checkpoint": (2, "mine, writing a checkpoint: "),
        "_finish": (2, "mine, saving the model: "),
    }
    assert bars[0].n == bars[0].total == 3


def test_the_first_preview_of_a_short_run_comes_early() -> None:
    def previews(arguments: str) -> list[int]:
        recipe, _ = parse(arguments.split())
        return [step for step in range(1, recipe.max_train_steps + 1) if recipe.previews_at(step)]

    assert previews("--recipe finetune") == [20, 100, 200, 300, 400]
    assert previews("--recipe conditional --max_train_steps 300") == [15]
    assert previews("--recipe conditional --max_train_steps 4") == [1]
    assert previews("--recipe conditional")[:2] == [500, 1000]
    assert previews("--recipe finetune --validation_steps 150") == [150, 300], "as it was asked for"


def test_a_checkpoint_says_what_it_costs(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, text = finished
    size = sum(path.stat().st_size for path in (folder / "checkpoint-2").rglob("*") if path.is_file())
    assert (
        f"{folder / 'checkpoint-2'} takes {size / 1e6:.1f} MB, of which 2 are kept (--checkpoints_total_limit)" in text
    )
    for count, expected in ((0, "0.0 kB"), (999_900, "999.9 kB"), (12_340_000, "12.3 MB"), (3 * 10**12, "3000.0 GB")):
        with open(tmp_path / "file", "wb") as file:
            file.truncate(count)
        assert size_of(tmp_path) == expected


def test_the_end_prints_commands_that_run(
    finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, text = finished
    assert f"The pipeline is in {folder}\n" in text
    draw, page, push = map(shlex.split, text.partition(f"The pipeline is in {folder}\n")[2].splitlines()[:3])
    assert page == ["python", "app.py", "--model", str(folder)]
    assert push == ["python", "-m", "training.hub", "push", str(folder), "OWNER/NAME"]
    assert next_commands(folder, pushed=True).count("\n") == 1
    assert draw[:2] == ["python", "-c"] and 'class_labels="bird"' in draw[2]
    monkeypatch.chdir(tmp_path)
    exec(draw[2], {})
    assert Image.open("drawn.png").size == (8, 8)


def test_help_shows_the_recipe_and_lists_all(capsys: pytest.CaptureFixture) -> None:
    for arguments in (["--recipe", "finetune", "--help"], ["--help", "--recipe=finetune"]):
        with pytest.raises(SystemExit):
            parse(arguments)
        text = " ".join(capsys.readouterr().out.split())
        assert f"The recipes are {', '.join(RECIPES)}." in text.replace("- ", "-")  # argparse breaks lines at hyphens
        assert re.search(r"--max_train_steps MAX_TRAIN_STEPS.{0,60}updates \(default: 400\)", text)
        assert "flags (default: finetune)" in text


# --- a run that has not ended ---

OPENERS: dict[str, Callable[[Path], object]] = {
    "a class": DDPMPipeline.from_pretrained,
    "the page": lambda folder: Catalogue({"mine": folder}),
    "evaluation": lambda folder: find_folder(str(folder)),
    "fine-tuning": lambda folder: load_pipeline(str(folder)),
    "a push": components,
    "a card": lambda folder: card.main([str(folder)]),
}


@pytest.mark.parametrize("opener", OPENERS)
def test_a_run_in_progress_names_its_newest_pipeline(opener: str, tmp_path: Path) -> None:
    run = tmp_path / "mine"
    for step in (10, 9):
        (run / f"checkpoint-{step}" / "pipeline").mkdir(parents=True)
        (run / f"checkpoint-{step}" / "pipeline" / "model_index.json").write_text("{}")
    for folder in (run, run / "checkpoint-9"):
        with pytest.raises((ValueError, OSError, SystemExit)) as told:
            OPENERS[opener](folder)
        assert str(told.value).endswith(f"it is of a run that has not ended: open {run / 'checkpoint-9' / 'pipeline'}")
    with pytest.raises((ValueError, OSError, SystemExit)) as told:
        OPENERS[opener](tmp_path)
    assert "of a run" not in str(told.value)
