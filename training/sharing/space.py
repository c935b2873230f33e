"""The files of the demo as a Space; README.md and requirements.txt differ from those of the repository.

The front matter of the Space's README lists its models; app.py opens these if there is no model_cards/.
"""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import RepoCard, SpaceCard
from huggingface_hub.errors import RemoteEntryNotFoundError

ROOT = Path(__file__).parents[2]
FOLDERS = ("pipelines", "ui")
SINGLE = ("app.py", "LICENSE", "docs/page.png")
TECHNICAL = ("sdk", "sdk_version", "python_version", "app_file", "models", "preload_from_hub")
# torch on PyPI is built for CUDA: several GB that a Space without a GPU cannot use
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu\ntorch=={version}+cpu"


def space_files(space_id: str, repo_id: str, token: str | None, preload: bool = True) -> dict[str, bytes | Path]:
    """The files of the Space `space_id`, with the model `repo_id` before those that it lists already.

    `preload`: download the model when the Space is built, which is impossible for a private one.
    """
    files: dict[str, bytes | Path] = {name: ROOT / name for name in SINGLE}
    files |= sources(ROOT)
    files["README.md"] = readme(repo_id, _front_matter(space_id, token), preload).encode()
    files["requirements.txt"] = requirements((ROOT / "requirements.txt").read_text()).encode()
    return files


def sources(root: Path) -> dict[str, Path]:
    """The code of the demo below `root`, at any depth, by its name in the Space."""
    found = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    return {path.relative_to(root).as_posix(): path for path in found}


def is_of_the_space(name: str) -> bool:
    """Whether a file of a Space is code that a push wrote, so that a later push may delete it."""
    return name.endswith(".py") and name.startswith(tuple(f"{folder}/" for folder in FOLDERS))


def readme(repo_id: str, before: dict[str, Any], preload: bool = True) -> str:
    """The Space's README: the repository's front matter with the models added; changes by the Space's owner stay."""
    card = RepoCard.load(ROOT / "README.md")
    models = [repo_id, *(name for name in before.get("models") or [] if name != repo_id)]
    for name, value in before.items():
        if name not in TECHNICAL:
            card.data[name] = value
    card.data["models"] = models
    loaded = [name for name in models if preload or name != repo_id]
    card.data["preload_from_hub"] = loaded or None
    card.text = (
        "\n# Stepwise: diffusion models you can see, train and share\n\n"
        "![The demo with sixteen garments, drawn in eight steps](docs/page.png)\n\n"
        "Draws with " + ", ".join(f"[{name}](https://huggingface.co/{name})" for name in models) + ". To run it "
        "elsewhere: `pip install -r requirements.txt && python app.py`.\n"
    )
    return str(card)


def requirements(text: str) -> str:
    """The repository's requirements, with torch from the index of CPU builds."""
    return re.sub(r"^torch==(\S+)$", lambda found: CPU_TORCH.format(version=found[1]), text, flags=re.MULTILINE)


def _front_matter(space_id: str, token: str | None) -> dict[str, Any]:
    try:
        card = SpaceCard.load(space_id, repo_type="space", token=token, ignore_metadata_errors=True)
    except RemoteEntryNotFoundError:
        return {}
    return card.data.to_dict()
