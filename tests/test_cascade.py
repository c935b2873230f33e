"""Cascades: on Gaussian data the stages together draw the data; what a stage is told; parts that do not fit."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    ConfigMixin,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    ModelMixin,
)
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.unets.unet_2d import UNet2DOutput
from PIL import Image, ImageFilter
from text_models import WIDTH, tiny_bert, tiny_tokenizer
from torch import Tensor, nn
from toys import quiet, seeded

from pipelines import CascadePipeline, PatchedUNet2DConditionModel, PatchedUNet2DModel
from pipelines.cascade import StageNoise
from pipelines.low_resolution import blurred, enlarged, known_at, noisy_condition, told_level

VP = {"timestep_spacing": "trailing", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}


# ------------------------------------------------------------------------------------------ exact stages, Gaussian data


def covariance(size: int = 4) -> Tensor:
    """Of pixels whose correlation falls with their distance."""
    at = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), -1).reshape(-1, 2).double()
    return 0.09 * (-torch.cdist(at, at) / 2).exp()


def averaging(size: int = 4) -> Tensor:
    """The matrix that makes a pixel of each four."""
    basis = torch.eye(size * size, dtype=torch.float64).reshape(-1, 1, size, size)
    return nn.functional.avg_pool2d(basis, 2).flatten(1).T


class ExactStage(ModelMixin, ConfigMixin):
    """The exact velocity of a linear path for Gaussian images, given the smaller image if it has one beside it."""

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int = 1,
        out_channels: int = 1,
        time_cond_proj_dim: int | None = None,
        level: float = 0.0,
    ) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        side = sample_size
        whole = covariance()
        pool = averaging()
        self.covariance = whole if in_channels == 2 else pool @ whole @ pool.T
        if in_channels == 2:  # z_s = sqrt(1 - s^2) A x + s eps, which the enlarged image tells
            seen = math.sqrt(1 - level**2) * pool
            noise = level**2 * torch.eye(len(pool), dtype=torch.float64)
            gain = whole @ seen.T @ torch.linalg.inv(seen @ whole @ seen.T + noise)
            self.covariance, self.gain = whole - gain @ seen @ whole, gain
            basis = torch.eye(len(pool), dtype=torch.float64).reshape(-1, 1, side // 2, side // 2)
            self.shrink = torch.linalg.pinv(enlarged(basis, (side, side)).flatten(1).T)

    def forward(self, sample: Tensor, timestep: Tensor, timestep_cond: Tensor | None = None) -> UNet2DOutput:
        t, config = float(timestep.flatten()[0]) / 1000, self.config
        x, mean = sample[:, :1].flatten(1), 0.0
        if config.in_channels == 2:
            level = torch.full((len(x),), 1000 * config.level)
            told = math.sqrt(2) * get_timestep_embedding(level, config.time_cond_proj_dim, True, 0)
            torch.testing.assert_close(timestep_cond.float(), told)
            mean = sample[:, 1:].flatten(1) @ self.shrink.T @ self.gain.T
        a, b, unit = 1 - t, t, torch.eye(len(self.covariance), dtype=torch.float64)
        gain = a * self.covariance @ torch.linalg.inv(a * a * self.covariance + b * b * unit)
        x0 = mean + (x - a * mean) @ gain.T
        return UNet2DOutput(sample=((x - a * x0) / b - x0).reshape(sample[:, :1].shape))


class BasisNoise(CascadePipeline):
    """Image k is what one unit of the noise's value k becomes: together they are the linear map of a run."""

    def _noise(self, first: int, count: int, generator: object, latents: object) -> list[StageNoise]:
        each = torch.eye(count, dtype=torch.float64)
        small, eps, large = (part.contiguous() for part in each.split([4, 4, 16], dim=1))
        return [
            StageNoise(None, small.reshape(-1, 1, 2, 2), None),
            StageNoise(eps.reshape(-1, 1, 2, 2), large.reshape(-1, 1, 4, 4), None),
        ]


