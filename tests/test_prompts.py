"""Prompts: embeddings against transformers', guidance, seeds, schedulers of flows, folders, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from fresh_processes import run_elsewhere
from text_models import NETWORKS, WIDTH, text_pipeline, text_unet, tiny_bert, tiny_clip, tiny_tokenizer
from torch import Tensor
from toys import calls_seen, seeded, two
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from pipelines import LatentDiffusionPipeline
from pipelines.text import embed, unread

FLOW_SOLVERS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def drawn(pipe: LatentDiffusionPipeline, prompt: object = "a red apple", **options: object) -> Tensor:
    given = {"num_inference_steps": 3, "generator": seeded(), "output_type": "latent"} | options
    return pipe(prompt, **given).images


def test_an_embedding_is_the_mean_of_the_tokens_that_count() -> None:
    encoder, tokenizer = tiny_bert(), tiny_tokenizer()
    found = embed(encoder, tokenizer, ["a red apple", "fox"])
    alone = encoder(torch.tensor([[2, 4, 5, 8, 3]])).last_hidden_state
    torch.testing.assert_close(found.tokens[0, :5], alone[0], rtol=1e-5, atol=1e-5)
    assert found.mask.tolist() == [[1.0] * 5 + [0.0] * 7, [1.0] * 3 + [0.0] * 9]
    mean = alone[0].mean(0)
    torch.testing.assert_close(found.pooled[0], mean / mean.square().mean().sqrt(), rtol=1e-5, atol=1e-5)


def test_of_clip_all_tokens_count_and_its_own_embedding_is_taken() -> None:
    encoder, tokenizer = tiny_clip(), tiny_tokenizer()
    found = embed(encoder, tokenizer, ["a red apple"])
    expected = encoder(torch.tensor([[2, 4, 5, 8, 3] + [0] * 7]))
    torch.testing.assert_close(found.tokens, expected.last_hidden_state)
    own = expected.pooler_output
    torch.testing.assert_close(found.pooled, own / own.square().mean().sqrt())
    assert found.mask.min() == 1


@pytest.mark.parametrize("told", NETWORKS)
def test_guidance_leads_away_from_the_empty_or_the_negative_prompt(told: str) -> None:
    pipe = text_pipeline(told)

    def velocity(prompt: str, scale: float, **more: object) -> Tensor:
        step = next(pipe.stream(prompt, num_inference_steps=3, guidance_scale=scale, generator=seeded(), **more))
        return step.eps - step.pred_original_sample

    own, empty, negative = (velocity(prompt, 1.0) for prompt in ("a red apple", "", "blue pear"))
    assert (own - empty).abs().max() > 1e-3 and (own - negative).abs().max() > 1e-3
    torch.testing.assert_close(velocity("a red apple", 0.0), empty, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(velocity("a red apple", 3.0), empty + 3 * (own - empty), rtol=1e-4, atol=1e-4)
    led = velocity("a red apple", 3.0, negative_prompt="blue pear")
    torch.testing.assert_close(led, negative + 3 * (own - negative), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(velocity(None, 3.0), empty, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("told", NETWORKS)
def test_one_seed_and_prompt_is_one_image_in_any_batch_of_prompts(told: str) -> None:
    pipe = text_pipeline(told)
    prompts = ["a red apple", "a fox with a hat in the style of noto", "", "a red apple"]
    together = drawn(pipe, prompts, generator=[seeded(i) for i in range(4)])
    for i in (0, 1, 3):
        torch.testing.assert_close(drawn(pipe, prompts[i], generator=[seeded(i)])[0], together[i], rtol=0, atol=0)
    several = drawn(pipe, batch_size=3)
    torch.testing.assert_close(drawn(pipe), several[:1], rtol=0, atol=0)


def test_a_stock_network_with_cross_attention_is_told_prompts_too() -> None:
    pipe = text_pipeline(unet=text_unet("tokens", stock=True))
    assert (drawn(pipe) - drawn(pipe, "blue pear")).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_steps_of_diffusion_are_those_of_the_stock_scheduler(kind: str) -> None:
    scheduler = DDIMScheduler(clip_sample=False, prediction_type=kind)
    pipe = text_pipeline(scheduler=scheduler, path=None)
    given = pipe.prompts(["a red apple"])["class_labels"]
    z = torch.randn(1, 4, 8, 8, generator=seeded())
    scheduler.set_timesteps(3)
    for t in scheduler.timesteps:
        with torch.no_grad():
            output = pipe.unet(z, t, class_labels=given).sample
        z = scheduler.step(output, t, z).prev_sample
    torch.testing.assert_close(drawn(pipe, guidance_scale=1.0), z, rtol=1e-4, atol=1e-4)


def test_euler_of_a_flow_is_the_stock_scheduler_s() -> None:
    pipe, stock = text_pipeline(), FlowMatchEulerDiscreteScheduler(shift=2.0)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    given = pipe.prompts(["a red apple"])["class_labels"]
    z = torch.randn(1, 4, 8, 8, generator=seeded())
    stock.set_timesteps(sigmas=np.linspace(1, 1 / 3, 3))
    for t in stock.timesteps:
        with torch.no_grad():
            output = pipe.unet(z, t, class_labels=given).sample
        z = stock.step(output, t, z).prev_sample
    torch.testing.assert_close(drawn(pipe, guidance_scale=1.0), z, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def exact() -> Tensor:
    """Where the flow of the tiny network ends, of many small steps."""
    return drawn(text_pipeline(), guidance_scale=1.0, num_inference_steps=300)


@pytest.mark.parametrize(
    "scheduler, evaluations",
    [
        (UniPCMultistepScheduler(**FLOW_SOLVERS), 20),
        (DPMSolverMultistepScheduler(**FLOW_SOLVERS), 20),
        (FlowMatchHeunDiscreteScheduler(), 39),
    ],
)
def test_other_solvers_of_flows_reach_the_same_image(scheduler: object, evaluations: int, exact: Tensor) -> None:
    pipe = text_pipeline()
    assert (drawn(pipe, guidance_scale=1.0, num_inference_steps=20) - exact).abs().max() > 0.011, "Euler's error"
    pipe.scheduler = scheduler
    found = pipe("a red apple", guidance_scale=1.0, num_inference_steps=20, generator=seeded(), output_type="latent")
    assert found.nfe == evaluations
    assert (found.images - exact).abs().max() < 0.0065


LOAD = """
import sys
import torch
from accelerate import cpu_offload
from diffusers import DiffusionPipeline

