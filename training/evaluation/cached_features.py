"""Features of real images, computed once and kept in the cache."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
from torch import nn

from training.files import write_whole
from training.metrics.features import classifier_hash, extract


def extract_cached(
    network: nn.Module, pixels: np.ndarray, fingerprint: str, cache_dir: Path, name: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """`extract`, cached in `cache_dir` by the content of the images (`fingerprint`) and of the network's weights."""
    key = hashlib.sha256(f"1 {fingerprint} {classifier_hash(network)}".encode()).hexdigest()[:24]
    place = cache_dir / f"features-{key}.npz"
    try:
        with np.load(place) as entry:
            return entry["features"], entry["classes"] if hasattr(network, "head") else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # absent or damaged
    features, classes = extract(network, pixels, name)
    entry = {"features": features} if classes is None else {"features": features, "classes": classes}
    buffer = io.BytesIO()
    np.savez(buffer, **entry)
    write_whole(place, buffer.getvalue())
    return features, classes
