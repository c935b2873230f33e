"""Folders that carry their own code: saving, loading and pushing a pipeline with the sources that it runs on.

diffusers' loader copies the root file and what that file names, one level deep, into one flat package per process. So
every source is written under a name that is unique to its content, `<stem>_<8 hex digits>.py`, and every carried file
names at its end whatever its imports import in turn. Two versions then live in one process, and a loaded pipeline saves
again under identical names.
"""

import ast
import hashlib
import inspect
import json
import os
import re
import shutil
from collections.abc import Collection
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, create_commit, model_info, snapshot_download

from .facts_c265849c import where_to_look
from .saved_files_ce9a389c import HASHED, has_variant, replaced
from .staging_5ca18f0b import staged, sweep

_OF_THE_LOADING = frozenset({"_name_or_path", "is_local", "local_files_only"})  # how a part was loaded, and from where
_HUB_ARGUMENTS = ("repo_id", "private", "token", "commit_message", "create_pr")
_SIBLING = re.compile(r"^from \.(\w+) import", re.MULTILINE)
# options of `from_pretrained` that hold for each component
FORWARDED = ("dtype", "torch_dtype", "use_safetensors", "variant", "device_map", "low_cpu_mem_usage")
_PACKAGE = __name__.rpartition(".")[0]  # a pipeline outside of this folder imports from here by name
_OURS = re.compile(rf"^from {re.escape(_PACKAGE)}\.(\w+) import", re.MULTILINE)


