"""Classifier-free guidance: the combination, what it costs, where it acts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from toys import CLASSES, SHIPPED, calls_seen, ddim, guided, mixture_denoiser, quiet, seeded, tiny_unet

from pipelines import ClassifierFreeGuidancePipeline, NoiseSchedule
from pipelines.classifier_free_guidance import guide

pytestmark = pytest.mark.usefixtures("two_threads")  # the spies compare what the network is given


def randn(seed: int) -> torch.Tensor:
    return torch.randn(3, 1, 4, 4, generator=seeded(seed))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 7.5])
def test_guidance_is_a_shift_away_from_the_unguided(scale: float) -> None:
    cond, uncond = randn(0).double(), randn(1).double()
    shift = ClassifierFreeGuidancePipeline.combine(cond, uncond, scale) - uncond
    torch.testing.assert_close(shift, scale * (cond - uncond), rtol=0, atol=1e-12)


def test_less_of_the_class_than_1_is_less_in_and_out_of_the_interval() -> None:
    """README: 0 is no class; models are saved with an interval."""
    pipe, told = guided(), {"num_inference_steps": 4, "output_type": "pt", "batch_size": 2}
    drawn = {
        (scale, interval): pipe("Dog", guidance_scale=scale, guidance_interval=interval, generator=seeded(), **told)
        for scale in (0.0, 0.5, 1.0)
        for interval in ((0.0, 1.0), (0.2, 0.8))
    }
    without = pipe(generator=seeded(), **told)
    for scale in (0.0, 0.5, 1.0):
        assert torch.equal(drawn[scale, (0.0, 1.0)].images, drawn[scale, (0.2, 0.8)].images)
    assert torch.equal(drawn[0.0, (0.2, 0.8)].images, without.images) and drawn[0.0, (0.2, 0.8)].nfe == 4
    assert not torch.equal(drawn[0.5, (0.0, 1.0)].images, without.images)


def test_names_of_other_classes_than_the_network_s_are_refused() -> None:
    for names in ({"0": "Cat"}, {str(index): name for index, name in enumerate("abcdef")}):
        pipe = quiet(ClassifierFreeGuidancePipeline(tiny_unet(4), DDPMScheduler(), names))
        with pytest.raises(ValueError, match=f"^id2label must name 3 classes, got {len(names)}"):
            pipe(0, num_inference_steps=1)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("t", [5, 300, 900])
def test_guidance_adds_the_score_of_the_class(scale: float, t: int) -> None:
    """grad log p(x_t) + s grad log p(y | x_t), differentiated from the densities of a mixture, is -eps / sigma_t."""
    abar = NoiseSchedule.linear().alphas_cumprod
    weights, means, stds = [0.3, 0.7], [-0.5, 0.6], [0.2, 0.3]
    denoiser = mixture_denoiser(weights, means, stds, abar)
    x = torch.linspace(-2, 2, 41, dtype=torch.float64).reshape(-1, 1, 1, 1).requires_grad_()
    a, b = float(abar[t]) ** 0.5, float(1 - abar[t]) ** 0.5
    parts = [
        math.log(w) - 0.5 * math.log(a * a * s * s + b * b) - 0.5 * (x - a * m) ** 2 / (a * a * s * s + b * b)
        for w, m, s in zip(weights, means, stds, strict=True)
    ]
    log_p = torch.logsumexp(torch.stack(parts), dim=0)
    (score,) = torch.autograd.grad((log_p + scale * (parts[1] - log_p)).sum(), x)
    labels = torch.ones(41, dtype=torch.int64)
    guided_eps = guide(denoiser, {"class_labels": labels}, {"class_labels": 2}, scale)(x.detach(), t)
    torch.testing.assert_close(-guided_eps / b, score, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [0.5, 2.0, 4.0])
def test_the_run_takes_the_combined_output(scale: float) -> None:
    """The outputs that the network gave, combined here, must give the eps and x_0 of each step."""
    pipe = guided(clip_sample=False, beta_schedule="linear")
    abar = pipe.scheduler.alphas_cumprod.double()
    with calls_seen(pipe) as seen:
        steps = list(pipe.stream([0, 1], num_inference_steps=4, guidance_scale=scale, generator=seeded()))
    assert len(seen) == len(steps) == 4
    for step, (x, _, labels, output) in zip(steps, seen, strict=True):
        assert labels.tolist() == [0, 1, 3, 3]
        assert torch.equal(x[:2], x[2:])
        assert torch.equal(x[:2], step.x_t)
        cond, uncond = output[:2], output[2:]
        v = uncond + scale * (cond - uncond)
        a, b = float(abar[step.timestep]) ** 0.5, float(1 - abar[step.timestep]) ** 0.5
        torch.testing.assert_close(step.pred_original_sample, a * x[:2] - b * v, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(step.eps, b * x[:2] + a * v, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("scale", "evaluations"), [(0.0, 1), (1.0, 1), (0.5, 2), (2.0, 2), (7.5, 2)])
@pytest.mark.parametrize("count", [1, 3])
def test_both_halves_take_one_call_and_none_is_wasted(scale: float, evaluations: int, count: int) -> None:
    pipe = guided()
    with calls_seen(pipe) as seen:
        nfe = pipe("dog", batch_size=count, num_inference_steps=5, guidance_scale=scale).nfe
    assert len(seen) == 5
    assert nfe == 5 * evaluations
    wanted = {0.0: [3] * count, 1.0: [1] * count}.get(scale, [1] * count + [3] * count)
    assert all(labels.tolist()[: len(wanted)] == wanted for _, _, labels, _ in seen)


def test_a_denoiser_is_called_once_a_step_with_no_row_to_spare() -> None:
    rows = []

    def denoiser(x: torch.Tensor, t: int, class_labels: torch.Tensor) -> torch.Tensor:
        rows.append((len(x), class_labels.tolist()))
        return x

    conditions, x = {"class_labels": torch.tensor([0, 2, 1])}, randn(0)
    for scale in (0.0, 1.0, 3.0):
        guide(denoiser, conditions, {"class_labels": 9}, scale)(x, 500)
    assert rows == [(3, [9, 9, 9]), (3, [0, 2, 1]), (6, [0, 2, 1, 9, 9, 9])]


def test_scale_one_is_the_conditional_network_alone() -> None:
    pipe = guided()
    plain = ddim(pipe.unet)
    options = dict(num_inference_steps=5, output_type="latent")
    for scale, label in ((1.0, 2), (0.0, 3)):
        ours = pipe(2, batch_size=4, guidance_scale=scale, generator=seeded(), **options).images
        theirs = plain(4, class_labels=[label] * 4, generator=seeded(), **options).images
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_no_label_draws_without_a_class_and_without_guidance() -> None:
    pipe = guided()
    options = dict(batch_size=2, num_inference_steps=3, output_type="latent")
    output = pipe(guidance_scale=5.0, generator=seeded(), **options)
    assert output.nfe == 3
    assert torch.equal(output.images, pipe(1, guidance_scale=0.0, generator=seeded(), **options).images)


def test_names_and_indices_mean_the_same_class() -> None:
    pipe = guided()
    options = dict(num_inference_steps=2, output_type="latent")
    by_name = pipe(["Fish", "cat"], generator=seeded(), **options).images
    assert torch.equal(by_name, pipe([2, 0], generator=seeded(), **options).images)
    assert not torch.equal(by_name, pipe([0, 2], generator=seeded(), **options).images)


def test_a_ddpm_scheduler_means_eta_one() -> None:
    pipe = guided(scheduler=DDPMScheduler(**SHIPPED))
    options = dict(class_labels=[0, 1], num_inference_steps=4, output_type="latent")
    default = pipe(generator=seeded(), **options).images
    assert torch.equal(default, pipe(eta=1.0, generator=seeded(), **options).images)
    assert not torch.equal(default, pipe(eta=0.0, generator=seeded(), **options).images)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.7), (0.5, 0.5), (0.0, 0.2)])
def test_exactly_the_steps_inside_the_interval_are_guided(interval: tuple[float, float]) -> None:
    pipe = guided()
    with calls_seen(pipe) as seen:
        output = pipe([0, 1, 2, 0], num_inference_steps=10, guidance_scale=3.0, guidance_interval=interval)
    inside = [interval[0] <= t / 999 <= interval[1] for t in range(999, 0, -100)]
    assert [len(x) == 8 for x, _, _, _ in seen] == inside
    outside = [labels.tolist() for x, _, labels, _ in seen if len(x) == 4]
    assert all(labels == [0, 1, 2, 0] for labels in outside)  # the conditional output alone
    assert output.nfe == 10 + sum(inside)


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_rescale_is_the_published_formula(share: float) -> None:
    cond, wide = randn(0), 4 * randn(1) + 0.2
    ours = ClassifierFreeGuidancePipeline.rescale(wide, cond, share)
    torch.testing.assert_close(ours, rescale_noise_cfg(wide, cond, share), rtol=1e-5, atol=1e-6)


def test_full_rescale_gives_each_image_the_spread_of_the_conditional_output() -> None:
    pipe = guided(clip_sample=False)
    with calls_seen(pipe) as seen:
        run = pipe.stream([0, 1], num_inference_steps=1, guidance_scale=6.0, guidance_rescale=1.0, generator=seeded())
        (step,) = list(run)
    cond = seen[0][3][:2]
    a, b = (float(x) ** 0.5 for x in (pipe.scheduler.alphas_cumprod[999], 1 - pipe.scheduler.alphas_cumprod[999]))
    v = a * step.eps - b * step.pred_original_sample
    torch.testing.assert_close(v.std((1, 2, 3)), cond.std((1, 2, 3)), rtol=1e-3, atol=1e-4)


def test_a_learned_variance_is_split_off() -> None:
    pipe = guided(tiny_unet(4, out_channels=2))
    assert pipe([0, 1], num_inference_steps=2, output_type="latent").images.shape == (2, 1, 8, 8)


def test_a_network_without_a_spare_class_is_refused() -> None:
    with pytest.raises(ValueError, match="^unet must"):
        guided(tiny_unet()).stream(batch_size=1)


def test_a_model_keeps_its_own_interval(tmp_path: Path) -> None:
    pipe = guided()
    own = ClassifierFreeGuidancePipeline(pipe.unet, pipe.scheduler, CLASSES, guidance_interval=(0.25, 0.75))
    own.save_pretrained(tmp_path / "model")
    loaded = quiet(ClassifierFreeGuidancePipeline.from_pretrained(tmp_path / "model"))
    options = dict(class_labels=[0, 1], num_inference_steps=8, guidance_scale=3.0, output_type="latent")
    expected = pipe(guidance_interval=(0.25, 0.75), generator=seeded(), **options)
    found = loaded(generator=seeded(), **options)
    assert torch.equal(found.images, expected.images) and found.nfe == expected.nfe < 16
    everywhere = loaded(guidance_interval=(0.0, 1.0), generator=seeded(), **options)
    assert torch.equal(everywhere.images, pipe(generator=seeded(), **options).images) and everywhere.nfe == 16
    with pytest.raises(ValueError, match="^guidance_interval must be a pair"):
        ClassifierFreeGuidancePipeline(pipe.unet, pipe.scheduler, CLASSES, guidance_interval=(0.8, 0.2))
