"""LatentDiffusionPipeline over a DiT and a U-Net: stock steps, guidance, labels, the autoencoder, seeds."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from latent_folders import NULL, W, drawn, latent_unet, load_dit, over_unet, tiny_vae
from torch import Tensor
from toys import quiet, seeded, tiny_unet, two

from pipelines import LatentDiffusionPipeline
from pipelines.base import StepwisePipeline


def assert_steps(
    pipe: LatentDiffusionPipeline, stock: object, labels: list[int], null: int, steps: int, eta: float = 0.0,
    learned: bool = False, clipped: bool | None = None,
) -> None:  # fmt: skip
    """Every step of ours is the stock scheduler's from the same z_t, guidance written out, with the variance channels
    of the labelled half where they are `learned`. Each step starts from new unit noise: the outputs of an untrained
    network would carry the latents off to sizes at which noise does not show."""
    ours, theirs = ([seeded(i) for i in range(len(labels))] for _ in range(2))
    z = torch.cat([torch.randn(1, 4, 8, 8, generator=generator) for generator in theirs])
    network = pipe.unet or pipe.transformer
    options = {} if clipped is None else {"eta": eta, "use_clipped_model_output": clipped}
    stock.set_timesteps(steps)
    stream = pipe.stream(labels, None, steps, guidance_scale=W, eta=eta, generator=ours)
    for step, t in zip(stream, stock.timesteps, strict=True):
        times = t.expand(len(labels))
        with torch.no_grad():
            labelled = network(z, times, class_labels=torch.tensor(labels)).sample
            free = network(z, times, class_labels=torch.full((len(labels),), null)).sample[:, :4]
        guided = free + W * (labelled[:, :4] - free)
        output = torch.cat([guided, labelled[:, 4:]], dim=1) if learned else guided
        expected = stock.step(output, t, z, generator=theirs, **options).prev_sample
        assert torch.equal(step.x_t, z) and step.timestep == int(t)
        torch.testing.assert_close(step.prev_sample, expected, rtol=2e-4, atol=2e-4)
        z = step.prev_sample = torch.randn(len(labels), 4, 8, 8, generator=seeded(100 + step.index))


@pytest.mark.parametrize("scale", [1.0, W])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_dit_folder_draws_what_the_stock_pipeline_draws(scale: float, spacing: str, dit: Path) -> None:
    ours, stock = load_dit(dit), quiet(diffusers.DiTPipeline.from_pretrained(dit))
    for pipe in (ours, stock):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing)
    options = {"num_inference_steps": 10, "guidance_scale": scale, "output_type": "np"}
    images, expected = (pipe([7, 999], generator=two(), **options).images for pipe in (ours, stock))
    assert images.shape == (2, 16, 16, 3) and float(expected.std()) > 0.05
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-5)


def test_a_dit_folder_is_driven_by_other_schedulers_as_the_stock_pipeline_does(dit: Path) -> None:
    ours, stock = load_dit(dit), quiet(diffusers.DiTPipeline.from_pretrained(dit))
    for pipe in (ours, stock):
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    options = {"num_inference_steps": 6, "guidance_scale": W, "output_type": "np"}
    images, expected = (pipe([7, 999], generator=two(), **options).images for pipe in (ours, stock))
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [10, 100])
def test_ancestral_steps_use_the_variance_that_dit_has_learned(steps: int, dit: Path) -> None:
    pipe = load_dit(dit)
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, variance_type="learned_range")
    stock = DDPMScheduler.from_config(pipe.scheduler.config)
    assert_steps(pipe, stock, [7, 999], NULL, steps, learned=True)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("clip", [{}, {"clip_sample": True, "clip_sample_range": 1.5}])
def test_ddim_steps_are_the_stock_steps(eta: float, clip: dict, dit: Path) -> None:
    for pipe, null in ((over_unet(3), 3), (load_dit(dit), NULL)):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **clip)
        stock = DDIMScheduler.from_config(pipe.scheduler.config)
        assert_steps(pipe, stock, [0, 2], null, 10, eta, clipped=bool(clip))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_ancestral_steps_over_a_unet_are_the_stock_steps(variance: str, kind: str) -> None:
    pipe = over_unet(3, prediction_type=kind)
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, variance_type=variance)
    assert_steps(pipe, DDPMScheduler.from_config(pipe.scheduler.config), [0, 2], 3, 20)


def test_without_classes_the_unet_is_called_as_it_is() -> None:
    pipe, stock = over_unet(), DDIMScheduler(clip_sample=False)
    z = torch.randn(2, 4, 8, 8, generator=seeded())
    output = pipe(batch_size=2, num_inference_steps=5, latents=z, output_type="latent")
    stock.set_timesteps(5)
    for t in stock.timesteps:
        with torch.no_grad():
            z = stock.step(pipe.unet(z, t).sample, t, z).prev_sample
    torch.testing.assert_close(output.images, z, rtol=1e-4, atol=1e-4)
    assert output.nfe == 5
    with pytest.raises(ValueError, match="^class_labels must be None"):
        pipe.stream(class_labels=0)


# --- guidance and labels ---


def first_eps(pipe: LatentDiffusionPipeline, labels: list[int] | None, scale: float) -> Tensor:
    z = torch.randn(2, 4, 8, 8, generator=seeded())
    return next(pipe.stream(labels, 2, 10, guidance_scale=scale, latents=z)).eps


def test_guidance_is_a_shift_away_from_the_unguided(dit: Path) -> None:
    pipe = load_dit(dit)
    free, labelled, guided = (first_eps(pipe, [7, 999], scale) for scale in (0.0, 1.0, 3.0))
    assert float((labelled - free).abs().max()) > 0.01
    torch.testing.assert_close(guided - free, 3 * (labelled - free), rtol=1e-4, atol=1e-5)
    z = torch.randn(2, 4, 8, 8, generator=seeded())
    with torch.no_grad():
        null = pipe.transformer(z, torch.full((2,), 900), class_labels=torch.full((2,), NULL)).sample[:, :4]
    torch.testing.assert_close(free, null, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first_eps(pipe, None, 3.0), null, rtol=1e-4, atol=1e-5)


def test_evaluations_are_counted_an_image_and_guidance_takes_two(dit: Path) -> None:
    pipe = load_dit(dit)
    for scale, nfe in ((W, 6), (1.0, 3), (0.0, 3)):
        assert pipe([7, 8, 9], num_inference_steps=3, guidance_scale=scale, output_type="latent").nfe == nfe
    assert pipe(batch_size=3, num_inference_steps=3, guidance_scale=W, output_type="latent").nfe == 3  # no class


def test_labels_are_indices_names_or_synonyms(dit: Path) -> None:
    pipe = load_dit(dit)
    assert pipe.num_classes == 1000 and pipe.null_label == NULL
    for label, index in ((5, 5), ("thing 5, Res 5", 5), ("thing 5", 5), ("res 5", 5), (" RES 5 ", 5), ("maillot", 638)):
        assert pipe.resolve_labels(label, 2)[0].tolist() == [index] * 2, label
    assert pipe.resolve_labels(None, 2)[0].tolist() == [NULL] * 2


WRONG = [
    ("class_labels must be 0 to 999 or one of thing 57, .*got 'thing 57x'", {"class_labels": "thing 57x"}),
    ("class_labels must be 0 to 999 .*got 1000", {"class_labels": 1000}),
    ("class_labels must be 0 to 999 .*got -1", {"class_labels": -1}),
    (r"class_labels must name one class, got 'crane', .*\[134, 517\]", {"class_labels": "crane"}),
    ("class_labels must have one entry per image", {"class_labels": [1, 2], "batch_size": 3}),
    ("guidance_scale must", {"guidance_scale": -1.0}),
    ("guidance_scale must", {"guidance_scale": float("nan")}),
    ("num_inference_steps must", {"num_inference_steps": 0}),
    ("num_inference_steps must", {"num_inference_steps": 1001}),
    ("eta must", {"eta": -0.1}),
    (r"latents must be .*\(1, 4, 8, 8\)", {"latents": torch.zeros(1, 3, 16, 16)}),
    ("generator must", {"generator": [seeded()] * 2, "batch_size": 2}),
    ("output_type must", {"output_type": "jpg"}),
]


@pytest.mark.parametrize(("message", "arguments"), WRONG)
def test_a_wrong_argument_is_named_before_any_work(message: str, arguments: dict, dit: Path) -> None:
    pipe, calls = load_dit(dit), []
    pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        pipe(**{"class_labels": 1, "num_inference_steps": 2} | arguments)
    assert not calls and len(str(caught.value)) < 200  # not all of 1000 names


def test_eta_belongs_to_ddim(dit: Path) -> None:
    pipe = load_dit(dit)
    for kind in (DDPMScheduler, DPMSolverMultistepScheduler):
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
        with pytest.raises(ValueError, match=f"^eta must be 0 with {kind.__name__}"):
            pipe.stream(1, eta=0.5)


# --- the autoencoder ---


def test_latents_are_decoded_once_at_the_end_and_for_whoever_asks(dit: Path) -> None:
    pipe, seen = load_dit(dit), []
    pipe.vae.decoder.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    latents = drawn(pipe, [1, 2], steps=3)
    assert seen == [] and latents.shape == (2, 4, 8, 8)
    images = drawn(pipe, [1, 2], steps=3, output_type="pt")
    assert sum(seen) == 2
    with torch.no_grad():
        expected = (pipe.vae.decode(latents / 0.18215).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    step = next(pipe.stream([1, 2], num_inference_steps=3))
    assert [image.size for image in pipe.to_images(step.pred_original_sample)] == [(16, 16)] * 2


def test_a_callback_sees_and_may_replace_latents(dit: Path) -> None:
    pipe, seen = load_dit(dit), []
    zeros = torch.zeros(2, 4, 8, 8)

    def note(called: StepwisePipeline, index: int, timestep: float, tensors: dict) -> dict:
        seen.append((index, timestep, tensors["pred_original_sample"].shape))
        called._interrupt = index == 1
        return {"latents": zeros} if index == 1 else {}

    inputs = ["latents", "pred_original_sample"]
    options = {"callback_on_step_end": note, "callback_on_step_end_tensor_inputs": inputs}
    assert torch.equal(drawn(pipe, [1, 2], steps=5, **options), zeros)
    assert seen == [(0, 800.0, zeros.shape), (1, 600.0, zeros.shape)]


def test_bfloat16_weights_step_in_float32(dit: Path) -> None:
    exact, half = load_dit(dit), load_dit(dit).to(torch.bfloat16)
    images = [drawn(pipe, [1, 2], steps=3, output_type="pt") for pipe in (exact, half)]
    assert images[1].dtype == torch.float32
    assert 0 < float((images[0] - images[1]).abs().mean()) < 0.02


def test_parts_that_do_not_fit_are_named() -> None:
    vae, scheduler, unet = tiny_vae(), DDIMScheduler(), latent_unet(4)
    with pytest.raises(ValueError, match="^unet or transformer must be given, one of them, got neither"):
        LatentDiffusionPipeline(vae, scheduler)
    with pytest.raises(ValueError, match="^vae must have the network's 1 latent channels, got 4"):
        LatentDiffusionPipeline(vae, scheduler, unet=tiny_unet())
    with pytest.raises(ValueError, match="^id2label must name 3 classes, got 4"):
        LatentDiffusionPipeline(vae, scheduler, unet=unet, id2label={str(i): str(i) for i in range(4)})


# --- one seed, one image ---


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
def test_an_image_does_not_depend_on_the_batch(threads: int, kind: type, dit: Path) -> None:
    pipe, before = load_dit(dit), torch.get_num_threads()
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    torch.set_num_threads(threads)
    try:
        images = {n: drawn(pipe, list(range(n)), steps=3, output_type="pt") for n in (1, 3, 5, 8)}
        single = pipe(0, num_inference_steps=3, guidance_scale=W, generator=seeded(0), output_type="pt").images
    finally:
        torch.set_num_threads(before)
    assert torch.equal(single, images[8][:1])
    for n, batch in images.items():
        assert torch.equal(batch, images[8][:n]), n
    assert len({image.numpy().tobytes() for image in images[8]}) == 8
