"""What the benchmark commands share: parsing flags, describing the machine, the table and the JSON file."""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import accelerate
import torch
from transformers import HfArgumentParser

from pipelines.cpu import BF16_FLAGS, own_flags, read_system
from training.command_line import parse_dataclasses
from training.files import write_json
from training.machine import versions

Options = TypeVar("Options")
Row = dict[str, Any]


def parse(kind: type[Options], arguments: list[str], module: str, about: str) -> Options:
    """Parse a command line into the dataclass `kind`.

    Raises:
        ValueError: an unknown flag, with the nearest known one, or a value that `kind` refuses.
    """
    parser = HfArgumentParser(kind, prog=f"python -m {module}", description=about.splitlines()[0], allow_abbrev=False)
    (options,) = parse_dataclasses(parser, arguments)
    return options


def check_at_least(options: Any, **lowest: float) -> None:
    """Raise ValueError, naming the field, if a field of `options` is below its lowest value."""
    for name, low in lowest.items():
        if not getattr(options, name) >= low:
            raise ValueError(f"{name} must be at least {low:g}, got {getattr(options, name)}")


def command_line(
    kind: type[Options],
    run: Callable[[Options], list[Row]],
    show: Callable[[list[Row]], str],
    module: str,
    about: str,
    arguments: list[str] | None,
) -> list[Row]:
    """Parse, run, print machine and table, and write the `--json` file. Bad input exits with a one-line message."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parse(kind, arguments, module, about)
        before = machine()  # before the run, so that the load is that of others
        rows = run(options)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    command = shlex.join(["python", "-m", module, *arguments])
    print(f"{command}\n{machine_line(before | machine_settings())}\n\n{show(rows)}")
    if options.json is not None:
        content = {"command": command, "machine": before | machine_settings(), "options": asdict(options), "rows": rows}
        write_json(Path(options.json), content)
        print(f"\nwritten to {options.json}")
    return rows


def machine() -> Row:
    """The facts about the machine that a run does not change, and how busy it is."""
    cpuinfo = read_system("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else "unknown",
        "bf16_flags": sorted(BF16_FLAGS & own_flags()),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": versions() | {"accelerate": accelerate.__version__},
    }


def machine_settings() -> Row:
    """The facts that a run may change: the number of threads, and the GPU if there is one."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"threads": torch.get_num_threads(), "gpu": gpu}


def machine_line(about: Row) -> str:
    """`machine` and `machine_settings` as one line of text."""
    flags = " ".join(about["bf16_flags"])
    bf16 = f"bf16 in hardware: {flags}" if flags else "no bf16 instructions"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    gpu = f"{about['gpu']}, " if about["gpu"] else ""
    return f"{gpu}{about['cpu']}, {about['threads']} torch threads, {bf16}; load {about['load']} before; {versions}"


def table(heads: list[str], lines: list[list[str]]) -> str:
    """An aligned Markdown table: the first column is flush left, the others flush right."""
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    body = [
        [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
        for line in [heads, rule, *lines]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in body)
