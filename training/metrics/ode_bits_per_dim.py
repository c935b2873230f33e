"""Bits per dimension of a saved model by its probability-flow ODE (Song et al. 2021, section 4.3 and appendix D.2).

A diffusion model, whatever its noise schedule, is followed along the VP SDE, a VE or sub-VP model along its own, a
flow along its path. Images of 8-bit levels are points, of which a density says nothing: each is moved uniformly
within the width of its level first, so that the mean of -log2 p over where it may land is at least its bits (Theis et
al. 2016, https://arxiv.org/abs/1511.01844, section 3.1). Song et al. 2021: https://arxiv.org/abs/2011.13456.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm.auto import tqdm

from pipelines import NoiseSchedule, ScoreSDEPipeline
from pipelines.flow_matching import find_path
from pipelines.process import Path
from pipelines.score_sde import ENDS, score_of, score_of_exploding
from pipelines.sde import SDE, VESDE, VPSDE, SubVPSDE
from training.metrics.bits_per_dim import check_images, is_flow
from training.metrics.ode_likelihood import Velocity, ode_likelihood
from training.randomness import seeded

LEVELS_PER_UNIT = 127.5  # of 8-bit images in [-1, 1]
END_OF_FLOW = 1e-5


@dataclass(frozen=True)
class ODEBitsPerDim:
    """Bits/dim: `total` over the images and its `standard_error`; `nfe`, the mean network evaluations of an image."""

    total: float
    standard_error: float
    nfe: float


def ode_bits_per_dim(
    pipe: DiffusionPipeline,
    images: np.ndarray,
    *,
    tolerance: float = 1e-5,
    probes: int = 1,
    seed: int = 0,
    batch_size: int = 64,
) -> ODEBitsPerDim:
    """Bits/dim of 8-bit `images` (N, C, H, W), uniformly dequantized, without a class.

    Args:
        pipe: a pipeline of this project in float32: the solver measures its own error, which bfloat16 would swamp
        images: uint8 (N, C, H, W), of the size that the network takes, N >= 2
        tolerance: rtol and atol of the solver
        probes: Rademacher vectors per image that estimate the divergence
        seed: what is drawn for image i depends on (seed, i) alone, not on the batch
        batch_size: images that are integrated together

    Raises:
        ValueError: `images` or `probes` out of range, by name.
        RuntimeError: the solver did not arrive.
    """
    check_images(pipe, images)
    velocity, process, end = ode_of(pipe)
    bits, evaluations = [], []
    starts = range(0, len(images), batch_size)
    for start in tqdm(starts, desc="Bits per dimension by the ODE", unit="batch", disable=None):
        some = images[start : start + batch_size]
        generators = [seeded(seed, start + k, "ode") for k in range(len(some))]
        shift = torch.stack([torch.rand(some.shape[1:], generator=each) - 0.5 for each in generators])
        x0 = (torch.from_numpy(some).float() + shift) / LEVELS_PER_UNIT - 1
        how = {"rtol": tolerance, "atol": tolerance, "generator": generators}
        found = ode_likelihood(velocity, x0.to(pipe.device), process, probes=probes, end=end, **how)
        bits.append(found.bits_per_dim.cpu() + math.log2(LEVELS_PER_UNIT))
        evaluations.append(found.nfe.double().cpu())
    total = torch.cat(bits)
    error = float(total.std()) / math.sqrt(len(total))
    return ODEBitsPerDim(float(total.mean()), error, float(torch.cat(evaluations).mean()))


def ode_of(pipe: DiffusionPipeline) -> tuple[Velocity, SDE | Path, float]:
    """dx/dt of a pipeline's probability-flow ODE without a class, its process, and the t at which images stand."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        labels, _ = pipe.resolve_labels(None, len(x))
        return pipe.network(x, t, **({} if labels is None else {"class_labels": labels.to(x.device)}))

    if is_flow(pipe):
        scale = pipe.scheduler.config.num_train_timesteps
        return lambda x, t: network(x, scale * t), find_path(pipe.config.path), END_OF_FLOW
    of_scores = ScoreSDEPipeline(pipe.unet, pipe.scheduler, sde=pipe.config.get("sde"))
    sde = of_scores.make_sde()
    if isinstance(sde, VESDE):
        score, end = score_of_exploding(network, sde), ENDS["ve"]
    else:
        score = score_of(network, of_scores.trained, pipe.scheduler.config.prediction_type, sde)
        end = ENDS["subvp"] if isinstance(sde, SubVPSDE) else _first_time(sde, of_scores.trained)
    return lambda x, t: sde.probability_flow_drift(x, score(x, t), t), sde, end


def _first_time(sde: VPSDE, schedule: NoiseSchedule) -> float:
    """The t with the noise of the first step: below it the network has seen nothing."""
    wanted = -0.5 * math.log(float(schedule.alphas_cumprod[0]))  # = beta_min t / 2 + (beta_max - beta_min) t^2 / 4
    half, rise = sde.beta_min / 2, sde.beta_max - sde.beta_min
    return 2 * wanted / (half + math.sqrt(half * half + rise * wanted))
