"""The laboratory against torch.distributions, numerical integration and automatic differentiation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from toys import mixture_denoiser, seeded

from pipelines import GaussianMixture, NoiseSchedule
from pipelines.classifier_free_guidance import guide
from pipelines.ddim import ddim_steps
from pipelines.ddpm import ancestral_steps

WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
LABELS = torch.tensor([1, 0, 1])
LEVELS = [(0.95, 0.31), (0.6, 0.8), (0.05, 0.9987)]


def full() -> tuple[GaussianMixture, Tensor, Tensor]:
    """Three components of four dimensions (1, 2, 2) with full covariances; means (K, D), covariances (K, D, D)."""
    root = torch.randn((3, 4, 4), generator=seeded(1), dtype=torch.float64) / 2
    covariances = root @ root.mT + 0.05 * torch.eye(4, dtype=torch.float64)
    means = torch.randn((3, 4), generator=seeded(2), dtype=torch.float64)
    mixture = GaussianMixture(means.reshape(3, 1, 2, 2), covariances=covariances, weights=WEIGHTS, labels=LABELS)
    return mixture, means, covariances


def log_density(x: Tensor, means: Tensor, covariances: Tensor, a: float, b: float) -> Tensor:
    """log w_k N(x; a m_k, a^2 C_k + b^2 I), (N, K)."""
    noisy = a * a * covariances + b * b * torch.eye(4, dtype=torch.float64)
    parts = [MultivariateNormal(a * m, c).log_prob(x.flatten(1)) for m, c in zip(means, noisy, strict=True)]
    return torch.stack(parts, 1) + WEIGHTS.log()


def points() -> Tensor:
    return torch.randn((5, 1, 2, 2), generator=seeded(3), dtype=torch.float64)


@pytest.mark.parametrize(("a", "b"), LEVELS)
def test_density_score_and_class_posterior_are_those_of_torch_distributions(a: float, b: float) -> None:
    mixture, means, covariances = full()
    x = points().requires_grad_()
    joint = log_density(x, means, covariances, a, b)
    torch.testing.assert_close(mixture.log_prob(x, a, b), joint.logsumexp(1), rtol=0, atol=1e-9)
    (score,) = torch.autograd.grad(joint.logsumexp(1).sum(), x, retain_graph=True)
    torch.testing.assert_close(mixture.score(x, a, b), score, rtol=0, atol=1e-9)
    of_class_1 = joint[:, [0, 2]].logsumexp(1)
    (score_1,) = torch.autograd.grad(of_class_1.sum(), x)
    ones = torch.ones(5, dtype=torch.int64)
    torch.testing.assert_close(mixture.score(x, a, b, ones), score_1, rtol=0, atol=1e-9)
    torch.testing.assert_close(mixture.log_prob(x, a, b, ones), of_class_1 - math.log(0.8), rtol=0, atol=1e-9)
    posterior = torch.stack([joint[:, 1], of_class_1], 1).log_softmax(1)
    torch.testing.assert_close(mixture.class_log_probs(x, a, b), posterior, rtol=0, atol=1e-9)
    torch.testing.assert_close(mixture.score(x, a, b, 2 * ones), score, rtol=0, atol=1e-9)  # 2: no class


@pytest.mark.parametrize(("a", "b"), LEVELS)
def test_predictions_follow_from_the_score(a: float, b: float) -> None:
    """Tweedie's formula, and the two ways to write x_t."""
    mixture, x = full()[0], points()
    score = mixture.score(x, a, b)
    x0, eps = mixture.predict_x0(x, a, b), mixture.predict_eps(x, a, b)
    torch.testing.assert_close(x0, (x + b * b * score) / a, rtol=0, atol=1e-7)
    torch.testing.assert_close(a * x0 + b * eps, x, rtol=0, atol=1e-12 / a)
    torch.testing.assert_close(mixture.velocity(x, a, b), a * eps - b * x0, rtol=0, atol=1e-12)


def test_the_predicted_x0_is_the_mean_of_the_posterior_by_integration() -> None:
    mixture = GaussianMixture([-0.5, 0.7], [0.2, 0.4], weights=[0.3, 0.7])
    a, b, grid = 0.6, 0.8, torch.linspace(-5, 5, 20001, dtype=torch.float64)
    for x in (-1.0, 0.1, 2.0):
        weight = (mixture.log_prob(grid) - 0.5 * ((x - a * grid) / b) ** 2).exp()
        expected = float((weight * grid).sum() / weight.sum())
        found = mixture.predict_x0(torch.tensor([x]), a, b)
        assert float(found) == pytest.approx(expected, abs=1e-9)


