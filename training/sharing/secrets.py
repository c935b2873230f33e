"""Refuses an upload that holds a token, a private key, or a path of this machine.

All of a text file is read, and of weights, images and tables the parts that hold text.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

# What a token or a key looks like, whoever it is of. Each begins with letters that are the same in all of its kind:
# such an expression is searched for a hundred times as fast as any other.
FORMS = {
    "a Hugging Face token": (r"hf_[A-Za-z0-9]{20,}", r"api_org_[A-Za-z0-9]{20,}"),
    "a GitHub token": (r"gh[pousr]_[A-Za-z0-9]{20,}", r"github_pat_\w{20,}"),
    "a GitLab token": (r"glpat-[\w-]{20,}",),
    "an AWS key": (
        r"AKIA[A-Z0-9]{16}",
        r"ASIA[A-Z0-9]{16}",
        r"aws_secret_access_key\W{1,6}[A-Za-z0-9/+]{40}",
        r"AWS_SECRET_ACCESS_KEY\W{1,6}[A-Za-z0-9/+]{40}",
        r"SecretAccessKey\W{1,6}[A-Za-z0-9/+]{40}",
    ),
    "an Azure key": (r"AccountKey=[A-Za-z0-9+/]{40,}", r"SharedAccessKey=[A-Za-z0-9+/]{40,}"),
    "a Google key": (r"AIza[\w-]{35}", r"GOCSPX-[\w-]{20,}", r"ya29\.[\w-]{20,}"),
    "an OpenAI or Anthropic key": (r"sk-(?:[A-Za-z0-9]{32,}|(?:proj|svcacct|admin|ant|or)-[\w-]{20,})",),
    "a Slack token": (r"xox[a-z]-[\w-]{10,}", r"xapp-\d-[\w-]{10,}", r"hooks\.slack\.com/services/\w+/\w+/\w+"),
    "a Stripe key": (r"sk_live_\w{16,}", r"rk_live_\w{16,}", r"sk_test_\w{16,}"),
    "a Weights & Biases key": (r"WANDB_API_KEY\W{1,6}[0-9a-f]{40}", r"wandb_v1_\w{20,}"),
    "a Replicate token": (r"r8_[A-Za-z0-9]{30,}",),
    "an npm token": (r"npm_[A-Za-z0-9]{36}",),
    "a PyPI token": (r"pypi-AgE[\w-]{40,}",),
    "a JSON web token": (r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",),
    "a password in an address": (r"://[^\s/:@\"'<>{}$]+:[^\s/:@\"'<>{}$]+@",),
    "a private key": (
        r"--\s?BEGIN [A-Z0-9 ]*PRIVATE KEY",
        r"PuTTY-User-Key-File-\d",
        r"AGE-SECRET-KEY-1[A-Z0-9]{20,}",
    ),
}
_FORMS = [(what, re.compile(form.encode())) for what, forms in FORMS.items() for form in forms]
_END_OF_LINE = b"\n"
_LARGEST_HEADER = 100_000_000  # bytes, as safetensors itself allows


def check_secrets(files: Mapping[str, bytes | Path], token: str | None) -> None:
    """Raise ValueError if a file contains a token, `token` above all, a private key, or a path of this machine.

    The message names the file and the line."""
    folders = [str(path) for path in (Path.home(), Path.cwd()) if len(path.parts) > 1]
    folders += [folder.replace("\\", "\\\\") for folder in folders if "\\" in folder]  # as JSON writes it
    paths = [(folder + end).encode() for folder in folders for end in ("/", "\\")]
    for name, content in files.items():
        for where, text in _texts(name, content):
            found = _found(text, token, paths)
            if found:
                what, at = found
                place = where or f"line {1 + text[:at].count(_END_OF_LINE)}"
                raise ValueError(f"{name} contains {what}, in {place}: remove it before the push")


def _found(text: bytes, token: str | None, paths: list[bytes]) -> tuple[str, int] | None:
    """What a text tells too much, and where in it; None if nothing."""
    if token and token.encode() in text:
        return "your Hub token", text.index(token.encode())
    for what, form in _FORMS:
        match = form.search(text)
        if match:
            return what, match.start()
    for path in paths:
        if path in text:
            return f"a path of this machine, {path[:-1].decode()}", text.index(path)
    return None


def _texts(name: str, content: bytes | Path) -> Iterator[tuple[str, bytes]]:
    """The parts of a file that hold text, each with its name; "" for a text file, whose lines have numbers."""
    if name.endswith(".safetensors"):
        yield "its header", _header(content)
    elif name.endswith(".parquet"):
        yield "its footer", _footer(content)
    elif name.endswith(".png"):
        image = _bytes(content)
        yield "its bytes", image
        yield "its text", _image_text(image)
    else:
        yield "", _bytes(content).replace(b"\0", b"")  # UTF-16 is then read, too


def _bytes(content: bytes | Path) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _header(content: bytes | Path) -> bytes:
    """What precedes the tensors of a safetensors file; all of a file that only has its name."""
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size <= _LARGEST_HEADER:
            header = file.read(size)
            if len(header) == size and header.startswith(b"{"):
                return header
        file.seek(0)
        return file.read()


def _footer(content: bytes | Path) -> bytes:
    """The schema and the metadata of a parquet file; all of a file that only has its name."""
    whole = _bytes(content)
    size = int.from_bytes(whole[-8:-4], "little")
    return whole[-8 - size : -8] if whole.endswith(b"PAR1") and size < len(whole) else whole


def _image_text(image: bytes) -> bytes:
    """What an image says of itself, also where that is compressed; empty for what is no image."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
            said = opened.info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return b""
    return json.dumps({key: str(value) for key, value in said.items()}, ensure_ascii=False).encode(errors="replace")
