"""Denoising: the simplified loss of DDPM, for eps, x_0 or v (Ho et al. 2020, eq. 14; Salimans & Ho 2022, section 4).

    L_simple = E || target - f(x_t, t, y) ||^2,   x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

The label y is dropped at random for classifier-free guidance (Ho & Salimans 2022, algorithm 1), and t is stratified
over the batch. --snr_gamma gives min-SNR weights (Hang et al. 2023, https://arxiv.org/abs/2303.09556, section 3.4). A
network with 2C output channels also learns its variance (Nichol & Dhariwal 2021, eq. 16; there lambda = 0.001 for
T = 1000, and the terms are summed over t. Here t is drawn, so that lambda times the sum becomes T/1000 times one term):

    L_hybrid = L_simple + T/1000 L_t,   L_t of eq. 5 in bits/dim, no gradient through the mean
"""

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, SchedulerMixin
from torch import Tensor, nn

from pipelines import ClassifierFreeGuidancePipeline, DDPMPipeline, NoiseSchedule
from pipelines.facts import Facts
from training.data import ImageData
from training.metrics.likelihood import bound_term, reverse_step
from training.networks.adapt import fit_network, with_variance_channels
from training.networks.build import build_network
from training.networks.stages import Stage, load_start
from training.objectives.base import Batch
from training.objectives.conditions import num_class_embeds
from training.objectives.importance import LossHistory
from training.objectives.latents import autoencoder_of, open_vae
from training.objectives.text import open_captions, text_width
from training.objectives.upsampling import Upsampling
from training.randomness import BatchRandom
from training.recipes import Recipe, check_at_least_one, check_one_of, flag

logger = logging.getLogger(__name__)


