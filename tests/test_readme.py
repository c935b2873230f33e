"""The README and docs/files.md say what is true: the tree names every file, and the Python runs."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
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


def test_the_readme_leads_to_the_tree() -> None:
    assert "(docs/files.md)" in README


def test_the_python_of_the_readme_compiles() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        compile(block, "README.md", "exec")


def test_the_space_settings_agree_with_the_requirements() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    assert f"sdk_version: {pinned['gradio']}" in README
