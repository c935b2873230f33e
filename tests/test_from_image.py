"""Image-to-image and inpainting: where a run begins, what it keeps, exact models, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
from text_models import text_pipeline
from torch import Tensor
from toys import seeded
from training_runs import noise

from pipelines import LatentDiffusionPipeline, NoiseSchedule
from pipelines.ddim import ddim_steps
from pipelines.flow_matching import LinearPath, flow_steps, shifted_times
from pipelines.from_image import keeping, known_output, known_velocity, steps_left_out
from pipelines.image_inputs import mask_of, pixels_of
from pipelines.latents import encode

PICTURE = Image.fromarray(noise(16, 16, 3, seed=5))
HALF = Image.fromarray(np.repeat([[255] * 8 + [0] * 8], 16, axis=0).astype(np.uint8))
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SCHEDULERS = {
    "ddim": lambda: (DDIMScheduler(clip_sample=False), None),
    "ddpm": lambda: (DDPMScheduler(clip_sample=False), None),
    "dpm++": lambda: (DPMSolverMultistepScheduler(), None),
    "euler": lambda: (EulerDiscreteScheduler(), None),
    "heun": lambda: (HeunDiscreteScheduler(), None),
    "flow": lambda: (None, "linear"),
    "flow unipc": lambda: (UniPCMultistepScheduler(**FLOW), "linear"),
    "flow heun": lambda: (FlowMatchHeunDiscreteScheduler(), "linear"),
    "variance preserving": lambda: (None, "variance_preserving"),
}


def pipeline(name: str) -> LatentDiffusionPipeline:
    scheduler, path = SCHEDULERS[name]()
    return text_pipeline(scheduler=scheduler, path=path)


def uint8(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def test_a_share_of_the_steps_is_taken_and_never_none() -> None:
    assert [steps_left_out(10, share) for share in (1.0, 0.8, 0.5, 0.04, 0.0001)] == [0, 2, 5, 9, 9]
    assert steps_left_out(1, 0.1) == 0


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_run_from_an_image_begins_at_the_noise_of_its_first_step(name: str) -> None:
    pipe = pipeline(name)
    options = {"num_inference_steps": 10, "generator": seeded(), "guidance_scale": 1.0}
    whole = [step.timestep for step in pipe.stream("a fox", **options)]
    given = options | {"generator": seeded(), "image": PICTURE, "strength": 0.4}
    steps = list(pipe.stream("a fox", **given))
    taken = 4 if "heun" not in name else 7
    assert [step.timestep for step in steps] == pytest.approx(whole[-taken:])
    eps = torch.randn(1, 4, 8, 8, generator=seeded())
    z = encode(pipe.vae, pixels_of(PICTURE, 3))
    t = steps[0].timestep
    if pipe.config.path is None:
        a, b = (float(level) for level in NoiseSchedule.from_scheduler(pipe.scheduler).marginal(int(t)))
    elif name == "variance preserving":
        a, b = np.cos(np.pi * t / 2000), np.sin(np.pi * t / 2000)
    else:
        a, b = 1 - t / 1000, t / 1000
    torch.testing.assert_close(steps[0].x_t, a * z + b * eps, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_the_mask_keeps_is_the_image_to_the_last_bit_and_its_latents_arrive_there(name: str) -> None:
    pipe = pipeline(name)
    options = {"num_inference_steps": 8, "image": PICTURE, "mask_image": HALF, "generator": seeded()}
    made = pipe(["a fox", "a red apple"], **options)
    images, original = uint8(made.images), np.asarray(PICTURE)
    assert (images[:, :, 8:] == original[:, 8:]).all() and not (images[:, :, :8] == original[:, :8]).all()
    latents = pipe(["a fox", "a red apple"], **options | {"output_type": "latent", "generator": seeded()}).images
    z = encode(pipe.vae, pixels_of(PICTURE, 3))
    kept = latents[..., 4:]
    torch.testing.assert_close(kept, z[..., 4:].expand_as(kept), rtol=0.1, atol=0.12)
    assert (latents[..., :4] - z[..., :4]).abs().max() > 0.3


@pytest.mark.parametrize("name", SCHEDULERS)
def test_nothing_is_left_of_what_lies_under_a_mask(name: str) -> None:
    """Not even in the first noise, of which a schedule that does not end in pure noise makes a part of the image."""
    pipe, drawn = pipeline(name), []
    for shade in ("black", "white"):
        image, mask = Image.new("RGB", (16, 16), shade), Image.new("L", (16, 16), "white")
        drawn.append(pipe("a fox", image=image, mask_image=mask, num_inference_steps=3, generator=seeded()).images)
    np.testing.assert_array_equal(*map(uint8, drawn))


def test_one_seed_is_one_image_in_any_batch() -> None:
    pipe = pipeline("flow")
    options = {"num_inference_steps": 4, "image": PICTURE, "mask_image": HALF, "output_type": "latent"}
    both = pipe(["a fox", "a red apple"], generator=[seeded(1), seeded(2)], **options).images
    alone = pipe("a red apple", generator=[seeded(2)], **options).images
    assert torch.equal(both[1:], alone)


def test_the_less_strength_the_more_of_the_image_stays() -> None:
    pipe, z = pipeline("flow"), None
    z = encode(pipe.vae, pixels_of(PICTURE, 3))
    options = {"num_inference_steps": 20, "image": PICTURE, "output_type": "latent", "guidance_scale": 1.0}
    distances = [
        float((pipe("a fox", strength=share, generator=seeded(), **options).images - z).square().mean())
        for share in (0.05, 0.3, 0.6, 1.0)
    ]
    assert distances == sorted(distances) and distances[0] < 0.02 < 0.5 < distances[-1]


def test_a_mask_of_a_quarter_pixel_draws_the_latent_around_it() -> None:
    pipe = pipeline("flow")
    mask = np.zeros((16, 16), np.uint8)
    mask[5, 5] = 255
    made = uint8(pipe("a fox", num_inference_steps=4, image=PICTURE, mask_image=Image.fromarray(mask)).images)[0]
    differs = (made != np.asarray(PICTURE)).any(-1)
    assert differs.sum() <= 1 and not differs[mask == 0].any()


# --- exact models: Gaussian data, two values of which the second is kept ---


MEAN, COVARIANCE = np.array([0.5, -0.3]), np.array([[1.0, 0.6], [0.6, 0.8]])


def exact_x0(x: Tensor, a: float, b: float) -> Tensor:
    """E[x_0 | x_t] of the Gaussian above, x_t = a x_0 + b eps."""
    gain = a * COVARIANCE @ np.linalg.inv(a * a * COVARIANCE + b * b * np.eye(2))
    return torch.as_tensor(MEAN) + (x - a * torch.as_tensor(MEAN)) @ torch.as_tensor(gain.T)


@pytest.mark.parametrize("kind", ["flow", "ddim"])
def test_what_is_kept_is_exact_and_what_is_drawn_is_drawn_to_fit(kind: str) -> None:
    """The kept value ends as given; the drawn one leans towards it, as far as one pass without resampling goes."""
    count, kept = 4000, 1.7
    y = torch.tensor([[0.0, kept]], dtype=torch.float64).expand(count, 2)
    mask = torch.tensor([True, False]).expand(count, 2)
    x = torch.randn(count, 2, generator=seeded(), dtype=torch.float64)
    path, process = LinearPath(), NoiseSchedule.cosine(200)

    def velocity(x_t: Tensor, t: float) -> Tensor:
        x0 = exact_x0(x_t, 1 - t, t)
        return (x_t - (1 - t) * x0) / t - x0

    def eps(x_t: Tensor, t: int) -> Tensor:
        a, b = (float(level) for level in process.marginal(t))
        return (x_t - a * exact_x0(x_t, a, b)) / b

    if kind == "flow":
        guarded = keeping(velocity, mask, known_velocity(y, path, 1.0))
        *_, last = flow_steps(guarded, x, shifted_times(200), path)
    else:
        *_, last = ddim_steps(keeping(eps, mask, known_output(y, process, "epsilon")), x, process)
    found = last.prev_sample
    assert (found[:, 1] - kept).abs().max() < 1e-6
    exact = MEAN[0] + COVARIANCE[0, 1] / COVARIANCE[1, 1] * (kept - MEAN[1])
    assert MEAN[0] + 0.3 * (exact - MEAN[0]) < float(found[:, 0].mean()) < exact + 0.1


# --- inputs ---


def test_images_and_masks_of_every_kind_are_read() -> None:
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert (pixels_of(clear, 3) == 1).all()
    array = np.asarray(PICTURE)
    as_float = torch.from_numpy(array.astype(np.float32) / 255).permute(2, 0, 1)[None]
    for given in (PICTURE, array[None], array[None].astype(np.float32) / 255, as_float):
        torch.testing.assert_close(pixels_of(given, 3), as_float * 2 - 1)
    flat = np.asarray(HALF)
    for given in (HALF, HALF.convert("RGB"), HALF.convert("1"), flat, flat[None] / 255.0, torch.tensor(flat / 255)):
        assert torch.equal(mask_of(given)[0, 0], torch.tensor(flat > 0))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mask_image": HALF}, "^mask_image must be None without an image"),
        ({"strength": 0.5}, "^strength must be None without an image, got 0.5"),
        ({"image": PICTURE, "strength": 0}, "^strength must be above 0, and at most 1, got 0"),
        ({"image": PICTURE, "strength": 1.2}, "^strength must be above 0, and at most 1, got 1.2"),
        ({"image": PICTURE.resize((8, 8))}, "^image must be 1 or 1 of 16x16 pixels, got 1 of 8x8"),
        (
            {"image": PICTURE, "mask_image": HALF.resize((8, 16))},
            "^mask_image must be 1 or 1 of 16x16 pixels, got .* 8x16",
        ),
        ({"image": PICTURE, "mask_image": Image.new("L", (16, 16))}, "^mask_image must be white where"),
        ({"image": [PICTURE] * 3}, "^image must be 1 or 1 of 16x16 pixels, got 3"),
        ({"image": "nowhere.png"}, "nowhere.png"),
        ({"image": 7}, "^image must be PIL images, paths, an array or a tensor, got 7"),
        ({"image": torch.full((1, 3, 16, 16), 2.0)}, r"^image must have values in \[0, 1\], got 2 to 2"),
        ({"image": torch.full((1, 3, 16, 16), float("nan"))}, r"^image must have values in \[0, 1\], got nan"),
    ],
)
def test_what_cannot_be_begun_with_is_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pipeline("flow")("a fox", num_inference_steps=4, **options)
