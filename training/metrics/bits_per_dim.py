"""Bits per dimension of a saved model: the bound of `likelihood.py`, its sum over t estimated from some t per image.

The full sum takes T network evaluations per image. Here each image gets the decoder's term, t = 0, and one random t
from each of K slices of the rest, weighted by the size of the slice. The estimate is unbiased. The slices widen with t
and are one step wide where the terms are large. The standard error over images covers both the choice of t and the
choice of images.

A flow is asked at the time with the same signal-to-noise ratio: its bound is that of DDPM's steps with its x_0.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm.auto import tqdm

from pipelines import NoiseSchedule
from pipelines.ddpm import VARIANCES
from pipelines.facts import Facts
from pipelines.flow_matching import find_path
from pipelines.process import broadcast, from_velocity
from training.metrics.likelihood import bound_term, prior_term, reverse_step
from training.randomness import seeded


@dataclass(frozen=True)
class BitsPerDim:
    """The bound in bits/dim: `total`, its `standard_error`, and two of its terms, `prior` (L_T) and `decoder` (L_0).

    `terms` holds the mean L_t of each slice of the schedule, `timesteps` the middle of each slice in the original
    process.
    """

    total: float
    standard_error: float
    prior: float
    decoder: float
    timesteps: np.ndarray
    terms: np.ndarray


@torch.no_grad()
def bits_per_dim(
    pipe: DiffusionPipeline,
    images: np.ndarray,
    *,
    num_inference_steps: int = 1000,
    variances: list[str] | None = None,
    timesteps_per_image: int = 100,
    seed: int = 0,
    batch_size: int = 128,
) -> dict[str, BitsPerDim]:
    """Bits/dim of 8-bit `images` (N, C, H, W) under each of the `variances`, from the same network evaluations.

    Args:
        pipe: a pipeline of this project; a class-conditional one is evaluated without a class, a flow on the cosine
            schedule of 1,000 steps
        images: uint8 (N, C, H, W), of the size that the network takes
        num_inference_steps: number of steps in the sum; the schedule is respaced (trailing) if they are fewer than T
        variances: any of fixed_small, fixed_large, learned_range; None: the one that the pipeline samples with
        timesteps_per_image: terms per image; `num_inference_steps` or more gives the full sum
        seed: noise and timesteps of image i depend on (seed, i) alone, not on the batch
        batch_size: network evaluations per batch

    Raises:
        ValueError: an argument out of range, by name, or images of the wrong shape.
    """
    variances = [pipe.variance_type] if variances is None else list(variances)
    full, kind, network = _as_ddpm(pipe)
    schedule = full.respace(full.spaced_timesteps(num_inference_steps))
    check_images(pipe, images)
    _check(pipe, variances, timesteps_per_image)
    slices = slices_of(len(schedule), min(timesteps_per_image, len(schedule)))
    found = {name: np.zeros((len(images), len(slices))) for name in variances}
    batches = _pairs(len(images), slices, seed, batch_size)
    count = -(-len(images) * len(slices) // batch_size)
    for image, column, t in tqdm(batches, total=count, desc="Bits per dimension", unit="batch", disable=None):
        x0 = to_levels(images[image], pipe.device)
        noise = torch.cat([_noise(seed, i, c, x0.shape[1:]) for i, c in zip(image, column, strict=True)]).to(x0)
        times = torch.from_numpy(t)
        x_t = schedule.add_noise(x0, noise, times)
        labels, _ = pipe.resolve_labels(None, len(image))
        conditions = {} if labels is None else {"class_labels": labels}
        output = network(x_t, schedule.timesteps[times], **conditions)
        for name in variances:
            step = reverse_step(output, x_t, times, schedule, name, kind, True)
            found[name][image, column] = bound_term(*step, x0, x_t, times, schedule).cpu().numpy()
    prior = prior_term(to_levels(images, "cpu"), schedule).numpy()
    return {name: _summary(terms, prior, slices, schedule) for name, terms in found.items()}


def slices_of(length: int, count: int) -> list[range]:
    """`count` slices of range(length), 1 < count <= length, that widen geometrically; the first is {0}."""
    low, high = 0.0, np.log(length) / (count - 1)
    for _ in range(60):  # find the rate of growth by bisection
        rate = (low + high) / 2
        low, high = (rate, high) if np.exp(rate * np.arange(count)).sum() < length else (low, rate)
    bounds = np.round(np.cumsum(np.exp(high * np.arange(count)))).astype(int)
    bounds = np.maximum(bounds, np.arange(1, count + 1))
    return [range(start, stop) for start, stop in zip([0, *bounds[:-1]], bounds, strict=True)]


def to_levels(images: np.ndarray, device: torch.device | str) -> Tensor:
    """8-bit images as float32 tensors in [-1, 1]."""
    return torch.from_numpy(images).to(device, torch.float32) / 127.5 - 1


def is_flow(pipe: DiffusionPipeline) -> bool:
    """Whether a pipeline of this project is a flow's; the class may be one that a folder carries."""
    return "path" in pipe.config


