"""The rows of metrics.json for bits/dim, the variational bound of a model on test images.

`training.metrics.bits_per_dim` computes it. It is a property of the network and its noise schedule, not of a sampler,
so that its rows have a section of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from training.data import ImageData
from training.evaluation.checks import own_variance
from training.evaluation.options import Options
from training.evaluation.prepare import Evaluation, real
from training.evaluation.results import Row, find_done, merge
from training.evaluation.sampling import Model
from training.metrics.bits_per_dim import BitsPerDim, bits_per_dim

SECTION = "likelihood"
MEASURES = {"bits_per_dim", "standard_error", "prior", "decoder"}


def measure_rows(evaluation: Evaluation) -> list[Row]:
    """Measure bits/dim with each requested variance, unless metrics.json holds it, and write it; returns the rows."""
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
    order = np.random.default_rng(options.seed).permutation(len(test.images))
    chosen = np.sort(order[: options.bits_per_dim])
    model.use_scheduler(None)
    found = bits_per_dim(
        model.pipe,
        np.array(test.images[chosen]),
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
