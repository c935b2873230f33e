"""What started this process: the other processes of a launch, accelerate's own settings, and one message for all.

`accelerate launch` passes its settings, from its flags or its config file, as environment variables.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from pipelines.allocator import keep_freed_memory
from pipelines.cpu import repeat_products_to_the_bit
from training.machine import check_connected, is_reporter, share_cores
from training.signals import default_handlers

logger = logging.getLogger(__name__)

SHARDED = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG")
PATIENCE = 60.0  # seconds in which a launcher ends its other processes when one has failed


def launched_settings(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The flags that were given to accelerate instead of to the trainer, by our names.

    accelerate's mixed_precision "no" is also what it passes if nobody asked for anything: it is no request.

    Raises:
        ValueError: settings that this trainer cannot follow.
    """
    for kind in SHARDED:
        if environment.get(f"ACCELERATE_USE_{kind}", "false").lower() == "true":
            raise ValueError(
                f"accelerate must not use {kind}: each process of this trainer keeps the whole network; "
                f"accelerate launch --multi_gpu starts one per GPU, and --config_file names another config"
            )
    settings: dict[str, Any] = {}
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", "bf16", "fp16"):
        raise ValueError(f"accelerate's mixed_precision must be one of no, bf16, fp16, got {precision!r}")
    if precision != "no":
        settings["mixed_precision"] = precision
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    if steps is not None:
        if not steps.isdecimal() or int(steps) < 1:
            raise ValueError(
                f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS must be a whole number of 1 or more, got {steps!r}"
            )
        settings["gradient_accumulation_steps"] = int(steps)
    compiler = environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if compiler not in ("no", "inductor"):
        raise ValueError(f"accelerate's dynamo_backend must be no or inductor, got {compiler!r}")
    if compiler == "inductor":
        settings["torch_compile"] = True
    return settings


def report_overruled(launched: Mapping[str, Any], used: Any) -> None:
    """Log the settings of accelerate that flags of this command line overrule."""
    for name, value in launched.items():
        if getattr(used, name) != value:
            logger.info("--%s %s is used, and not accelerate's %s", name, getattr(used, name), value)


def asked_for_cpu() -> bool:
    """Whether accelerate was asked to compute on the CPU although there may be a GPU."""
    return bool(parse_flag_from_env("ACCELERATE_USE_CPU"))


def start_processes() -> PartialState:
    """Join the launch's other processes; on a CPU, keep freed memory and take this process's share of the cores.

    Raises:
        ValueError: several processes were started, and this one is not connected to the others.
    """
    cpu = asked_for_cpu()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if torch.cuda.is_available() and not cpu and local > torch.cuda.device_count():
        raise ValueError(f"--num_processes must be at most {torch.cuda.device_count()}, one per GPU, got {local}")
    # the first process decodes and embeds the data while the others wait, for longer than the usual ten minutes
    processes = PartialState(cpu=cpu, timeout=timedelta(days=1))
    check_connected(processes.num_processes)
    if processes.device.type == "cpu":
        keep_freed_memory()
        repeat_products_to_the_bit()
        launched = "ACCELERATE_MIXED_PRECISION" in os.environ
        if launched and os.environ.get("OMP_NUM_THREADS") == "1":  # set by accelerate launch, or by the user
            share_cores(processes.num_processes)
    if "MASTER_PORT" in os.environ and processes.num_processes == 1:
        logger.warning(
            "one process runs, though several were asked for: with --cpu, accelerate launch needs mpirun to start "
            "several. For N processes: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N -m ..."
        )
    return processes


@contextmanager
def one_message(*errors: type[Exception]) -> Iterator[None]:
    """Exit with a one-line message where one of `errors` is raised, printed once for all processes of a launch.

    They find the same errors, and the first process reports them; or one finds an error and the others lose their
    connection to it. So all but the first wait for the launcher to end them, and speak only if it does not.
    """
    try:
        yield
    except errors as error:
        wait_for_others(error)
        sys.exit(f"error: {error}")
    except RuntimeError as error:
        if several_processes():
            wait_for_others(error)
        raise


def wait_for_others(error: BaseException) -> None:
    """Give the launcher time to end this process, if it is another one that has to report what happened."""
    lost = isinstance(error, RuntimeError) and several_processes()  # perhaps the connection to one that failed
    if lost or not is_reporter():
        default_handlers()
        time.sleep(PATIENCE)


def several_processes() -> bool:
    """Whether this process is one of several of a launch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
