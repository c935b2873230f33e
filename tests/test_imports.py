"""Who may import whom (DESIGN.md), read from the syntax trees of the sources."""

from __future__ import annotations

import ast
import os
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import import_rules
import pytest
from fresh_processes import run_elsewhere

ROOT = Path(__file__).resolve().parent.parent
OURS = ("pipelines", "training", "ui", "benchmarks", "app")
# what travels with the algorithms, and what of it each of them builds on
COMPANIONS = {
    "allocator": set(),  # of the programs: nothing that travels imports it
    "process": set(),
    "saved_files": set(),
    "staging": set(),
    "packaging": {"facts", "saved_files", "staging"},
    "conditions": set(),
    "facts": set(),
    "lora": set(),
    "schedule": {"process"},
    "run": {"conditions"},
    "ode": set(),
    "sde": {"process", "run"},
    "from_image": {"process", "run"},
    "image_inputs": set(),
    "repaint": {"from_image", "image_inputs", "process", "run"},
    "solvers": {"from_image", "process", "repaint", "run", "schedule"},
    "base": {"conditions", "facts", "lora", "packaging", "run"},
    "about": {"facts"},  # stays here: it reads what travels
}
COMPONENTS = {"patched_unet", "patched_autoencoder", "adm_unet", "noisy_classifier"}  # they travel with their weights
EVERYTHING_A_FOLDER_MAY_NEED = {"torch", "diffusers", "transformers", "numpy", "huggingface_hub", "PIL"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    return import_rules.imports_of(path, ROOT)


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports_of(path)}


@pytest.mark.parametrize("path", sources("pipelines"), ids=lambda path: path.stem)
def test_pipelines_need_only_what_a_stranger_has(path: Path) -> None:
    allowed = EVERYTHING_A_FOLDER_MAY_NEED | set(sys.stdlib_module_names) | {"pipelines"}
    assert tops(path) <= allowed


def imports_of_ours(path: Path) -> dict[str, set[str]]:
    """Of a file of pipelines/: the names that it takes from each of its siblings."""
    found: dict[str, set[str]] = {}
    for name in imports_of(path):
        if name.startswith("pipelines."):
            _, sibling, what = name.split(".")
            found.setdefault(sibling, set()).add(what)
    return found


def wrong_imports(path: Path) -> list[str]:
    """What a file of pipelines/ imports and should not.

    Companions build on companions, in one direction; components on nothing of ours; an algorithm on companions and the
    functions of another algorithm: its pipeline class would be another one where the file is loaded a second time.
    """
    if path.stem == "__init__":
        return []
    ours = imports_of_ours(path)
    if path.stem in COMPONENTS:
        return sorted(ours)
    if path.stem in COMPANIONS:
        return sorted(set(ours) - COMPANIONS[path.stem])
    return sorted(
        f"{sibling}.{name}"
        for sibling, names in ours.items()
        for name in names
        if name.endswith("Pipeline")
        if sibling not in COMPANIONS
    ) + sorted(set(ours) & COMPONENTS)


@pytest.mark.parametrize("path", sources("pipelines"), ids=lambda path: path.stem)
def test_a_file_of_pipelines_imports_what_its_kind_may(path: Path) -> None:
    assert wrong_imports(path) == []


