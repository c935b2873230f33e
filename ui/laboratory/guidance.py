"""Guidance towards a class, by the functions of pipelines/, from what is known exactly.

Without a classifier, the exact denoiser is asked with and without the class; with one, log p(y | x_t) of the mixture
is differentiated.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pipelines.classifier_free_guidance import guide
from pipelines.classifier_guidance import eps_shift, gradient_of, guide_mean, steer
from pipelines.ddpm import MeanShift
from pipelines.process import Path, Process, broadcast, path_velocity

from .choices import CLASSIFIER, FREE
from .lab import Lab

Network = Callable[[Tensor, Tensor | float], Tensor]  # (x_t, t) -> like x_t


def eps_of(lab: Lab, process: Process) -> Network:
    """The guided eps of (x_t (N, D), t)."""
    network = _free(lab, lab.mixture.denoiser(process))
    if lab.guidance != CLASSIFIER:
        return network
    return steer(network, gradient(lab, process), lab.guidance_scale, process, "epsilon")


def score_of(lab: Lab, process: Process) -> Network:
    """The guided score of (x_t (N, D), t): -eps / b."""
    eps = eps_of(lab, process)
    return lambda x, t: -eps(x, t) / broadcast(process.marginal(t)[1], x)


def unguided_eps_and_shift(lab: Lab, process: Process) -> tuple[Network, MeanShift | None]:
    """For ancestral steps, whose mean a classifier shifts: eps, and what shifts the mean."""
    if lab.guidance != CLASSIFIER:
        return eps_of(lab, process), None
    slope = gradient(lab, process)

    def shift(mean: Tensor, variance: Tensor, x_t: Tensor, t: int) -> Tensor:
        return guide_mean(mean, variance, slope(x_t, t), lab.guidance_scale)

    return lab.mixture.denoiser(process), shift


def velocity_of(lab: Lab, path: Path) -> Network:
    """The guided velocity dx/dt of (x_t (N, D), t) on the path of a flow."""
    network = _free(lab, lab.mixture.denoiser(path, "flow_prediction"))
    if lab.guidance != CLASSIFIER:
        return network
    slope = gradient(lab, path)

    def guided(x: Tensor, t: Tensor | float) -> Tensor:
        a, b = map(float, path.marginal(t))
        if a == 0:  # all is noise: no shift of eps can move x_0
            return network(x, t)
        shift = eps_shift(slope(x, t), b, lab.guidance_scale)
        return network(x, t) + path_velocity(path, -shift * (b / a), shift, t)

    return guided


def gradient(lab: Lab, process: Process) -> Network:
    """grad log p(y | x_t) of the class asked for."""
    classifier = lab.mixture.classifier(process)
    label = torch.tensor(lab.class_number)
    return lambda x, t: gradient_of(classifier.log_prob, x, t, label)


def _free(lab: Lab, network: Callable[..., Tensor]) -> Network:
    """Guided without a classifier, if that is asked for; the scale 1 is the class alone."""
    if lab.guidance != FREE:
        return network
    null = lab.mixture.num_classes

    def guided(x: Tensor, t: Tensor | float) -> Tensor:
        labels = torch.full((len(x),), lab.class_number)
        return guide(network, {"class_labels": labels}, {"class_labels": null}, lab.guidance_scale)(x, t)

    return guided
