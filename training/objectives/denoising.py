"""Denoising: the simplified loss of DDPM, for eps, x_0 or v (Ho et al. 2020, eq. 14; Salimans & Ho 2022, section 4).

    L_simple = E || target - f(x_t, t, y) ||^2,   x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

with y dropped at random for classifier-free guidance (Ho & Salimans 2022, algorithm 1), t stratified over the batch,
and min-SNR weights (Hang et al. 2023, https://arxiv.org/abs/2303.09556, section 3.4) where asked for.
"""

import logging
from typing import Self

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from torch import Tensor, nn

from pipelines import ClassifierFreeGuidancePipeline, DDPMPipeline, NoiseSchedule
from training.data import ImageData
from training.networks import build_network, fit_network, load_pipeline
from training.randomness import BatchRandom
from training.recipes import Recipe

logger = logging.getLogger(__name__)


class Denoising:
    """`build` the network, `loss` of a batch, `pipeline` to save."""

    def __init__(self, recipe: Recipe, network: nn.Module, class_names: tuple[str, ...] | None) -> None:
        self.recipe, self.network, self.class_names = recipe, network, class_names
        scheduler_class = DDIMScheduler if class_names else DDPMScheduler
        self.scheduler = scheduler_class(
            num_train_timesteps=recipe.ddpm_num_steps,
            beta_schedule=recipe.ddpm_beta_schedule,
            prediction_type=recipe.prediction_type,
            timestep_spacing="trailing",
            clip_sample=True,
        )
        self.schedule = NoiseSchedule.from_scheduler(self.scheduler)

    @classmethod
    def build(cls, recipe: Recipe, data: ImageData) -> Self:
        """The objective with a network that fits the data, new or fine-tuned.

        Raises:
            ValueError: `class_conditional` and data without labels, or a network that cannot take the data.
        """
        if recipe.class_conditional and data.labels is None:
            raise ValueError("class_conditional must be False for data without labels, got True")
        names = class_names_of(data) if recipe.class_conditional else None
        if recipe.pretrained_model_name_or_path is None:
            return cls(recipe, build_network(recipe, data, len(names) + 1 if names else None), names)
        pipeline = load_pipeline(recipe.pretrained_model_name_or_path)
        objective = cls(recipe, fit_network(pipeline, data, names), names)
        objective.scheduler = type(objective.scheduler).from_config(pipeline.scheduler.config)
        objective.schedule = NoiseSchedule.from_scheduler(objective.scheduler)
        kind = objective.scheduler.config.prediction_type
        logger.info("the noise schedule and prediction_type (%s) are those of the pipeline that is fine-tuned", kind)
        return objective

    def loss(self, batch: dict[str, Tensor], rng: BatchRandom) -> Tensor:
        """Mean loss of a batch: "images" (N, C, H, W) in [-1, 1], "labels" (N,); the noise is float32 or better."""
        return self.losses(batch, rng).mean()

    def losses(self, batch: dict[str, Tensor], rng: BatchRandom) -> Tensor:
        """The weighted loss of each example, (N,)."""
        x0, kind = batch["images"], self.scheduler.config.prediction_type
        noise = rng.normal("noise", tuple(x0.shape[1:])).to(x0)
        t = self._timesteps(rng).to(x0.device)
        x_t = self.schedule.add_noise(x0, noise, t)
        conditions = {"class_labels": self._labels(batch["labels"], rng)} if self.class_names else {}
        output = self.network(x_t, t, **conditions, return_dict=False)[0].to(x0.dtype)
        target = {"epsilon": noise, "sample": x0}.get(kind)
        target = self.schedule.velocity(x0, noise, t) if target is None else target
        return (output - target).square().flatten(1).mean(1) * self._weights(t).to(x0)

    def _timesteps(self, rng: BatchRandom) -> Tensor:
        stratified = self.recipe.timestep_sampling == "stratified"
        share = rng.stratified("t") if stratified else rng.uniform("t").double()
        return (share * len(self.schedule)).long()

    def _labels(self, labels: Tensor, rng: BatchRandom) -> Tensor:
        dropped = rng.uniform("label dropout") < self.recipe.label_dropout
        return torch.where(dropped.to(labels.device), len(self.class_names), labels)

    def _weights(self, t: Tensor) -> Tensor:
        """min(SNR, gamma), in units of the loss of what is predicted; 1 without gamma."""
        if self.recipe.snr_gamma is None:
            return torch.ones(t.shape, dtype=torch.float64, device=t.device)
        snr = self.schedule.snr(t.cpu()).to(t.device)
        unit = {"epsilon": snr, "sample": 1.0, "v_prediction": snr + 1}[self.scheduler.config.prediction_type]
        return snr.clamp(max=self.recipe.snr_gamma) / unit

    def pipeline(self, network: nn.Module) -> DiffusionPipeline:
        """What to save and to draw samples with: `network` in the pipeline that this objective trains for."""
        names = {str(i): name for i, name in enumerate(self.class_names)} if self.class_names else None
        pipeline_class = ClassifierFreeGuidancePipeline if self.class_names else DDPMPipeline
        return pipeline_class(unet=network, scheduler=self.scheduler, id2label=names)


def class_names_of(data: ImageData) -> tuple[str, ...]:
    """The names of the classes, or their numbers where the data have none."""
    return data.class_names or tuple(str(i) for i in range(int(data.labels.max()) + 1))
