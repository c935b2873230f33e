"""Inpainting over pixels: replacement and RePaint's resampling, around every sampler, against exact distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from evaluation_runs import tiny_stages
from image_files import parquet_folder
from PIL import Image
from torch import Tensor
from toys import ddim, ddpm, flow, guided, quiet, score_sde, seeded, steered, tiny_unet, two
from training_runs import noise as pixels

from benchmarks.inpainting import MASKS, main, mask_named, seams
from pipelines import DDIMPipeline, GaussianMixture, LinearPath, NoiseSchedule
from pipelines.base import StepwisePipeline
from pipelines.ddim import ddim_steps
from pipelines.ddpm import ancestral_steps
from pipelines.flow_matching import flow_steps, shifted_times
from pipelines.image_inputs import mask_of, pixels_of
from pipelines.repaint import Inpainting, levels_of, noisier, repaint_steps, steps_from_image, stretches
from pipelines.run import Step
from pipelines.solvers import sample_levels, scheduler_steps

GREY = Image.fromarray(pixels(8, 8, 1, seed=5).squeeze())
LEFT = Image.fromarray(np.repeat([[255] * 4 + [0] * 4], 8, axis=0).astype(np.uint8))  # the left is drawn anew
WHITE = Image.new("L", (8, 8), 255)
RUN = {"image": GREY, "mask_image": LEFT, "num_inference_steps": 4, "jump_length": 2, "jump_n_sample": 2}


def swapped(name: str) -> Callable[[], StepwisePipeline]:
    config = guided().scheduler.config
    return lambda: guided(scheduler=getattr(diffusers, name).from_config(config))


PIPELINES: dict[str, Callable[[], StepwisePipeline]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "classifier-free": guided,
    "classifier": steered,
    "flow": flow,
    "flow, variance preserving": lambda: flow(path="variance_preserving"),
    "flow heun": lambda: flow(scheduler=diffusers.FlowMatchHeunDiscreteScheduler()),
    "score sde": score_sde,
    "dpm++": swapped("DPMSolverMultistepScheduler"),
    "unipc": swapped("UniPCMultistepScheduler"),
    "heun": swapped("HeunDiscreteScheduler"),
    "euler": swapped("EulerDiscreteScheduler"),
    "cascade": lambda: quiet(tiny_stages(("a", "b"))[0]),
}


def arguments(pipe: StepwisePipeline, count: int = 2) -> dict[str, object]:
    return {"batch_size": count} if pipe.num_classes is None else {"class_labels": [0, 1][:count]}


# -------------------------------------------------------------------------------------------------------- the algorithm


def visits(num_steps: int, jump_length: int, jump_n_sample: int) -> list[int]:
    """The index t of each evaluation in RePaint's own code, whose times go down and up again (get_schedule_jump)."""
    jumps = dict.fromkeys(range(0, num_steps - jump_length, jump_length), jump_n_sample - 1)
    t, times = num_steps, []
    while t >= 1:
        t -= 1
        times.append(t)
        if jumps.get(t, 0) > 0:
            jumps[t] -= 1
            for _ in range(jump_length):
                t += 1
                times.append(t)
    times.append(-1)
    return [before for before, after in zip(times, times[1:], strict=False) if after < before]


@pytest.mark.parametrize(
    ("num_steps", "jump_length", "jump_n_sample"),
    [(250, 10, 10), (20, 3, 4), (20, 1, 2), (8, 7, 3), (5, 2, 1), (1, 1, 1)],
)
def test_the_steps_are_those_of_the_papers_code(num_steps: int, jump_length: int, jump_n_sample: int) -> None:
    found = stretches(num_steps, jump_length, jump_n_sample)
    taken = [num_steps - 1 - step for first, end in found for step in range(first, end)]
    assert taken == visits(num_steps, jump_length, jump_n_sample)


def test_a_jump_goes_at_most_to_the_first_step() -> None:
    assert stretches(4, 10, 3) == stretches(4, 3, 3) == [(0, 3), (0, 3), (0, 4)]
    assert stretches(1, 10, 3) == [(0, 1)]


