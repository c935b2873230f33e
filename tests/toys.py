"""Data whose denoiser is known in closed form, and networks small enough to call a thousand times.

The formulas here are written out in numpy or from the definition of the process, never through `pipelines`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    UNet2DModel,
)
from torch import Tensor

from pipelines import (
    ClassifierFreeGuidancePipeline,
    ClassifierGuidancePipeline,
    DDIMPipeline,
    DDPMPipeline,
    FlowMatchingPipeline,
    LatentDiffusionPipeline,
    NoisyClassifier,
    PatchedUNet2DModel,
    ScoreSDEPipeline,
)
from pipelines.base import StepwisePipeline

CLASSES = {"0": "Cat", "1": "Dog", "2": "Fish"}
SHIPPED = dict(
    beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=True
)


def mixture_denoiser(
    weights: list[float], means: list[float], stds: list[float], alphas_cumprod: Tensor, kind: str = "epsilon"
) -> Callable[..., Tensor]:
    """The exact denoiser of a 1-D Gaussian mixture, for every element of x_t; `t` indexes `alphas_cumprod`.

    A third argument `class_labels` (N,) picks one component an image; the label one past the last means all of them.
    """
    w, m, s = (torch.tensor(values, dtype=torch.float64) for values in (weights, means, stds))

    def denoiser(x_t: Tensor, t: int, class_labels: Tensor | None = None) -> Tensor:
        abar = float(alphas_cumprod[t])
        a, b = abar**0.5, (1 - abar) ** 0.5
        weight, mean, variance = (values.to(x_t.dtype) for values in (w, m, s**2))
        x, var = x_t[..., None], a * a * variance + b * b
        log_share = weight.log() - 0.5 * var.log() - 0.5 * (x - a * mean) ** 2 / var
        if class_labels is not None:
            allowed = torch.eye(len(w) + 1, len(w), dtype=torch.bool)
            allowed[-1] = True
            log_share = log_share.masked_fill(~allowed[class_labels][:, None, None, None], -torch.inf)
        x0 = (log_share.softmax(-1) * (mean + a * variance / var * (x - a * mean))).sum(-1)
        eps = (x_t - a * x0) / b
        return {"epsilon": eps, "sample": x0, "v_prediction": a * eps - b * x0}[kind]

    return denoiser


def tiny_unet(num_classes: int | None = None, size: int = 8, out_channels: int = 1, **changes: object) -> UNet2DModel:
    """A stock U-Net of a few thousand weights, with attention, the same ones every time."""
    torch.manual_seed(0)
    shape = dict(
        sample_size=size,
        in_channels=1,
        out_channels=out_channels,
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        num_class_embeds=num_classes,
    )
    return UNet2DModel(**shape | changes).eval()


def patched_unet(num_classes: int | None = None, **changes: object) -> PatchedUNet2DModel:
    """The shipped kind of network, 28 x 28 behind a pixel-unshuffle, small."""
    torch.manual_seed(0)
    shape = dict(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 32),
        attention_head_dim=8,
        norm_num_groups=8,
        num_class_embeds=num_classes,
    )
    return PatchedUNet2DModel(**shape | changes).eval()


def quiet(pipe: StepwisePipeline) -> StepwisePipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ddpm(unet: UNet2DModel | None = None, **config: object) -> DDPMPipeline:
    return quiet(DDPMPipeline(unet or tiny_unet(), DDPMScheduler(**SHIPPED | config)))


def ddim(unet: UNet2DModel | None = None, **config: object) -> DDIMPipeline:
    return quiet(DDIMPipeline(unet or tiny_unet(), DDIMScheduler(**SHIPPED | config)))


def guided(
    unet: UNet2DModel | None = None, scheduler: SchedulerMixin | None = None, **config: object
) -> ClassifierFreeGuidancePipeline:
    scheduler = scheduler or DDIMScheduler(**SHIPPED | config)
    return quiet(ClassifierFreeGuidancePipeline(unet or tiny_unet(4), scheduler, CLASSES))


def tiny_classifier(size: int = 8, num_classes: int = 3) -> NoisyClassifier:
    """A classifier of noisy images, of a few thousand weights, the same ones every time."""
    torch.manual_seed(1)
    return NoisyClassifier(
        sample_size=size,
        in_channels=1,
        num_classes=num_classes,
        patch_size=2,
        block_out_channels=(16, 16),
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=4,
    ).eval()


def steered(
    unet: UNet2DModel | None = None, scheduler: SchedulerMixin | None = None, **config: object
) -> ClassifierGuidancePipeline:
    unet = unet or tiny_unet()
    scheduler = scheduler or DDIMScheduler(**SHIPPED | config)
    return quiet(ClassifierGuidancePipeline(unet, scheduler, tiny_classifier(unet.config.sample_size), CLASSES))


def latent(unet: UNet2DModel | None = None, **config: object) -> LatentDiffusionPipeline:
    """Images of 8 x 8 from latents of 4 x 4."""
    torch.manual_seed(2)
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
    ).eval()
    unet = unet or tiny_unet(4, size=4, in_channels=4, out_channels=4)
    return quiet(LatentDiffusionPipeline(vae, DDIMScheduler(**SHIPPED | config), unet, id2label=CLASSES))


def flow(
    unet: UNet2DModel | None = None,
    scheduler: SchedulerMixin | None = None,
    id2label: dict[str, str] | None = CLASSES,
    path: str = "linear",
    **config: object,
) -> FlowMatchingPipeline:
    scheduler = scheduler or FlowMatchEulerDiscreteScheduler(**config)
    return quiet(FlowMatchingPipeline(unet or tiny_unet(4), scheduler, id2label, path))


def score_sde(unet: UNet2DModel | None = None, **config: object) -> ScoreSDEPipeline:
    return quiet(ScoreSDEPipeline(unet or tiny_unet(4), DDPMScheduler(**config), CLASSES))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two() -> list[torch.Generator]:
    """The generators of two images, 0 and 1 their seeds."""
    return [seeded(0), seeded(1)]


@contextmanager
def calls_seen(pipe: StepwisePipeline) -> Iterator[list[tuple[Tensor, Tensor, Tensor | None, Tensor]]]:
    """(x, t, labels, output) of every call of the network, padded rows included."""
    seen = []

    def note(module: torch.nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        seen.append((args[0].clone(), args[1].clone(), kwargs.get("class_labels"), output.sample.clone()))

    handle = pipe.unet.register_forward_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def tables(schedule: object) -> np.ndarray:
    """alphas_cumprod as numpy float64."""
    return schedule.alphas_cumprod.numpy().astype(np.float64)
