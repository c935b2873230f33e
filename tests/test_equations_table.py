"""docs/equations.md is true: every row is there once, each function and test that it names exists, each link opens."""

import ast
import re
from functools import cache
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from app import shipped_models
from ui import links
from ui.catalogue import Catalogue
from ui.fields import FIELDS
from ui.laboratory import settings as laboratory
from ui.laboratory.fields import FIELDS as LABORATORY_FIELDS
from ui.own_image import settings as own_image
from ui.settings import Settings
from ui.tabs import exact_and_learned

ROOT = Path(__file__).resolve().parent.parent
# what the tutorials have and is built; P3 and P4 are loading and Spaces
BUILT = [
    *(f"F{i}" for i in range(1, 6)),
    *(f"R{i}" for i in range(1, 13)),
    *(f"D{i}" for i in range(1, 5)),
    *(f"G{i}" for i in range(1, 8)),
    *(f"H{i}" for i in range(1, 6)),
    *(f"S{i}" for i in range(1, 9)),
    *(f"M{i}" for i in range(1, 6)),
    *(f"P{i}" for i in range(1, 6)),
]
OURS = ["D5", "D6", "G6b", "H3b", "H4b"]  # of this project
PAGE_LINK = re.compile(r"\]\(/(\?[^)]+)\)")


@cache
def rows() -> list[list[str]]:
    """The cells of the table: row, formula, function, test, where to see it."""
    lines = (ROOT / "docs" / "equations.md").read_text().splitlines()
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if re.match(r"\| [A-Z]\d", line)
    ]


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a file defines or imports at its top, and the members of its classes as Class.member."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        found |= set(_names(node))
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for part in node.body for name in _names(part)}
    return frozenset(found)


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]


def missing(cell: str, folder: Path, begin: str = "") -> list[str]:
    """The references of a cell that lead nowhere: "file", "file:name", or a name of the file before.

    Flags are left out, and where a word is given that references `begin` with, the rest.
    """
    wrong, file, name = [], None, ""
    for said in re.findall(r"`([^`]+)`", cell):
        if said.startswith("--") or not said.startswith(begin):
            continue
        if said.endswith("/") or ".py" in said:
            path, _, own = said.partition(":")
            file, name = folder / path, own
            exists = file.exists() and (not own or own in names_in(file))
        else:
            candidates = {said, f"{name.rpartition('.')[0]}{said}", said.removeprefix(".")}
            found = candidates & names_in(file) if file else set()
            name, exists = (max(found, key=len), True) if found else (name, False)
        wrong += [] if exists else [said]
    return wrong


def test_every_row_is_there_once() -> None:
    said = [cells[0].split()[0] for cells in rows()]
    assert len(said) == len(set(said)) and [len(cells) for cells in rows()] == [5] * len(said)
    assert set(said) == set(BUILT) | set(OURS)


@pytest.mark.parametrize("cells", rows(), ids=lambda cells: cells[0].split()[0])
def test_functions_and_tests_are_there(cells: list[str]) -> None:
    row, _, function, test, where = cells
    assert re.search(r"`[^`]+\.py:[\w.]+`|`[^`]+(\.py|/)`", function) and missing(function, ROOT) == [], row
    assert where and missing(test, ROOT / "tests", "test_") == [], row
    unnamed = re.findall(r"`test_\w+\.py`", test)
    assert re.search(r"`test_\w+\.py:test_\w+`", test) and unnamed == [], row


def test_a_reference_that_leads_nowhere_is_seen() -> None:
    cell = "`pipelines/ddim.py:ddim_step`, `ddim_steps`, `DDIMPipeline.step`, `.invert`, over `--eta` and `pipelines/`"
    assert missing(cell, ROOT) == []
    for wrong in ("`pipelines/ddim.py:gone`", "`pipelines/gone.py`", "`pipelines/ddim.py:ddim_step`, `gone`"):
        assert missing(wrong, ROOT)


def test_links_open_the_page_in_a_state_that_it_has() -> None:
    """Every parameter is a setting that counts for the model, or for the view, with a value that it takes."""
    catalogue = Catalogue(shipped_models())
    found = [PAGE_LINK.findall(cells[4]) for cells in rows()]
    assert sum(map(len, found)) >= 40
    for query in (query for each in found for query in each):
        asked = dict(parse_qsl(query[1:], strict_parsing=True))
        if asked.get(links.TAB) == laboratory.TAB:
            assert asked.keys() <= {links.TAB, *LABORATORY_FIELDS}, query
            lab, left_out = laboratory.recalled(links.of_tab(asked, laboratory.TAB))
            assert not left_out, (query, left_out)
            ignored = [name for name in asked.keys() - {links.TAB} if not laboratory.has(name, lab.as_dict())]
        elif asked.get(links.TAB) == own_image.TAB:
            assert asked.keys() <= {links.TAB, *own_image.FIELDS}, query
            _, left_out = own_image.recalled(links.of_tab(asked, own_image.TAB), catalogue)
            assert not left_out, (query, left_out)
            ignored = []
        elif asked.get(links.TAB) == exact_and_learned.TAB:
            ignored = [name for name in asked.keys() - {links.TAB} if name not in exact_and_learned.FIELDS]
            wrong = exact_and_learned.problems({name: asked[name] for name in asked.keys() - {links.TAB}})
            assert not wrong, (query, wrong)
        else:
            assert asked.keys() <= {links.DRAW, *FIELDS}, query
            settings, _, left_out = links.opened(asked, {}, catalogue)
            assert not left_out, (query, left_out)
            ignored = [name for name in asked if not _counts(settings, name, catalogue)]
        assert not ignored, (query, ignored)


def _counts(settings: Settings, name: str, catalogue: Catalogue) -> bool:
    """Models without a choice of samplers, say, take no sampler."""
    return settings.has(name, catalogue[settings.model])
