"""The source of a function as statements: their lines, what they assign and what they read.

`source_of` reads the file that a function's code came from, whoever wrote it, and runs nothing of it.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

HASHED = re.compile(r"_[0-9a-f]{8}$")  # at the end of a file's stem: a copy that a model's folder carries


@dataclass(frozen=True)
class Statement:
    """Lines `first` to `last` of a file, dedented.

    `targets` are the names that it assigns, `uses` those that it reads, and `fills` a list that it adds to, if it does;
    `returns`: it ends the call.
    """

    first: int
    last: int
    text: str
    targets: tuple[str, ...] = ()
    uses: frozenset[str] = frozenset()
    fills: str = ""
    returns: bool = False


@dataclass(frozen=True)
class Source:
    """A watched function: `key` is "file:function", `title` the same with the folder of the file."""

    key: str
    title: str
    signature: Statement
    statements: Mapping[int, Statement]  # by every line of the function's body

    def __reduce__(self) -> tuple[Any, ...]:
        return Source, (self.key, self.title, self.signature, {})  # what is kept of a run needs no more


_sources: dict[int, tuple[CodeType, Source | None]] = {}  # by identity: the hash of code is that of all its constants


def source_of(code: CodeType) -> Source | None:
    """A function's statements, from its file; None where there is none to read."""
    known = _sources.get(id(code))
    if known is None:
        known = _sources[id(code)] = (code, _read_source(code))
    return known[1]


def _read_source(code: CodeType) -> Source | None:
    try:
        lines, first = inspect.getsourcelines(code)
        function = ast.parse(textwrap.dedent("".join(lines))).body[0]
    except (OSError, SyntaxError, IndexError):
        return None
    if not isinstance(function, ast.FunctionDef):
        return None
    whole = textwrap.dedent("".join(lines)).splitlines()
    statements = {}
    for node in _statements(function.body):
        statement = _statement(node, whole, first - 1)
        statements |= dict.fromkeys(range(statement.first, statement.last + 1), statement)
    at = first - 1 + function.lineno
    signature = Statement(at, at, f"def {function.name}({', '.join(_parameters(function.args))}):")
    folder, name = _where(code.co_filename)
    return Source(f"{name}:{code.co_qualname}", f"{folder}{name}:{code.co_qualname}", signature, statements)


def _parameters(arguments: ast.arguments) -> Iterator[str]:
    """Names alone: types and defaults would make lines of it that nobody reads."""
    yield from (argument.arg for argument in (*arguments.posonlyargs, *arguments.args))
    if arguments.vararg or arguments.kwonlyargs:
        yield f"*{arguments.vararg.arg if arguments.vararg else ''}"
    yield from (argument.arg for argument in arguments.kwonlyargs)
    if arguments.kwarg:
        yield f"**{arguments.kwarg.arg}"


def _where(path: str) -> tuple[str, str]:
    """Folder and name of a file as the repositories have them; a copy that a model carries has its original's name."""
    *folders, name = re.split(r"[\\/]", path)
    if "diffusers" in folders:
        last = len(folders) - 1 - folders[::-1].index("diffusers")
        return "/".join([*folders[last:], ""]), name
    return "pipelines/", f"{HASHED.sub('', name.removesuffix('.py'))}.py"


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """All of a function's own, those inside of others too, but not those of functions in it, nor its docstring."""
    for node in body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, part, []))


def _statement(node: ast.stmt, whole: list[str], offset: int) -> Statement:
    inner = getattr(node, "body", None)
    last = inner[0].lineno - 1 if inner else node.end_lineno
    text = textwrap.dedent("\n".join(whole[node.lineno - 1 : last]))
    own = (node.iter,) if isinstance(node, ast.For) else () if inner else (node,)
    names = (part for one in own for part in ast.walk(one) if isinstance(part, ast.Name))
    changed = isinstance(node, ast.AugAssign)
    uses = frozenset(name.id for name in names if changed or isinstance(name.ctx, ast.Load))
    return Statement(
        node.lineno + offset, last + offset, text, _targets(node), uses, _filled(node), isinstance(node, ast.Return)
    )


def _filled(node: ast.stmt) -> str:
    """The list of a statement like `found.append(one)`."""
    called = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    return called.value.id if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) else ""


def _targets(node: ast.stmt) -> tuple[str, ...]:
    if isinstance(node, ast.Assign):
        return tuple(name for target in node.targets for name in _assigned(target))
    if isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.For)):
        return tuple(_assigned(node.target))
    return ()


def _assigned(target: ast.expr) -> Iterator[str]:
    if isinstance(target, (ast.Tuple, ast.List)):
        for part in target.elts:
            yield from _assigned(part)
    elif isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
        yield f"{target.value.id}.{target.attr}"