def test_a_jump_adds_the_noise_of_the_forward_process() -> None:
    """Over the levels of a schedule it is the product of q(x_t | x_{t-1}); where a = 1, the variances add up."""
    schedule, z = NoiseSchedule.linear(10), torch.randn(3, 4, generator=seeded(), dtype=torch.float64)
    (a, b), (c, d) = ([float(level) for level in schedule.marginal(t)] for t in (2, 6))
    betas = schedule.betas[3:7]
    kept = torch.cumprod(1 - betas, 0)[-1]
    x = torch.ones(3, 4, dtype=torch.float64)
    torch.testing.assert_close(noisier(x, (a, b), (c, d), z), kept.sqrt() * x + (1 - kept).sqrt() * z)
    torch.testing.assert_close(noisier(x, (1.0, 3.0), (1.0, 5.0), z), x + 4 * z)


def test_a_step_and_a_jump_are_those_of_diffusers_repaint_scheduler() -> None:
    """Over all steps, where its jumps go by single betas; with fewer, those that it takes are not of these steps.

    It takes the same noise for what is kept and what is drawn, and clips x_0 without telling eps: neither shows here.
    """
    peer = diffusers.RePaintScheduler(num_train_timesteps=20, eta=1.0, clip_sample=False, beta_end=0.2)
    peer.set_timesteps(20, jump_length=3, jump_n_sample=2)
    schedule, t = NoiseSchedule(peer.betas.double()), 7
    x, eps, y, z = (torch.randn(1, 1, 4, 4, generator=seeded(seed)) for seed in range(4))
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True

    def begin(x: Tensor, taken: int) -> Iterator[Step]:
        return ddim_steps(lambda x_t, t: eps, x, schedule.respace(range(20 - taken)), eta=1.0, noise=lambda: z)

    levels = levels_of(schedule, torch.arange(20).flip(0))[19 - t :]
    ours = next(repaint_steps(lambda x, i: begin(x, 19 - t + i), x, levels, lambda: z, Inpainting(y, mask, 1, 1)))
    generator = seeded(3)  # draws z
    theirs = peer.step(eps, t, x, y, (~mask).float(), generator=generator)
    torch.testing.assert_close(ours.prev_sample, theirs.prev_sample)
    once = noisier(x, levels[1], levels[0], torch.randn(1, 1, 4, 4, generator=seeded(9)))
    torch.testing.assert_close(once, peer.undo_step(x, t, generator=seeded(9)))


# ------------------------------------------------------------------------------------- Gaussian data: the exact answer

# values 0 and 1 are drawn, 2 is kept
MEAN = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.6, 0.5], [0.6, 0.8, 0.55], [0.5, 0.55, 0.9]], dtype=torch.float64)
KEPT, COUNT = 1.4, 1500
DATA = GaussianMixture(MEAN[None, :, None, None], covariances=COVARIANCE[None])


def gaussian_noise(seed: int = 0) -> Callable[[], Tensor]:
    generator = seeded(seed)
    return lambda: torch.randn(COUNT, 3, 1, 1, generator=generator, dtype=torch.float64)


def inpainted(method: str, num_steps: int, jump_length: int, jump_n_sample: int) -> Tensor:
    """(COUNT, 3): samples whose third value is kept, from the exact denoiser."""
    y, mask = torch.full((1, 3, 1, 1), KEPT, dtype=torch.float64), torch.tensor([True, True, False])
    kept = Inpainting(y, mask.reshape(1, 3, 1, 1), jump_length, jump_n_sample)
    noise, path, whole = gaussian_noise(), LinearPath(), NoiseSchedule.cosine(1000)
    schedule, times = whole.respace(whole.spaced_timesteps(num_steps)), shifted_times(num_steps)
    velocity, denoiser = DATA.denoiser(path, "flow_prediction"), DATA.denoiser(whole)

    def begin(x: Tensor, taken: int) -> Iterator[Step]:
        if method == "flow":
            return flow_steps(velocity, x, times[taken:], path)
        loop = {"ddpm": partial(ancestral_steps, variance="fixed_large"), "ddim": ddim_steps}[method]
        return loop(denoiser, x, schedule.respace(range(num_steps - taken)), noise=noise)

    flowing = levels_of(path, times[:-1])
    levels = flowing if method == "flow" else levels_of(schedule, torch.arange(num_steps).flip(0))
    *_, last = steps_from_image(begin, noise(), levels, noise, None, kept)
    return last.prev_sample[:, :, 0, 0]