@pytest.mark.parametrize("level", [0.0, 0.4])
def test_exact_stages_together_draw_the_data(level: float) -> None:
    schedulers = FlowMatchHeunDiscreteScheduler(), FlowMatchHeunDiscreteScheduler()
    pipe = quiet(
        BasisNoise(
            ExactStage(2),
            schedulers[0],
            ExactStage(4, 2, time_cond_proj_dim=8, level=level),
            schedulers[1],
            paths={"unet": "linear", "unet_2": "linear"},
            max_augmentations=[0.5],
        )
    )
    arguments = {"num_inference_steps": 60, "conditioning_augmentation": level, "output_type": "latent"}
    output = pipe(batch_size=24, return_stages=True, **arguments)
    small, large = (stage.flatten(1).T for stage in output.stages)
    expected = averaging() @ covariance() @ averaging().T
    torch.testing.assert_close(small @ small.T, expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(large @ large.T, covariance(), rtol=0, atol=2e-4)
    from_eps = (large[:, 4:8] @ large[:, 4:8].T).diagonal().sum()
    assert (from_eps > 1e-3) == (level > 0), "the noise of the augmentation is part of what is drawn"


# ---------------------------------------------------------------------------------------------------------- tiny stages


def unet(size: int, channels: int = 3, **changes: object) -> PatchedUNet2DConditionModel:
    torch.manual_seed(size)
    shape = dict(
        sample_size=size, in_channels=channels, out_channels=3, patch_size=2, block_out_channels=(16, 16),
        attention_head_dim=8, norm_num_groups=4, class_embed_type=None, num_class_embeds=4,
    )  # fmt: skip
    return PatchedUNet2DConditionModel(**shape | changes).eval()


def cascade(**changes: object) -> CascadePipeline:
    """A flow at 8 pixels, and DDIM at 16."""
    parts = {"unet": unet(8), "scheduler": FlowMatchEulerDiscreteScheduler()}
    parts |= {"unet_2": unet(16, 6, time_cond_proj_dim=32), "scheduler_2": DDIMScheduler(**VP)}
    config = {"paths": {"unet": "linear"}, "max_augmentations": [0.5], "augmentations": [0.2]}
    return quiet(CascadePipeline(**parts | config | {"id2label": {"0": "a", "1": "b", "2": "c"}} | changes))


def test_steps_are_numbered_through_and_say_their_stage() -> None:
    pipe = cascade()
    run = pipe.stream("b", num_inference_steps=[3, 2], guidance_scale=[2.0, 1.0])
    steps = [(step.index, step.num_steps, step.stage, step.x_t.shape[-1]) for step in run]
    assert steps == [(0, 5, 0, 8), (1, 5, 0, 8), (2, 5, 0, 8), (3, 5, 1, 16), (4, 5, 1, 16)]
    assert run.nfe == 3 * 2 + 2, "both networks count; guidance asks twice"


def test_one_number_is_of_the_first_stage_where_the_model_has_its_own_for_the_others() -> None:
    pipe = cascade(enlarging_steps=[2], enlarging_guidance_scales=[1.0])

    def evaluations(**asked: object) -> list[int]:
        steps = list(run := pipe.stream("b", **{"num_inference_steps": 3, "guidance_scale": 2.0} | asked))
        return [sum(step.stage == stage for step in steps) for stage in (0, 1)] + [run.nfe]

    assert evaluations() == [3, 2, 3 * 2 + 2]
    assert evaluations(num_inference_steps=[3, 4], guidance_scale=[1.0, 2.0]) == [3, 4, 3 + 4 * 2]
    assert evaluations(image=torch.zeros(1, 3, 8, 8)) == [0, 3, 3 * 2], "the first that is run"


def test_an_image_depends_on_its_seed_alone_and_on_no_later_stage() -> None:
    pipe = cascade()
    options = {"num_inference_steps": 2, "output_type": "np", "return_stages": True}
    together = pipe("a", 2, generator=[seeded(1), seeded(2)], **options)
    alone = pipe("a", generator=[seeded(2)], **options)
    np.testing.assert_array_equal(together.images[1], alone.images[0])
    plain = pipe("a", generator=[seeded(2)], conditioning_augmentation=0.0, **options)
    np.testing.assert_array_equal(plain.stages[0], alone.stages[0])
    assert np.abs(plain.images - alone.images).max() > 1e-3
    again = pipe("a", image=alone.stages[0], generator=[seeded(3)], **options)
    assert len(again.stages) == 1 and again.images.shape == (1, 16, 16, 3) and again.nfe == 4


def test_stages_alone_draw_what_they_draw_together(tmp_path: Path) -> None:
    whole = cascade(augmentations=[0.0])
    first = quiet(
        CascadePipeline(whole.unet, whole.scheduler, id2label=whole.config.id2label, paths={"unet": "linear"})
    )
    options = {"num_inference_steps": 2, "output_type": "np", "return_stages": True}
    assert None not in (whole.config.max_augmentations, whole.config.augmentations)
    first.save_pretrained(tmp_path)
    again = quiet(DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True))
    assert again.sizes == [(8, 8)], "diffusers cannot load an empty list"
    small = whole("a", generator=seeded(), **options).stages[0]
    np.testing.assert_array_equal(first("a", generator=seeded(), **options).images, small)
    parts = {"unet_2": whole.unet_2, "scheduler_2": whole.scheduler_2, "max_augmentations": [0.5], "base_size": 8}
    second = quiet(CascadePipeline(**parts, id2label=whole.config.id2label))
    ours = second("a", image=small, generator=seeded(1), **options).images
    np.testing.assert_array_equal(ours, whole("a", image=small, generator=seeded(1), **options).images)
    with pytest.raises(ValueError, match="^image must be given to a pipeline that only"):
        second("a")
    with pytest.raises(ValueError, match="^mask_image must be None for a pipeline that only enlarges"):
        second("a", image=small, mask_image=np.ones((1, 16, 16)))
    with pytest.raises(ValueError, match="^image must be None without a mask_image, as a single stage enlarges"):
        first("a", image=small)