class Denoising(Upsampling):
    """`build` the network, `loss` of a batch, `pipeline` to save."""

    @dataclass(frozen=True)
    class Options(Upsampling.Options):
        """The prediction type, noise schedule, loss weights, and whether to train with classes."""

        FIXED: ClassVar[tuple[str, ...]] = (
            *Upsampling.Options.FIXED,
            "prediction_type",
            "ddpm_num_steps",
            "ddpm_beta_schedule",
            "variance_type",
        )

        prediction_type: str = flag("v_prediction", "epsilon, sample or v_prediction")
        ddpm_num_steps: int = flag(1000, "length T of the noise schedule")
        ddpm_beta_schedule: str = flag("squaredcos_cap_v2", "linear, scaled_linear, squaredcos_cap_v2 or sigmoid")
        variance_type: str = flag(
            "fixed_small",
            "variance of the reverse step: fixed_small, fixed_large or learned_range, which trains L_hybrid and "
            "doubles the output channels",
        )
        timestep_sampling: str = flag(
            "stratified",
            "stratified (one t in each of N equal slices of [0, T)), uniform, or importance: by the size of the "
            "terms of L_vlb, for learned_range",
        )
        snr_gamma: float | None = flag(None, "weight the loss by min-SNR with this gamma [5 is usual]")

        def __post_init__(self) -> None:
            """Raise ValueError for values that cannot work, naming the flag."""
            super().__post_init__()
            check_one_of(
                self,
                prediction_type=("epsilon", "sample", "v_prediction"),
                timestep_sampling=("stratified", "uniform", "importance"),
                variance_type=("fixed_small", "fixed_large", "learned_range"),
                ddpm_beta_schedule=("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
            )
            check_at_least_one(self, "ddpm_num_steps")
            if self.snr_gamma is not None and not self.snr_gamma > 0:
                raise ValueError(f"snr_gamma must be above 0, got {self.snr_gamma}")
            if self.timestep_sampling == "importance" and not self.learns_variance:
                raise ValueError(
                    "timestep_sampling must be stratified or uniform, unless variance_type is learned_range, got "
                    f"'importance' with {self.variance_type}"
                )

        def check(self, recipe: Recipe) -> None:
            """Raise ValueError for what latents cannot have, too: a bound in bits/dim of 8-bit levels."""
            super().check(recipe)
            if self.learns_variance and self.low_resolution is not None:
                raise ValueError(
                    "variance_type must be fixed_small or fixed_large with --low_resolution, got learned_range"
                )
            if self.learns_variance and autoencoder_of(recipe, self) is not None:
                raise ValueError("variance_type must be fixed_small or fixed_large with latents, got learned_range")

        @property
        def learns_variance(self) -> bool:
            """Whether to add variance channels to a network that has none."""
            return self.variance_type == "learned_range"

    def __init__(self, options: Options, network: nn.Module, *told: Any) -> None:
        super().__init__(options, network, *told)
        self.guidance_interval = (0.0, 1.0)
        self.learned = Facts(network.config).learns_variance
        scheduler_class = DDIMScheduler if self.class_names else DDPMScheduler
        variance = (
            {} if self.class_names else {"variance_type": "learned_range" if self.learned else options.variance_type}
        )
        self.scheduler = scheduler_class(
            **variance,
            num_train_timesteps=options.ddpm_num_steps,
            beta_schedule=options.ddpm_beta_schedule,
            prediction_type=options.prediction_type,
            timestep_spacing="trailing",
            clip_sample=self.vae is None,  # latents have no range
        )
        self.schedule = NoiseSchedule.from_scheduler(self.scheduler)
        self.history = LossHistory(len(self.schedule)) if options.timestep_sampling == "importance" else None

    @classmethod
    def build(cls, recipe: Recipe, options: Options, data: ImageData) -> Self:
        """The objective with a network that fits the data, new or fine-tuned.

        Raises:
            ValueError: `class_conditional` for data without labels, a network that cannot take the data, or one of
                another process.
        """
        names, vae, captions = (
            options.class_names(data),
            open_vae(recipe, options),
            open_captions(recipe, options, data),
        )
        width = text_width(captions)
        if recipe.pretrained_model_name_or_path is None:
            settings = options.network_settings(data)
            network = build_network(recipe, data, num_class_embeds(names), options.learns_variance, width, **settings)
            objective = cls(options, network, names, vae, captions)
            objective.show(data)
            return objective
        pipeline = load_start(recipe.pretrained_model_name_or_path, options.low_resolution)
        check_process(pipeline, recipe.pretrained_model_name_or_path)
        network = fit_network(pipeline, data, names, width)
        network = with_variance_channels(network) if options.learns_variance else network
        objective = cls(options, network, names, vae, captions)
        objective.show(data)
        objective.tell_of_other_parts(pipeline)
        objective._use_schedule_of(pipeline.scheduler)
        objective.guidance_interval = pipeline.config.get("guidance_interval", objective.guidance_interval)
        kind = objective.scheduler.config.prediction_type
        logger.info("the noise schedule and prediction_type (%s) are those of the pipeline that is fine-tuned", kind)
        if objective.learned and not options.learns_variance:
            logger.info("variance_type is learned_range, because that pipeline's network predicts a variance")
        return objective

    def _use_schedule_of(self, scheduler: SchedulerMixin) -> None:
        """Use the noise schedule and the prediction type of the pipeline that is fine-tuned."""
        variance = {"variance_type": "learned_range"} if self.learned and not self.class_names else {}
        self.scheduler = type(self.scheduler).from_config(scheduler.config, **variance)
        self.schedule = NoiseSchedule.from_scheduler(self.scheduler)
        self.history = None if self.history is None else LossHistory(len(self.schedule))

    def loss(self, batch: Batch, rng: BatchRandom) -> Tensor:
        """Mean loss of a batch: "images" (N, C, H, W) in [-1, 1], "labels" (N,); the noise is float32 or better."""
        return self.losses(batch, rng).mean()

    def losses(self, batch: Batch, rng: BatchRandom) -> Tensor:
        """The weighted loss of each example, (N,)."""
        (x0, conditions), kind = self.examples(batch, rng), self.scheduler.config.prediction_type
        noise = rng.normal("noise", tuple(x0.shape[1:])).to(x0)
        t, weights = (values.to(x0.device) for values in self._timesteps(rng))
        x_t = self.schedule.add_noise(x0, noise, t)
        output = self.output(x_t, t, conditions).to(x0.dtype)
        simple = simple_loss(output, x0, noise, t, self.schedule, kind) * self._weights(t).to(x0)
        if not self.learned:
            return simple
        terms = variance_loss(output, x0, x_t, t, self.schedule, kind)
        if self.history is not None:
            self.history.note(t, terms)
        return (simple + len(self.schedule) / 1000 * terms) * weights.to(x0)

    def _timesteps(self, rng: BatchRandom) -> tuple[Tensor, Tensor]:
        """Timesteps (N,) and the weight of each example, 1 unless they are drawn by importance."""
        share = rng.uniform("t").double() if self.options.timestep_sampling == "uniform" else rng.stratified("t")
        if self.history is not None:
            return self.history.timesteps(share)
        return (share * len(self.schedule)).long(), torch.ones_like(share)

    def _weights(self, t: Tensor) -> Tensor:
        """min(SNR, gamma), converted to a weight on the loss of the prediction type; 1 without gamma."""
        if self.options.snr_gamma is None:
            return torch.ones(t.shape, dtype=torch.float64, device=t.device)
        snr = self.schedule.snr(t.cpu()).to(t.device)
        unit = {"epsilon": snr, "sample": 1.0, "v_prediction": snr + 1}[self.scheduler.config.prediction_type]
        return snr.clamp(max=self.options.snr_gamma) / unit

    def pipeline(self, network: nn.Module) -> DiffusionPipeline:
        """The pipeline to save and to draw samples with, over `network`."""
        if self.vae is not None:
            return self.latent_pipeline(network, self.scheduler, guidance_interval=self.guidance_interval)
        if self.in_cascade:
            return self.cascade(network, self.scheduler)
        if not self.class_names:
            return DDPMPipeline(unet=network, scheduler=self.scheduler)
        return ClassifierFreeGuidancePipeline(
            unet=self.drawn(network),
            scheduler=self.scheduler,
            id2label=self.id2label,
            guidance_interval=self.guidance_interval,
        )


def simple_loss(
    output: Tensor, x0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule, prediction_type: str = "epsilon"
) -> Tensor:
    """Mean squared error of the prediction in the first C channels of `output`, (N,)."""
    target = {"epsilon": noise, "sample": x0}.get(prediction_type)
    target = schedule.velocity(x0, noise, t) if target is None else target
    return (output[:, : x0.shape[1]] - target).square().flatten(1).mean(1)


def variance_loss(
    output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, schedule: NoiseSchedule, prediction_type: str = "epsilon"
) -> Tensor:
    """L_t in bits/dim, (N,). Only the variance channels of `output` (N, 2C, ...) get a gradient."""
    mean, v = output.split(x0.shape[1], dim=1)
    frozen = torch.cat([mean.detach(), v], dim=1)
    step = reverse_step(frozen, x_t, t, schedule, "learned_range", prediction_type)
    return bound_term(*step, x0, x_t, t, schedule)


def hybrid_loss(
    model_output: Tensor,
    x0: Tensor,
    noise: Tensor,
    t: Tensor,
    schedule: NoiseSchedule,
    prediction_type: str = "epsilon",
) -> Tensor:
    """L_hybrid of each example, (N,): mean squared error + T/1000 L_t (Nichol & Dhariwal 2021, eq. 16).

    Args:
        model_output: (N, 2C, H, W) at x_t: the prediction, and v in [-1, 1] with log sigma_t^2 = (v+1)/2 log beta_t +
            (1-v)/2 log beta_tilde_t
        x0: (N, C, H, W) in [-1, 1], of 8-bit levels
        noise: (N, C, H, W), the eps of x_t
        t: (N,), indices into `schedule`, whose length is T; L_0, the decoder's term, is discretised
        prediction_type: that of the first C channels: epsilon, sample or v_prediction

    L_t is in bits/dim, and x_0 is not clipped in it. The prediction is detached in L_t, so that it learns from the
    squared error alone.
    """
    x_t = schedule.add_noise(x0, noise, t)
    terms = variance_loss(model_output, x0, x_t, t, schedule, prediction_type)
    return simple_loss(model_output, x0, noise, t, schedule, prediction_type) + len(schedule) / 1000 * terms


def check_process(pipeline: DiffusionPipeline | Stage, start: str) -> None:
    """Raise ValueError for a network of another process, where times and outputs mean something else."""
    if pipeline.config.get("path") is not None:
        objective, trained = "flow_matching", "predicts the velocity of a flow"
    elif pipeline.config.get("sde") is not None or type(pipeline.scheduler).__name__ == "ScoreSdeVeScheduler":
        objective, trained = "score_matching", "was trained on an SDE"
    else:
        return
    raise ValueError(f"objective must be {objective} to go on from {start}, whose network {trained}, got denoising")


OBJECTIVE = Denoising