@pytest.mark.parametrize("method", ["ddpm", "ddim", "flow"])
def test_resampling_comes_near_the_exact_conditional_distribution_and_replacement_does_not(method: str) -> None:
    gain = COVARIANCE[:2, 2] / COVARIANCE[2, 2]
    mean = MEAN[:2] + gain * (KEPT - MEAN[2])
    covariance = COVARIANCE[:2, :2] - gain[:, None] * COVARIANCE[None, 2, :2]
    ways, errors = [], []
    for jump_n_sample in (1, 4, 16):
        found = inpainted(method, 30, 3, jump_n_sample)
        assert (found[:, 2] == KEPT).all()
        ways.append(float(((found[:, :2].mean(0) - MEAN[:2]) / (mean - MEAN[:2])).mean()))
        errors.append(float((torch.cov(found[:, :2].T) - covariance).abs().max()))
    print(method, ways, errors)
    assert ways[0] < 0.55 < ways[1] < 0.85 < ways[2] < 1.05, "of the way from the mean to the conditional one"
    assert errors[2] < 0.1 < errors[0]


@pytest.mark.parametrize(
    "name",
    "UniPCMultistep DPMSolverMultistep HeunDiscrete EulerDiscrete KDPM2Discrete PNDM".split(),
)
def test_the_levels_of_a_scheduler_are_those_of_its_own_samples(name: str) -> None:
    """Data N(0, s^2 I): the exact network takes the sample's deviation from sqrt(a^2 s^2 + b^2) to the next one's."""
    std = 0.5
    config = {} if name == "PNDM" else {"timestep_spacing": "trailing"}
    scheduler = getattr(diffusers, f"{name}Scheduler")(beta_schedule="squaredcos_cap_v2", **config)
    process = NoiseSchedule.from_scheduler(scheduler)

    def eps(x: Tensor, t: Tensor) -> Tensor:
        a, b = (float(level) for level in process.marginal(float(t)))
        return b / (a * a * std**2 + b * b) * x

    levels = sample_levels(scheduler, 20, process)
    x_T = torch.randn(4000, 1, 1, 1, generator=seeded(), dtype=torch.float64)
    for step, (a, b) in zip(scheduler_steps(eps, x_T, scheduler, 20, process, [seeded(1)]), levels[1:], strict=True):
        expected = (a * a * std**2 + b * b) ** 0.5
        assert float(step.prev_sample.std()) == pytest.approx(expected, rel=0.12, abs=0.02), step.index


# ----------------------------------------------------------------------------------------------------------- pipelines


@pytest.mark.parametrize("name", PIPELINES)
def test_what_the_mask_keeps_is_exact_in_every_pipeline_and_a_seed_is_an_image_in_any_batch(name: str) -> None:
    pipe = PIPELINES[name]()
    both = pipe(**arguments(pipe), **RUN, generator=two(), output_type="np").images
    y = np.asarray(GREY, np.float32)[..., None] / 255
    assert np.isfinite(both).all() and np.array_equal(
        np.round(both * 255)[:, :, 4:], np.round(y * 255)[None, :, 4:].repeat(2, 0)
    )
    assert not np.allclose(both[:, :, :4], y[:, :4], atol=0.05) and not np.allclose(both[0], both[1])
    alone = pipe(**arguments(pipe, 1), **RUN, generator=[seeded(0)], output_type="np").images
    assert np.array_equal(np.round(both[:1] * 255), np.round(alone * 255))


