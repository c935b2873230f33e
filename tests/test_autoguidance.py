"""Autoguidance: a worse network in the place of the one without a class, in every pipeline that has such a one."""

import copy
import json
from pathlib import Path

import pytest
import torch
from fresh_processes import run_elsewhere
from torch import Tensor
from toys import calls_seen, flow, guided, latent, score_sde, seeded
from training_runs import alone, trainer_of

from pipelines import ClassifierFreeGuidancePipeline, GaussianMixture, NoiseSchedule
from pipelines.base import StepwisePipeline
from pipelines.classifier_free_guidance import autoguide
from training.objectives.flow_matching import FlowMatching

MAKERS = {"cfg": guided, "flow": flow, "score_sde": score_sde, "latent": latent}
DRAW = """
import sys, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
generator = torch.Generator().manual_seed(0)
out = pipe("Dog", num_inference_steps=2, guidance_scale=2.0, generator=generator, output_type="pt")
torch.save(out.images, sys.argv[2])
"""


def with_guide(name: str) -> StepwisePipeline:
    pipe = MAKERS[name]()
    worse = copy.deepcopy(pipe.unet)
    worse.conv_out.weight.data.mul_(0.5)
    pipe.register_modules(guide_unet=worse)
    return pipe


def test_the_guided_score_leaves_the_guide_behind() -> None:
    """Of two exact models: score + (s - 1) (score - score of the wider one), at every point and level."""
    schedule, x = NoiseSchedule.cosine(100), torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1)
    narrow, wide = GaussianMixture([[-0.5], [0.6]], [0.2, 0.2]), GaussianMixture([[-0.5], [0.6]], [0.5, 0.5])
    for t in (10, 50, 90):
        a, b = schedule.marginal(t)
        denoiser = autoguide(narrow.denoiser(schedule), wide.denoiser(schedule), {}, 2.5)
        expected = narrow.score(x, a, b) + 1.5 * (narrow.score(x, a, b) - wide.score(x, a, b))
        torch.testing.assert_close(-denoiser(x, t) / b, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("scale", "asked"), [(1.0, ["good"]), (0.0, ["bad"]), (2.0, ["good", "bad"])])
def test_one_network_is_enough_at_scale_one_and_zero(scale: float, asked: list[str]) -> None:
    seen = []

    def network(name: str) -> object:
        def ask(x_t: Tensor, t: float, **conditions: Tensor) -> Tensor:
            seen.append((name, conditions["class_labels"].tolist()))
            return torch.full_like(x_t, 3.0 if name == "good" else 1.0)

        return ask

    denoiser = autoguide(network("good"), network("bad"), {"class_labels": torch.tensor([2])}, scale)
    output = denoiser(torch.zeros(1, 1, 2, 2), 5)
    assert seen == [(name, [2]) for name in asked], "the guide is given the label, too"
    assert torch.equal(output, torch.full((1, 1, 2, 2), 1.0 + scale * 2.0))


@pytest.mark.parametrize("name", MAKERS)
def test_a_pipeline_with_a_guide_asks_both_and_counts_both(name: str) -> None:
    pipe, plain = with_guide(name), MAKERS[name]()
    options = dict(num_inference_steps=1, output_type="latent", generator=seeded())
    options |= {"sampler": "euler_maruyama"} if name == "score_sde" else {}
    with calls_seen(pipe) as seen:
        out = pipe("Dog", guidance_scale=3.0, **options)
    assert out.nfe == 2 and len(seen) == 1
    assert bool((seen[0][2] == 1).all()), "no row without a class"
    unguided = plain("Dog", guidance_scale=1.0, **options | {"generator": seeded()})
    assert torch.equal(pipe("Dog", guidance_scale=1.0, **options | {"generator": seeded()}).images, unguided.images)
    assert not torch.equal(out.images, unguided.images)


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_saved_with_its_guide_and_draws_the_same_elsewhere(name: str, tmp_path: Path) -> None:
    pipe = with_guide(name)
    pipe.save_pretrained(tmp_path / "model")
    run_elsewhere(tmp_path, DRAW, str(tmp_path / "model"), str(tmp_path / "images.pt"))
    options = dict(num_inference_steps=2, guidance_scale=2.0, generator=seeded(), output_type="pt")
    assert torch.equal(torch.load(tmp_path / "images.pt"), pipe("Dog", **options).images)
    MAKERS[name]().save_pretrained(tmp_path / "plain")
    assert "guide_unet" not in json.loads((tmp_path / "plain/model_index.json").read_text())


def test_images_without_a_class_are_guided_too() -> None:
    out = with_guide("cfg")(batch_size=2, num_inference_steps=3, guidance_scale=2.0, generator=seeded())
    assert out.nfe == 6


def test_a_run_keeps_the_guide_of_the_update_asked_for(tmp_path: Path) -> None:
    with alone(tmp_path / "cache"):
        flags = {"class_conditional": True, "guide_step": 2, "max_train_steps": 4, "learning_rate": 1e-2}
        trainer = trainer_of(FlowMatching, tmp_path / "run", **flags)
        early = []
        trainer.objective.pipeline(trainer.averaged)
        update = trainer.update

        def updated() -> float:
            loss = update()
            if trainer.step == 2:
                early.extend(p.clone() for p in trainer.averages[0].shadow_params)
            return loss

        trainer.update = updated
        trainer.train()
    pipe = trainer.objective.pipeline(trainer.averaged).from_pretrained(tmp_path / "run")
    for kept, seen in zip(pipe.guide_unet.parameters(), early, strict=True):
        assert torch.equal(kept, seen)
    assert not torch.equal(pipe.unet.conv_out.weight, pipe.guide_unet.conv_out.weight)
    assert isinstance(pipe.guide_unet, type(pipe.unet)) and not isinstance(pipe, ClassifierFreeGuidancePipeline)
