"""npm packages as .tgz files of a pinned version and checksum: fetched once with `npm pack`, kept in the cache."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from training.data.cache import default_cache_dir

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """An npm package. `sha512` is that of its .tgz in base64, as `npm view NAME dist.integrity` shows it."""

    name: str
    version: str
    sha512: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def file_name(self) -> str:
        """The name that `npm pack` gives its file: @iconify-json/noto is iconify-json-noto-1.2.9.tgz."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def package_file(package: Package, source: Path | None = None) -> Path:
    """The .tgz file of a package in the folder `source`, or else in the cache, into which npm fetches it if needed.

    Raises ValueError, in one line, if `source` lacks it, if npm is missing or fails, or if the checksum is another.
    """
    if source is not None:
        path = source / package.file_name
        if not path.is_file():
            raise ValueError(f"no {path}: `npm pack {package}` makes it, in the folder where it is run")
        return checked(path, package)
    path = default_cache_dir() / "npm" / package.file_name
    if not path.is_file() or sha512_of(path) != package.sha512:
        fetch(package, path)
    return path


def fetch(package: Package, path: Path) -> None:
    """Let npm write `path`, whole or not at all. Raises ValueError as `package_file`."""
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            f"npm is needed to fetch {package}: install Node.js, or give --source DIR with {package.file_name}"
        )
    logger.info("fetching %s", package)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
        command = [npm, "pack", "--silent", str(package), "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        fetched = Path(folder) / package.file_name
        if done.returncode or not fetched.is_file():
            raise ValueError(f"npm could not fetch {package}: {reason_of(done)}")
        os.replace(checked(fetched, package), path)


def reason_of(done: subprocess.CompletedProcess[str]) -> str:
    """What npm said, in one line; with --silent it says nothing."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return " ".join(lines[:3]) or f"it exited with {done.returncode}; try `npm pack {done.args[3]}` to see why"


def checked(path: Path, package: Package) -> Path:
    """`path`, if its checksum is the one of the package. Raises ValueError if not."""
    found = sha512_of(path)
    if found != package.sha512:
        raise ValueError(
            f"{path.name} is not the {package} that this data set is built from: its sha512 is {found[:16]}..., "
            f"expected {package.sha512[:16]}..."
        )
    return path


def sha512_of(path: Path) -> str:
    """The SHA-512 of a file in base64."""
    with open(path, "rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def members(path: Path, endings: tuple[str, ...]) -> dict[str, bytes]:
    """The files of a package whose names, such as "en/data.json", end in one of `endings`, by name."""
    with tarfile.open(path) as archive:
        files = ((member, member.name.removeprefix("package/")) for member in archive if member.isfile())
        return {name: archive.extractfile(member).read() for member, name in files if name.endswith(endings)}
