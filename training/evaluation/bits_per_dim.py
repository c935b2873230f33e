"""The rows of metrics.json for bits/dim of test images: by the variational bound, and by the probability-flow ODE.

`training.metrics.bits_per_dim` and `.ode_bits_per_dim` compute them. They are properties of a network and its process,
not of a sampler, so that their rows have a section of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from training.data import ImageData
from training.evaluation.checks import own_variance
from training.evaluation.options import Options
from training.evaluation.prepare import Evaluation, real
from training.evaluation.results import Row, find_done, merge
from training.evaluation.sampling import Model, open_model
from training.metrics.bits_per_dim import BitsPerDim, bits_per_dim
from training.metrics.ode_bits_per_dim import ode_bits_per_dim

SECTION = "likelihood"
MEASURES = {"bits_per_dim", "standard_error", "prior", "decoder"}
ODE_MEASURES = {"bits_per_dim", "standard_error", "nfe"}


def measure_rows(evaluation: Evaluation) -> list[Row]:
    """Measure the bound with each requested variance, unless metrics.json holds it, and write it; returns the rows."""
    options, model, output = evaluation.options, evaluation.model, evaluation.output
    variances = list(dict.fromkeys(options.variance_type or [own_variance(model)]))
    known = {"real": {"test": real(evaluation)["test"]}, **evaluation.about}
    rows = {variance: {"settings": settings_of(model, options, variance), **known} for variance in variances}
    done = {} if options.overwrite else {v: find_done(output, row, MEASURES, SECTION) for v, row in rows.items()}
    missing = [variance for variance in variances if done.get(variance) is None]
    if missing:
        for variance, found in measure(model, evaluation.test, options, missing).items():
            done[variance] = rows[variance] | found
            merge(output, done[variance], SECTION)
    return [done[variance] for variance in variances]


def measure_ode_row(evaluation: Evaluation) -> Row:
    """Measure bits/dim by the ODE, unless metrics.json holds them, and write them; returns the row."""
    options, model, output = evaluation.options, evaluation.model, evaluation.output
    settings = {
        "model": model.name,
        "method": "ode",
        "tolerance": options.ode_tolerance,
        "num_images": options.ode_bits_per_dim,
        "seed": options.seed,
        "dtype": "float32",
        "dataset": options.dataset,
    }
    row = {"settings": settings, "real": {"test": real(evaluation)["test"]}, **evaluation.about}
    done = None if options.overwrite else find_done(output, row, ODE_MEASURES, SECTION)
    if done is not None:
        return done
    pipe = open_model(str(model.folder), torch.float32, evaluation.processes.device).pipe
    images = chosen_images(evaluation.test, options.ode_bits_per_dim, options.seed)
    how = {"tolerance": options.ode_tolerance, "seed": options.seed, "batch_size": options.batch_size}
    found = ode_bits_per_dim(pipe, images, **how)
    row["measured"] = {"bits_per_dim": found.total, "standard_error": found.standard_error, "nfe": round(found.nfe, 1)}
    merge(output, row, SECTION)
    return row


def chosen_images(test: ImageData, count: int, seed: int) -> np.ndarray:
    """`count` of the test images, uint8 (count, C, H, W), the same for every measure and model."""
    order = np.random.default_rng(seed).permutation(len(test.images))
    return np.array(test.images[np.sort(order[:count])])


def settings_of(model: Model, options: Options, variance: str) -> Row:
    """The settings that a row was measured with."""
    return {
        "model": model.name,
        "variance": variance,
        "num_inference_steps": options.bits_per_dim_steps,
        "num_images": options.bits_per_dim,
        "timesteps_per_image": options.bits_per_dim_timesteps,
        "seed": options.seed,
        "dtype": options.dtype,
        "dataset": options.dataset,
    }


def measure(model: Model, test: ImageData, options: Options, variances: list[str]) -> dict[str, dict[str, Any]]:
    """`measured` and `curve` (L_t over t in bits/dim) of each variance."""
    model.use_scheduler(None)
    found = bits_per_dim(
        model.pipe,
        chosen_images(test, options.bits_per_dim, options.seed),
        num_inference_steps=options.bits_per_dim_steps,
        variances=variances,
        timesteps_per_image=options.bits_per_dim_timesteps,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    return {variance: as_row(bits) for variance, bits in found.items()}


def as_row(bits: BitsPerDim) -> dict[str, Any]:
    """A BitsPerDim as JSON; the curve is rounded to six digits."""
    terms = [float(f"{value:.6g}") for value in np.asarray(bits.terms, dtype=np.float64).tolist()]
    measured = {
        "bits_per_dim": float(bits.total),
        "standard_error": float(bits.standard_error),
        "prior": float(bits.prior),
        "decoder": float(bits.decoder),
    }
    return {"measured": measured, "curve": {"timesteps": np.asarray(bits.timesteps).tolist(), "bits_per_dim": terms}}
