"""The losses of flow matching and score matching: written out, at the times asked for, and on exact models."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from scipy.stats import kstest, norm
from torch import Tensor
from training_runs import network_file, noise_images, settings_of

from pipelines import VESDE, VPSDE, FlowMatchingPipeline, GaussianMixture, NoiseSchedule, ScoreSDEPipeline, SubVPSDE
from training.metrics.ode_bits_per_dim import ode_of
from training.objectives.denoising import Denoising
from training.objectives.flow_matching import FlowMatching
from training.objectives.score_matching import ScoreMatching
from training.randomness import BatchRandom

FLAGS = {"train_batch_size": 4, "max_train_steps": 6, "lr_warmup_steps": 2, "report_to": "none"}


def built(kind: type, folder: Path, classes: int | None = 2, **flags: object) -> object:
    config = network_file(folder / "network.json", dropout=0.0)
    flags = FLAGS | {"output_dir": str(folder / "run"), "model_config_name_or_path": config} | flags
    recipe, options = settings_of(kind, flags)
    return kind.build(recipe, options, noise_images(12, classes=classes))


def batch(count: int = 8) -> dict[str, Tensor]:
    data = noise_images(count)
    images = torch.from_numpy(data.images).float() / 127.5 - 1
    return {"images": images, "labels": torch.from_numpy(data.labels)}


class Spy(torch.nn.Module):
    """Keeps what it is asked and answers with ones."""

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None, return_dict: bool = True) -> tuple:
        self.seen = (x, t, class_labels)
        return (torch.ones_like(x),)


# ----------------------------------------------------------------------------------------------------- flow matching


@pytest.mark.parametrize("path", ["linear", "variance_preserving"])
def test_the_flow_loss_is_the_error_of_the_velocity(path: str, tmp_path: Path) -> None:
    task = built(FlowMatching, tmp_path, path=path, class_conditional=True, label_dropout=0.0)
    task.network = Spy()
    given = batch()
    loss = float(task.loss(given, BatchRandom(0, 3, 0, 8, 8)))
    rng = BatchRandom(0, 3, 0, 8, 8)
    eps, t = rng.normal("noise", (1, 8, 8)).numpy().astype(np.float64), rng.stratified("t").numpy()
    x0, t4 = given["images"].numpy().astype(np.float64), t.reshape(-1, 1, 1, 1)
    if path == "linear":
        x, target = (1 - t4) * x0 + t4 * eps, eps - x0
    else:
        a, b = np.cos(np.pi / 2 * t4), np.sin(np.pi / 2 * t4)
        x, target = a * x0 + b * eps, np.pi / 2 * (a * eps - b * x0)
    seen, times, labels = task.network.seen
    np.testing.assert_allclose(seen.numpy(), x, atol=1e-5)
    np.testing.assert_allclose(times.numpy(), 1000 * t, rtol=1e-5)
    assert labels.tolist() == given["labels"].tolist()
    assert loss == pytest.approx(((1 - target) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "cdf"),
    [
        ({}, "uniform"),
        (
            {"weighting_scheme": "logit_normal", "logit_mean": -0.4, "logit_std": 1.3},
            lambda t: norm.cdf((np.log(t / (1 - t)) + 0.4) / 1.3),
        ),
    ],
)
def test_times_have_the_distribution_asked_for(flags: dict, cdf: object, tmp_path: Path) -> None:
    task = built(FlowMatching, tmp_path, **flags)
    times = task.times(BatchRandom(0, 0, 0, 4096, 4096)).numpy()
    assert kstest(times, cdf).statistic < 1e-3, "stratified: far below that of independent draws"


def test_the_saved_flow_has_the_time_convention_of_diffusers(tmp_path: Path) -> None:
    task = built(FlowMatching, tmp_path, path="variance_preserving", class_conditional=True)
    pipe = task.pipeline(task.network)
    assert isinstance(pipe, FlowMatchingPipeline) and isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler)
    assert pipe.config.path == "variance_preserving" and pipe.class_names == ["bird", "cat"]
    pipe.save_pretrained(tmp_path / "saved")
    more = built(FlowMatching, tmp_path, class_conditional=True, pretrained_model_name_or_path=str(tmp_path / "saved"))
    assert more.pipeline(more.network).config.path == "variance_preserving", "that of what is fine-tuned"


# ---------------------------------------------------------------------------------------------------- score matching


@pytest.mark.parametrize("sde", ["vp", "subvp", "ve"])
@pytest.mark.parametrize("weighting", ["variance", "likelihood"])
def test_the_score_loss_is_that_of_the_papers(sde: str, weighting: str, tmp_path: Path) -> None:
    task = built(ScoreMatching, tmp_path, sde=sde, loss_weighting=weighting)
    task.network = Spy()
    given = batch()
    losses = task.losses(given, BatchRandom(0, 3, 0, 8, 8)).double().numpy()
    rng = BatchRandom(0, 3, 0, 8, 8)
    end = 1e-5 if sde == "ve" else 1e-3
    z, t = rng.normal("noise", (1, 8, 8)).double().numpy(), end + (1 - end) * rng.stratified("t").numpy()
    x0 = given["images"].double().numpy()
    integral = 0.1 * t + 19.9 * t * t / 2
    a = np.ones_like(t) if sde == "ve" else np.exp(-0.5 * integral)
    b = {"ve": 0.01 * 5000**t, "vp": np.sqrt(1 - a**2), "subvp": 1 - a**2}[sde]
    g2 = {
        "ve": b**2 * 2 * math.log(5000),
        "vp": 0.1 + 19.9 * t,
        "subvp": (0.1 + 19.9 * t) * (1 - np.exp(-2 * integral)),
    }[sde]
    column = (-1, 1, 1, 1)
    noised = a.reshape(column) * x0 + b.reshape(column) * z
    score = np.ones_like(x0) if sde == "ve" else -1 / b.reshape(column)
    expected = ((b.reshape(column) * score + z) ** 2).reshape(8, -1).mean(1)
    expected = expected * (g2 / b**2 if weighting == "likelihood" else 1)
    np.testing.assert_allclose(losses, expected, rtol=2e-4)
    seen, asked, _ = task.network.seen
    size = 1.0 if sde == "ve" else np.sqrt(a**2 + b**2).reshape(column)
    np.testing.assert_allclose(seen.numpy(), noised / size, rtol=1e-4, atol=1e-4)
    if sde == "ve":
        np.testing.assert_allclose(asked.numpy(), b, rtol=1e-5)


def test_the_noise_levels_of_ncsn_are_a_geometric_series(tmp_path: Path) -> None:
    task = built(ScoreMatching, tmp_path, ncsn_levels=10, sigma_max=5.0)
    t, weights = task.times(BatchRandom(0, 0, 0, 100, 100))
    sigmas = torch.unique(VESDE(0.01, 5.0).sigma(t))
    assert len(sigmas) == 10 and bool((weights == 1).all())
    np.testing.assert_allclose((sigmas[1:] / sigmas[:-1]).numpy(), 500 ** (1 / 9), rtol=1e-3)


@pytest.mark.parametrize("sde", ["vp", "ve"])
def test_importance_sampling_leaves_the_mean_loss_as_it_is(sde: str, tmp_path: Path) -> None:
    """E over t ~ p of w/p times anything is the mean over uniform t of w times it, and the weights are alike."""
    found = []
    for importance in (False, True):
        task = built(ScoreMatching, tmp_path, sde=sde, loss_weighting="likelihood", importance_sampling=importance)
        t, weight = task.times(BatchRandom(0, 0, 0, 20_000, 20_000))
        found.append(float((weight * (1 + t) ** 2).mean()))
    assert float(weight.std() / weight.mean()) < 1e-12
    assert found[1] == pytest.approx(found[0], rel=0.02)


class Shifted(torch.nn.Module):
    """eps of the exact score of `mixture`, scaled and shifted; keeps b^2 |s - score|^2 of each image, (N,)."""

    def __init__(self, mixture: GaussianMixture, schedule: NoiseSchedule, scale: float, shift: float) -> None:
        super().__init__()
        self.mixture, self.schedule, self.scale, self.shift = mixture, schedule, scale, shift

    def forward(self, x: Tensor, step: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        a, b = self.schedule.marginal(step.double())
        score = self.mixture.score(x.double(), a, b)
        s = self.scale * score + self.shift
        self.explicit = (b.reshape(-1, 1, 1, 1) * (s - score)).square().flatten(1).mean(1)
        return ((-b.reshape(-1, 1, 1, 1) * s).to(x),)


def test_the_loss_is_explicit_score_matching_but_for_a_constant(tmp_path: Path) -> None:
    """Of the trainer's own loss, over all times, with networks near the exact one and far from it."""
    count = 300_000
    mixture = GaussianMixture(torch.tensor([-0.5, 0.7]).double().reshape(2, 1, 1, 1), [0.2, 0.3])
    x0 = mixture.sample(count, torch.Generator().manual_seed(0))[0].float()
    constants = []
    for scale, shift in ((1.0, 0.0), (0.5, 0.3), (-1.0, 0.1)):
        task = built(ScoreMatching, tmp_path, sde="vp", classes=None)
        task.network = Shifted(mixture, task.steps, scale, shift)
        denoising = float(task.losses({"images": x0}, BatchRandom(0, 3, 0, count, count)).mean())
        constants.append(denoising - float(task.network.explicit.mean()))
    print("constants", constants)
    assert constants == pytest.approx([constants[0]] * 3, abs=0.01) and constants[0] > 0.02


