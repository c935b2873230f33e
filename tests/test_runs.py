"""A run counts its own network evaluations and stops by itself, whatever else runs on the same pipeline."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
import torch
from torch import Tensor
from toys import ddim, flow, guided, latent, score_sde, seeded, steered, tiny_unet

from pipelines.base import StepwisePipeline
from pipelines.classifier_free_guidance import guide
from pipelines.conditions import joined, nulls_for, rows_of


def test_runs_in_turns_count_their_own_evaluations() -> None:
    pipe = guided()
    one = pipe.stream([0, 1, 2], num_inference_steps=4, guidance_scale=2.0)
    other = pipe.stream(0, num_inference_steps=3, guidance_scale=1.0)
    for _ in range(3):
        next(one)
        next(other)
    assert (one.nfe, other.nfe) == (6, 3)
    next(one)
    assert one.nfe == 8 and list(other) == [] and other.nfe == 3
    assert not pipe.unet._forward_hooks, "a run that is not being computed hooks nothing"


def test_runs_at_once_count_their_own_evaluations() -> None:
    pipe, together = ddim(), Barrier(2)

    def draw(count: int, steps: int) -> float:
        def meet(*_: object) -> dict:
            together.wait(60)
            return {}

        return pipe(count, num_inference_steps=steps, callback_on_step_end=meet).nfe

    with ThreadPoolExecutor() as pool:
        found = [pool.submit(draw, count, 5) for count in (1, 3)]
        assert [each.result() for each in found] == [5, 5]


def test_a_callback_stops_the_run_that_calls_it_alone() -> None:
    pipe, stopped = ddim(), Event()

    def stop(called: StepwisePipeline, index: int, timestep: float, tensors: dict) -> None:
        called._interrupt = index == 1
        if index == 1:
            stopped.set()

    def wait(called: StepwisePipeline, index: int, timestep: float, tensors: dict) -> None:
        stopped.wait(60)

    with ThreadPoolExecutor() as pool:
        other = pool.submit(lambda: pipe(1, num_inference_steps=6, callback_on_step_end=wait).nfe)
        assert pipe(1, num_inference_steps=6, callback_on_step_end=stop).nfe == 2
        assert other.result() == 6


def test_another_thread_stops_what_is_being_drawn() -> None:
    pipe, begun, told = ddim(), Event(), Event()

    def wait(called: StepwisePipeline, index: int, timestep: float, tensors: dict) -> None:
        begun.set()
        told.wait(60)

    with ThreadPoolExecutor() as pool:
        run = pool.submit(lambda: pipe(1, num_inference_steps=6, callback_on_step_end=wait).nfe)
        begun.wait(60)
        pipe._interrupt = True
        told.set()
        assert run.result() == 1


def test_the_stream_takes_the_arguments_of_the_call_and_no_others() -> None:
    pipe = guided()
    (step,) = pipe.stream("Dog", 2, num_inference_steps=1, generator=seeded())
    assert step.x_t.shape == (2, 1, 8, 8)
    for unknown in ("output_type", "callback_on_step_end", "scale"):
        with pytest.raises(TypeError, match=unknown):
            pipe.stream("Dog", **{unknown: None})


@pytest.mark.parametrize("make", [ddim, guided, steered, latent, flow, score_sde])
def test_weights_that_diffusers_casts_for_each_layer_are_computed_with(make: Callable) -> None:
    pipe, options = make(), {"num_inference_steps": 2, "output_type": "latent"}
    options |= {} if make is ddim else {"class_labels": [1, 2]}
    exact = pipe(generator=seeded(), **options).images
    for network in (part for part in pipe.components.values() if isinstance(part, torch.nn.Module)):
        network.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    near = pipe(generator=seeded(), **options).images
    assert near.dtype == torch.float32
    assert 0 < float((near - exact).abs().max()) < 0.05
    assert next(pipe.denoising_network.parameters()).dtype == torch.bfloat16


# --- conditions ---


def conditions() -> tuple[dict[str, Tensor], dict[str, Tensor | int]]:
    """Labels, a sentence of two tokens, and an image that is never dropped."""
    torch.manual_seed(0)
    given = {"class_labels": torch.tensor([2, 0]), "text": torch.randn(2, 2, 3), "low_res": torch.randn(2, 1, 4, 4)}
    return given, {"class_labels": 9, "text": torch.zeros(1, 2, 3)}


def test_each_condition_is_dropped_to_its_own_null() -> None:
    given, nulls = conditions()
    dropped = nulls_for(given, nulls)
    assert dropped["class_labels"].tolist() == [9, 9]
    assert torch.equal(dropped["text"], torch.zeros(2, 2, 3))
    assert dropped["low_res"] is given["low_res"]
    both = joined(given, dropped)
    assert {name: len(value) for name, value in both.items()} == {"class_labels": 4, "text": 4, "low_res": 4}
    padded = rows_of(given, torch.tensor([0, 1, 1]))
    assert padded["class_labels"].tolist() == [2, 0, 0] and torch.equal(padded["text"][2], given["text"][1])


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_guidance_takes_any_conditions_and_leaves_a_learned_variance_alone(scale: float) -> None:
    given, nulls = conditions()

    def denoiser(x: Tensor, t: int, class_labels: Tensor, text: Tensor, low_res: Tensor) -> Tensor:
        signal = class_labels + 10 * text.sum((1, 2)) + 100 * low_res.sum((1, 2, 3))
        return torch.stack([signal, signal + 0.5], 1)[:, :, None, None].expand(-1, 2, 4, 4)

    x = torch.zeros(2, 1, 4, 4)
    cond, uncond = denoiser(x, 5, **given), denoiser(x, 5, **nulls_for(given, nulls))
    found = guide(denoiser, given, nulls, scale)(x, 5)
    torch.testing.assert_close(found[:, :1], uncond[:, :1] + scale * (cond[:, :1] - uncond[:, :1]))
    assert torch.equal(found[:, 1:], (cond if scale else uncond)[:, 1:])


def test_the_network_is_given_each_condition_row_by_row() -> None:
    pipe, seen = ddim(tiny_unet(4)), []
    pipe.unet.register_forward_hook(lambda module, args, kwargs, out: seen.append(kwargs), with_kwargs=True)
    pipe.network(torch.zeros(3, 1, 8, 8), 5, class_labels=torch.tensor([3, 1, 2]))
    assert seen[0]["class_labels"][:3].tolist() == [3, 1, 2]
