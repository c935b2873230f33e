"""One seed, one image: image i depends on its own seed alone, whatever is drawn beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler
from toys import SHIPPED, ddim, ddpm, guided, patched_unet, seeded, steered, tiny_unet

from pipelines import PatchedUNet2DModel
from pipelines.base import NoiseStreams, StepwisePipeline, image_generators

SIZES = (1, 3, 4, 5, 16)


@pytest.fixture(autouse=True, params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """oneDNN takes another route for some products on a single thread, and rounds them differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@cache
def network(classes: int | None) -> PatchedUNet2DModel:
    return patched_unet(classes)


def driven(kind: type, **changes: object) -> StepwisePipeline:
    pipe = guided(network(4))
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **changes)
    return pipe


CASES: dict[str, Callable[[], tuple[StepwisePipeline, dict]]] = {
    "ddpm": lambda: (ddpm(network(None)), {}),
    "ddim, eta 0": lambda: (ddim(network(None)), {"eta": 0.0}),
    "ddim, eta 0.5": lambda: (ddim(network(None)), {"eta": 0.5}),
    "thresholding": lambda: (ddim(network(None), thresholding=True, clip_sample=False), {}),
    "guided": lambda: (guided(network(4)), {"class_labels": 1, "guidance_scale": 2.0}),
    "guided, eta 1, rescaled": lambda: (
        guided(network(4)),
        {"class_labels": 1, "eta": 1.0, "guidance_scale": 3.0, "guidance_rescale": 0.7},
    ),
    "steered, the mean": lambda: (
        steered(network(None), DDPMScheduler(**SHIPPED)),
        {"class_labels": 1, "guidance_scale": 5.0},
    ),
    "steered, eps": lambda: (steered(network(None)), {"class_labels": 1, "guidance_scale": 5.0}),
    "guided, Euler ancestral": lambda: (driven(EulerAncestralDiscreteScheduler), {"class_labels": 1}),
    "guided, SDE-DPM-Solver++": lambda: (
        driven(DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"),
        {"class_labels": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_image_does_not_depend_on_the_batch(case: str) -> None:
    pipe, options = CASES[case]()
    options |= {"num_inference_steps": 4, "output_type": "latent"}
    alone = {n: pipe(batch_size=n, generator=seeded(7), **options).images for n in SIZES}
    lists = {n: pipe(batch_size=n, generator=[seeded(i) for i in range(n)], **options).images for n in (1, 16)}
    assert torch.equal(lists[1][0], lists[16][0])
    for n in SIZES:
        assert torch.equal(alone[n], alone[16][:n]), n  # float32, to the last bit
        shown = [np.asarray(image) for image in pipe.to_images(alone[n])]
        assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(shown, pipe.to_images(alone[16]), strict=False))
    images = {image.numpy().tobytes() for image in alone[16]}
    assert len(images) == 16


def test_each_generator_of_a_list_draws_its_own_image() -> None:
    pipe = ddpm()
    options = dict(num_inference_steps=3, output_type="latent")
    seeds = [5, 3, 8]
    together = pipe(3, generator=[seeded(s) for s in seeds], **options).images
    for seed, image in zip(seeds, together, strict=True):
        assert torch.equal(pipe(1, generator=seeded(seed), **options).images[0], image)
    swapped = pipe(3, generator=[seeded(s) for s in seeds[::-1]], **options).images
    assert torch.equal(swapped.flip(0), together)


def test_labels_beside_it_change_nothing() -> None:
    pipe = guided()
    options = dict(num_inference_steps=3, output_type="latent", eta=1.0)
    one = pipe([0, 1, 2], generator=seeded(), **options).images
    other = pipe([0, 2, 2], generator=seeded(), **options).images
    assert torch.equal(one[[0, 2]], other[[0, 2]])
    assert not torch.equal(one[1], other[1])


def test_a_seed_repeats_and_a_generator_goes_on() -> None:
    pipe = ddpm()
    options = dict(batch_size=2, num_inference_steps=2, output_type="latent")
    generator = seeded(1)
    first, second = (pipe(generator=generator, **options).images for _ in range(2))
    assert torch.equal(first, pipe(generator=seeded(1), **options).images)
    assert all(not torch.equal(a, b) for a in first for b in second)
    fresh = [pipe(**options).images for _ in range(2)]
    assert not torch.equal(*fresh)


def test_without_a_generator_it_is_torch_that_is_asked_and_not_seeded() -> None:
    """`torch.manual_seed` then decides the image, as with diffusers, and what a program draws after it."""
    pipe, found = ddpm(), []
    for _ in range(2):
        torch.manual_seed(3)
        found.append((pipe(num_inference_steps=2, output_type="latent").images, torch.rand(2)))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_latents_are_the_noise_to_start_from() -> None:
    pipe = ddim()
    x_T = torch.randn(2, 1, 8, 8, generator=seeded(3))
    kept = x_T.clone()
    (first, *_) = steps = list(pipe.stream(2, num_inference_steps=2, latents=x_T))
    assert torch.equal(first.x_t, kept)
    assert torch.equal(x_T, kept)
    again = pipe(2, num_inference_steps=2, latents=x_T, output_type="latent").images
    assert torch.equal(again, steps[-1].prev_sample)
    half = pipe(2, num_inference_steps=2, latents=x_T.bfloat16(), output_type="latent").images
    assert half.dtype == torch.float32
    assert pipe(2, num_inference_steps=2, latents=x_T.double(), output_type="latent").images.dtype == torch.float64


def test_the_noise_is_standard_normal_and_new_each_time() -> None:
    noise = NoiseStreams(image_generators(seeded(), 4), (1, 50, 50), torch.device("cpu"))
    values = torch.stack([noise() for _ in range(4)]).reshape(16, -1)
    assert float(values.mean().abs()) < 5 / values.numel() ** 0.5
    assert float(values.std()) == pytest.approx(1.0, abs=0.02)
    assert float((torch.corrcoef(values) - torch.eye(16)).abs().max()) < 0.1


def test_a_run_in_bfloat16_keeps_its_arithmetic_in_float32() -> None:
    pipe = ddim(tiny_unet().to(torch.bfloat16))
    seen = list(pipe.stream(2, num_inference_steps=3, generator=seeded()))
    assert {step.prev_sample.dtype for step in seen} == {torch.float32}
    exact = ddim()(2, num_inference_steps=3, generator=seeded(), output_type="latent").images
    assert float((seen[-1].prev_sample - exact).abs().max()) < 0.1
