"""What a caller sees: callbacks, interruption, output types, and errors before any work."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.callbacks import (
    MultiPipelineCallbacks,
    PipelineCallback,
    SD3CFGCutoffCallback,
    SDCFGCutoffCallback,
    SDXLCFGCutoffCallback,
    SDXLControlnetCFGCutoffCallback,
)
from toys import SHIPPED, calls_seen, ddim, ddpm, flow, guided, latent, score_sde, seeded, steered, tiny_unet

from pipelines.base import StepwisePipeline

MAKERS = [ddpm, ddim, guided]
CUTOFFS = [SDCFGCutoffCallback, SDXLCFGCutoffCallback, SDXLControlnetCFGCutoffCallback, SD3CFGCutoffCallback]


def ancestral() -> StepwisePipeline:
    """Steered by a shift of the mean."""
    return steered(scheduler=DDPMScheduler(**SHIPPED))


# --- callbacks ---


@pytest.mark.parametrize("make", MAKERS)
def test_a_callback_sees_each_step(make: object) -> None:
    pipe, seen = make(), []

    def note(called: StepwisePipeline, index: int, timestep: float, tensors: dict) -> dict:
        assert called is pipe
        seen.append((index, timestep, {name: tensor.clone() for name, tensor in tensors.items()}))
        return tensors

    names = ["latents", "pred_original_sample"]
    options = dict(batch_size=2, num_inference_steps=5, output_type="latent")
    images = pipe(
        generator=seeded(), callback_on_step_end=note, callback_on_step_end_tensor_inputs=names, **options
    ).images
    steps = list(pipe.stream(batch_size=2, num_inference_steps=5, generator=seeded()))
    assert [index for index, _, _ in seen] == list(range(5))
    assert [timestep for _, timestep, _ in seen] == [999, 799, 599, 399, 199]
    for (_, _, tensors), step in zip(seen, steps, strict=True):
        assert sorted(tensors) == names
        assert torch.equal(tensors["latents"], step.prev_sample)
        assert torch.equal(tensors["pred_original_sample"], step.pred_original_sample)
    assert torch.equal(seen[-1][2]["latents"], images)


@pytest.mark.parametrize("make", MAKERS)
def test_a_callback_may_replace_the_sample(make: object) -> None:
    pipe = make()
    zeros = torch.zeros(2, 1, 8, 8)

    def reset(called: StepwisePipeline, index: int, timestep: float, tensors: dict) -> dict:
        return {"latents": zeros} if index == 1 else {}

    with calls_seen(pipe) as seen:
        pipe(batch_size=2, num_inference_steps=3, generator=seeded(), callback_on_step_end=reset)
    assert torch.equal(seen[2][0][:2], zeros)
    assert not torch.equal(seen[1][0][:2], zeros)


@pytest.mark.parametrize("make", MAKERS)
def test_an_interrupted_run_stops_within_a_step(make: object) -> None:
    pipe = make()

    def stop(called: StepwisePipeline, index: int, timestep: float, tensors: dict) -> None:
        called._interrupt = index == 2

    with calls_seen(pipe) as seen:
        output = pipe(batch_size=1, num_inference_steps=10, callback_on_step_end=stop, output_type="pt")
    assert len(seen) == 3
    assert pipe.interrupt
    assert output.nfe == 3
    assert output.images.shape == (1, 1, 8, 8)
    assert len(list(pipe.stream(batch_size=1, num_inference_steps=4))) == 4  # and the next one runs
    with calls_seen(pipe) as seen:
        pipe(batch_size=1, num_inference_steps=4)
    assert len(seen) == 4


@pytest.mark.parametrize("make", MAKERS)
def test_closing_the_stream_ends_the_work(make: object) -> None:
    pipe = make()
    with calls_seen(pipe) as seen:
        steps = pipe.stream(batch_size=1, num_inference_steps=10)
        assert len(seen) == 0  # nothing is computed before it is asked for
        next(steps)
        next(steps)
        steps.close()
        assert list(steps) == []
    assert len(seen) == 2


# --- diffusers' own callbacks ---

MAKE = {"cfg": guided, "latent": latent, "flow": flow, "sde": score_sde, "classifier": steered, "ancestral": ancestral}


class Recorder(PipelineCallback):
    """What a user of diffusers writes."""

    tensor_inputs = ["latents", "pred_original_sample"]

    def callback_fn(self, pipeline: StepwisePipeline, step_index: int, timestep: float, tensors: dict) -> dict:
        found = (pipeline.num_timesteps, pipeline.guidance_scale, sorted(tensors), pipeline._callback_tensor_inputs)
        self.__dict__.setdefault("seen", []).append(found)
        return tensors


@pytest.mark.parametrize(
    ("name", "cutoff"), [*((name, CUTOFFS[0]) for name in MAKE), *(("cfg", cutoff) for cutoff in CUTOFFS[1:])]
)
def test_a_cutoff_callback_of_diffusers_switches_guidance_off(name: str, cutoff: type) -> None:
    """As one does who sets the scale between two steps; the class stays."""
    pipe, options = MAKE[name](), {"class_labels": [1, 2], "num_inference_steps": 4, "guidance_scale": 3.0}
    off = 0.0 if name in ("classifier", "ancestral") else 1.0
    run = pipe.stream(**options, generator=seeded())
    for step in run:
        run.guidance_scale = off if step.index >= 2 else 3.0
    out = pipe(**options, generator=seeded(), callback_on_step_end=cutoff(cutoff_step_ratio=0.5), output_type="latent")
    assert torch.equal(out.images, step.prev_sample) and out.nfe == run.nfe
    whole, without = (
        pipe(**options | {"guidance_scale": s}, generator=seeded(), output_type="latent") for s in (3, off)
    )
    assert not torch.equal(out.images, whole.images) and not torch.equal(out.images, without.images)
    assert name in ("classifier", "ancestral") or without.nfe < out.nfe < whole.nfe
    assert (pipe.num_timesteps, pipe.guidance_scale) == (4, off)


@pytest.mark.parametrize("name", MAKE)
def test_a_callback_may_set_the_guidance_scale(name: str) -> None:
    pipe, options = MAKE[name](), {"class_labels": [1, 2], "num_inference_steps": 3, "output_type": "latent"}

    def begin(called: StepwisePipeline, index: int, timestep: float, tensors: dict) -> None:
        called.guidance_scale = 3.0

    late = pipe(**options, guidance_scale=0.0, generator=seeded(), callback_on_step_end=begin).images
    never = pipe(**options, guidance_scale=0.0, generator=seeded()).images
    assert not torch.equal(late, never)
    with pytest.raises(ValueError, match="^guidance_scale must be"):
        pipe.guidance_scale = -1.0


def test_callbacks_of_diffusers_name_what_they_are_given_and_see_the_run() -> None:
    pipe, one = guided(), Recorder()
    both = MultiPipelineCallbacks([one, SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)])
    pipe([0, 1], num_inference_steps=3, guidance_scale=2.0, callback_on_step_end=both)
    names = ["latents", "pred_original_sample", "prompt_embeds"]
    assert [seen[:3] for seen in one.seen] == [(3, 2.0, names), (3, 1.0, names), (3, 1.0, names)]
    assert one.seen[0][3] == ["latents", "pred_original_sample", "eps"]
    one.tensor_inputs = ["x_t"]
    with calls_seen(pipe) as seen, pytest.raises(ValueError, match="^callback_on_step_end_tensor_inputs must"):
        pipe(0, num_inference_steps=3, callback_on_step_end=one)
    assert seen == []


def test_guidance_towards_no_class_costs_nothing_whatever_a_callback_says() -> None:
    pipe = guided()

    def begin(called: StepwisePipeline, index: int, timestep: float, tensors: dict) -> None:
        called.guidance_scale = 3.0

    assert pipe(batch_size=2, num_inference_steps=3, callback_on_step_end=begin).nfe == 3


# --- outputs ---


@pytest.mark.parametrize("make", MAKERS)
def test_output_types_show_the_same_image(make: object) -> None:
    pipe = make()
    options = dict(batch_size=2, num_inference_steps=2)
    out = {kind: pipe(generator=seeded(), output_type=kind, **options).images for kind in ("pil", "np", "pt", "latent")}
    expected = (out["latent"] / 2 + 0.5).clamp(0, 1)
    assert torch.equal(out["pt"], expected)
    assert out["np"].shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(out["np"], expected.permute(0, 2, 3, 1).numpy())
    assert [(image.size, image.mode) for image in out["pil"]] == [((8, 8), "L")] * 2
    shown = np.stack([np.asarray(image) for image in out["pil"]])
    np.testing.assert_array_equal(shown, (255 * out["np"][..., 0]).round().astype(np.uint8))


@pytest.mark.parametrize("make", MAKERS)
def test_a_tuple_on_request(make: object) -> None:
    output = make()(batch_size=1, num_inference_steps=1, return_dict=False)
    assert isinstance(output, tuple)
    assert len(output[0]) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_evaluations_are_counted_an_image(count: int) -> None:
    assert ddim()(count, num_inference_steps=3).nfe == 3


def test_defaults_are_one_image() -> None:
    assert len(ddim()(num_inference_steps=1).images) == 1
    assert len(guided()("cat", num_inference_steps=1).images) == 1
    assert len(guided()("cat", batch_size=3, num_inference_steps=1).images) == 3


@pytest.mark.parametrize("make", [ddpm, ddim, guided, steered, latent])
def test_a_number_of_steps_that_nobody_gave_is_at_most_that_of_the_process(make: object) -> None:
    pipe = make(num_train_timesteps=3)
    assert pipe().nfe == 3
    assert len(list(pipe.stream())) == 3
    with pytest.raises(ValueError, match=r"^num_inference_steps must be an integer in \[1, 3\], got 50$"):
        pipe(num_inference_steps=50)


def test_so_is_that_of_an_inversion() -> None:
    pipe = ddim(num_train_timesteps=3)
    with calls_seen(pipe) as seen:
        pipe.invert(torch.zeros(1, 1, 8, 8))
    assert len(seen) == 3


# --- errors, before any work ---

EVERYWHERE = [
    ("batch_size", {"batch_size": 0}),
    ("batch_size", {"batch_size": -1}),
    ("batch_size", {"batch_size": 1.5}),
    ("batch_size", {"batch_size": True}),
    ("num_inference_steps", {"num_inference_steps": 0}),
    ("num_inference_steps", {"num_inference_steps": 1001}),
    ("num_inference_steps", {"num_inference_steps": 2.5}),
    ("num_inference_steps", {"num_inference_steps": True}),
    ("num_inference_steps", {"num_inference_steps": None}),
    ("generator", {"batch_size": 2, "generator": [seeded()]}),
    ("generator", {"batch_size": 2, "generator": [seeded()] * 2}),
    ("generator", {"batch_size": 1, "generator": 42}),
    ("latents", {"latents": torch.zeros(1, 1, 8, 9)}),
    ("latents", {"batch_size": 2, "latents": torch.zeros(1, 1, 8, 8)}),
    ("latents", {"latents": torch.full((1, 1, 8, 8), math.nan)}),
    ("latents", {"latents": "noise"}),
    ("output_type", {"output_type": "jpg"}),
    ("callback_on_step_end_tensor_inputs", {"callback_on_step_end_tensor_inputs": ["x_t"]}),
]
ETA = [("eta", {"eta": eta}) for eta in (-1.0, math.nan, math.inf, "0", True)]
GUIDANCE = [
    *[("guidance_scale", {"guidance_scale": scale}) for scale in (math.nan, math.inf, -1.0, "2", None)],
    *[("guidance_rescale", {"guidance_rescale": share}) for share in (-0.1, 1.1, math.nan)],
    *[("guidance_interval", {"guidance_interval": i}) for i in ((0.8, 0.2), (0.0, 1.5), (0.5,), 0.5, (0, math.nan))],
    *[("class_labels", {"class_labels": label}) for label in ("bird", 3, -1, 1.0, True, [], ["cat", "bird"])],
    ("class_labels", {"class_labels": ["cat", "dog"], "batch_size": 3}),
    ("generator", {"class_labels": ["cat", "dog"], "generator": [seeded()]}),
]
ERRORS = [
    *[(make, *error) for make in MAKERS for error in EVERYWHERE],
    *[(make, *error) for make in (ddim, guided) for error in ETA],
    *[(guided, *error) for error in GUIDANCE],
    *[(make, "class_labels", {"class_labels": 0}) for make in (ddpm, ddim)],
]


@pytest.mark.parametrize(("make", "named", "arguments"), ERRORS)
def test_a_wrong_argument_is_named_before_any_work(make: object, named: str, arguments: dict) -> None:
    pipe = make()
    with calls_seen(pipe) as seen, pytest.raises(ValueError, match=f"^{named} must"):
        pipe(**{"num_inference_steps": 2} | arguments)
    assert seen == []


@pytest.mark.parametrize("make", [ddpm, ddim])
def test_a_conditional_network_needs_its_labels(make: object) -> None:
    pipe = make(tiny_unet(3))
    with pytest.raises(ValueError, match="^class_labels is required"):
        pipe.stream(1)
    labelled = pipe(class_labels=[0, 2], num_inference_steps=2)
    assert len(labelled.images) == 2
    with pytest.raises(ValueError, match="^class_labels must be 0 to 2"):
        pipe.stream(class_labels=3)
    with pytest.raises(ValueError, match="^class_labels must be .*no class names"):
        pipe.stream(class_labels="cat")


def test_an_error_tells_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="0 to 2 or one of Cat, Dog, Fish, got 'bird'"):
        guided().stream("bird")
    with pytest.raises(ValueError, match=r"\[1, 1000\], got 1001"):
        ddim().stream(num_inference_steps=1001)
