"""The seam between data and noise: x_t = a x_0 + b eps, for processes that keep no a^2 + b^2 = 1 too."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toys import seeded

from pipelines import VESDE, VPSDE, GaussianMixture, LinearPath, NoiseSchedule, SubVPSDE, VariancePreservingPath
from pipelines.classifier_guidance import gradient_of, steer
from pipelines.process import output_of_x0, output_rate, predict_eps, predict_x0, velocity

KINDS = ("epsilon", "sample", "v_prediction")
LEVELS = [(0.8, 0.6), (1.0, 7.5), (0.3, 0.7), (0.05, 0.99)]  # variance preserving, exploding, a straight path, noise


class Exploding:
    """x_t = x_0 + t eps."""

    def marginal(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        return torch.ones_like(t), t


class Straight:
    """x_t = (1 - t) x_0 + t eps."""

    def marginal(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        return 1 - t, t


def pair(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn((2, 5, 1, 2, 2), generator=seeded(), dtype=torch.float64).to(dtype)


def output(kind: str, x0: Tensor, eps: Tensor, a: float, b: float) -> Tensor:
    return {"epsilon": eps, "sample": x0, "v_prediction": a * eps - b * x0}[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("a", "b"), LEVELS)
def test_what_a_network_predicts_gives_x0_and_eps(kind: str, a: float, b: float) -> None:
    x0, eps = pair()
    x_t, said = a * x0 + b * eps, output(kind, x0, eps, a, b)
    torch.testing.assert_close(predict_x0(said, x_t, a, b, kind), x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(predict_eps(said, x_t, a, b, kind), eps, rtol=0, atol=1e-12)
    torch.testing.assert_close(output_of_x0(x0, x_t, a, b, kind), said, rtol=0, atol=1e-11)
    torch.testing.assert_close(velocity(x0, eps, a, b), a * eps - b * x0, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("a", "b"), LEVELS)
def test_the_rate_of_the_output_is_its_derivative_by_eps(kind: str, a: float, b: float) -> None:
    x_t, eps = 0.4, torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(output(kind, (x_t - b * eps) / a, eps, a, b), eps, allow_unused=True)
    assert output_rate(a, b, kind) == pytest.approx(float(slope), rel=1e-12)


def test_levels_may_differ_from_image_to_image() -> None:
    x0, eps = pair(torch.float32)
    a, b = torch.rand((2, 5), generator=seeded(1), dtype=torch.float64) + 0.1
    wide = (-1, 1, 1, 1)
    x_t = a.reshape(wide).float() * x0 + b.reshape(wide).float() * eps
    found = predict_x0(velocity(x0, eps, a, b), x_t, a, b, "v_prediction")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, x0, rtol=0, atol=2e-6)


def test_between_two_steps_log_snr_is_interpolated() -> None:
    schedule = NoiseSchedule.cosine(100)
    a, b = schedule.marginal(torch.tensor([3, 99]))
    torch.testing.assert_close(a.square() + b.square(), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-15)
    for t in (3, 3.0, torch.tensor(3), torch.tensor(3.0)):
        assert float(schedule.marginal(t)[0]) == float(schedule.alphas_cumprod[3].sqrt())
    low, middle, high = (2 * math.log(float(a / b)) for a, b in map(schedule.marginal, (10, 10.25, 11)))
    assert middle == pytest.approx(0.75 * low + 0.25 * high, rel=1e-12)
    assert schedule.marginal(99.7) == schedule.marginal(99)  # nothing lies beyond the last step


@pytest.mark.parametrize(("process", "t"), [(Exploding(), 2.5), (Straight(), 0.4), (NoiseSchedule.linear(), 300)])
@pytest.mark.parametrize("kind", KINDS)
def test_exact_denoisers_and_steering_speak_any_process(process: object, t: float, kind: str) -> None:
    """Steered with the exact posterior at scale 1, the unconditional denoiser is the conditional one."""
    mixture = GaussianMixture([[[[-0.5, 0.2]]], [[[0.6, 0.4]]]], [0.3, 0.2])
    x_t, labels = torch.randn((4, 1, 1, 2), generator=seeded(), dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    denoiser, classifier = mixture.denoiser(process, kind), mixture.classifier(process)
    steered = steer(denoiser, lambda x, t: gradient_of(classifier.log_prob, x, t, labels), 1.0, process, kind)
    torch.testing.assert_close(steered(x_t, t), denoiser(x_t, t, class_labels=labels), rtol=0, atol=1e-9)
    assert float((steered(x_t, t) - denoiser(x_t, t)).abs().max()) > 1e-3


@pytest.mark.parametrize("process", [VPSDE(), SubVPSDE(), VESDE(), LinearPath(), VariancePreservingPath()])
@pytest.mark.parametrize("t", [-0.1, 1.01, 500.0, math.nan, torch.tensor([0.5, 999.0])])
def test_a_time_outside_is_refused(process: object, t: float | torch.Tensor) -> None:
    """1000 t is what networks are given: it is easily taken for t."""
    worst = "999" if isinstance(t, torch.Tensor) else f"{t:g}"
    with pytest.raises(ValueError, match=rf"t must be in \[0, 1\], got {worst}"):
        process.marginal(t)
    with pytest.raises(ValueError, match=rf"t must be in \[0, 1\], got {worst}"):
        process.marginal_rate(t)
    a, b = process.marginal(torch.tensor([1e-3, 1.0 + 1e-12]))
    assert bool((a >= -1e-9).all()) and bool((b > 0).all())