def test_evaluations_steps_and_callbacks_count_what_is_drawn_again() -> None:
    pipe, seen = ddim(), []
    found = pipe(
        **RUN,
        generator=seeded(),
        callback_on_step_end=lambda pipe, index, timestep, tensors: seen.append((index, timestep)) or {},
    )
    assert [index for index, _ in seen] == list(range(6)) and pipe.num_timesteps == found.nfe == 6
    assert pipe(**RUN | {"jump_n_sample": 1}, generator=seeded()).nfe == 4
    times = [timestep for _, timestep in seen]
    assert times == [999, 749, 499, 749, 499, 249]
    steps = pipe.stream(**RUN, generator=seeded())
    assert next(steps).num_steps == 6
    steps.interrupted = True
    assert next(steps, None) is None


def test_without_jumps_and_kept_pixels_the_run_is_the_samplers_own() -> None:
    """DDIM draws no noise of its own, so that all white is the image without a mask, unless it jumps."""
    pipe = ddim()
    options = {"num_inference_steps": 4, "generator": [seeded()], "output_type": "latent"}
    plain = pipe(**options).images
    all_white = {"image": GREY, "mask_image": WHITE, "jump_n_sample": 1}
    torch.testing.assert_close(pipe(**options | all_white | {"generator": [seeded()]}).images, plain)
    jumped = pipe(**options | all_white | {"generator": [seeded()], "jump_n_sample": 2}).images
    assert jumped.isfinite().all() and not torch.allclose(jumped, plain, atol=0.05)


@pytest.mark.parametrize("name", ["ddpm", "flow", "unipc", "heun", "score sde"])
def test_an_image_without_a_mask_is_begun_with_and_less_strength_keeps_more_of_it(name: str) -> None:
    pipe = PIPELINES[name]()
    options = {"num_inference_steps": 20, "image": GREY, "output_type": "latent"}
    y = pixels_of(GREY, 1)
    far = [
        float((pipe(**arguments(pipe), **options, strength=share, generator=two()).images - y).square().mean())
        for share in (0.05, 0.5)
    ]
    steps = list(pipe.stream(**arguments(pipe), num_inference_steps=20, image=GREY, generator=two()))
    assert far[0] < far[1] and len(steps) == (16 if name != "heun" else 31)


def test_masks_and_images_may_differ_from_image_to_image() -> None:
    pipe = ddim()
    images, masks = [GREY, WHITE], [LEFT, LEFT.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    options = {"num_inference_steps": 3, "output_type": "latent"}
    both = pipe(batch_size=2, image=images, mask_image=masks, generator=two(), **options).images
    assert torch.equal(both[0, :, :, 4:], pixels_of(GREY, 1)[0, :, :, 4:]) and (both[1, :, :, :4] == 1).all()


def test_a_learned_variance_and_a_low_strength_go_with_a_mask() -> None:
    pipe = ddpm(tiny_unet(out_channels=2))
    steps = list(pipe.stream(**RUN, strength=0.5, generator=seeded()))
    assert [step.timestep for step in steps] == [499, 499, 249]  # the last two of four, and a jump of one
    assert torch.equal(steps[-1].prev_sample[..., 4:], pixels_of(GREY, 1)[..., 4:])


# --------------------------------------------------------------------------------------------------------------- inputs


def test_images_of_sixteen_bits_and_transparent_ones_are_read_as_they_look() -> None:
    grey = np.asarray(GREY)
    assert torch.equal(pixels_of(Image.fromarray(grey.astype(np.uint16) * 257), 1), pixels_of(GREY, 1))
    clear = Image.merge("LA", (GREY, LEFT))
    assert (pixels_of(clear, 1)[..., 4:] == 1).all() and torch.equal(
        pixels_of(clear, 1)[..., :4], pixels_of(GREY, 1)[..., :4]
    )
    deep = Image.fromarray(np.asarray(LEFT).astype(np.uint16) * 257)
    assert torch.equal(mask_of(deep), mask_of(LEFT))
    with pytest.raises(ValueError, match="^image must have 8 or 16 bits per channel, got 32 in an image of mode 'F'"):
        pixels_of(Image.fromarray(grey.astype(np.float32)), 1, "image")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "^mask_image must be None without an image"),
        ({"mask_image": Image.new("L", (8, 8))}, "^mask_image must be white where .* black all over"),
        ({"mask_image": LEFT.resize((28, 28))}, "^mask_image must be 1 or 1 of 8x8 pixels, got 1 of 28x28"),
        ({"image": GREY.resize((16, 8))}, "^image must be 1 or 1 of 8x8 pixels, got 1 of 16x8"),
        ({"jump_length": 0}, "^jump_length must be an integer of at least 1, got 0"),
        ({"jump_n_sample": 2.5}, "^jump_n_sample must be an integer of at least 1, got 2.5"),
        ({"strength": 0}, "^strength must be above 0, and at most 1, got 0"),
    ],
)
def test_what_cannot_be_inpainted_is_refused_by_name(changes: dict, message: str) -> None:
    for pipe in (ddpm(), flow(), score_sde()):
        with pytest.raises(ValueError, match=message):
            pipe(**RUN | changes)


