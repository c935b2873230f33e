"""Checks that a file holds the network that the flags describe, and names the flag that contradicts it.

The number of attention heads, the order of q, k and v, and the noise schedule cannot be seen in the weights: for these
the flags are trusted.
"""

from __future__ import annotations

import re

from training.conversion.flags import Flags
from training.conversion.weights import Shapes

# (flag, keys that depend on it, what of them is compared). The first row that differs names the wrong flag: the rows
# after it depend on the same flag too. "shape": keys that both have; "presence": keys that only one has.
CHECKS = (
    ("num_channels", r"time_embed\.0\.weight", "shape"),
    ("class_cond", r"label_emb\.weight", "presence"),
    ("large_size", r"input_blocks\.0\.0\.weight", "input"),
    ("learn_sigma", r"out\.2\.weight", "output"),
    ("channel_mult", r"input_blocks\.0\.0\.weight", "shape"),
    ("num_res_blocks", r"input_blocks\.(\d+)\..*", "count"),
    ("channel_mult", r"input_blocks\.\d+\.0\.in_layers\.2\.weight", "shape"),
    ("resblock_updown", r"input_blocks\.\d+\.0\.op\.weight", "presence"),
    ("attention_resolutions", r"input_blocks\.\d+\.1\.qkv\.weight", "presence"),
    ("use_scale_shift_norm", r".*\.emb_layers\.1\.weight", "shape"),
    ("classifier_pool", r"out\..*\.?(weight|positional_embedding)", "presence"),
    ("image_size", r"out\.2\.positional_embedding", "shape"),
)
CLASSIFIER_NAMES = {  # the same flags of a classifier
    "num_channels": "classifier_width",
    "channel_mult": "image_size",
    "num_res_blocks": "classifier_depth",
    "resblock_updown": "classifier_resblock_updown",
    "attention_resolutions": "classifier_attention_resolutions",
    "use_scale_shift_norm": "classifier_use_scale_shift_norm",
}


def check_flags(path: str, flags: Flags, expected: Shapes, found: Shapes, classifier: bool = False) -> None:
    """Compare the shapes that the flags give with those in the file.

    Raises:
        ValueError: they differ; it names the flag if one can be blamed, a key and both shapes.
    """
    if expected == found:
        return
    for flag, pattern, kind in CHECKS:
        key = _differing(re.compile(pattern), kind, expected, found)
        if key is None or (classifier and flag in ("class_cond", "large_size", "learn_sigma")):
            continue
        name = CLASSIFIER_NAMES.get(flag, flag) if classifier else flag
        if name == "channel_mult" and not flags.channel_mult:
            name = "image_size"  # the multipliers follow from it
        raise ValueError(
            f"{path}: {_flag_text(name, flags)} gives {_shape_text(key, expected)}, "
            f"the file has {_shape_text(key, found)}"
        )
    raise ValueError(f"{path}: the flags describe another network: {differences(expected, found)}")


def _differing(pattern: re.Pattern, kind: str, expected: Shapes, found: Shapes) -> str | None:
    """The first key that matches `pattern` and differs in `kind`; for "count", the last block that only one has."""
    keys = [key for key in (*expected, *(key for key in found if key not in expected)) if pattern.fullmatch(key)]
    if kind == "presence":
        return next((key for key in keys if (key in expected) != (key in found)), None)
    if kind == "count":
        last = max(keys, key=lambda key: int(pattern.fullmatch(key)[1]), default="")
        block = last.rpartition(".")[0].split(".")[:2]
        return last if any(not _has(shapes, ".".join(block)) for shapes in (expected, found)) else None
    axis = {"shape": slice(None), "input": slice(1, 2), "output": slice(0, 1)}[kind]
    both = [key for key in keys if key in expected and key in found]
    return next((key for key in both if expected[key][axis] != found[key][axis]), None)


def _has(shapes: Shapes, prefix: str) -> bool:
    return any(key.startswith(f"{prefix}.") for key in shapes)


def _flag_text(name: str, flags: Flags) -> str:
    if name == "large_size":
        return "--large_size" if flags.super_resolution else "no --large_size (an image model)"
    if name == "image_size" and flags.super_resolution:
        return f"--large_size {flags.large_size}"
    return f"--{name} {getattr(flags, name)}"


def _shape_text(key: str, shapes: Shapes) -> str:
    return f"{key} {shapes[key]}" if key in shapes else f"no {key}"


def differences(expected: Shapes, found: Shapes) -> str:
    """The keys that are missing, unused or of another shape, three of each at most; "" if all agree."""
    missing = [key for key in expected if key not in found]
    unused = [key for key in found if key not in expected]
    other = [key for key in expected if key in found and expected[key] != found[key]]
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in (("missing", missing), ("not used", unused))
        if keys
    ]
    parts += [f"{key} must be {expected[key]}, got {found[key]}" for key in other[:3]]
    return "; ".join(parts)
