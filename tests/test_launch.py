"""What `accelerate launch` asks for is followed or refused, and several processes give one message."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from training_runs import forget_accelerate, small_trainer

from training.evaluation.processes import Processes
from training.launch import launched_settings, one_message, start_processes
from training.sharing.hub_calls import HubError
from training.train import parse

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def alone_here(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_accelerate()
    monkeypatch.delenv("MASTER_PORT", raising=False)


# --- its settings ---


@pytest.mark.parametrize(
    ("variable", "value", "name", "followed"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", "mixed_precision", "bf16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "gradient_accumulation_steps", 4),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "torch_compile", True),
    ],
)
def test_a_flag_that_is_not_given_follows_accelerate_and_a_given_one_wins(
    variable: str,
    value: str,
    name: str,
    followed: object,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    given = {"mixed_precision": "no", "gradient_accumulation_steps": 2, "torch_compile": False}[name]
    usual = getattr(parse(["--recipe", "conditional"])[0], name)
    monkeypatch.setenv(variable, value)
    assert getattr(parse(["--recipe", "conditional"])[0], name) == followed != usual
    assert caplog.text == ""
    assert getattr(parse(["--recipe", "conditional", f"--{name}={given}"])[0], name) == given
    assert f"--{name} {given} is used, and not accelerate's {followed}" in caplog.text


def test_what_accelerate_says_when_it_is_not_asked_leaves_the_recipe_alone(
    bfloat16_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    recipe, _ = parse(["--recipe", "fashion-cfg"])
    assert (recipe.mixed_precision, recipe.torch_compile) == ("bf16", True)


def test_accelerate_divides_by_the_micro_steps_that_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    trainer = small_trainer(tmp_path / "run", gradient_accumulation_steps=2, torch_compile=False)
    assert trainer.accelerator.gradient_accumulation_steps == 2
    assert not hasattr(trainer.objective.network, "_orig_mod")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp8", "accelerate's mixed_precision must be one of no, bf16, fp16, got 'fp8'"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto", "STEPS must be a whole number of 1 or more, got 'auto'"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "0", "STEPS must be a whole number of 1 or more, got '0'"),
        ("ACCELERATE_DYNAMO_BACKEND", "EAGER", "accelerate's dynamo_backend must be no or inductor, got 'eager'"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "accelerate must not use DEEPSPEED"),
        ("ACCELERATE_USE_FSDP", "true", "accelerate must not use FSDP"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "accelerate must not use MEGATRON_LM"),
    ],
)
def test_what_cannot_be_followed_is_refused(variable: str, value: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        launched_settings({variable: value})


def test_half_precision_that_a_cpu_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mixed_precision must be no or bf16 on a CPU, got 'fp16'"):
        small_trainer(tmp_path / "run", mixed_precision="fp16")


# --- its processes ---


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
@pytest.mark.parametrize("start", [start_processes, Processes.launched], ids=["training", "evaluation"])
def test_one_of_several_unconnected_processes_refuses_to_run(
    start: object, variable: str, alone_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `accelerate launch --multi_gpu --num_processes 2` starts them on a CPU without ACCELERATE_USE_CPU."""
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    start()
    forget_accelerate()
    monkeypatch.setenv(variable, "2")
    with pytest.raises(ValueError, match="WORLD_SIZE must be the number of connected processes, got 2 where one is"):
        start()


def test_more_processes_than_gpus_are_refused(alone_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match="--num_processes must be at most 1, one per GPU, got 2"):
        start_processes()


def test_the_first_process_reports_and_the_others_wait_to_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    for rank, patience in (("0", 0), ("1", 1)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit, match="error: no such folder"), one_message(ValueError):
            raise ValueError("no such folder")
        assert len(waits) == patience
    with pytest.raises(RuntimeError, match="Connection closed"), one_message(ValueError):
        raise RuntimeError("Connection closed by peer")
    assert len(waits) == 1, "of one process alone it is an error of its own"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="Connection closed"), one_message(ValueError):
        raise RuntimeError("Connection closed by peer")
    assert len(waits) == 2
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit, match="error: the token"), one_message(HubError):
        raise HubError("the token gives no right")
    assert len(waits) == 2, "what the Hub refused the first process is its own to report, at once"