@pytest.mark.parametrize("kind", [DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler])
def test_a_stage_has_steps_of_its_own(kind: type) -> None:
    flow = kind is FlowMatchEulerDiscreteScheduler
    scheduler = kind() if flow else kind(**VP)
    pipe = cascade(scheduler_2=scheduler, paths={"unet": "linear"} | ({"unet_2": "linear"} if flow else {}))
    assert pipe("a", num_inference_steps=2).nfe == 8


def mean_of_what_is_left(image: torch.Tensor, mask: torch.Tensor, factor: int) -> torch.Tensor:
    """In [-1, 1], of each square of `factor` pixels, without those where the mask is 1; of all of them if none is left.

    image (1, C, H, W) in [0, 1]
    """
    blocks = (2 * image - 1).unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor))
    left = (1 - mask).unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor)).expand_as(blocks).bool()
    means = torch.where(left, blocks, torch.nan).nanmean((-3, -1))
    return torch.where(means.isnan(), blocks.mean((-3, -1)), means)


def test_what_is_left_of_pixels_that_do_not_divide_evenly() -> None:
    image, masks = torch.rand(1, 3, 10, 10, generator=seeded()) * 2 - 1, torch.rand(2, 1, 10, 10, generator=seeded(1))
    mask = masks < torch.tensor([0.3, 0.8]).reshape(2, 1, 1, 1)
    mean, drawn = known_at((4, 4), image, mask)
    assert mean.shape == (2, 3, 4, 4) and drawn.shape == (2, 1, 4, 4) and drawn.any() and not drawn.all()
    windows = [(i * 10 // 4, -(-(i + 1) * 10 // 4)) for i in range(4)]
    for n, i, j in itertools.product(range(2), range(4), range(4)):
        rows, columns = slice(*windows[i]), slice(*windows[j])
        left = ~mask[n, 0, rows, columns]
        assert bool(drawn[n, 0, i, j]) == (left.double().mean().item() < 0.5)
        expected = image[0, :, rows, columns][:, left].mean(-1) if left.any() else torch.zeros(3)
        torch.testing.assert_close(mean[n, :, i, j], expected, rtol=0, atol=1e-6)


def test_a_mask_of_every_second_row_leaves_the_small_image_whole() -> None:
    pipe, image = cascade(), torch.rand(1, 3, 16, 16, generator=seeded())
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 1::2, :] = 1
    run = {"image": image, "mask_image": mask, "num_inference_steps": 2, "output_type": "latent"}
    small, large = pipe("a", generator=seeded(), return_stages=True, **run).stages
    torch.testing.assert_close(small, mean_of_what_is_left(image, mask, 2), rtol=0, atol=1e-6)
    changed = (large - (2 * image - 1)).abs().amax(1)
    assert not changed[:, 0::2].any() and (changed[:, 1::2] > 1e-3).float().mean() > 0.9


def test_three_stages_and_a_first_of_second_order_inpaint() -> None:
    parts = {"unet_3": unet(32, 6), "scheduler_3": DDIMScheduler(**VP), "scheduler": FlowMatchHeunDiscreteScheduler()}
    pipe = cascade(**parts, max_augmentations=[0.5, 0.0], augmentations=None)
    image, mask = torch.rand(1, 3, 32, 32, generator=seeded()), torch.zeros(1, 1, 32, 32)
    mask[..., 17:] = 1
    run = {"image": image, "mask_image": mask, "num_inference_steps": 4, "jump_length": 1, "jump_n_sample": 2}
    found = pipe("a", generator=seeded(), output_type="latent", return_stages=True, **run)
    for stage, kept in zip(found.stages, (4, 9, 17), strict=True):
        known = mean_of_what_is_left(image, mask, 32 // stage.shape[-1])
        torch.testing.assert_close(stage[..., :kept], known[..., :kept], rtol=0, atol=1e-6)
        assert ((stage - known).abs().amax(1)[..., kept:] > 1e-3).float().mean() > 0.9
    assert found.nfe == 2 * ((7 + 3 * 2) + 4 + 4), "Heun asks twice a step but for the last; three jumps"


@pytest.mark.parametrize("kind", [DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler])
def test_every_stage_draws_anew_only_what_the_mask_covers_by_more_than_half_at_its_size(kind: type) -> None:
    flow = kind is FlowMatchEulerDiscreteScheduler
    scheduler = kind() if flow else kind(**VP)
    pipe = cascade(scheduler_2=scheduler, paths={"unet": "linear"} | ({"unet_2": "linear"} if flow else {}))
    image = torch.rand(1, 3, 16, 16, generator=seeded())
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 9:] = 1  # of column 4 of the small image half is left
    run = {"image": image, "mask_image": mask, "num_inference_steps": 4, "jump_length": 1, "jump_n_sample": 3}
    run |= {"output_type": "latent", "return_stages": True}
    found = pipe(["a", "b"], generator=[seeded(1), seeded(2)], **run)
    small, large = found.stages
    shrunk = mean_of_what_is_left(image, mask, 2)[0]
    assert torch.equal(shrunk[..., 4], (2 * image[0] - 1)[..., 8].unflatten(-1, (-1, 2)).mean(-1)), "not the masked one"
    for drawn, known, kept in ((small, shrunk, 5), (large, 2 * image[0] - 1, 9)):
        expected = known[..., :kept].expand(2, -1, -1, -1)
        torch.testing.assert_close(drawn[..., :kept], expected, rtol=0, atol=1e-6 if drawn is small else 0)
        assert ((drawn - known).abs().amax(1)[..., kept:] > 1e-3).float().mean() > 0.9
    assert found.nfe == 2 * ((4 + 2 * 3) + 4), "the first stage alone jumps"
    alone = pipe("b", generator=[seeded(2)], **run).images
    torch.testing.assert_close(alone[0], large[1], rtol=0, atol=1e-5)


def test_networks_of_prompts_and_of_nothing_and_three_stages() -> None:
    told = {"class_embed_type": "projection", "num_class_embeds": None, "cross_attention_dim": WIDTH}
    told |= {"projection_class_embeddings_input_dim": WIDTH}
    torch.manual_seed(5)
    plain = PatchedUNet2DModel(
        sample_size=32, in_channels=6, out_channels=3, patch_size=2, block_out_channels=(16, 16), layers_per_block=1,
        attention_head_dim=8, norm_num_groups=4, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    pipe = cascade(
        unet=unet(8, **told),
        unet_2=unet(16, 6, time_cond_proj_dim=32, **told),
        unet_3=plain.eval(),
        scheduler_3=DDIMScheduler(**VP),
        text_encoder=tiny_bert(),
        tokenizer=tiny_tokenizer(),
        paths={"unet": "linear"},
        max_augmentations=[0.5, 0.0],
        augmentations=None,
        id2label=None,
    )
    options = {"num_inference_steps": 2, "output_type": "np", "return_stages": True}
    red = pipe("a red apple", generator=seeded(), **options)
    assert [stage.shape[1] for stage in red.stages] == [8, 16, 32] and red.nfe == 4 + 4 + 2
    blue = pipe("a blue pear", generator=seeded(), **options)
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(red.stages, blue.stages, strict=True))
    plain, away = pipe(generator=seeded(), **options), pipe(generator=seeded(), negative_prompt="a pear", **options)
    assert (plain.nfe, away.nfe) == (2 + 2 + 2, 4 + 4 + 2), "without a prompt there is nothing to guide to"
    unguided = pipe(generator=seeded(), guidance_scale=1.0, **options)
    assert np.array_equal(plain.images, unguided.images) and not np.array_equal(plain.images, away.images)


def test_a_callback_may_set_the_scale_that_was_asked_for() -> None:
    """A later stage has a scale of its own, which it then goes without."""
    pipe = cascade(enlarging_guidance_scales=[3.0])

    def end(pipe: CascadePipeline, index: int, timestep: float, tensors: dict) -> dict:
        pipe.guidance_scale = 1.0
        return {}

    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "generator": seeded()}
    plain = pipe([0], **options | {"guidance_scale": [1.0, 1.0]})
    assert pipe([0], **options, callback_on_step_end=end).nfe == plain.nfe < pipe([0], **options).nfe
    assert pipe([0], **options | {"guidance_scale": np.array([1.0, 1.0])}).nfe == plain.nfe