def _as_ddpm(pipe: DiffusionPipeline) -> tuple[NoiseSchedule, str, Callable[..., Tensor]]:
    """A noise schedule, what is predicted, and the network of (x_t, t), t an index into the schedule."""
    if not is_flow(pipe):
        return NoiseSchedule.from_scheduler(pipe.scheduler), pipe.scheduler.config.prediction_type, pipe.network
    schedule, path = NoiseSchedule.cosine(1000), find_path(pipe.config.path)
    scale = pipe.scheduler.config.num_train_timesteps

    def x0_of(x_t: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        a, b = schedule.marginal(t)
        time = path.time_of(a, b)
        x = x_t * broadcast(sum(path.marginal(time)) / (a + b), x_t)  # of the same signal-to-noise ratio
        velocity = pipe.network(x, (scale * time).to(x), **conditions)
        return from_velocity(path, velocity, x, time)[0]

    return schedule, "sample", x0_of


def check_images(pipe: DiffusionPipeline, images: np.ndarray) -> None:
    """Raise ValueError unless `images` are at least 2, (N, C, H, W), of the size that the network takes."""
    if tuple(images.shape[1:]) != pipe.sample_shape or len(images) < 2:
        raise ValueError(f"images must be at least 2 of shape {pipe.sample_shape}, got {images.shape}")


def _check(pipe: DiffusionPipeline, variances: list[str], timesteps_per_image: int) -> None:
    if timesteps_per_image < 2:
        raise ValueError(f"timesteps_per_image must be at least 2, got {timesteps_per_image}")
    learned = Facts(pipe.unet.config).learns_variance
    for name in variances:
        if name not in VARIANCES:
            raise ValueError(f"variances must be among {', '.join(VARIANCES)}, got {name!r}")
        if name == "learned_range" and not learned:
            raise ValueError("variances must be fixed_small or fixed_large for this network, got learned_range")


def _pairs(
    count: int, slices: list[range], seed: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of (image, slice, t): every image with one t of every slice."""
    sizes, starts = (np.array(values) for values in ([len(s) for s in slices], [s.start for s in slices]))
    shares = np.stack([torch.rand(len(slices), generator=seeded(seed, i, "t")).numpy() for i in range(count)])
    times = starts + np.minimum((shares * sizes).astype(int), sizes - 1)
    image, column = (grid.ravel() for grid in np.indices(times.shape))
    for start in range(0, times.size, batch_size):
        chosen = slice(start, start + batch_size)
        yield image[chosen], column[chosen], times.ravel()[chosen]


def _noise(seed: int, image: int, column: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn((1, *shape), generator=seeded(seed, int(image), int(column), "noise"))


def _summary(terms: np.ndarray, prior: np.ndarray, slices: list[range], schedule: NoiseSchedule) -> BitsPerDim:
    totals = terms @ np.array([len(s) for s in slices], dtype=float) + prior
    middles = np.array([(s.start + s.stop - 1) // 2 for s in slices])
    return BitsPerDim(
        total=float(totals.mean()),
        standard_error=float(totals.std(ddof=1) / np.sqrt(len(totals))),
        prior=float(prior.mean()),
        decoder=float(terms[:, 0].mean()),
        timesteps=schedule.timesteps.numpy()[middles],
        terms=terms.mean(0),
    )
