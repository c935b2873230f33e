"""Who may import whom inside training/ (DESIGN.md): each rule is a function of that folder to what breaks it.

All imports of a file count, at any depth. Those under `if __name__ == "__main__":` are of the command that a file also
is, and not of the module: `metrics_are_numbers` and `imports_are_acyclic` leave them out.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

Rule = Callable[[Path], list[str]]
Graph = dict[str, set[str]]

CHAIN = (("files", "data", "randomness"), ("metrics",), ("objectives",), ("loop",), ("train",))  # left <- right
ALLOWED = {  # what of training a package may import
    "evaluation": {
        "evaluation",
        "metrics",
        "files",
        "data",
        "randomness",
        "model_index",
        "machine",
        "command_line",
        "sample_grid",
    },
    "sharing": {"sharing", "files", "model_index", "run_record", "recipes", "objectives"},  # whose flags a card names
}
KNOW_ACCELERATE = {"loop.py", "train.py", "launch.py", "checkpoints.py", "evaluation/processes.py"}
NO_NUMBERS = ("argparse", "transformers.HfArgumentParser", "transformers.hf_argparser", "matplotlib", "accelerate")
FILE_CALLS = {"open", "read_text", "read_bytes", "unlink", "mkdir", "rmtree", "savez", "savez_compressed", "memmap"}
FORBIDDEN_FLOORS = {
    "pipelines": {"training", "ui", "benchmarks", "app"},
    "training": {"ui", "benchmarks", "app"},
    "ui": {"training", "benchmarks", "app"},
}


def imports_of(path: Path, root: Path, command: bool = True) -> set[str]:
    """Absolute dotted names of all that a file below `root` imports: `from .x import y` in a/b.py is a.x.y.

    `command`: with what stands under `if __name__ == "__main__":`.
    """
    package = path.relative_to(root).parent.parts
    found = set()
    for node in _nodes(ast.parse(path.read_text()), command):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def _nodes(tree: ast.Module, command: bool) -> Iterator[ast.AST]:
    for statement in tree.body:
        if command or not (isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test)):
            yield from ast.walk(statement)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def _is_of(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def _parts_of_training(path: Path, training: Path) -> set[str]:
    """The files and packages directly below training/ that a file imports from."""
    names = [name.split(".") for name in imports_of(path, training.parent)]
    return {name[1] for name in names if name[0] == training.name and len(name) > 1}


def _own_part(path: Path, training: Path) -> str:
    return path.relative_to(training).parts[0].removesuffix(".py")


# ------------------------------------------------------------------------------------------------------- the rules


def metrics_are_numbers(training: Path) -> list[str]:
    """metrics/: no command line, no matplotlib, no accelerate, nothing that is built on it, and no file is opened."""
    built_on_it = tuple(f"training.{name}" for name in ("evaluation", "sharing", "objectives", "loop"))
    broken = []
    for path in _files(training / "metrics"):
        names = imports_of(path, training.parent, command=False)
        broken += [f"{path.name} imports {name}" for name in sorted(names) if _is_of(name, NO_NUMBERS + built_on_it)]
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        broken += [f"{path.name} calls {ast.unparse(call.func)}" for call in calls if _is_of_a_file(call)]
    return broken


def _is_of_a_file(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", None) or getattr(call.func, "id", "")
    if name in FILE_CALLS or name.startswith(("write_", "read_")):
        return True
    return ast.unparse(call.func) in ("np.load", "np.save", "numpy.load", "numpy.save", "json.load", "json.dump")


def chain_has_one_direction(training: Path) -> list[str]:
    """files, data, randomness <- metrics <- objectives <- loop <- train; the first three know nothing else of ours."""
    level = {name: index for index, names in enumerate(CHAIN) for name in names}
    broken = []
    for path in _files(training):
        own, where = _own_part(path, training), path.relative_to(training).as_posix()
        others = _parts_of_training(path, training) - {own}
        if level.get(own) == 0:
            broken += [f"{where} imports training.{name}" for name in sorted(others)]
            tops = {name.split(".")[0] for name in imports_of(path, training.parent)}
            broken += [f"{where} imports pipelines"] * ("pipelines" in tops)
        elif own in level:
            broken += [f"{where} imports training.{n}" for n in sorted(others) if level.get(n, -1) > level[own]]
    return broken


def packages_import_what_they_may(training: Path) -> list[str]:
    """evaluation/ and sharing/: what of training each may import."""
    return [
        f"{path.relative_to(training).as_posix()} imports training.{name}"
        for package, allowed in ALLOWED.items()
        for path in _files(training / package)
        for name in sorted(_parts_of_training(path, training) - allowed)
    ]


def only_train_sees_hub(training: Path) -> list[str]:
    """training.hub is imported by train.py alone."""
    allowed = {training / "train.py", training / "hub.py"}
    return [
        f"{path.relative_to(training).as_posix()} imports training.hub"
        for path in _files(training)
        if path not in allowed and "hub" in _parts_of_training(path, training)
    ]


def objectives_know_no_accelerate(training: Path) -> list[str]:
    """An objective is a loss: processes and devices are the loop's."""
    return [
        f"{path.name} imports accelerate"
        for path in _files(training / "objectives")
        if any(_is_of(name, ("accelerate",)) for name in imports_of(path, training.parent))
    ]


def few_know_accelerate(training: Path) -> list[str]:
    """The loop, what starts processes, and checkpoints."""
    knowing = [p for p in _files(training) if any(_is_of(n, ("accelerate",)) for n in imports_of(p, training.parent))]
    names = [path.relative_to(training).as_posix() for path in knowing]
    return [f"{name} imports accelerate" for name in names if name not in KNOW_ACCELERATE]


def imports_are_acyclic(training: Path) -> list[str]:
    """No file leads back to itself, also not through imports inside functions."""
    graph = _graph(training)
    return [f"{name} imports itself in the end" for name in sorted(graph) if name in _reached(graph, name)]


def _graph(training: Path) -> Graph:
    """Each module of training/ with those that it imports, but not with the packages that these lie in."""
    modules = {_module(path, training): path for path in _files(training)}
    graph: Graph = {}
    for name, path in modules.items():
        found = imports_of(path, training.parent, command=False)
        graph[name] = {module for imported in found if (module := _longest(imported, modules))}
    return graph


def _module(path: Path, training: Path) -> str:
    parts = path.relative_to(training.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _longest(imported: str, modules: dict[str, Path]) -> str | None:
    """The module that a dotted name of a module, or of something in it, leads to."""
    parts = imported.split(".")
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((name for name in names if name in modules), None)


def _reached(graph: Graph, start: str) -> set[str]:
    """What is imported from `start` on, `start` itself only if something leads back."""
    found: set[str] = set()
    left = list(graph[start])
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += graph[name]
    return found


def floors_are_built_in_one_direction(root: Path) -> list[str]:
    """app -> ui -> pipelines <- training, of the folders below `root`."""
    return [
        f"{path.relative_to(root).as_posix()} imports {top}"
        for folder, forbidden in FORBIDDEN_FLOORS.items()
        for path in _files(root / folder)
        for top in sorted({name.split(".")[0] for name in imports_of(path, root)} & forbidden)
    ]


def tabs_import_no_tabs(root: Path) -> list[str]:
    """What two tabs share stands beside ui/tabs/, which only the page imports."""
    return [
        f"{path.relative_to(root).as_posix()} imports {name}"
        for path in _files(root / "ui")
        if path != root / "ui" / "demo.py"
        for name in sorted(imports_of(path, root))
        if _is_of(name, ("ui.tabs",))
    ]
