"""Refuses an upload that holds the token or a path of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

BINARY = (".safetensors", ".png", ".parquet")


def check_secrets(files: Mapping[str, bytes | Path], token: str | None) -> None:
    """Raise ValueError if a file contains a path of this machine or the token."""
    folders = [str(path) for path in (Path.home(), Path.cwd()) if len(path.parts) > 1]
    folders += [folder.replace("\\", "\\\\") for folder in folders if "\\" in folder]  # as JSON writes it
    for name, content in files.items():
        if name.endswith(BINARY):
            continue
        text = (content if isinstance(content, bytes) else content.read_bytes()).decode(errors="replace")
        if token and token in text:
            raise ValueError(f"{name} contains your Hub token: remove it before the push")
        for folder in folders:
            if folder + "/" in text or folder + "\\" in text:
                raise ValueError(f"{name} contains a path of this machine, {folder}: remove it before the push")