def test_a_callback_may_begin_to_guide() -> None:
    def begin(called: CascadePipeline, index: int, timestep: float, tensors: dict) -> None:
        called.guidance_scale = 3.0

    options = {"num_inference_steps": 3, "guidance_scale": 1.0, "output_type": "np"}
    alone = cascade()([0], generator=seeded(), **options)
    late = cascade()([0], generator=seeded(), callback_on_step_end=begin, **options)
    assert late.nfe > alone.nfe and not np.array_equal(late.images, alone.images)


def test_what_a_stage_is_told() -> None:
    z, eps = torch.randn(2, 3, 4, 4, generator=seeded()), torch.randn(2, 3, 4, 4, generator=seeded(1))
    levels = torch.tensor([0.0, 0.6])
    found = noisy_condition(z, levels, eps)
    torch.testing.assert_close(found, torch.stack([z[0], 0.8 * z[1] + 0.6 * eps[1]]))
    assert told_level({"time_cond_proj_dim": None}, levels) == {}
    (cond,) = told_level({"time_cond_proj_dim": 64}, levels).values()
    torch.testing.assert_close(cond.square().mean(1), torch.ones(2))
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9), dtype=np.uint8)
    side = math.exp(-0.5 / 0.5**2)
    row = np.array([side, 1, side])
    kernel = ImageFilter.Kernel((3, 3), np.outer(row, row).ravel().tolist(), scale=row.sum() ** 2)
    expected = np.asarray(Image.fromarray(pixels).filter(kernel)).astype(float)
    grey = torch.from_numpy(pixels.astype(np.float32))[None, None]
    blurry = blurred(torch.cat([grey, grey]), torch.tensor([0.5, 0.0]))
    assert np.abs(blurry[0, 0].numpy() - expected)[1:-1, 1:-1].max() <= 0.51 and torch.equal(blurry[1], grey[0])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"unet_2": unet(16, 3)}, "^unet_2 must have 6 in_channels, x_t and the smaller image, got 3$"),
        (
            {"unet_2": unet(8, 6, time_cond_proj_dim=32)},
            r"^unet_2 must draw larger images than .* \(8, 8\), got \(8, 8\)",
        ),
        ({"unet_2": unet(16, 6)}, "^unet_2 must have a time_cond_proj_dim, .* got None$"),
        ({"scheduler_2": FlowMatchEulerDiscreteScheduler()}, "^scheduler_2 must be one of diffusion for its network"),
        ({"paths": {"unet_3": "linear"}}, "^paths must be by the names of networks, unet, unet_2, got 'unet_3'$"),
        ({"paths": {"unet": "curved"}}, "^path must be "),
        ({"augmentations": [0.6]}, r"^conditioning_augmentation must be a finite number in \[0, 0.5\], got 0.6$"),
        ({"unet_3": unet(32, 6)}, "^scheduler_3 must be given, as unet_3 and scheduler_3 go together"),
        ({"enlarging_steps": [2, 2]}, r"^enlarging_steps must have 1 entries, got \[2, 2\]$"),
        ({"enlarging_steps": [0]}, "^enlarging_steps must be an integer of at least 1, got 0$"),
        ({"enlarging_guidance_scales": [-1]}, "^enlarging_guidance_scales must be a finite number"),
        ({"text_encoder": tiny_bert()}, "^tokenizer must be given"),
        ({"unet": None}, "^unet must be given, as unet and scheduler go together, got None$"),
        ({"unet": None, "scheduler": None}, "^base_size must be given without a unet"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(changes: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        cascade(**changes)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"conditioning_augmentation": 0.7},
            r"^conditioning_augmentation must be a finite number in \[0, 0.5\], got 0.7",
        ),
        ({"image": Image.new("RGB", (16, 16))}, "^image must have 8x8 pixels, got 16x16$"),
        ({"image": "none.png"}, "none.png"),
        ({"mask_image": Image.new("L", (16, 16), 255)}, "^mask_image must be None without an image$"),
        (
            {"image": Image.new("RGB", (8, 8)), "mask_image": Image.new("L", (16, 16), 255)},
            "^image must be 1 or 1 of 16x16 pixels, got 1 of 8x8$",
        ),
        (
            {"image": Image.new("RGB", (16, 16)), "mask_image": Image.new("L", (16, 16))},
            "^mask_image must be white where .* black all over$",
        ),
        (
            {"image": Image.new("RGB", (16, 16)), "mask_image": Image.new("L", (16, 16), 255), "jump_length": 0},
            "^jump_length must be an integer of at least 1, got 0$",
        ),
        ({"num_inference_steps": [1, 2, 3]}, "^num_inference_steps must be a number, or a list with one for each of 2"),
        ({"num_inference_steps": 0}, "^num_inference_steps must be an integer of at least 1, got 0$"),
        ({"guidance_scale": [1.0, -1.0]}, "^guidance_scale must be a finite number"),
        ({"prompt": "zebra"}, "^class_labels must be 0 to 2 or one of a, b, c, got 'zebra'$"),
        ({"negative_prompt": "a"}, "^negative_prompt must be None for networks that take no prompts"),
        ({"prompt": "a", "class_labels": 1}, "^prompt must be None where class_labels are given, got 'a'"),
        ({"latents": torch.zeros(1, 3, 16, 16)}, r"^latents must be a finite tensor of shape \(1, 3, 8, 8\)"),
        ({"num_inference_steps": 2000}, "^num_inference_steps must be "),
        ({"eta": 0.5}, "^eta must be 0 without a DDIMScheduler, got 0.5"),
        ({"eta": "wat"}, "^eta must be a finite number"),
        ({"batch_size": 0}, "^batch_size must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(arguments: dict, told: str) -> None:
    pipe = cascade()
    with pytest.raises((ValueError, OSError), match=told):
        pipe(**{"num_inference_steps": 2} | arguments)