def test_samples_have_the_moments_of_the_mixture() -> None:
    mixture, means, covariances = full()
    x, labels = mixture.sample(200_000, seeded())
    flat = x.flatten(1)
    mean = (WEIGHTS[:, None] * means).sum(0)
    spread = covariances + means[:, :, None] * means[:, None]
    covariance = (WEIGHTS[:, None, None] * spread).sum(0) - mean[:, None] * mean
    torch.testing.assert_close(flat.mean(0), mean, rtol=0, atol=0.02)
    torch.testing.assert_close(flat.T.cov(), covariance, rtol=0, atol=0.04)
    assert float((labels == 1).double().mean()) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_it_stands_in_for_a_network(kind: str) -> None:
    """The same as the one-dimensional denoiser that the other tests write out, labels and dtype included."""
    schedule = NoiseSchedule.cosine()
    parts = dict(weights=[0.3, 0.7], means=[-0.5, 0.6], stds=[0.2, 0.3])
    reference = mixture_denoiser(**parts, alphas_cumprod=schedule.alphas_cumprod, kind=kind)
    mixture = GaussianMixture([[[[-0.5]]], [[[0.6]]]], [0.2, 0.3], weights=[0.3, 0.7])
    x, labels = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(9, 1, 1, 1), torch.tensor([0, 1, 2] * 3)
    ours = mixture.denoiser(schedule, kind)
    for t in (3, 500, 950):
        torch.testing.assert_close(ours(x, t), reference(x, t), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours(x, t, labels), reference(x, t, labels), rtol=1e-9, atol=1e-9)
    times = torch.tensor([3] * 4 + [950] * 5)
    one_by_one = torch.cat([ours(x[:4], 3), ours(x[4:], 950)])
    torch.testing.assert_close(ours(x, times), one_by_one, rtol=0, atol=1e-12)
    assert ours(x.float(), 500).dtype == torch.float32


def test_every_sampler_draws_the_mixture() -> None:
    """Correlated in two dimensions: mean and covariance of what DDPM, DDIM and a guided run draw."""
    schedule = NoiseSchedule.cosine(100)
    covariance = torch.tensor([[0.09, 0.06], [0.06, 0.08]], dtype=torch.float64)
    mixture = GaussianMixture([[[[0.4, -0.3]]]], covariances=covariance[None])
    denoiser, x_T = mixture.denoiser(schedule), torch.randn((20_000, 1, 1, 2), generator=seeded(), dtype=torch.float64)
    generator = seeded(1)

    def noise() -> Tensor:
        return torch.randn(x_T.shape, generator=generator, dtype=torch.float64)

    labels = torch.zeros(len(x_T), dtype=torch.int64)
    guided = guide(denoiser, {"class_labels": labels}, {"class_labels": 1}, 1.0)
    runs = {
        "ddpm": ancestral_steps(denoiser, x_T, schedule, noise=noise),
        "ddim": ddim_steps(denoiser, x_T, schedule),
        "cfg": ddim_steps(guided, x_T, schedule),
    }
    for name, steps in runs.items():
        for step in steps:
            x = step.prev_sample
        flat = x.reshape(-1, 2)
        assert float((flat.mean(0) - torch.tensor([0.4, -0.3])).abs().max()) < 0.02, name
        assert float((flat.T.cov() - covariance).abs().max()) < 0.01, name


def test_the_classifier_answers_as_a_trained_one_does() -> None:
    schedule, mixture = NoiseSchedule.cosine(), full()[0]
    classifier, x, t = mixture.classifier(schedule), points(), 300
    a, b = math.sqrt(schedule.alphas_cumprod[t]), math.sqrt(1 - schedule.alphas_cumprod[t])
    logits = classifier(x, t)
    torch.testing.assert_close(logits, mixture.class_log_probs(x, a, b), rtol=0, atol=1e-12)
    labels = torch.tensor([0, 1, 1, 0, 1])
    assert torch.equal(classifier.log_prob(x, t, labels), logits[torch.arange(5), labels])
    assert torch.equal(classifier.log_prob(x, t, 1), logits[:, 1])
    with torch.inference_mode():
        given = torch.ones(5, dtype=torch.long)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.clone().requires_grad_()
            gradient = torch.autograd.grad(classifier.log_prob(leaf, t, given).sum(), leaf)[0]
    assert gradient.abs().sum() > 0


def test_what_does_not_fit_is_named() -> None:
    good = dict(means=[[0.0, 1.0], [1.0, 0.0]], stds=1.0)
    bad = {
        "means": 3.0,
        "stds": -1.0,
        "weights": [1.0, 0.0],
        "labels": [0, -1],
        "covariances": torch.eye(3).expand(2, 3, 3),
    }
    for name, value in bad.items():
        arguments = good | {name: value} | ({"stds": None} if name == "covariances" else {})
        with pytest.raises(ValueError, match=f"^{name} must"):
            GaussianMixture(**arguments)
    with pytest.raises(ValueError, match="^stds must broadcast"):
        GaussianMixture(good["means"], stds=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="^give either stds or covariances"):
        GaussianMixture(good["means"])
    mixture = GaussianMixture(**good)
    with pytest.raises(ValueError, match=r"^x_t must be \(N, \*\(2,\)\), got \(4, 3\)"):
        mixture.score(torch.zeros(4, 3), 0.6, 0.8)
    with pytest.raises(ValueError, match="^prediction_type must be one of"):
        mixture.denoiser(NoiseSchedule.linear(), "score")
