"""What model_cards/ ships is what the working tree would write, loads anywhere, and says only what was measured."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from fresh_processes import run_elsewhere
from huggingface_hub import ModelCard

from app import shipped_models
from pipelines.about import draws_in_steps
from training import refresh
from training.card import README, render, shipped_folders, with_results
from training.card import main as card_command
from training.files import weights_hash
from training.recipes import Recipe
from training.sharing.card_tables import best_rows, results_table, sorted_rows, text_to_image_cells

FOLDERS = {folder.name: folder for folder in shipped_folders()}
AUTOENCODERS = {name for name, folder in FOLDERS.items() if not draws_in_steps(folder)}
DRAW = """
import sys, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
asked = {"prompt": "a red apple, noto style", "guidance_scale": 3.0} if getattr(pipe, "takes_prompts", False) else {}
out = pipe(num_inference_steps=2, generator=torch.Generator().manual_seed(0), **asked)
assert out.images[0].size == (int(sys.argv[2]),) * 2 and "pipelines" not in sys.modules
"""
RECONSTRUCT = """
import sys, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
images = torch.ones(1, 3, 128, 128)
assert (pipe(images, output_type="pt").images - images).abs().max() < 0.1 and "pipelines" not in sys.modules
"""


def test_the_page_opens_with_the_model_that_draws_words_fastest() -> None:
    assert list(shipped_models())[:3] == ["emoji-latent", "emoji-cascade", "fashion-cfg"]


def test_the_models_are_there() -> None:
    fashion = {"fashion-cfg", "fashion-ddpm", "fashion-classifier-guidance", "fashion-flow"}
    assert fashion | {"emoji-autoencoder"} <= set(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_code_in_the_folder_is_that_of_the_working_tree(name: str, tmp_path: Path) -> None:
    refresh.write(FOLDERS[name], tmp_path / name)
    written = {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
    shipped = {p.relative_to(FOLDERS[name]): p.read_bytes() for p in FOLDERS[name].rglob("*.py") if p.is_file()}
    assert set(shipped) == {path for path in written if path.suffix == ".py"}, "run python -m training.refresh"
    for path, content in written.items():
        assert (FOLDERS[name] / path).read_bytes() == content, f"{path}: run python -m training.refresh"


@pytest.mark.parametrize("name", FOLDERS)
def test_it_draws_in_a_fresh_process_elsewhere(name: str, tmp_path: Path) -> None:
    size = "128" if name.startswith("emoji") else "28"
    run_elsewhere(tmp_path, RECONSTRUCT if name in AUTOENCODERS else DRAW, str(FOLDERS[name]), size)


def test_no_file_of_weights_is_larger_than_25_mb() -> None:
    sizes = {path: path.stat().st_size for folder in FOLDERS.values() for path in folder.rglob("*.safetensors")}
    assert len(sizes) >= len(FOLDERS) and {path for path, size in sizes.items() if size > 25e6} == set()


@pytest.mark.parametrize("name", FOLDERS)
def test_the_card_is_rendered_from_the_numbers(name: str) -> None:
    folder = FOLDERS[name]
    assert (folder / "README.md").read_text() == render(folder), "run python -m training.card"
    card = ModelCard.load(folder / "README.md")
    best = best_rows(sorted_rows(folder)) if name not in AUTOENCODERS else []
    measured = {round(value, 4) for row in best for value in row["measured"].values()}
    assert card.data.library_name == "diffusers"
    assert all(result.metric_value in measured for result in card.data.eval_results or ())


@pytest.mark.parametrize("name", sorted(set(FOLDERS) - AUTOENCODERS))
def test_the_call_on_the_card_is_a_setting_that_was_measured(name: str) -> None:
    (call,) = re.findall(r"^pipe\(.*\)\.images", (FOLDERS[name] / "README.md").read_text(), flags=re.MULTILINE)
    given = {key: float(value) for key, value in re.findall(r"(num_inference_steps|guidance_scale)=([\d.]+)", call)}
    settings = [row["settings"] for row in sorted_rows(FOLDERS[name])]
    assert given and any(given == {key: measured[key] for key in given} for measured in settings)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_number_on_the_card_is_in_a_record(name: str) -> None:
    """Code and addresses aside, which the records hold as a whole, or not at all."""
    text = (FOLDERS[name] / "README.md").read_text()
    records = [json.loads(path.read_text()) for path in FOLDERS[name].glob("*.json")]
    records += [] if name in AUTOENCODERS else best_rows(sorted_rows(FOLDERS[name]))  # means over seeds
    known = {form for value in leaves(records) for form in as_written(value)}
    measured = text.partition("## Measured")[2].partition("## Intended use")[0]
    without_code = re.sub(r"`[^`]*`|\(https?:[^)]*\)|\[Kynk[^]]*\]|^\d+\. ", "", measured, flags=re.MULTILINE)
    numbers = re.findall(r"(?<![a-z\d])\d[\d,]*(?:\.\d+)?%?", without_code.replace(", ", " "))
    assert len(numbers) > (5 if name in AUTOENCODERS else 20)
    assert [number for number in numbers if number not in known] == []


CELLS = {
    "samples": lambda row: f"{row['settings']['num_samples']:,}",
    "class accuracy": lambda row: f"{row['measured']['class_accuracy']:.1%}",
    "Fréchet distance": lambda row: f"{row['measured']['frechet_distance']:.3f}",
    "FD-EffNet-Lite0": lambda row: f"{row['measured']['fd_effnet_lite0']:.3f}",
    "MD-EffNet-Lite0": lambda row: f"{row['measured']['md_effnet_lite0']:.3f}",
    "Monge distance": lambda row: (
        f"{row['measured']['monge_distance']:.3f}" if "monge_distance" in row["measured"] else ""
    ),
    "precision": lambda row: f"{row['measured']['precision']:.3f}",
    "recall": lambda row: f"{row['measured']['recall']:.3f}",
    "distance to the training set": lambda row: f"{row['measured']['nearest_train_ratio']:.3f}",
    "nearest to second-nearest": lambda row: f"{row['measured']['nearest_to_second_ratio']:.3f}",
    "copies": lambda row: f"{row['measured']['copied_share']:.1%}",
    "network evaluations": lambda row: f"{row['measured']['nfe']:g}",
}
DISTANCES = ("Fréchet distance", "FD-EffNet-Lite0")  # a table has one of them


def card_table(name: str) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the table of results on a card; the setting stands before the cells that CELLS names."""
    lines = (FOLDERS[name] / "README.md").read_text().split("| setting |")[1].split("\n\n")[0].splitlines()
    heads, *table = [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]
    return heads, table


