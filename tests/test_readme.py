"""The README and docs/files.md say what is true: the tree names every file, links lead somewhere, times are recorded.

(That the code blocks run: test_readme_blocks.py.)
"""

import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = (ROOT / "docs" / "files.md").read_text()


def tree_paths() -> set[str]:
    """The files and folders that the tree names, from the root."""
    (block,) = re.findall(r"^```\napp\.py.*?^```", FILES, flags=re.MULTILINE | re.DOTALL)
    paths, parents = set(), {}
    for line in block.splitlines()[1:-1]:
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        parents[depth] = name
        paths.add("".join(parents[level] for level in range(depth)) + name)
    return paths


def test_the_tree_names_every_source_file_and_only_those() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    sources = {p for p in listed if p.endswith(".py") and not p.startswith(("tests/", "model_cards/"))}
    named = tree_paths()
    assert {p for p in sources if not p.endswith("__init__.py")} == {p for p in named if p.endswith(".py")}
    assert not [p for p in named if not (ROOT / p).exists()]


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    """Those that begin with /? are of the page: test_equations_table.py."""
    assert len(README.splitlines()) <= 150
    linked = {page: re.findall(r"\]\((?!https?:|/\?)([^)#]+)", page.read_text()) for page in PAGES}
    assert {"docs/equations.md", "docs/files.md", "docs/drawing.md", "docs/training.md"} <= set(linked[PAGES[0]])
    assert [(page.name, link) for page in PAGES for link in linked[page] if not (page.parent / link).exists()] == []


def test_the_minutes_of_the_recipes_are_those_of_recorded_runs() -> None:
    """Of the shipped models, each of whose records holds all its runs."""
    known = set()
    for path in ROOT.glob("model_cards/*/training.json"):
        record = json.loads(path.read_text())
        while record:
            known.add((record["recipe"]["recipe"], f"{record['steps']:,}", f"{record['seconds'] / 60:.0f}"))
            record = record["continues"]
    table = (ROOT / "docs" / "training.md").read_text()
    row = re.compile(
        r"^\| `(fashion-[\w-]+|emoji-streamline-lora)` .* ([\d,]+) updates in (\d+) minutes \|$", re.MULTILINE
    )
    said = row.findall(table)
    assert len(said) == 5 and set(said) <= known


def test_the_space_settings_agree_with_the_requirements() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    assert f"sdk_version: {pinned['gradio']}" in README