@pytest.mark.parametrize(
    ("stem", "line"),
    [
        ("process", "from .schedule import NoiseSchedule"),
        ("conditions", "from .base import Step"),
        ("patched_unet", "from .process import up"),
        ("cascade", "from .ddim import DDIMPipeline"),
        ("cascade", "from .patched_unet import PatchedUNet2DModel"),
    ],
)
def test_a_wrong_import_is_found(stem: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipelines").mkdir()
    path = tmp_path / "pipelines" / f"{stem}.py"
    path.write_text(line + "\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert wrong_imports(path)


def test_the_imports_of_pipelines_have_no_circle() -> None:
    """Carrying follows them to their end."""
    graph = {path.stem: set(imports_of_ours(path)) for path in sources("pipelines") if path.stem != "__init__"}
    assert tuple(TopologicalSorter(graph).static_order())  # CycleError names the circle


@pytest.mark.parametrize("path", sources("pipelines"), ids=lambda path: path.stem)
def test_a_pipeline_imports_its_companions_in_the_way_the_remote_loader_follows(path: Path) -> None:
    tree = ast.parse(path.read_text())
    relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert all(node.level == 1 and node.module and "." not in node.module for node in relative)
    assert all(node.col_offset == 0 for node in relative), "an import inside a function is not carried along"
    assert not any(name.startswith("pipelines") for node in ast.walk(tree) for name in _absolute(node))


def _absolute(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def test_the_app_starts_the_ui_and_nothing_else() -> None:
    assert tops(ROOT / "app.py") & set(OURS) <= {"ui", "pipelines"}


# -------------------------------------------------------------------------------------------------- inside training/

# each rule, with a file that breaks it and what is said of it
BROKEN: list[tuple[import_rules.Rule, str, str, str]] = [
    (import_rules.metrics_are_numbers, "metrics/bad.py", "import argparse", "imports argparse"),
    (
        import_rules.metrics_are_numbers,
        "metrics/bad.py",
        "from transformers import HfArgumentParser",
        "imports transformers.HfArgumentParser",
    ),
    (
        import_rules.metrics_are_numbers,
        "metrics/bad.py",
        "def plot():\n    from matplotlib.figure import Figure",
        "imports matplotlib.figure.Figure",
    ),
    (import_rules.metrics_are_numbers, "metrics/bad.py", "from accelerate import PartialState", "imports accelerate"),
    (
        import_rules.metrics_are_numbers,
        "metrics/bad.py",
        "from training.evaluation import plots",
        "training.evaluation",
    ),
    (import_rules.metrics_are_numbers, "metrics/bad.py", "from ..sharing import space", "imports training.sharing"),
    (import_rules.metrics_are_numbers, "metrics/bad.py", "from training import objectives", "training.objectives"),
    (import_rules.metrics_are_numbers, "metrics/bad.py", "import training.loop", "imports training.loop"),
    (import_rules.metrics_are_numbers, "metrics/bad.py", "text = open('metrics.json')", "calls open"),
    (import_rules.metrics_are_numbers, "metrics/bad.py", "folder.joinpath('x').read_text()", "read_text"),
    (import_rules.metrics_are_numbers, "metrics/bad.py", "write_json(path, {})", "calls write_json"),
    (import_rules.metrics_are_numbers, "metrics/bad.py", "found = np.load(place)", "calls np.load"),
    (import_rules.chain_has_one_direction, "files.py", "from training.data import ImageData", "training.data"),
    (import_rules.chain_has_one_direction, "files.py", "from pipelines import NoiseSchedule", "pipelines"),
    (import_rules.chain_has_one_direction, "randomness.py", "from training.recipes import Recipe", "training.recipes"),
    (import_rules.chain_has_one_direction, "data/bad.py", "from training.files import write_json", "training.files"),
    (import_rules.chain_has_one_direction, "randomness.py", "import training.metrics.kernel", "training.metrics"),
    (
        import_rules.chain_has_one_direction,
        "metrics/bad.py",
        "from training.objectives import x",
        "training.objectives",
    ),
    (import_rules.chain_has_one_direction, "objectives/bad.py", "from ..loop import Trainer", "training.loop"),
    (import_rules.chain_has_one_direction, "loop.py", "def late():\n    from training import train", "training.train"),
    (
        import_rules.packages_import_what_they_may,
        "sharing/bad.py",
        "from training.metrics import sample_quality",
        "metrics",
    ),
    (import_rules.packages_import_what_they_may, "sharing/bad.py", "import training.evaluation.results", "evaluation"),
    (import_rules.packages_import_what_they_may, "evaluation/bad.py", "from training.loop import Trainer", "loop"),
    (import_rules.only_train_sees_hub, "refresh.py", "from training import hub", "training.hub"),
    (import_rules.only_train_sees_hub, "sharing/bad.py", "from training.hub import push_files", "training.hub"),
    (import_rules.objectives_know_no_accelerate, "objectives/bad.py", "import accelerate.utils", "accelerate"),
    (import_rules.few_know_accelerate, "recipes.py", "def late():\n    import accelerate", "accelerate"),
    (import_rules.few_know_accelerate, "evaluation/bad.py", "from accelerate import PartialState", "accelerate"),
]
RULES = list(dict.fromkeys(rule for rule, *_ in BROKEN)) + [import_rules.imports_are_acyclic]


def named(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_training_keeps_its_rules(rule: import_rules.Rule) -> None:
    for package in ("metrics", "evaluation", "sharing", "objectives", "data"):
        assert len(sources(f"training/{package}")) > 1, package  # else a rule holds of nothing
    assert rule(ROOT / "training") == []


@pytest.mark.parametrize(("rule", "name", "source", "said"), BROKEN, ids=named)
def test_each_rule_sees_what_breaks_it(
    rule: import_rules.Rule, name: str, source: str, said: str, tmp_path: Path
) -> None:
    training = tmp_path / "training"
    (training / name).parent.mkdir(parents=True, exist_ok=True)
    (training / name).write_text("import numpy as np\n")
    assert rule(training) == []
    (training / name).write_text(source + "\n")
    (broken,) = rule(training)
    assert said in broken and Path(name).name in broken


def test_a_command_that_a_metric_also_is_may_import_the_parser(tmp_path: Path) -> None:
    (tmp_path / "training" / "metrics").mkdir(parents=True)
    source = 'if __name__ == "__main__":\n    from training.evaluation.noise_accuracy import main\n\n    main()\n'
    (tmp_path / "training" / "metrics" / "also.py").write_text(source)
    assert import_rules.metrics_are_numbers(tmp_path / "training") == []


def test_a_cycle_is_seen_however_long_and_however_late(tmp_path: Path) -> None:
    training = tmp_path / "training"
    (training / "data").mkdir(parents=True)
    (training / "data" / "__init__.py").write_text("from training.data.images import load\n")
    (training / "data" / "images.py").write_text("from training.data import cache\nfrom training import a\n")
    (training / "data" / "cache.py").write_text("import json\n")
    (training / "a.py").write_text("from training.b import thing\n")
    (training / "b.py").write_text("from .c import thing\n")
    (training / "c.py").write_text("thing = 1\n")
    assert import_rules.imports_are_acyclic(training) == []
    (training / "c.py").write_text("def thing():\n    from training import a\n")
    said = import_rules.imports_are_acyclic(training)
    assert [text.split()[0] for text in said] == ["training.a", "training.b", "training.c"]


def test_floors_are_built_in_one_direction() -> None:
    assert all(sources(folder) for folder in import_rules.FORBIDDEN_FLOORS)
    assert import_rules.floors_are_built_in_one_direction(ROOT) == []


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("pipelines/bad.py", "from training.data import load_images", "pipelines/bad.py imports training"),
        ("pipelines/bad.py", "def late():\n    import ui.demo", "pipelines/bad.py imports ui"),
        ("ui/tabs/bad.py", "from training import recipes", "ui/tabs/bad.py imports training"),
        ("training/bad.py", "import ui", "training/bad.py imports ui"),
        ("training/metrics/bad.py", "from benchmarks import table", "training/metrics/bad.py imports benchmarks"),
    ],
)
def test_a_file_that_builds_upwards_is_seen(name: str, source: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(source + "\n")
    assert import_rules.floors_are_built_in_one_direction(tmp_path) == [said]


def test_tabs_import_no_tabs(tmp_path: Path) -> None:
    assert len(sources("ui/tabs")) > 1 and import_rules.tabs_import_no_tabs(ROOT) == []
    (tmp_path / "ui" / "tabs").mkdir(parents=True)
    (tmp_path / "ui" / "tabs" / "bad.py").write_text("from .generate import GenerateTab\nfrom ..run import draw\n")
    said = import_rules.tabs_import_no_tabs(tmp_path)
    assert said == ["ui/tabs/bad.py imports ui.tabs.generate.GenerateTab"]


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("training.train", ("matplotlib", "training.evaluation")),
        ("training.metrics.noise_accuracy", ("matplotlib", "transformers.hf_argparser", "training.evaluation")),
    ],
)
def test_what_a_process_does_not_load(module: str, without: tuple[str, ...]) -> None:
    """A denoising run starts without matplotlib, and a metric without a command line."""
    line = f"import {module}, sys; print([name for name in {without!r} if name in sys.modules])"
    assert run_elsewhere(ROOT, line, environment=dict(os.environ)).strip() == "[]"


def test_the_loop_and_the_command_know_no_objective_by_name() -> None:
    for file in ("loop.py", "train.py", "recipes.py"):
        known = {name for name in imports_of(ROOT / "training" / file) if name.startswith("training.objectives")}
        modules = {".".join(name.split(".")[:3]) for name in known}
        assert modules <= {"training.objectives.base", "training.objectives.find_objective"}, file


def test_no_objective_imports_another() -> None:
    helpers = {"base", "conditions", "importance", "augmentation", "latents", "text", "upsampling"}
    for path in sources("training/objectives"):
        known = {name.split(".")[2] for name in imports_of(path) if name.startswith("training.objectives.")}
        assert known <= helpers, path
