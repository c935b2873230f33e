"""Whether images show what was asked for, without a network that knows words: by the real images they look like.

The nearest real image in the features of a network has a concept, a group, a hand that drew it, and these are compared
with what the prompt asked for. Colours are judged by the dominant hue of the foreground, in CIELAB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
BINS = 72  # of 5 degrees
COLOURED = 20.0  # the least chroma of a pixel that counts
WHITE = np.array([0.95047, 1.0, 1.08883])  # D65
FROM_SRGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def nearest(features: np.ndarray, known: np.ndarray, without: Sequence[int] | None = None) -> np.ndarray:
    """The row of `known` (M, D) nearest to each of `features` (N, D), int64 (N,).

    `without` names for each image one row that does not count: its own.
    """
    distances = (known**2).sum(1)[None] - 2 * features @ known.T  # and |features|^2, which is the same in a row
    if without is not None:
        distances[np.arange(len(features)), without] = np.inf
    return distances.argmin(1)


def agreement(wanted: Sequence[object], found: Sequence[object]) -> float:
    """The share of images that have what was wanted."""
    return float(np.mean([a == b for a, b in zip(wanted, found, strict=True)]))


def chance(wanted: Sequence[object], known: Sequence[object]) -> float:
    """The same for real images (M) that are drawn at random."""
    values, counts = np.unique(np.asarray(known, dtype=str), return_counts=True)
    share = dict(zip(values.tolist(), (counts / len(known)).tolist(), strict=True))
    return float(np.mean([share.get(str(value), 0.0) for value in wanted]))


def lab(pixels: np.ndarray) -> np.ndarray:
    """CIELAB (..., 3) of 8-bit sRGB (..., 3) under D65 (CIE 15)."""
    rgb = pixels / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    ratio = linear @ FROM_SRGB.T / WHITE
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def dominant_hue(pixels: np.ndarray) -> float | None:
    """Degrees in CIELAB of the hue of most of the colour in an 8-bit image (3, H, W); None if all of it is grey."""
    _, a, b = np.moveaxis(lab(pixels.transpose(1, 2, 0)), -1, 0)
    chroma = np.hypot(a, b)
    if not (chroma > COLOURED).any():
        return None
    hue, weight = np.degrees(np.arctan2(b, a)) % 360, np.where(chroma > COLOURED, chroma, 0)
    counts = np.bincount((hue / 360 * BINS).astype(int).ravel() % BINS, weight.ravel(), BINS)
    smooth = 2 * counts + np.roll(counts, 1) + np.roll(counts, -1)
    return (int(smooth.argmax()) + 0.5) * 360 / BINS


def mean_hue(hues: Sequence[float]) -> float:
    """The mean of directions in degrees, in [0, 360)."""
    turned = np.exp(1j * np.radians(hues)).mean()
    return float(np.degrees(np.angle(turned)) % 360)


def named_hue(hue: float | None, known: dict[str, float]) -> str | None:
    """The name of the hue in `known`, in degrees, that is nearest; None for grey."""
    if hue is None:
        return None
    return min(known, key=lambda name: abs((hue - known[name] + 180) % 360 - 180))


if __name__ == "__main__":
    from training.evaluation.alignment import main

    main()
