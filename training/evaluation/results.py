"""The results of an evaluation: metrics.json, the printed tables, and the grid of samples."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training import files
from training.evaluation.sheets import png_bytes
from training.files import write_whole
from training.sample_grid import tile

Row = dict[str, Any]
SECTIONS = ("results", "likelihood", "reconstruction", "alignment", "restored", "style")  # of metrics.json
COLUMNS = {
    "class_accuracy": "{:.1%}",
    "class_entropy_bits": "{:.3f}",
    "frechet_distance": "{:.3f}",
    "fd_effnet_lite0": "{:.3f}",
    "fid": "{:.2f}",
    "monge_distance": "{:.3f}",
    "md_effnet_lite0": "{:.3f}",
    "mind": "{:.3f}",
    "kernel_distance": "{:.4f}",
    "kd_effnet_lite0": "{:.4f}",
    "kid": "{:.5f}",
    "precision": "{:.3f}",
    "recall": "{:.3f}",
    "nearest_train_distance": "{:.4f}",
    "nearest_train_ratio": "{:.3f}",
    "nearest_feature_distance": "{:.3f}",
    "nearest_to_second_ratio": "{:.3f}",
    "copied_share": "{:.1%}",
    "nfe": "{:.1f}",
    "images_per_second": "{:.1f}",
}
HEADS = {
    "nearest_train_distance": "nearest_train",
    "nearest_train_ratio": "ratio",
    "nearest_feature_distance": "nearest_feature",
    "nearest_to_second_ratio": "to_second",
    "copied_share": "copied",
    "images_per_second": "images/s",
}


def key_of(settings: Row) -> str:
    """A readable key for settings, such as "fashion-cfg scheduler=DDIM num_inference_steps=20 ..."."""
    rest = [f"{name}={value}" for name, value in settings.items() if name != "model" and value is not None]
    return " ".join([str(settings["model"]), *rest]).replace(", ", ",")


def read_sections(path: Path) -> dict[str, dict[str, Row]]:
    """The rows of a metrics.json by section and key; both sections are empty if there is no such file.

    Raises:
        ValueError: the file is not a metrics.json of this command, or holds a damaged row, which is named.
    """
    if not path.exists():
        return {section: {} for section in SECTIONS}
    try:
        return files.read_rows(path, SECTIONS)
    except ValueError as error:
        raise ValueError(f"output must be a metrics.json of this command: {error}") from error


def read_rows(path: Path, section: str = "results") -> dict[str, Row]:
    """One section of `read_sections`."""
    return read_sections(path)[section]


def find_done(path: Path, row: Row, names: set[str], section: str = "results") -> Row | None:
    """The row in metrics.json with equal settings, weights, features and data, if it holds all metrics in `names`."""
    old = read_rows(path, section).get(key_of(row["settings"]))
    if old is None or not names <= set(old["measured"]):
        return None
    same = old["weights"] == row["weights"] and old["real"] == row["real"]
    return old if same and old.get("features", {}).get("weights") == row.get("features", {}).get("weights") else None


def merge(path: Path, row: Row, section: str = "results") -> list[str]:
    """Write a row to metrics.json, replacing one with the same settings; returns the keys of dropped rows.

    Rows of the same model with other weights or configs are dropped: they do not describe the current model. Other
    processes may write rows of theirs at the same time: none is lost.
    """
    with files.locked_folder(path.parent):
        return _merge(path, row, section)


def _merge(path: Path, row: Row, section: str) -> list[str]:
    sections = read_sections(path)
    name, weights = row["settings"]["model"], row["weights"]
    stale = []
    for rows in sections.values():
        gone = [key for key, old in rows.items() if old["settings"]["model"] == name and old["weights"] != weights]
        stale += gone
        for key in gone:
            del rows[key]
    sections[section][key_of(row["settings"])] = row
    written = {name: rows for name, rows in sections.items() if rows or name == "results"}
    text = json.dumps(written, indent=2, allow_nan=False) + "\n"
    write_whole(path, on_one_line(text).encode())
    return stale


def on_one_line(text: str) -> str:
    """Put each list of numbers in indented JSON on one line: a curve has a thousand numbers."""
    return re.sub(r"\[\n\s*([\d\s,.eE+-]+?)\n\s*\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def table(rows: list[Row]) -> str:
    """The rows, and the floor of the first row, as aligned text; empty columns are left out.

    Below them stands what copies of training images would score, where that is not 0.
    """
    names = [name for name in COLUMNS if any(name in row["measured"] for row in rows)]
    varying = {"scheduler": "scheduler", "num_inference_steps": "steps", "guidance_scale": "guidance"}
    varying["num_samples"] = "samples"
    lines = [[*varying.values(), *(HEADS.get(name, name) for name in names)]]
    for row in rows:
        settings = ["-" if row["settings"][name] is None else str(row["settings"][name]) for name in varying]
        lines.append([*settings, *(cell(row["measured"], name) for name in names)])
    floor = rows[0]["floor"]
    lines.append(["real images", "", "", str(floor["num_samples"]), *(cell(floor, name) for name in names)])
    copies = rows[0].get("copies", {})
    if copies:
        lines.append(["copies", "", "", str(copies["num_samples"]), *(cell(copies, name) for name in names)])
    return aligned(lines)


def likelihood_table(rows: list[Row]) -> str:
    """The rows of bits/dim as aligned text: those of the bound by their variance, that of the ODE by its tolerance."""
    names = ("bits_per_dim", "standard_error", "prior", "decoder")
    lines = [["measured by", "steps", "images", "bits/dim", "standard error", "prior", "decoder"]]
    for row in rows:
        settings, measured = row["settings"], row["measured"]
        by = settings["variance"] if "variance" in settings else f"ODE, {settings['tolerance']:g}"
        numbers = [f"{measured[name]:.4f}" if name in measured else "" for name in names]
        lines.append([by, str(settings.get("num_inference_steps", "")), str(settings["num_images"]), *numbers])
    return aligned(lines)


def aligned(lines: list[list[str]]) -> str:
    """Lines of cells as text, with the columns aligned to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(text.rjust(w) for text, w in zip(line, widths, strict=True)) for line in lines)


def cell(values: Row, name: str) -> str:
    """A number as text; empty if it was not measured."""
    return COLUMNS[name].format(values[name]) if name in values else ""


def grid(pixels: np.ndarray, columns: int) -> Image.Image:
    """At most ten rows of images (N, C, H, W), enlarged without smoothing; an incomplete last row is left out."""
    shown = pixels[: max(min(10, len(pixels) // columns), 1) * columns].transpose(0, 2, 3, 1)
    return tile(
        [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in shown], columns, scale=3
    )


def write_grid(path: Path, pixels: np.ndarray, columns: int, note: str) -> None:
    """Write `grid` as a PNG, with the settings of the samples (`note`) in its metadata."""
    write_whole(path, png_bytes(grid(pixels, columns), note))
