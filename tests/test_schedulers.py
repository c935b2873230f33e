"""Any diffusers scheduler can be swapped in: the same samples as a loop written out by hand."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from conftest import ROOT
from toys import calls_seen, ddim, ddpm, guided, quiet, seeded, tiny_unet

from pipelines import ClassifierFreeGuidancePipeline, NoiseSchedule
from pipelines.solvers import half_step_spacing, scheduler_steps

pytestmark = pytest.mark.usefixtures("two_threads")  # the spies compare what the network is given

DRIVEN = [
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "PNDMScheduler",
]
HALF_STEP = {"HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "PNDMScheduler"}  # their runs begin half a step in
STOCHASTIC = {"EulerAncestralDiscreteScheduler"}
SCALED = {name for name in DRIVEN if "Discrete" in name}  # their state is not what the network sees
EPS_AND_V = {"EulerAncestralDiscreteScheduler", "KDPM2DiscreteScheduler"}
PREVIEWED = [
    (name, kind)
    for name in DRIVEN
    for kind in ("epsilon", "v_prediction", "sample")
    if name != "PNDMScheduler" and not (kind == "sample" and name in EPS_AND_V)
]


def swapped(name: str, **changes: object) -> diffusers.SchedulerMixin:
    config = guided().scheduler.config
    kind = config.prediction_type if name != "PNDMScheduler" else "epsilon"
    return getattr(diffusers, name).from_config(config, prediction_type=kind, **changes)


@torch.no_grad()
def by_hand(pipe: object, labels: torch.Tensor, scale: float, count: int) -> torch.Tensor:
    """The loop of the diffusers documentation, with two separate network calls."""
    name, null = type(pipe.scheduler).__name__, torch.full_like(labels, 3)
    spacing = half_step_spacing(count, 1000) if name in HALF_STEP else {}
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **spacing)
    generators = [seeded(i) for i in range(len(labels))]
    scheduler.set_timesteps(count)
    x = torch.cat([torch.randn(1, 1, 8, 8, generator=g) for g in generators]) * scheduler.init_noise_sigma
    extra = {"generator": generators} if type(scheduler).__name__ in STOCHASTIC else {}
    for t in scheduler.timesteps:
        x_in = scheduler.scale_model_input(x, t)
        cond, uncond = (pipe.unet(x_in, t, class_labels=y).sample for y in (labels, null))
        x = scheduler.step(uncond + scale * (cond - uncond), t, x, **extra).prev_sample
    return x


@pytest.mark.parametrize("name", DRIVEN)
def test_a_driven_scheduler_draws_what_a_loop_by_hand_draws(name: str) -> None:
    pipe, labels = guided(scheduler=swapped(name)), torch.tensor([0, 1, 2, 0])
    options = dict(num_inference_steps=6, guidance_scale=2.0, output_type="latent")
    ours = pipe(labels.tolist(), generator=[seeded(i) for i in range(4)], **options).images
    expected = by_hand(pipe, labels, 2.0, 6)
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", DRIVEN)
def test_a_scheduler_keeps_nothing_from_one_run_to_the_next(name: str) -> None:
    pipe = guided(scheduler=swapped(name))
    options = dict(class_labels=[0, 1], num_inference_steps=4, output_type="latent")
    one = pipe(generator=seeded(), **options).images
    for step in pipe.stream([2], num_inference_steps=5, generator=seeded(9)):  # given up half-way
        if step.index == 2:
            break
    assert torch.equal(one, pipe(generator=seeded(), **options).images)


@pytest.mark.parametrize("name", DRIVEN)
def test_x_t_of_a_step_is_what_the_network_saw(name: str) -> None:
    pipe = guided(scheduler=swapped(name))
    with calls_seen(pipe) as seen:
        steps = list(pipe.stream([0, 1, 2, 0], num_inference_steps=4, guidance_scale=1.0, generator=seeded()))
    assert len(seen) == len(steps) == steps[0].num_steps
    assert [step.index for step in steps] == list(range(len(steps)))
    for step, (x, t, _, _) in zip(steps, seen, strict=True):
        assert torch.equal(step.x_t, x)
        assert step.timestep == float(t[0])
    assert torch.equal(steps[1].x_t, steps[0].prev_sample) == (name not in SCALED)


@pytest.mark.parametrize(("name", "kind"), PREVIEWED)
def test_previews_are_right_at_every_step(name: str, kind: str) -> None:
    """All data at one point m: the exact network says x_0 = m at every noise level, and so must every Step."""
    m, scheduler = 0.3, swapped(name)
    scheduler.register_to_config(prediction_type=kind)
    abar = NoiseSchedule.from_scheduler(scheduler).alphas_cumprod
    log_sigma = ((1 - abar) / abar).log() / 2

    def denoiser(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        low = min(int(t), 998)  # between whole timesteps, log sigma is interpolated as these schedulers do
        sigma = math.exp(float(torch.lerp(log_sigma[low], log_sigma[low + 1], float(t) - low)))
        a, b = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
        eps, x0 = (x - a * m) / b, torch.full_like(x, m)
        return {"epsilon": eps, "sample": x0, "v_prediction": a * eps - b * x0}[kind]

    x_T = torch.randn(2, 1, 4, 4, generator=seeded(), dtype=torch.float64)
    process = NoiseSchedule.from_scheduler(scheduler)
    steps = list(scheduler_steps(denoiser, x_T, scheduler, 5, process, [seeded(0), seeded(1)]))
    for step in steps[1:]:  # at abar = 2e-9 eps says nothing of x_0
        assert float((step.pred_original_sample - m).abs().max()) < 0.01, (step.index, step.timestep)
    assert float((steps[-1].prev_sample - m).abs().max()) < 0.05


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"])
def test_timesteps_that_repeat_are_each_taken_once(name: str) -> None:
    """Karras sigmas round to t = 999 several times; a search for t would begin at the second of them."""
    scheduler = swapped(name, use_karras_sigmas=True)
    scheduler.set_timesteps(20)
    assert len(set(scheduler.timesteps.tolist())) < 20 or name.startswith("Euler")
    steps = list(guided(scheduler=scheduler).stream([0, 1], num_inference_steps=20, generator=seeded()))
    assert [step.timestep for step in steps] == scheduler.timesteps.tolist()
    assert float(steps[-1].prev_sample.sub(steps[-1].pred_original_sample).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("name", "near"),
    [("HeunDiscreteScheduler", 0.1), ("KDPM2DiscreteScheduler", 0.1), ("KDPM2AncestralDiscreteScheduler", 0.25)],
)
def test_second_order_schedulers_set_by_hand_do_not_blow_up(name: str, near: float) -> None:
    """From t = 999 of the shipped schedule, where sigma is 2e4, Heun's images are rubbish and KDPM2's faded."""
    pipe = quiet(ClassifierFreeGuidancePipeline.from_pretrained(ROOT / "model_cards" / "fashion-cfg"))
    options = {"class_labels": [1, 3, 7, 8], "output_type": "pt"}
    expected = pipe(num_inference_steps=20, generator=seeded(1), **options).images
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    found = pipe(num_inference_steps=10, generator=seeded(1), **options).images
    assert float((found - expected).square().mean().sqrt()) < near  # 0.46, 0.12 and 0.49 from t = 999


@pytest.mark.parametrize("make", [ddpm, ddim])
def test_the_unguided_pipelines_drive_schedulers_too(make: object) -> None:
    pipe = make(tiny_unet(out_channels=2))
    pipe.scheduler = swapped("DPMSolverMultistepScheduler")
    output = pipe(2, num_inference_steps=4, generator=seeded(), output_type="latent")
    assert output.nfe == 4
    assert output.images.shape == (2, 1, 8, 8)
    assert output.images.isfinite().all()


def test_heun_counts_both_evaluations_of_a_step() -> None:
    pipe = guided(scheduler=swapped("HeunDiscreteScheduler"))
    assert pipe(0, num_inference_steps=5, guidance_scale=1.0).nfe == 9
    assert pipe(0, num_inference_steps=5, guidance_scale=2.0).nfe == 18


@pytest.mark.parametrize("make", [ddim, guided])
def test_eta_belongs_to_our_own_steps(make: object) -> None:
    pipe = make()
    pipe.scheduler = swapped("UniPCMultistepScheduler")
    with pytest.raises(ValueError, match="^eta must be 0 with UniPC"):
        pipe.stream(batch_size=1, eta=0.5)
