"""Who may import whom (DESIGN.md), read from the syntax trees of the sources."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("pipelines", "training", "ui", "benchmarks", "app")
COMPANIONS = {"base", "schedule"}  # they travel with every algorithm
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


@pytest.mark.parametrize("path", sources("pipelines"), ids=lambda path: path.stem)
def test_no_algorithm_imports_another(path: Path) -> None:
    if path.stem == "__init__":
        return
    ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("pipelines.")}
    allowed = set() if path.stem in COMPANIONS | COMPONENTS else COMPANIONS
    assert ours <= allowed, f"{path.name} imports {sorted(ours - allowed)}"


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


def test_only_the_loop_and_what_starts_processes_know_accelerate() -> None:
    knowing = {
        path.relative_to(ROOT / "training").as_posix() for path in sources("training") if "accelerate" in tops(path)
    }
    assert knowing <= {"loop.py", "train.py", "checkpoints.py", "metrics/processes.py"}, knowing
