"""Plots as plain data, which canvas.js draws.

A plot is a dict: "title", "description" (the alternative text), "x" and "y" (ranges, from left to right and from bottom
to top), "x_label", "y_label", "log_x", "log_y", "frames" (1: still), "frame_labels", where it is asked for "start" (the
frame that is shown first, unless it is the last), and "layers", drawn in order:

    {"kind": "heat", "rows", "columns", "values" or "frames", "color"}   base64 of uint8, row 0 at the low end of y
    {"kind": "lines", "points", "color", "width", "dashed", "label", "upto_frame"}
    {"kind": "lines", "frames", "color", "width", "label"}               other lines in each frame
    {"kind": "points", "frames", "color", "size", "label"}               one frame: still
    {"kind": "arrows", "at", "frames", "color", "label"}
    {"kind": "handles", "at", "radius", "label", "axis"}                 can be moved, along one axis where it is named

A plot may be "square", "wide" (a row of its own) or have an "aspect" (height over width), and lines an "opacity".
Colours are names of the theme: density, first, second, third, truth, muted.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Plot = dict[str, Any]
Layer = dict[str, Any]
Range = tuple[float, float]


def plot(
    title: str,
    description: str,
    x: Range,
    y: Range,
    layers: list[Layer],
    *,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    frame_labels: list[str] | None = None,
    **more: Any,
) -> Plot:
    """A plot of layers; one frame unless labels of frames are given."""
    return {
        "title": title,
        "description": description,
        "x": list(x),
        "y": list(y),
        "x_label": x_label,
        "y_label": y_label,
        "log_x": log_x,
        "log_y": log_y,
        "frames": len(frame_labels or [""]),
        "frame_labels": frame_labels or [""],
        "layers": layers,
        **more,
    }


def heat(values: Tensor) -> Layer:
    """Shares from 0 to 1, (rows, columns) or (frames, rows, columns)."""
    rows, columns = values.shape[-2:]
    levels = (values.nan_to_num(0.0).clamp(0, 1) * 255).round().byte()
    layer = {"kind": "heat", "rows": rows, "columns": columns, "color": "density"}
    return layer | ({"frames": [*map(_packed, levels)]} if levels.ndim == 3 else {"values": _packed(levels)})


def _packed(levels: Tensor) -> str:
    return base64.b64encode(levels.contiguous().numpy().tobytes()).decode()


def lines(points: Any, color: str, label: str = "", width: float = 1.5, **more: Any) -> Layer:
    """Lines, each a list of (x, y): a list of such, or a tensor (lines, points, 2)."""
    return {"kind": "lines", "points": rounded(points), "color": color, "label": label, "width": width, **more}


def moving_lines(frames: Any, color: str, label: str = "", width: float = 1.5) -> Layer:
    """Lines of each frame, (frames, lines, points, 2)."""
    return {"kind": "lines", "frames": rounded(frames), "color": color, "label": label, "width": width}


def points(frames: Any, color: str, label: str = "", size: float = 2.5) -> Layer:
    """Points of each frame, (frames, points, 2); one frame stands still."""
    return {"kind": "points", "frames": rounded(frames), "color": color, "label": label, "size": size}


def arrows(at: Any, frames: Any, color: str, label: str = "") -> Layer:
    """Arrows from `at` (arrows, 2), of each frame (frames, arrows, 2) in the units of the axes."""
    return {"kind": "arrows", "at": rounded(at), "frames": rounded(frames), "color": color, "label": label}


def handles(at: Any, radius: list[float], label: str, **more: Any) -> Layer:
    """Circles that can be moved."""
    return {"kind": "handles", "at": rounded(at), "radius": radius, "label": label, **more}


def rounded(values: Any) -> Any:
    """Nested lists of numbers with four digits, which small ones on a logarithmic axis keep, too."""
    if isinstance(values, (list, tuple)):
        return [rounded(each) for each in values]
    if not getattr(values, "ndim", 0):
        return float(f"{float(values):.4g}")
    scale = 10 ** (3 - values.double().abs().clamp(min=1e-20).log10().floor())
    return (values.double() * scale).round().div(scale).tolist()
