"""Who may import whom (DESIGN.md), read from the syntax trees of the sources."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("pipelines", "training", "ui", "benchmarks", "app")
# what travels with the algorithms, and what of it each of them builds on
COMPANIONS = {
    "process": set(),
    "packaging": set(),
    "conditions": set(),
    "schedule": {"process"},
    "run": {"conditions"},
    "solvers": {"process", "run", "schedule"},
    "base": {"conditions", "packaging", "run"},
}
COMPONENTS = {"patched_unet", "adm_unet", "noisy_classifier"}  # they travel with their weights
EVERYTHING_A_FOLDER_MAY_NEED = {"torch", "diffusers", "transformers", "numpy", "huggingface_hub", "PIL"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Absolute dotted names of all that a file imports, at any depth: `from .x import y` in a/b.py is a.x.y."""
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


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


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("pipelines", {"training", "ui", "benchmarks", "app"}),
        ("training", {"ui", "benchmarks", "app"}),
        ("ui", {"training", "benchmarks", "app"}),
    ],
)
def test_floors_are_built_in_one_direction(folder: str, forbidden: set[str]) -> None:
    files = sources(folder)
    assert files, folder
    for path in files:
        assert not tops(path) & forbidden, path


def test_the_app_starts_the_ui_and_nothing_else() -> None:
    assert tops(ROOT / "app.py") & set(OURS) <= {"ui", "pipelines"}


def test_an_objective_knows_nothing_of_accelerate() -> None:
    files = sources("training/objectives")
    assert files
    for path in files:
        assert "accelerate" not in tops(path), path


def test_the_loop_and_the_command_know_no_objective_by_name() -> None:
    for file in ("loop.py", "train.py", "recipes.py"):
        known = {name for name in imports_of(ROOT / "training" / file) if name.startswith("training.objectives")}
        modules = {".".join(name.split(".")[:3]) for name in known}
        assert modules <= {"training.objectives.base", "training.objectives.find_objective"}, file


def test_no_objective_imports_another() -> None:
    helpers = {"base", "conditions", "importance"}
    for path in sources("training/objectives"):
        known = {name.split(".")[2] for name in imports_of(path) if name.startswith("training.objectives.")}
        assert known <= helpers, path


def test_only_the_loop_and_what_starts_processes_know_accelerate() -> None:
    knowing = {
        path.relative_to(ROOT / "training").as_posix() for path in sources("training") if "accelerate" in tops(path)
    }
    assert knowing <= {"loop.py", "train.py", "checkpoints.py", "metrics/processes.py"}, knowing
