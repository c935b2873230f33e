"""The files of the demo as a Space; README.md and requirements.txt differ from those of the repository.

The front matter of the Space's README lists its models; app.py opens these if there is no model_cards/.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import RepoCard, SpaceHardware, SpaceInfo, hf_hub_url
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

from training.sharing.links import check_links

ROOT = Path(__file__).parents[2]
FOLDERS, ENDINGS = ("pipelines", "ui"), (".py", ".js", ".json", ".png")
SINGLE = ("app.py", "LICENSE", "docs/page.png")
TECHNICAL = ("sdk", "sdk_version", "python_version", "app_file", "models", "preload_from_hub")
CPU_BASIC = SpaceHardware.CPU_BASIC.value
HARDWARE = tuple(str(each.value) for each in SpaceHardware)
ZERO_GPU = SpaceHardware.ZERO_A10G.value  # a GPU that is lent to one function while it runs
ZERO_GPU_PYTHON = "3.12"  # ZeroGPU has 3.10 and 3.12; the libraries that are pinned need 3.11 or later
# torch on PyPI is built for CUDA: several GB that a Space without a GPU cannot use
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu\ntorch=={version}+cpu"


def space_files(
    repo_id: str,
    head: SpaceInfo | None = None,
    hardware: str | None = None,
    token: str | None = None,
    preload: bool = True,
) -> dict[str, bytes | Path]:
    """The files of a Space, with the model `repo_id` before those that it lists already.

    Args:
        head: what the Space is now; None before it is created
        hardware: what was asked for as it was created
        preload: download the model when the Space is built, which is impossible for a private one

    Raises:
        ValueError: a file is a link to elsewhere, or the README that the Space has cannot be read.
    """
    files: dict[str, bytes | Path] = {name: ROOT / name for name in SINGLE}
    files |= sources(ROOT)
    check_links([path for path in files.values() if isinstance(path, Path)], ROOT)
    hardware, before = hardware_of(head) or hardware or CPU_BASIC, _front_matter(head, token)
    files["README.md"] = readme(repo_id, before, preload, hardware).encode()
    files["requirements.txt"] = requirements((ROOT / "requirements.txt").read_text(), hardware).encode()
    return files


def hardware_of(head: SpaceInfo | None) -> str | None:
    """What a Space will run on, or runs on; None if it does not say."""
    runtime = head.runtime if head is not None else None
    return (runtime.requested_hardware or runtime.hardware) if runtime else None


def payment_advice(space_id: str, hardware: str | None, said: str | None) -> str:
    """What can be done where the Hub hosts a Space for paying accounts only, in one line."""
    zero = (
        f"`--space_hardware {ZERO_GPU}` asks for ZeroGPU, of which a free account of more than 30 days may host two; "
        if hardware != ZERO_GPU
        else ""
    )
    return (
        f"the Hub creates no Space {space_id} on {hardware or CPU_BASIC} for this account (402 "
        f"{' '.join((said or 'Payment Required').split())}). The model is pushed, and the Space can follow: {zero}PRO "
        "(https://huggingface.co/pro) hosts it on cpu-basic. Or draw on your own machine: `python app.py --model "
        "FOLDER_OR_ID`, with --share for a link that others can open"
    )


def sources(root: Path) -> dict[str, Path]:
    """The code of the demo below `root`, and its images and data, at any depth, by name in the Space."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*"))]
    found = [path for path in paths if path.suffix in ENDINGS]
    return {path.relative_to(root).as_posix(): path for path in found}


def is_of_the_space(name: str) -> bool:
    """Whether a file of a Space is one that a push wrote, so that a later push may delete it."""
    return name.endswith(ENDINGS) and name.startswith(tuple(f"{folder}/" for folder in FOLDERS))


def readme(repo_id: str, before: dict[str, Any], preload: bool = True, hardware: str = CPU_BASIC) -> str:
    """The Space's README: the repository's front matter with the models added; changes by the Space's owner stay."""
    card = RepoCard.load(ROOT / "README.md")
    models = [repo_id, *(name for name in before.get("models") or [] if name != repo_id)]
    for name, value in before.items():
        if name not in TECHNICAL:
            card.data[name] = value
    card.data["models"] = models
    if hardware == ZERO_GPU:
        card.data["python_version"] = ZERO_GPU_PYTHON
    loaded = [name for name in models if preload or name != repo_id]
    card.data["preload_from_hub"] = loaded or None
    card.text = (
        "\n# Stepwise: diffusion models you can see, train and share\n\n"
        "![The demo with four images of one prompt](docs/page.png)\n\n"
        "Draws with " + ", ".join(f"[{name}](https://huggingface.co/{name})" for name in models) + ". To run it "
        "elsewhere: `pip install -r requirements.txt && python app.py`.\n"
    )
    return str(card)


def requirements(text: str, hardware: str = CPU_BASIC) -> str:
    """The repository's requirements, for a Space without a GPU with torch from the index of CPU builds."""
    if not hardware.startswith("cpu"):
        return text
    return re.sub(r"^torch==(\S+)$", lambda found: CPU_TORCH.format(version=found[1]), text, flags=re.MULTILINE)


def _front_matter(head: SpaceInfo | None, token: str | None) -> dict[str, Any]:
    """That of the README at this very revision. Not through the cache: an older README there would lose the models that
    were added since, and the client asks twice in a row for what is not there."""
    if head is None or "README.md" not in [sibling.rfilename for sibling in head.siblings or []]:
        return {}
    url = hf_hub_url(head.id, "README.md", repo_type="space", revision=head.sha)
    answer = http_backoff("GET", url, headers=build_hf_headers(token=token))
    hf_raise_for_status(answer)
    try:
        return RepoCard(answer.text, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"the README.md of the Space {head.id} must begin with settings in YAML: {said}") from error
