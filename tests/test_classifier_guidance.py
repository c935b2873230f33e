"""Classifier guidance, as shifts against exact classifiers of mixtures, and as a pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterator

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from torch import Tensor
from toys import CLASSES, SHIPPED, calls_seen, ddim, ddpm, quiet, seeded, steered, tiny_classifier, tiny_unet

from pipelines import (
    ClassifierFreeGuidancePipeline,
    ClassifierGuidancePipeline,
    GaussianMixture,
    NoiseSchedule,
    NoisyClassifier,
)
from pipelines.classifier_guidance import gradient_of, guide_mean, steer
from pipelines.ddim import ddim_steps
from pipelines.ddpm import ancestral_steps
from pipelines.run import Step
from pipelines.solvers import scheduler_steps

KINDS = ("epsilon", "sample", "v_prediction")
CLIPPED_NOT = SHIPPED | {"clip_sample": False}


def mixture() -> GaussianMixture:
    """Two classes in two dimensions, one of them of two components with a full covariance."""
    means = torch.tensor([[0.6, -0.2], [-0.5, 0.4], [-0.3, -0.6]], dtype=torch.float64).reshape(3, 1, 1, 2)
    covariances = torch.tensor(
        [[[0.05, 0.02], [0.02, 0.04]], [[0.08, 0.0], [0.0, 0.03]], [[0.06, -0.03], [-0.03, 0.05]]]
    )
    return GaussianMixture(means, covariances=covariances, weights=[0.5, 0.3, 0.2], labels=[0, 1, 1])


def points(count: int = 6) -> Tensor:
    return torch.randn((count, 1, 1, 2), generator=seeded(), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 1, 0, 1, 0])


def exact_gradient(schedule: NoiseSchedule, labels: Tensor = LABELS) -> object:
    classifier = mixture().classifier(schedule)
    return lambda x, t: gradient_of(classifier.log_prob, x, t, labels[: len(x)])


def guided_ancestral_steps(
    denoiser: object, gradient: object, scale: float, x_T: Tensor, schedule: NoiseSchedule, **options: object
) -> Iterator[Step]:
    """Algorithm 1: ancestral steps whose mean is moved by `guide_mean`."""

    def shift(mean: Tensor, variance: Tensor, x_t: Tensor, t: int) -> Tensor:
        return guide_mean(mean, variance, gradient(x_t, t), scale)

    return ancestral_steps(denoiser, x_T, schedule, shift=shift, **options)


# --- the shifts ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("t", [3, 400, 900])
def test_the_eps_shift_is_classifier_free_guidance_with_bayes_rule(t: int, scale: float, kind: str) -> None:
    """eps(x) + s (eps(x, y) - eps(x)): the conditional eps itself at scale 1."""
    schedule, x = NoiseSchedule.linear(), points()
    exact = mixture().denoiser(schedule, kind)
    guided = steer(exact, exact_gradient(schedule), scale, schedule, kind)(x, t)
    plain, conditional = exact(x, t), exact(x, t, LABELS)
    expected = ClassifierFreeGuidancePipeline.combine(conditional, plain, scale)
    torch.testing.assert_close(guided - plain, expected - plain, rtol=1e-9, atol=1e-9)
    if scale == 1.0:
        torch.testing.assert_close(guided, conditional, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [3, 400, 999])
def test_a_solver_that_clips_nothing_is_given_a_clipped_x0(t: int, kind: str) -> None:
    """The same prediction where it is in range, the nearest in range elsewhere; x_t = a x_0 + b eps holds."""
    schedule, x = NoiseSchedule.cosine(), points()
    exact, gradient = mixture().denoiser(schedule, kind), exact_gradient(schedule)
    free = steer(exact, gradient, 3.0, schedule, kind)(x, t)
    held = steer(exact, gradient, 3.0, schedule, kind, lambda x0: x0.clamp(-0.4, 0.4))(x, t)
    a, b = schedule.alphas_cumprod[t].sqrt(), (1 - schedule.alphas_cumprod[t]).sqrt()
    x0, x0_held = (
        {"epsilon": (x - b * out) / a, "sample": out, "v_prediction": a * x - b * out}[kind] for out in (free, held)
    )
    assert not torch.equal(x0, x0_held) and float(x0_held.abs().max()) <= 0.4 + 1e-9
    torch.testing.assert_close(x0_held, x0.clamp(-0.4, 0.4), rtol=0, atol=1e-9)


def test_guide_eps_and_guide_mean_are_their_formulas() -> None:
    value, gradient = points(), 2 * points() + 1
    shift = ClassifierGuidancePipeline.guide_eps(value, gradient, 0.36, 2.5) - value
    torch.testing.assert_close(shift, -2.5 * 0.8 * gradient, rtol=0, atol=1e-12)
    shift = ClassifierGuidancePipeline.guide_mean(value, torch.tensor(0.3).double(), gradient, 2.5) - value
    torch.testing.assert_close(shift, 2.5 * float(torch.tensor(0.3)) * gradient, rtol=0, atol=1e-12)
    assert torch.equal(ClassifierGuidancePipeline.guide_mean(value, 0.3, gradient, 0.0), value)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("kept", [list(range(50)), [0, 9, 19, 29, 39, 49]], ids=["all", "respaced"])
def test_the_mean_shift_is_s_sigma_gradient(kept: list[int], variance: str) -> None:
    """Relative to the unguided step from the same point with the same noise, at every step of a run."""
    full = NoiseSchedule.cosine(50)
    schedule = full.respace(kept)
    exact, classifier = mixture().denoiser(full), mixture().classifier(full)

    def denoiser(x: Tensor, t: int) -> Tensor:
        return torch.cat([exact(x, t), torch.full_like(x, 0.4)], 1) if variance == "learned_range" else exact(x, t)

    x, noise = points(), torch.ones_like(points())

    def run(scale: float) -> list[Tensor]:
        """One step from x at every level, the highest first: a consumer may replace the sample between steps."""
        found = []
        gradient = exact_gradient(full)
        for step in guided_ancestral_steps(
            denoiser, gradient, scale, x, schedule, noise=lambda: noise, variance=variance
        ):
            found.append(step.prev_sample)
            step.prev_sample = x
        return found[::-1]

    steps = {scale: run(scale) for scale in (0.0, 1.0, 4.0, 1e-6)}
    for level in range(len(schedule)):
        abar, t = float(schedule.alphas_cumprod[level]), int(schedule.timesteps[level])
        before = float(schedule.alphas_cumprod[max(level - 1, 0)]) if level else 1.0
        large = 1 - abar / before
        # beta_tilde by adding up precisions; at t = 0 that of the next entry stands in
        next_before, next_abar = (before, abar) if level else (abar, float(schedule.alphas_cumprod[1]))
        next_large = 1 - next_abar / next_before
        small = 1 / (1 / (1 - next_before) + (1 - next_large) / next_large)
        sigma2 = {
            "fixed_small": small,
            "fixed_large": large if level else small,
            "learned_range": math.exp(0.7 * math.log(large) + 0.3 * math.log(small)),
        }[variance]
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(classifier.log_prob(leaf, t, LABELS).sum(), leaf)
        for scale in (1.0, 4.0, 1e-6):
            shift = steps[scale][level] - steps[0.0][level]
            torch.testing.assert_close(shift, scale * sigma2 * gradient, rtol=1e-7, atol=1e-9)
            assert float(shift.abs().max()) > 0


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler",
                                  "UniPCMultistepScheduler", "KDPM2DiscreteScheduler"])  # fmt: skip
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_driven_scheduler_follows_the_class_also_where_it_scales_its_input(name: str, kind: str) -> None:
    """Guided at scale 1 with exact parts, a sampler does what it does with the conditional denoiser."""
    scheduler = getattr(diffusers, name).from_config(DDIMScheduler(**CLIPPED_NOT).config, prediction_type=kind)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    log_sigma = -schedule.snr(torch.arange(1000)).log() / 2

    def levels(t: Tensor | float) -> tuple[float, float]:
        low = min(int(float(t)), 998)
        sigma = math.exp(float(torch.lerp(log_sigma[low], log_sigma[low + 1], float(t) - low)))
        return 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)

    def denoiser(x: Tensor, t: Tensor | float, labels: Tensor | None = None) -> Tensor:
        a, b = levels(t)
        exact = mixture()
        return exact.predict_eps(x, a, b, labels) if kind == "epsilon" else exact.velocity(x, a, b, labels)

    def log_prob(x: Tensor, t: Tensor | float, labels: Tensor) -> Tensor:
        return mixture().class_log_probs(x, *levels(t)).gather(1, labels[:, None]).squeeze(1)

    def gradient(x: Tensor, t: Tensor | float) -> Tensor:
        return gradient_of(log_prob, x, t, LABELS)

    def run(function: object) -> Tensor:
        steps = scheduler_steps(function, points(), scheduler, 8, schedule, [seeded(i) for i in range(6)])
        *_, last = steps
        return last.prev_sample

    guided = run(steer(denoiser, gradient, 1.0, schedule, kind))
    conditional = run(lambda x, t: denoiser(x, t, LABELS))
    torch.testing.assert_close(guided, conditional, rtol=0, atol=1e-6)
    assert float((guided - run(denoiser)).abs().max()) > 0.1


def test_samples_follow_the_class_more_closely_as_the_scale_grows() -> None:
    schedule = NoiseSchedule.cosine(100)
    exact, classifier = mixture().denoiser(schedule), mixture().classifier(schedule)
    x_T, labels = torch.randn((2000, 1, 1, 2), generator=seeded(), dtype=torch.float64), torch.ones(2000).long()
    gradient = exact_gradient(schedule, labels)
    shares = {"eps": [], "mean": []}
    for scale in (0.0, 1.0, 4.0):
        guided = steer(exact, gradient, scale, schedule, "epsilon")
        *_, step = ddim_steps(guided, x_T, schedule.respace(range(3, 100, 4)))
        shares["eps"].append(float(classifier(step.prev_sample, 0).exp()[:, 1].mean()))
        generator = seeded(1)

        def noise(generator: torch.Generator = generator) -> Tensor:
            return torch.randn(x_T.shape, generator=generator, dtype=torch.float64)

        *_, step = guided_ancestral_steps(exact, gradient, scale, x_T, schedule, noise=noise)
        shares["mean"].append(float(classifier(step.prev_sample, 0).exp()[:, 1].mean()))
    for share in shares.values():
        assert share[0] == pytest.approx(0.5, abs=0.04)  # the weight of class 1
        assert 0.9 < share[1] <= share[2] and share[2] > 0.99


# --- the pipeline ---


def scheduler(algorithm: str) -> diffusers.SchedulerMixin:
    return (DDPMScheduler if algorithm == "mean" else DDIMScheduler)(**SHIPPED)


@pytest.mark.parametrize("algorithm", ["mean", "eps"])
def test_scale_zero_is_the_unguided_sampler_and_costs_no_gradient(algorithm: str) -> None:
    pipe, plain = steered(scheduler=scheduler(algorithm)), (ddpm if algorithm == "mean" else ddim)()
    calls = []
    pipe.classifier.register_forward_hook(lambda *_: calls.append(1))
    options = dict(num_inference_steps=4, output_type="latent", batch_size=4)
    off = pipe("Dog", guidance_scale=0.0, generator=seeded(), **options).images
    without = pipe(generator=seeded(), guidance_scale=3.0, **options).images
    expected = plain(generator=seeded(), **options).images
    torch.testing.assert_close(off, expected, rtol=0, atol=1e-5)
    assert torch.equal(off, without) and calls == []
    on = pipe("Dog", guidance_scale=3.0, generator=seeded(), **options).images
    assert len(calls) == 4 and float((on - off).abs().max()) > 1e-3


@pytest.mark.parametrize("algorithm", ["mean", "eps"])
def test_the_run_takes_the_gradient_of_the_classifier(algorithm: str) -> None:
    """One step written out, from what the network answered."""
    pipe = steered(scheduler=scheduler(algorithm), clip_sample=False)
    pipe.scheduler.register_to_config(clip_sample=False)
    labels, scale, schedule = torch.tensor([2, 0, 1, 1]), 7.0, NoiseSchedule.cosine()
    with calls_seen(pipe) as seen:
        stream = pipe.stream(labels.tolist(), num_inference_steps=2, guidance_scale=scale, generator=seeded())
        first = next(stream)
        second = next(stream)
    x, t = second.x_t, 499
    leaf = x.clone().requires_grad_()
    log_prob = pipe.classifier(leaf, t).log_softmax(1)[torch.arange(4), labels].sum()
    (gradient,) = torch.autograd.grad(log_prob, leaf)
    v = seen[1][3][:4]
    abar = float(schedule.alphas_cumprod[t])
    a, b = math.sqrt(abar), math.sqrt(1 - abar)
    x0, eps = a * x - b * v, b * x + a * v
    if algorithm == "eps":
        shifted = eps - scale * b * gradient
        expected = (x - b * shifted) / a
    else:
        expected = x0 + scale * (1 - abar) * gradient  # respaced: t = 0, where beta_tilde is that of the next entry
        last = float(schedule.alphas_cumprod[999])
        small = (1 - abar) * (1 - last / abar) / (1 - last)
        expected = x0 + scale * small * gradient
    assert first.timestep == 999 and second.timestep == 499
    torch.testing.assert_close(second.prev_sample, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_gradients_stay_in_float32_when_the_network_runs_in_bfloat16(tmp_path: object) -> None:
    steered().save_pretrained(tmp_path / "model")
    pipe = quiet(ClassifierGuidancePipeline.from_pretrained(tmp_path / "model", dtype=torch.bfloat16))
    assert pipe.unet.dtype == torch.bfloat16
    seen = []
    pipe.classifier.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    step = next(pipe.stream(["Cat", "Dog"], num_inference_steps=3, guidance_scale=2.0, generator=seeded()))
    assert {p.dtype for p in pipe.classifier.parameters()} == {torch.float32} and set(seen) == {torch.float32}
    assert step.prev_sample.dtype == torch.float32
    exact = steered()
    log_prob = exact.classifier.log_prob
    labels = torch.tensor([0, 1])
    torch.testing.assert_close(
        gradient_of(pipe.classifier.log_prob, step.x_t, 999, labels),
        gradient_of(log_prob, step.x_t, 999, labels), rtol=0, atol=1e-6,
    )  # fmt: skip
    with torch.inference_mode():
        pipe("Cat", num_inference_steps=2, guidance_scale=2.0)


def test_a_class_conditional_network_gets_the_labels_too() -> None:
    pipe = steered(tiny_unet(4))
    with calls_seen(pipe) as seen:
        pipe(["Fish", "Cat"], num_inference_steps=2, guidance_scale=1.0)
        pipe(batch_size=2, num_inference_steps=1)
    assert [labels.tolist()[:2] for _, _, labels, _ in seen] == [[2, 0], [2, 0], [3, 3]]


def test_what_cannot_be_steered_is_named() -> None:
    pipe = steered()
    bad = {
        "guidance_scale": [math.nan, -1.0, math.inf],
        "num_inference_steps": [0, 1001],
        "eta": [-0.1],
        "class_labels": ["Cow", 3],
        "guide": [object()],
    }
    for name, values in bad.items():
        for value in values:
            with pytest.raises(ValueError, match=f"^{name} must"):
                pipe(**{"class_labels": "Dog"} | {name: value})
    with pytest.raises(ValueError, match="^eta must be 0 with DDPMScheduler"):
        steered(scheduler=scheduler("mean"))("Dog", eta=0.5)
    without = quiet(ClassifierGuidancePipeline(tiny_unet(4), DDIMScheduler(**SHIPPED), None, CLASSES))
    with pytest.raises(ValueError, match="^guide must be given to draw a class: this pipeline has no classifier"):
        without("Dog")
    with pytest.raises(ValueError, match="^guide must be given to follow a condition, got None with condition 'a dog'"):
        pipe(batch_size=1, condition="a dog")
    with pytest.raises(ValueError, match="^unet must know a label for"):
        quiet(ClassifierGuidancePipeline(tiny_unet(3), DDIMScheduler(**SHIPPED), None, CLASSES)).predict_x0(
            torch.zeros(1, 1, 8, 8), 3
        )
    other = quiet(ClassifierGuidancePipeline(tiny_unet(4), DDIMScheduler(**SHIPPED), tiny_classifier(8, 5)))
    with pytest.raises(ValueError, match="^unet and classifier must know the same classes, got 4 and 5"):
        other(1)


def test_a_pipeline_without_a_classifier_is_saved_and_loaded(tmp_path: object) -> None:
    pipe = quiet(ClassifierGuidancePipeline(tiny_unet(), DDIMScheduler(**SHIPPED)))
    pipe.save_pretrained(tmp_path / "model")
    loaded = quiet(DiffusionPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True))
    assert loaded.classifier is None
    options = dict(batch_size=2, num_inference_steps=2, output_type="latent")
    assert torch.equal(loaded(generator=seeded(), **options).images, pipe(generator=seeded(), **options).images)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "UniPCMultistepScheduler"])
def test_a_schedule_that_ends_in_pure_noise_is_guided_after_its_first_step(name: str, kind: str) -> None:
    """At abar = 0 no shift of eps moves x_0; at the later steps it does."""
    process = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": kind}
    pipe = steered(scheduler=getattr(diffusers, name)(**process))
    options = {"num_inference_steps": 4, "output_type": "latent"}
    plain, guided = (pipe("Dog", guidance_scale=s, generator=seeded(), **options).images for s in (0.0, 5.0))
    assert plain.isfinite().all() and guided.isfinite().all() and not torch.equal(plain, guided)


def test_predicted_x0_of_a_conditional_network_is_that_without_a_class() -> None:
    pipe = quiet(ClassifierGuidancePipeline(tiny_unet(4), DDIMScheduler(**SHIPPED), None, CLASSES))
    assert pipe.null_label == 3
    x, schedule = torch.randn((2, 1, 8, 8), generator=seeded()), NoiseSchedule.from_scheduler(pipe.scheduler)
    output = pipe.network(x, 30, class_labels=torch.full((2,), 3))
    expected = schedule.predict_x0(output, x, 30, pipe.scheduler.config.prediction_type)
    assert torch.equal(pipe.predict_x0(x, 30), expected)


def test_any_object_with_log_prob_can_steer() -> None:
    """log p = -(x - c)^2 / 2 pulls towards c."""

    class Pull:
        def log_prob(self, x_t: Tensor, t: Tensor | float, condition: float) -> Tensor:
            return -0.5 * (x_t - condition).square().flatten(1).sum(1)

    pipe = quiet(ClassifierGuidancePipeline(tiny_unet(), DDIMScheduler(**CLIPPED_NOT)))
    options = dict(batch_size=3, num_inference_steps=5, output_type="latent")
    means = [
        float(pipe(guide=Pull(), condition=c, guidance_scale=s, generator=seeded(), **options).images.mean())
        for c, s in ((0.0, 0.0), (3.0, 0.3), (-3.0, 0.3))
    ]
    assert means[1] > means[0] > means[2]


def test_the_classifier_is_a_component_like_any_other() -> None:
    pipe = steered()
    assert isinstance(pipe.classifier, NoisyClassifier) and pipe.num_classes == 3
    assert pipe.class_names == ["Cat", "Dog", "Fish"]