def test_explicit_and_denoising_score_matching_differ_by_a_constant() -> None:
    """Vincent 2011: for any s, E |s - grad log p(x_t)|^2 = E |s - grad log p(x_t | x_0)|^2 - C, whatever s is."""
    mixture, sde, t = GaussianMixture([-0.5, 0.7], [0.2, 0.3]), VPSDE(), 0.3
    a, b = (float(v) for v in sde.marginal(t))
    x0, z = mixture.sample(400_000, torch.Generator().manual_seed(0))[0], torch.randn(400_000).double()
    x = a * x0 + b * z
    constants = []
    for scale, shift in ((1.0, 0.0), (0.5, 0.3), (-1.0, 0.1)):
        s = scale * mixture.score(x, a, b) + shift
        explicit = (s - mixture.score(x, a, b)).square().mean()
        denoising = (s + z / b).square().mean()
        constants.append(float(denoising - explicit))
    print("constants", constants)
    assert constants == pytest.approx([constants[0]] * 3, rel=0.03)


def test_what_a_vp_network_learned_is_what_its_pipeline_asks(tmp_path: Path) -> None:
    task = built(ScoreMatching, tmp_path, sde="vp", beta_max=10.0)
    pipe = task.pipeline(task.network)
    assert isinstance(pipe, ScoreSDEPipeline)
    sde = pipe.make_sde()
    assert (sde.beta_min, sde.beta_max) == pytest.approx((0.1, 10.0))
    schedule = NoiseSchedule.from_scheduler(pipe.scheduler)
    a, b = sde.marginal(torch.tensor([0.2, 0.9]))
    torch.testing.assert_close(task.steps.time_of(a, b), schedule.time_of(a, b))
    back = schedule.marginal(schedule.time_of(a, b))
    torch.testing.assert_close(back[0] / back[1], a / b, rtol=1e-6, atol=0)


