"""What a command computes once for the page to show: sheets of 8-bit images, and numbers as JSON beside them."""

import shlex
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from training.files import write_json, write_whole
from training.machine import versions

FOLDER = Path(__file__).resolve().parent.parent / "ui" / "laboratory" / "data"


def to_uint8(x0: Tensor) -> np.ndarray:
    """Images (..., H, W) in [-1, 1], clipped there, as uint8."""
    return ((x0.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()


def rms(difference: Tensor) -> Tensor:
    """Root mean square of (N, ...) per image, (N,); of values in [-1, 1] it is halved, so that 1 is black to white."""
    return difference.double().flatten(1).square().mean(1).sqrt() / 2


def written(
    stem: Path, module: str, arguments: list[str], found: tuple[dict[str, Any], np.ndarray, np.ndarray]
) -> dict[str, Any]:
    """Write what a command found to `stem` with endings: numbers, a sheet, the images that it is of. The numbers."""
    numbers, sheet, images = found
    write_sheet(stem.with_name(f"{stem.name}.png"), sheet)
    write_sheet(stem.with_name(f"{stem.name}_images.png"), images)
    write_numbers(stem.with_name(f"{stem.name}.json"), module, arguments, numbers)
    return numbers


def write_sheet(path: Path, images: np.ndarray) -> None:
    """uint8 images (rows, columns, H, W) as one grey PNG, edge to edge."""
    rows, columns, height, width = images.shape
    sheet = Image.fromarray(images.transpose(0, 2, 1, 3).reshape(rows * height, columns * width))
    buffer = BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_whole(path, buffer.getvalue())


def write_numbers(path: Path, module: str, arguments: list[str], content: dict[str, Any]) -> None:
    """`content` with the command that found it, but for where it was written to, and the versions."""
    command = shlex.join(["python", "-m", module, *_without_output(arguments)])
    write_json(path, {"command": command, "versions": versions(), **content})


def _without_output(arguments: list[str]) -> list[str]:
    """A path of this machine says nothing elsewhere."""
    joined = [each for each in arguments if not each.startswith("--output_dir=")]
    if "--output_dir" not in joined:
        return joined
    place = joined.index("--output_dir")
    return joined[:place] + joined[place + 2 :]


def rounded(values: Any, digits: int = 5) -> Any:
    """Nested lists of numbers, rounded, so that the files stay small."""
    if isinstance(values, list):
        return [rounded(value, digits) for value in values]
    return round(float(values), digits)
