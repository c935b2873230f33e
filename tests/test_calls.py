"""What a caller sees: callbacks, interruption, output types, and errors before any work."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from autoencoders import colours, tiny
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

from pipelines import AutoencoderPipeline
from pipelines.base import StepwisePipeline
from pipelines.conditions import Classes

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


def test_a_run_ends_with_what_offloading_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """`enable_model_cpu_offload` leaves the last network on the GPU until it is told that the call is over."""
    for pipe, call in (
        (latent(), {"num_inference_steps": 1}),
        (AutoencoderPipeline(tiny()), {"images": colours(1).images.transpose(0, 2, 3, 1)}),
    ):
        asked = []
        monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda asked=asked: asked.append(True))
        pipe(**call)
        assert asked == [True]


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


# --- numbers and labels of numpy and torch ---

SCALARS = [np.int64, np.array, torch.tensor]


@pytest.mark.parametrize("count", SCALARS)
@pytest.mark.parametrize("scale", [np.float32, np.float64, np.array, torch.tensor])
def test_numbers_may_be_of_numpy_and_torch(count: Callable[[int], object], scale: Callable[[float], object]) -> None:
    names = {"guidance_scale": 2.0, "eta": 0.5, "guidance_rescale": 0.5}
    whole = {"batch_size": 2, "class_labels": 1, "num_inference_steps": 3}
    interval = {"guidance_interval": (0.25, 0.75)}
    expected = guided()(**names, **whole, **interval, generator=seeded(), output_type="latent")
    given = {name: scale(value) for name, value in names.items()} | {k: count(v) for k, v in whole.items()}
    given["guidance_interval"] = np.array([0.25, 0.75]) if count is np.array else [scale(0.25), scale(0.75)]
    found = guided()(**given, generator=seeded(), output_type="latent")
    assert torch.equal(found.images, expected.images) and found.nfe == expected.nfe
    inverted = ddim().invert(torch.zeros(1, 1, 8, 8), num_inference_steps=count(3))
    assert torch.equal(inverted, ddim().invert(torch.zeros(1, 1, 8, 8), num_inference_steps=3))


@pytest.mark.parametrize("wrong", [np.float64(2.0), torch.tensor(2.0), np.bool_(True), torch.tensor([2])])
def test_a_count_of_numpy_or_torch_has_to_be_whole(wrong: object) -> None:
    for name in ("batch_size", "num_inference_steps"):
        with pytest.raises(ValueError, match=f"^{name} must be an integer"):
            ddim().stream(**{name: wrong})


LABELS = [
    np.array([1, 2]),
    torch.tensor([1, 2]),
    [np.int64(1), torch.tensor(2)],
    np.array(["Dog", "Fish"]),
    [[1], [2]],
    np.array([[1], [2]]),
    torch.tensor([[1], [2]]),
    (np.array(1), ["Fish"]),
]


@pytest.mark.parametrize("labels", LABELS, ids=str)
def test_labels_may_be_arrays_and_columns(labels: object) -> None:
    pipe = guided()
    with calls_seen(pipe) as seen:
        pipe(labels, num_inference_steps=1, guidance_scale=1.0)
    assert seen[0][2][:2].tolist() == [1, 2]


@pytest.mark.parametrize("labels", [[[1, 2], [0, 1]], np.ones((2, 2), int), np.array([0.5]), [[]]], ids=str)
def test_labels_that_are_none_are_refused(labels: object) -> None:
    with pytest.raises(ValueError, match="^class_labels must"):
        guided().stream(labels)


ACCENT = "Caf\u00e9"  # with an accent of its own, and as two characters:
SPELLED = "Cafe\u0301"


@pytest.mark.parametrize(
    ("asked", "names", "index"),
    [
        ("cat", ["Cat", "cat", "Dog"], 1),
        ("Cat", ["Cat", "cat", "Dog"], 0),
        ("DOG", ["Cat", "cat", "Dog"], 2),
        ("crane", ["Crane, machine", "crane, bird", "Dog"], 1),
        (SPELLED, ["Cat", ACCENT, "Dog"], 1),
        (ACCENT, ["Cat", SPELLED, "Dog"], 1),
        (SPELLED.upper(), ["Cat", ACCENT, "Dog"], 1),
        ("STRASSE", ["Cat", "Stra\u00dfe", "Dog"], 1),
    ],
)
def test_an_exact_name_wins_and_spelling_is_normalised(asked: str, names: list[str], index: int) -> None:
    assert Classes(3, names, None, False).index(asked) == index


def test_a_name_that_fits_several_only_by_case_is_refused() -> None:
    with pytest.raises(ValueError, match=r"name one class, got 'CAT', which is the name of each of \[0, 1\]"):
        Classes(3, ["Cat", "cat", "Dog"], None, False).index("CAT")


@pytest.mark.parametrize(
    ("generator", "told"),
    [
        ([seeded()] * 3, "got the same one more than once: a single generator, not in a list, gives"),
        ([seeded(), seeded()], "a list of 3, got 2"),
        ([1, 2, 3], "a torch.Generator or a list of them, got a list with int"),
    ],
)
def test_what_is_wrong_with_generators_is_said(generator: list, told: str) -> None:
    with pytest.raises(ValueError, match=f"^generator must be .*{told}"):
        ddim().stream(3, generator=generator)


@pytest.mark.parametrize("make", [ddpm, ddim])
def test_a_network_that_does_not_say_its_size_is_refused(make: Callable) -> None:
    pipe = make(tiny_unet(sample_size=None))
    with pytest.raises(ValueError, match="^sample_size must be in the network's config"):
        pipe(num_inference_steps=1)


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