def test_samplers_that_cannot_begin_anywhere_say_so() -> None:
    with pytest.raises(ValueError, match="^image must be None with sampler ode_adaptive"):
        score_sde()(**RUN, sampler="ode_adaptive")
    pndm = quiet(DDIMPipeline(tiny_unet(), diffusers.PNDMScheduler()))
    with pytest.raises(ValueError, match="^jump_n_sample must be 1 with PNDMScheduler"):
        pndm(**RUN)
    assert pndm(**RUN | {"jump_n_sample": 1}).images
    for skip in (False, True):  # either way its first steps are others
        pndm.scheduler = diffusers.PNDMScheduler(skip_prk_steps=skip)
        with pytest.raises(ValueError, match="^strength must be 1 with PNDMScheduler, got 0.5"):
            pndm(image=RUN["image"], strength=0.5)


# -------------------------------------------------------------------------------------------------------- the benchmark


def test_a_seam_is_the_step_across_the_border_of_a_mask() -> None:
    images = np.zeros((1, 6, 6, 1))
    images[:, :, :3] = np.arange(6)[None, :, None, None] * 0.1  # rows of the left half rise, the right half is 0
    left = mask_named("left half", 6, 6, 0)
    across, inside = seams(images, left)
    assert across == pytest.approx(0.25)  # 0 to 0.5, row by row
    assert inside == pytest.approx(5 * 3 * 0.1 / (5 * 3 + 6 * 2))
    sizes = {name: int(mask_named(name, 28, 28, 0).sum()) for name in MASKS}
    assert sizes["centre"] == 196 and sizes["left half"] == sizes["every second row"] == 392 and sizes["one pixel"] == 1
    assert 40 < sizes["strokes"] < 500
    assert seams(images, mask_named("one pixel", 6, 6, 0))[1] is None, "it has no neighbours inside"


def test_the_benchmark_measures_a_model_under_every_mask(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    drawn = pixels(20, 8, 8, seed=8)
    parquet_folder(tmp_path / "images", {"train": drawn[:10], "test": drawn[10:]}, ())
    ddpm().save_pretrained(tmp_path / "model")
    flags = f"--models {tmp_path}/model --dataset_name {tmp_path}/images --images 2 --steps 3 --exact_steps 2"
    flags += f" --jump_n_samples 1 2 --output {tmp_path}/sheets"
    rows = main(flags.split())
    assert [row["kind"] for row in rows] == ["exact"] * 6 + ["images"] * 10
    assert all(row["kept_exactly"] for row in rows[6:]) and (tmp_path / "sheets" / "model.png").is_file()
    assert {row["evaluations"] for row in rows[6:11]} == {3} and {row["evaluations"] for row in rows[11:]} == {5}
    assert "model, one pixel" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: jump_n_samples must be at least 1, got 0"):
        main(["--jump_n_samples", "0"])