for folder in sys.argv[1:]:  # the second is written by the first
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    generator = torch.Generator().manual_seed(0)
    images = pipe(["a red apple", "a fox"], num_inference_steps=3, generator=generator, output_type="np").images
    print(*images.ravel()[::64].round(4))
    pipe.save_pretrained(sys.argv[2])
"""


def test_a_folder_draws_the_same_elsewhere_and_when_it_is_saved_again(tmp_path: Path) -> None:
    pipe = text_pipeline("both")
    pipe.save_pretrained(tmp_path / "model")
    images = pipe(["a red apple", "a fox"], num_inference_steps=3, generator=seeded(), output_type="np").images
    here = images.ravel()[::64]
    said = run_elsewhere(tmp_path / "elsewhere", LOAD, str(tmp_path / "model"), str(tmp_path / "again"))
    there = np.array(said.split()[-2 * len(here) :], dtype=float).reshape(2, -1)
    np.testing.assert_allclose(there, [here, here], rtol=0, atol=1e-3)
    ours = LatentDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert ours.takes_prompts and ours.config.path == "linear"


def test_autoguidance_leads_away_from_the_guide_told_the_same_prompt() -> None:
    guide = text_unet()
    guide.conv_out.weight.data.mul_(0.5)
    pipe, of_guide = text_pipeline(), text_pipeline(unet=guide)
    pipe.register_modules(guide_unet=guide)

    def velocity(drawn_by: LatentDiffusionPipeline, scale: float) -> Tensor:
        step = next(drawn_by.stream("a red apple", num_inference_steps=3, guidance_scale=scale, generator=seeded()))
        return (step.x_t - step.prev_sample) * 3  # of the first of Euler's three steps

    alone, worse = velocity(pipe, 1.0), velocity(of_guide, 1.0)
    assert (alone - worse).abs().max() > 0.01
    torch.testing.assert_close(velocity(pipe, 3.0), worse + 3 * (alone - worse), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="^negative_prompt must be None with a guide_unet, .*, got 'fox'$"):
        pipe("a red apple", negative_prompt="fox")


def test_a_saved_tokenizer_does_not_tell_how_it_was_loaded(tmp_path: Path) -> None:
    text_pipeline().save_pretrained(tmp_path / "model")
    texts = []
    for offline in (False, True):
        pipe = LatentDiffusionPipeline.from_pretrained(tmp_path / "model", local_files_only=offline)
        pipe.save_pretrained(tmp_path / "again")
        texts.append((tmp_path / "again" / "tokenizer" / "tokenizer_config.json").read_text())
    assert texts[0] == texts[1] and "local" not in texts[0]


def test_what_is_not_read_of_a_long_prompt_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pipe = text_pipeline()
    with caplog.at_level(logging.WARNING):
        long = drawn(pipe, " ".join(["one"] * 10 + ["apple"] * 5000))
    assert "unknown or beyond 12 tokens: 'apple apple" in caplog.text and len(caplog.text) < 400
    torch.testing.assert_close(long, drawn(pipe, " ".join(["one"] * 10)), rtol=0, atol=0)


@pytest.mark.parametrize("prompt", ["", "🍎", "一个红苹果", "тыква", "\n\t "])
def test_any_text_is_a_prompt_and_what_of_it_says_nothing_is_named(
    prompt: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert drawn(text_pipeline(), prompt).isfinite().all()
    assert (f"not read of the prompt, as it is unknown or beyond 12 tokens: {prompt!r}" in caplog.text) == (
        prompt.strip() != ""
    )


@pytest.mark.parametrize(
    "prompt, rest",
    [
        ("a Red apple, noto style", ""),
        ("🍎, noto style", "🍎"),
        ("a 果红 apple and a pear", "果红 and"),  # neighbouring tokens are one word again
        ("a" * 10_000, "a" * 10_000),
        ("one " * 10 + "and two", "and two"),
        ("zz " + "one " * 9 + "one two", "zz one two"),
    ],
)
def test_words_unknown_and_beyond_the_end_are_not_read(prompt: str, rest: str) -> None:
    assert text_pipeline().unread(prompt) == rest


def test_of_a_tokenizer_that_tells_no_places_what_is_beyond_the_end_is_known() -> None:
    slow = type("Slow", (PreTrainedTokenizerFast,), {"is_fast": False})
    tokenizer = slow(tokenizer_object=tiny_tokenizer().backend_tokenizer, model_max_length=12)
    assert (unread(tokenizer, "one " * 10 + "and two"), unread(tokenizer, "zz")) == ("[UNK] two", "")


@pytest.mark.parametrize("told", NETWORKS)
def test_an_offloaded_pipeline_reads_prompts_where_it_computes(told: str) -> None:
    pipe = text_pipeline(told)
    expected = drawn(pipe)
    for part in (pipe.text_encoder, pipe.unet, pipe.vae):
        cpu_offload(part, execution_device=torch.device("cpu"))
    assert next(pipe.text_encoder.parameters()).device.type == "meta"
    torch.testing.assert_close(drawn(pipe), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prompt": 3}, "^prompt must be a str or a list of them, got int"),
        ({"prompt": []}, "^prompt must have one entry per image, got 0"),
        ({"prompt": ["a", None]}, "^prompt must be a str or a list of them, got NoneType"),
        ({"prompt": ["a", "b"], "batch_size": 3}, "^prompt must have one entry per image, got 2 for 3 images"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "^negative_prompt must have one entry per image, got 1"),
        ({"prompt": "a", "class_labels": 1}, "^class_labels must be None for a network that takes prompts, got 1"),
        ({"prompt": "a", "batch_size": 0}, "^batch_size must be an integer of at least 1, got 0"),
        ({"prompt": "a", "eta": 0.5}, "^eta must be 0 for a flow, got 0.5"),
        ({"prompt": "a", "num_inference_steps": 0}, "^num_inference_steps must be an integer of at least 1, got 0"),
        ({"prompt": "a", "guidance_interval": (0.7, 0.2)}, "^guidance_interval must be a pair"),
    ],
)
def test_bad_arguments_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_pipeline()(**options)


def test_a_scheduler_of_the_other_family_is_refused() -> None:
    flow, diffusion = text_pipeline(), text_pipeline(scheduler=DDPMScheduler(), path=None)
    flow.scheduler, diffusion.scheduler = diffusion.scheduler, flow.scheduler
    with pytest.raises(ValueError, match="^scheduler must be a FlowMatchEulerDiscreteScheduler .* got DDPMSch"):
        flow("a")
    with pytest.raises(ValueError, match="^scheduler must be one of diffusion .* got FlowMatchEuler"):
        diffusion("a")
    curved = text_pipeline(path="variance_preserving", scheduler=FlowMatchHeunDiscreteScheduler())
    with pytest.raises(ValueError, match="on the path 'variance_preserving', got FlowMatchHeunDiscreteScheduler"):
        curved("a")


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="^tokenizer must be given"):
        text_pipeline(tokenizer=None)
    config = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(ValueError, match="^text_encoder must be a CLIPTextModel, without the projection"):
        text_pipeline(text_encoder=CLIPTextModelWithProjection(config))
    with pytest.raises(ValueError, match="^text_encoder must be given for a network that is told prompts"):
        text_pipeline(tokenizer=None, text_encoder=None)
    with pytest.raises(ValueError, match=f"projection_class_embeddings_input_dim, 16, got {WIDTH}"):
        text_pipeline(unet=text_unet(projection_class_embeddings_input_dim=16))
    with pytest.raises(ValueError, match="^path must be one of"):
        text_pipeline(path="crooked")
    with pytest.raises(ValueError, match="^sample_size must be a multiple of 4"):
        text_unet(sample_size=6)


def test_two_prompts_share_what_two_generators_draw() -> None:
    pipe = text_pipeline()
    both = drawn(pipe, ["a red apple", "blue pear"], generator=two())
    assert both.shape == (2, 4, 8, 8) and (both[0] - both[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "config", "told"),
    [
        (
            "UniPCMultistep",
            {},
            "^prediction_type must be flow_prediction with use_flow_sigmas, got 'epsilon' with UniPC",
        ),
        ("DEISMultistep", FLOW_SOLVERS, "^scheduler must be one whose steps end in an image, DEISMultistepScheduler"),
        ("SASolver", FLOW_SOLVERS, "^scheduler must be one whose steps end in an image, SASolverScheduler"),
        (
            "DPMSolverMultistep",
            FLOW_SOLVERS | {"algorithm_type": "sde-dpmsolver++"},
            "^algorithm_type must be that of an ODE",
        ),
    ],
)
def test_solvers_that_would_draw_no_image_of_a_flow_are_refused(name: str, config: dict, told: str) -> None:
    scheduler = getattr(diffusers, f"{name}Scheduler")(**{"use_flow_sigmas": True} | config)
    pipe = text_pipeline(scheduler=scheduler)
    with calls_seen(pipe) as seen, pytest.raises(ValueError, match=told):
        pipe("a fox", num_inference_steps=2)
    assert seen == []


def test_a_solver_that_adds_noise_draws_it_from_the_seed_of_each_image() -> None:
    pipe = text_pipeline(scheduler=diffusers.FlowMatchLCMScheduler())
    both = pipe(["a fox"] * 2, num_inference_steps=4, generator=two(), output_type="pt").images
    again = pipe("a fox", num_inference_steps=4, generator=seeded(1), output_type="pt").images
    assert torch.equal(both[1:], again)