def test_what_a_subvp_network_learned_is_what_its_saved_pipeline_asks(tmp_path: Path) -> None:
    """Step 1000 t - 1 at every t, also where there is less noise than in DDPM's first step, and sub-VP by default."""
    task = built(ScoreMatching, tmp_path, sde="subvp", beta_max=10.0)
    task.pipeline(task.network).save_pretrained(tmp_path / "saved")
    pipe = ScoreSDEPipeline.from_pretrained(tmp_path / "saved")
    sde = pipe.make_sde()
    assert isinstance(sde, SubVPSDE) and (sde.beta_min, sde.beta_max) == pytest.approx((0.1, 10.0))
    t = torch.tensor([1e-3, 5e-3, 0.02, 0.3, 1.0], dtype=torch.float64)
    for asked in (task.steps, pipe.trained):
        torch.testing.assert_close(asked.time_of(*sde.marginal(t)), 1000 * t - 1, rtol=0, atol=1e-6)
    _, process, end = ode_of(pipe)
    assert isinstance(process, SubVPSDE) and end == 1e-3, "its likelihood is under its own process, too"
    with pytest.raises(ValueError, match="sde must be subvp for the network of .*, got 'vp'"):
        built(ScoreMatching, tmp_path, sde="vp", pretrained_model_name_or_path=str(tmp_path / "saved"))


@pytest.mark.parametrize(
    ("said", "kind", "flags"),
    [
        ("path must be one of linear, variance_preserving, got 'bent'", FlowMatching, {"path": "bent"}),
        ("weighting_scheme must be one of none, logit_normal", FlowMatching, {"weighting_scheme": "mode"}),
        (r"logit_std must be in \[0.001, 10\], got 0", FlowMatching, {"logit_std": 0}),
        ("sde must be one of vp, subvp, ve, got 'edm'", ScoreMatching, {"sde": "edm"}),
        ("sigma_min, sigma_max must be 0 < sigma_min", ScoreMatching, {"sigma_min": 0.0}),
        ("importance_sampling must be False unless", ScoreMatching, {"importance_sampling": True}),
        ("class_conditional must be False for data without labels", FlowMatching, {"class_conditional": True}),
        ("class_conditional must be False for data without labels", ScoreMatching, {"class_conditional": True}),
    ],
)
def test_bad_flags_are_named_before_any_work(said: str, kind: type, flags: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        built(kind, tmp_path, classes=None, **flags)


def test_denoising_does_not_go_on_from_a_flow_or_an_sde(tmp_path: Path) -> None:
    """Their times and outputs mean something else: a default schedule would be taken for theirs."""
    starts = {
        "flow_matching": built(FlowMatching, tmp_path),
        "score_matching": built(ScoreMatching, tmp_path, sde="ve"),
    }
    for objective, task in starts.items():
        task.pipeline(task.network).save_pretrained(tmp_path / objective)
        with pytest.raises(ValueError, match=f"objective must be {objective} to go on from .*, got denoising"):
            built(Denoising, tmp_path, pretrained_model_name_or_path=str(tmp_path / objective))
    vp = built(ScoreMatching, tmp_path, sde="vp")
    vp.pipeline(vp.network).save_pretrained(tmp_path / "vp")
    built(Denoising, tmp_path, pretrained_model_name_or_path=str(tmp_path / "vp"))  # DDPM's own steps


def test_a_network_of_another_process_is_refused(tmp_path: Path) -> None:
    task = built(ScoreMatching, tmp_path, sde="ve")
    task.pipeline(task.network).save_pretrained(tmp_path / "ve")
    with pytest.raises(ValueError, match="sde must be ve for the network of .*, got 'vp'"):
        built(ScoreMatching, tmp_path, sde="vp", pretrained_model_name_or_path=str(tmp_path / "ve"))
