"""What a pipeline says about itself, read from its source without running it and without importing torch.

Each pipeline has one literal in its class body. All of its keys may be left out:

    about = {
        "summary": "Draws {subject} in few steps.",            one or two sentences in Markdown, for cards
        "paper": "https://arxiv.org/abs/2010.02502",
        "stock": "DDIMPipeline",                               the diffusers class that runs its model without our code
        "runs": ("DiTPipeline",),                              stock classes whose folders it runs
        "last_label_is_null": True,                            the network's last label means "no class"
        "example": {"num_inference_steps": 50},                arguments of the call on a card
        "card": {"task": "image-to-image"},                    words of the card of what does not draw from noise: task,
                                                tags, title, call, caption, measure, use, limits
        "samplers": {"DDPM": "DDPMPipeline"},                  samplers of the page that another class of ours runs
        "page": {"guidance_scale": {"value": 4.0, "info": "0 = off"}},     settings of the page, where they differ: some
                                                of value, info, choices, range and visible (ui/fields.py)
    }
"""

import ast
import json
import re
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from .facts import Facts

FOLDER = Path(__file__).resolve().parent
BASE = "StepwisePipeline"  # its `stream` takes the arguments of `__call__`, but for these:
WITHOUT_STEPS = "CodeCarryingPipeline"  # what inherits this one alone has no steps to watch
OUTPUT_ARGUMENTS = (
    "output_type",
    "return_dict",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
    "return_stages",
)


@dataclass(frozen=True)
class About:
    """A pipeline class by its source.

    Attributes:
        name: of the class
        arguments: of a run, by name, those of `__call__` but for the output's
        says: its literal; {} where it has none
        has_steps: whether its steps can be watched
    """

    name: str
    arguments: frozenset[str]
    says: dict[str, Any] = field(default_factory=dict)
    has_steps: bool = True


@cache
def classes_by_file() -> dict[str, str]:
    """The stem of the file that holds each public class of this folder."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        found |= dict.fromkeys(re.findall(r"^class ([A-Z]\w*)", path.read_text(), flags=re.MULTILINE), path.stem)
    return found


def of_class(name: str) -> About | None:
    """The class of that name in this folder, or the one that runs the stock class of that name; None without any."""
    return _by_name().get(name)


def of_folder(folder: Path, declared: str | list[str]) -> About | None:
    """The class that a folder's model_index.json names, by the source in that folder.

    Code that was saved before there were literals says what the class of its name here does.
    """
    if not isinstance(declared, list):
        return of_class(str(declared))
    stem, name = declared
    found, ours = read_source(folder / f"{stem}.py").get(name), of_class(name)
    if found is None or found.says or ours is None:
        return found
    return replace(found, says=ours.says)


def draws_in_steps(folder: Path) -> bool:
    """Whether a folder's pipeline draws in steps that can be watched: an autoencoder, for one, does not.

    Raises:
        ValueError: the folder has no model_index.json, or one that is no JSON.
    """
    about = of_folder(folder, read_json(folder / "model_index.json").get("_class_name"))
    return about is not None and about.has_steps


def facts_of_folder(folder: Path, index: dict[str, Any]) -> Facts:
    """What the configs in a pipeline's folder say; `index` is the content of its model_index.json."""
    parts = {name for name, value in index.items() if isinstance(value, list) and any(value)}
    about = of_folder(folder, index["_class_name"])
    return Facts(
        config_in(folder, next((name for name in ("transformer", "unet", "unet_2") if name in parts), "unet")),
        config_in(folder, "vae") if "vae" in parts else None,
        config_in(folder, "classifier") if "classifier" in parts else None,
        len(index.get("id2label") or {}),
        bool(index.get("last_label_is_null", about and about.says.get("last_label_is_null"))),
        next((config_in(folder, name) for name in ("unet_3", "unet_2") if name in parts), None),
    )


def config_in(folder: Path, part: str) -> dict[str, Any]:
    """The config of a part: in its folder, or at the root, where the first published pipelines have all their files.

    Raises:
        ValueError: a config that is no JSON, by name.
    """
    for path in (folder / part / "config.json", folder / "config.json"):
        if path.is_file():
            return read_json(path)
    return {}


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file of a model holds.

    Raises:
        ValueError: there is none, or it is no JSON, by name.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"model must hold a readable {path.name}: {path.parent} does not") from error


@cache
def pipeline_names() -> list[str]:
    """The pipeline classes of this folder whose steps can be watched."""
    found = [about for path in sorted(FOLDER.glob("*.py")) for about in read_source(path).values()]
    return sorted(about.name for about in found if about.has_steps)


@cache
def read_source(source: Path) -> dict[str, About]:
    """The pipeline classes of a file, by name; {} where there is no such file."""
    if not source.is_file():
        return {}
    classes = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)]
    found = {node.name: _about(node) for node in classes}
    return {name: about for name, about in found.items() if about is not None}


@cache
def _by_name() -> dict[str, About]:
    ours = [about for path in sorted(FOLDER.glob("*.py")) for about in read_source(path).values()]
    stock = {name: about for about in ours for name in about.says.get("runs", ())}
    return stock | {about.name: about for about in ours}


def _about(node: ast.ClassDef) -> About | None:
    methods = {method.name: method for method in node.body if isinstance(method, ast.FunctionDef)}
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    method = methods.get("stream") or (methods.get("__call__") if bases & {BASE, WITHOUT_STEPS} else None)
    if method is None or node.name == BASE:
        return None
    arguments = method.args.posonlyargs + method.args.args + method.args.kwonlyargs
    names = frozenset(argument.arg for argument in arguments) - {"self", *OUTPUT_ARGUMENTS}
    return About(node.name, names, _literal(node), has_steps=BASE in bases or "stream" in methods)


def _literal(node: ast.ClassDef) -> dict[str, Any]:
    for statement in node.body:
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == ["about"]:
            return ast.literal_eval(statement.value)
    return {}
