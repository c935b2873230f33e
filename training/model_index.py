"""Reads model_index.json, the file that makes a folder a pipeline: its Python class, class names and components."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.about import facts_of_folder, of_folder
from pipelines.facts import Facts
from training.files import read_json_object

FILE = "model_index.json"
ADAPTER = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class ModelIndex:
    """The content of a model_index.json.

    `source` is the stem of the Python file beside it that defines the class, None for a class of diffusers.
    `components` maps each component's folder to its library (or the stem of a Python file in that folder) and class.
    """

    class_name: str
    source: str | None
    class_names: list[str]  # by label; empty if the classes have no names
    components: dict[str, tuple[str, str]]
    content: dict[str, Any]

    def about(self, folder: Path) -> dict[str, Any]:
        """The pipeline's description of itself in its class body (pipelines/about.py); {} if it has none."""
        found = of_folder(folder, self.content["_class_name"])
        return {} if found is None else found.says

    def facts(self, folder: Path) -> Facts:
        """The facts in the configs of a folder: classes, channels, sizes."""
        return facts_of_folder(folder, self.content)


def is_pipeline(folder: Path) -> bool:
    """Whether a folder holds a pipeline (and not a single model, or nothing)."""
    return (folder / FILE).is_file()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and not the pipeline that it changes."""
    return (folder / ADAPTER).is_file() and not is_pipeline(folder)


def read_index(folder: Path) -> ModelIndex:
    """Read the model_index.json of a folder.

    Raises:
        ValueError: it is not a JSON object, or names no class.
    """
    return parse_index(read_json_object(folder / FILE))


def parse_index(content: dict[str, Any]) -> ModelIndex:
    """The same, from the file's content.

    Raises:
        ValueError: it names no class.
    """
    source, class_name = _class_of(content.get("_class_name"))
    names = content.get("id2label") or {}
    return ModelIndex(
        class_name=class_name,
        source=source,
        class_names=[names[key] for key in sorted(names, key=int)],
        components={key: tuple(value) for key, value in content.items() if _is_component(key, value)},
        content=content,
    )


def _class_of(declared: Any) -> tuple[str | None, str]:
    if isinstance(declared, list) and len(declared) == 2:
        return declared[0], str(declared[1])
    if not isinstance(declared, str):
        raise ValueError(f"{FILE} must name the pipeline's class as _class_name, got {declared!r}")
    return None, declared


def _is_component(key: str, value: Any) -> bool:
    return not key.startswith("_") and isinstance(value, list) and len(value) == 2 and isinstance(value[1], str)