class CodeCarryingPipeline(DiffusionPipeline):
    """A pipeline whose `save_pretrained` and `push_to_hub` write a folder that loads anywhere."""

    about: dict[str, Any] = {}  # what a pipeline says of itself: see about.py
    _carry_code = True

    @property
    def stock_class(self) -> str | None:
        """The diffusers pipeline that can run this one's model without our code; None where there is none."""
        return self.about.get("stock")

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, carry_code: bool = True, **kwargs: Any
    ) -> None:
        """Write a folder that loads anywhere, with the code of this pipeline and of its custom components.

        The folder is written under a temporary name and then moved into place: inside its target where that exists,
        which may be a volume whose parent cannot be written, else beside it. `carry_code=False` writes the name of the
        stock diffusers class instead and no source.

        Raises:
            ValueError: `carry_code=False` for a pipeline or a component that no stock class can run, which it names,
                or weights asked for in another form than safetensors.
        """
        if args[:1] not in ((), (True,)) or kwargs.get("safe_serialization", True) is not True:
            raise ValueError("safe_serialization must be True: this project writes safetensors only")
        if not carry_code:
            self._refuse_custom_code()
        target = Path(save_directory).absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        self._carry_code = carry_code and self._carry_code  # push_to_hub saves again, for a push without code too
        push = kwargs.pop("push_to_hub", False)
        to_hub = {name: kwargs.pop(name) for name in _HUB_ARGUMENTS if name in kwargs}
        try:
            sweep(target.parent, re.escape(target.name))
            with staged(target, target if target.is_dir() else target.parent) as temporary:
                super().save_pretrained(temporary, *args, **kwargs)
                _move_into(temporary, target)
            if push:
                self.push_to_hub(to_hub.pop("repo_id", target.name), variant=kwargs.get("variant"), **to_hub)
        finally:
            self._carry_code = True

    def save_config(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """diffusers calls this last, for `save_pretrained` and `push_to_hub` alike: the place to add the sources."""
        super().save_config(save_directory, push_to_hub=False, **kwargs)
        folder = Path(save_directory)
        index = json.loads((folder / self.config_name).read_text())
        index.pop("_name_or_path", None)
        for name in self._optional_components:
            if index.get(name) == [None, None]:  # a folder reads as it did before there was such a component
                index.pop(name)
        for config in folder.glob("*/*config.json"):
            _drop_keys(config, _OF_THE_LOADING)
        if self._carry_code:
            index["_class_name"] = [_carry_sources(_source_of(type(self)), folder), type(self).__name__]
            for name, component in self._custom_components().items():
                stem = _carry_sources(_source_of(type(component)), folder / name)
                index[name] = [stem, type(component).__name__]
        else:
            index["_class_name"] = self.stock_class
            accepted = inspect.signature(getattr(diffusers, self.stock_class).__init__).parameters
            index = {key: value for key, value in index.items() if key.startswith("_") or key in accepted}
        (folder / self.config_name).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    def _upload_folder(
        self,
        working_dir: str | os.PathLike,
        repo_id: str,
        token: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        subfolder: str | None = None,
    ) -> str:
        """For `push_to_hub`: one commit, so that a repository never holds half a model; diffusers' may make several."""
        files = sorted(path for path in Path(working_dir).rglob("*") if path.is_file())
        names = [(Path(subfolder or "") / path.relative_to(working_dir)).as_posix() for path in files]
        there = [entry.rfilename for entry in model_info(repo_id, token=token).siblings or []]
        added = [CommitOperationAdd(name, path) for name, path in zip(names, files, strict=True)]
        gone = [CommitOperationDelete(path.as_posix()) for path in replaced(map(Path, names), map(Path, there))]
        message = commit_message or f"Upload {type(self).__name__}"
        return create_commit(repo_id, [*added, *gone], commit_message=message, token=token, create_pr=create_pr)

    def _custom_components(self) -> dict[str, torch.nn.Module]:
        """Components whose class neither diffusers nor transformers ships."""
        unwrapped = {name: getattr(part, "_orig_mod", part) for name, part in self.components.items()}
        shipped = ("diffusers", "transformers")
        return {
            name: part
            for name, part in unwrapped.items()
            if part is not None and type(part).__module__.split(".")[0] not in shipped
        }

    def _refuse_custom_code(self) -> None:
        if self.stock_class is None:
            raise ValueError(f"carry_code=False: no stock diffusers pipeline can run {type(self).__name__}")
        for name, component in self._custom_components().items():
            raise ValueError(f"carry_code=False: component {name!r} needs its own code ({type(component).__name__})")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Load weights from a folder or a Hub id and run this very class, whatever code the folder carries.

        Takes the arguments of `DiffusionPipeline.from_pretrained`; weights are read from safetensors only. Custom
        components run the code that lies beside this class; any other needs `trust_remote_code=True`.

        Raises:
            OSError: no folder of a pipeline.
            ValueError: `device_map="balanced"` or a `quantization_config` where there are custom components.
        """
        folder = str(pretrained_model_name_or_path)
        if not os.path.isdir(folder):
            hub = ("revision", "token", "cache_dir", "local_files_only", "force_download")
            options = {key: kwargs.pop(key) for key in hub if kwargs.get(key) is not None}
            patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.py"]
            folder = snapshot_download(folder, allow_patterns=patterns, **options)
        elif not os.path.isfile(os.path.join(folder, cls.config_name)):
            raise OSError(f"{folder} has no {cls.config_name}{where_to_look(Path(folder))}")
        kwargs = {"use_safetensors": True, **kwargs}
        forwarded = {key: kwargs[key] for key in FORWARDED if key in kwargs}
        custom = _sibling_components(cls, super().load_config(folder))
        _check_forwarded(kwargs, custom)
        for name, component_class in custom.items():
            if name not in kwargs:
                options = _of_component(forwarded, Path(folder, name))
                kwargs[name] = component_class.from_pretrained(folder, subfolder=name, **options)
        return super().from_pretrained(folder, **kwargs)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> dict | tuple:
        """The folder's model_index, with this class's name; `from_pretrained` loads the custom components itself."""
        loaded = super().load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for name in _sibling_components(cls, config):
            config[name] = [None, None]
        config["_class_name"] = cls.__name__
        return loaded


def _sibling_components(cls: type, index: dict) -> dict[str, type]:
    """Custom components of a model_index whose source is in the folder of `cls` or in this one, with their classes."""
    packages = [package for package in (cls.__module__.rpartition(".")[0], _PACKAGE) if package]
    found = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, (list, tuple)) or len(value) != 2:
            continue
        modules = [f"{package}.{HASHED.sub('', str(value[0]))}" for package in packages]
        module = next(filter(find_spec, modules), None) if HASHED.search(str(value[0])) else None
        if module is not None:
            found[name] = getattr(import_module(module), value[1])
    return found


def _check_forwarded(options: dict[str, Any], custom: dict[str, type]) -> None:
    """Raise ValueError for what diffusers decides over all components, and cannot where some are loaded before."""
    for name in ("device_map", "quantization_config"):
        value = options.get(name)
        if custom and value is not None and (name != "device_map" or value == "balanced"):
            raise ValueError(
                f"{name} must be left out, got {value!r}: DiffusionPipeline.from_pretrained(..., "
                "trust_remote_code=True) takes it"
            )


def _of_component(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a pipeline is loaded with, for the component in `folder`: its own dtype, and a variant only if it has it."""
    kept = dict(options)
    for key in ("dtype", "torch_dtype"):
        if isinstance(kept.get(key), dict):
            kept[key] = kept[key].get(folder.name, kept[key].get("default", torch.float32))
    if not has_variant(folder, kept.get("variant")):
        kept.pop("variant", None)
    return kept


def _source_of(cls: type) -> Path:
    try:
        return Path(inspect.getfile(cls))
    except (TypeError, OSError) as error:
        raise ValueError(f"{cls.__name__} has no source file to save: define it in a module") from error


def _drop_keys(path: Path, keys: Collection[str]) -> None:
    """Remove `keys` from a JSON file that has any of them."""
    content = json.loads(path.read_text())
    kept = {key: value for key, value in content.items() if key not in keys}
    if kept != content:
        path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def _carry_sources(source: Path, folder: Path) -> str:
    """Copy `source` and all that it imports of ours into `folder` as <stem>_<8 hex of its text>.py; return the stem.

    A file that was carried before comes out under the same name again.

    Raises:
        ValueError: `source` imports from this package in a way that cannot be carried, by the line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return _carry(source, folder, {})[0]


def _carry(source: Path, folder: Path, carried: dict[Path, tuple[str, list[str]]]) -> tuple[str, list[str]]:
    """The stem under which `source` was written, and the stems of all that it imports, directly or not.

    `carried` has those that were written before: most files are imported by several others.
    """
    if source in carried:
        return carried[source]
    text, needed = source.read_text(), []
    _refuse_other_imports(source.name, text)
    ours = set(_OURS.findall(text))
    text = _OURS.sub(r"from .\1 import", text)
    for sibling in dict.fromkeys(_SIBLING.findall(text)):
        parent = Path(__file__).parent if sibling in ours else source.parent
        stem, further = _carry(parent / f"{sibling}.py", folder, carried)
        text = re.sub(rf"^from \.{sibling} import", f"from .{stem} import", text, flags=re.MULTILINE)
        needed += [stem, *further]
    needed = list(dict.fromkeys(needed))
    unnamed = [stem for stem in needed if stem not in _SIBLING.findall(text)]
    if unnamed:
        text += "\n\n# what the imports above import: diffusers' loader fetches only the files that this one names\n"
        text += "".join(f"from .{stem} import __doc__ as _  # noqa: E402, F401\n" for stem in unnamed)
    stem = f"{HASHED.sub('', source.stem)}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    for stale in folder.glob("*.py"):
        if HASHED.sub("", stale.stem) == HASHED.sub("", stem) and stale.stem != stem:
            stale.unlink()
    (folder / f"{stem}.py").write_text(text)
    carried[source] = stem, needed
    return stem, needed


def _refuse_other_imports(name: str, text: str) -> None:
    """Raise ValueError for an import from this package that `_OURS` does not match."""
    for node in ast.walk(ast.parse(text)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        line = ast.unparse(node) if modules else ""
        ours = any(module.split(".")[0] == _PACKAGE for module in modules)
        if ours and (node.col_offset or not _OURS.match(line)):
            raise ValueError(
                f"{name} cannot be saved with {line!r}: import by file, not indented: from {_PACKAGE}.FILE import NAME"
            )


def _move_into(staged: Path, target: Path) -> None:
    """Move the files of `staged` over those of `target`, the index last, and drop what they replace."""
    files = sorted(
        (p.relative_to(staged) for p in staged.rglob("*") if p.is_file()), key=lambda p: p.name == "model_index.json"
    )
    for path in files:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(staged / path, target / path)
    there = [path for folder in {path.parent for path in files} for path in (target / folder).iterdir()]
    for path in replaced(files, [path.relative_to(target) for path in there if path.is_file()]):
        (target / path).unlink()