@pytest.mark.parametrize("name", sorted(set(FOLDERS) - AUTOENCODERS))
def test_each_line_of_the_table_is_one_row_of_the_record(name: str) -> None:
    heads, table = card_table(name)
    rows = list(json.loads((FOLDERS[name] / "metrics.json").read_text())["results"].values())
    assert len(table) == len(rows) + 1 and table[-1][0].startswith("real training images")
    for setting, *cells in table[:-1]:
        fitting = [row for row in rows if cells == [CELLS[head](row) for head in heads]]
        assert len(fitting) == 1, setting
        chosen = fitting[0]["settings"]
        assert (
            setting.startswith(chosen.get("sampler", chosen["scheduler"]).removesuffix("Scheduler"))
            and f"{chosen['num_inference_steps']} steps" in setting
        )
        if chosen["guidance_scale"] is not None:
            assert f"guidance {chosen['guidance_scale']:g}" in setting


def leaves(value: object) -> Iterator[object]:
    """All that is no list and no dict in nested ones; keys too, which say where a number was measured."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def as_written(value: object) -> set[str]:
    """How a card may write a number of a record, a key that is one, and the number of threads."""
    if isinstance(value, str):
        return set(re.findall(r"^\d+$|\d+(?= threads?$)", value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return set()
    return {f"{value:g}", f"{value:,}", f"{value:.2f}", f"{value:.3f}", f"{value:.1%}", f"{value / 60:.0f}"}


@pytest.mark.parametrize("name", FOLDERS)
def test_only_safetensors_and_no_path_of_a_machine(name: str) -> None:
    for path in FOLDERS[name].rglob("*"):
        assert path.suffix not in (".bin", ".pt", ".pkl", ".ckpt")
        if path.suffix == ".json":
            assert '"_name_or_path"' not in path.read_text()


def test_the_results_of_the_readme_are_those_of_the_cards() -> None:
    assert README.read_text() == with_results(README.read_text()), "run python -m training.card"


@pytest.mark.parametrize("name", sorted(set(FOLDERS) - AUTOENCODERS))
def test_the_readme_shows_the_setting_of_the_lowest_mean_distance_on_the_card(name: str) -> None:
    heads, table = card_table(name)
    (distance,) = [column for column, head in enumerate(heads) if head in DISTANCES]
    seeds: dict[str, list[list[str]]] = {}
    for setting, *cells in table[:-1]:
        if ", prompts training" in setting:  # of captions that it was trained on
            continue
        seeds.setdefault(re.sub(r", seed \d+$", "", setting), []).append(cells)
    most = max(map(len, seeds.values()))
    means = {
        setting: {
            head: np.mean(list(map(number, column))) for head, *column in zip(heads, *same, strict=True) if all(column)
        }
        for setting, same in seeds.items()
        if len(same) == most
    }
    best, floor = min(means, key=lambda setting: means[setting][heads[distance]]), table[-1][1:]
    start = f"| [`{name}`](model_cards/{name}) |"
    (table,) = [part for part in README.read_text().split("<!-- results")[1].split("\n\n") if start in part]
    (line,) = [line for line in table.splitlines() if line.startswith(start)]
    titles, cells = ([cell.strip() for cell in each.strip("|").split("|")] for each in (table.splitlines()[0], line))
    shown = dict(zip(titles[1:], cells[1:], strict=True))
    real = shown.pop(f"{heads[distance]} of real images")
    assert real == floor[distance] + (f" (mean of {most})" if most > 1 else "")
    assert all(shown.pop(column) == cell for column, cell in text_to_image_cells(FOLDERS[name]).items())
    assert re.sub(r", mean of seeds .*", "", shown.pop("setting")) == best
    means[best].pop("copies", None)  # which needs the explanation on the card
    found = {title: number(cell) for title, cell in shown.items() if cell}
    assert found == pytest.approx(means[best], abs=0.0011 if most > 1 else 1e-9), (
        "of numbers that are rounded on the card"
    )


def number(cell: str) -> float:
    """Of a table, with thousands or percent."""
    return float(cell.replace(",", "").removesuffix("%")) / (100 if cell.endswith("%") else 1)


def test_the_best_row_has_the_lowest_distance_in_the_features_that_come_first() -> None:
    def row(name: str, distance: float, steps: int) -> dict:
        settings = {"num_samples": 10, "scheduler": "DDIMScheduler", "num_inference_steps": steps}
        measured, floor = {name: distance, "recall": 0.5, "nfe": steps}, {name: 0.1, "num_samples": 10}
        return {"settings": settings | {"guidance_scale": None}, "measured": measured, "floor": floor}

    ours = [row("frechet_distance", distance, steps) for distance, steps in ((0.9, 5), (0.4, 6), (0.7, 7))]
    fids = [row("fid", distance, steps) for distance, steps in ((3.0, 8), (0.2, 9))]
    first, second = results_table({"both": [*fids, *ours], "none": [], "other": fids}).split("\n\n")
    assert first.splitlines()[2:] == ["| both | DDIM, 6 steps | 10 | 0.400 | 0.500 | 6 | 0.100 |"]
    assert second.splitlines()[2:] == ["| other | DDIM, 9 steps | 10 | 0.200 | 0.500 | 9 | 0.100 |"]


def test_what_prompts_cost_and_get_is_that_of_one_row_and_of_all_runs(tmp_path: Path) -> None:
    def aligned(scale: float, subgroup: float) -> dict:
        settings, shares = {"model": "m", "guidance_scale": scale}, {"concept": subgroup / 2, "subgroup": subgroup}
        return {"settings": settings, "weights": weights_hash(tmp_path), "measured": {"training": shares}}

    def run(hours: float, device: str, continues: dict | None = None) -> dict:
        whole = {"seconds": hours * 3600, "processes": 1, "device": device, "continues": continues}
        return {"steps": 1, "images": 1, "recipe": asdict(Recipe())} | whole

    settings = {"model": "m", "num_samples": 4, "scheduler": "DDIM", "num_inference_steps": 2, "guidance_scale": 3.0}
    best = {
        "settings": settings,
        "weights": weights_hash(tmp_path),
        "floor": {},
        "features": {},
        "real": {},
        "command": "",
    }
    best["measured"] = {"fd_effnet_lite0": 1.0, "images_per_second": 4.0}
    rows = {"results": {"a": best}, "alignment": {"a": aligned(3, 0.5), "b": aligned(6, 0.25)}}
    (tmp_path / "metrics.json").write_text(json.dumps(rows))
    record = run(1.5, "cpu, 2 threads", run(0.5, "cpu, 1 thread"))
    for device, hours in {"cpu, 2 threads": "3.5", "NVIDIA H100": ""}.items():
        (tmp_path / "training.json").write_text(json.dumps(record | {"device": device}))
        assert list(text_to_image_cells(tmp_path).values()) == ["25.0% at guidance 3", "50.0%", "0.25", hours]


def test_the_card_command_names_a_folder_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="FOLDER must be that of a pipeline, but nowhere has no model_index.json"):
        card_command(["nowhere"])
    with pytest.raises(SystemExit):
        card_command(["--help"])
    assert "FOLDER" in capsys.readouterr().out
