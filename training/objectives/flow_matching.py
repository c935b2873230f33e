"""Flow matching: the velocity of a path from images to noise (Lipman et al. 2023, https://arxiv.org/abs/2210.02747).

    L = E || a'(t) x_0 + b'(t) eps - u(x_t, t, y) ||^2,   x_t = a(t) x_0 + b(t) eps,   t in [0, 1], noise at t = 1

with y dropped at random for classifier-free guidance, and t uniform or logit-normal, t = sigmoid(m + s z), which spends
more of the run on the middle of the path (Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 3.1). Either
is stratified over the batch.
"""

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from pipelines import FlowMatchingPipeline
from pipelines.flow_matching import PATHS, find_path
from pipelines.process import Path, broadcast, path_velocity
from training.data import ImageData
from training.networks.adapt import fit_network
from training.networks.build import build_network
from training.networks.stages import Stage, load_start
from training.objectives.base import Batch
from training.objectives.conditions import num_class_embeds
from training.objectives.latents import open_vae
from training.objectives.text import open_captions, text_width
from training.objectives.upsampling import Upsampling
from training.randomness import BatchRandom
from training.recipes import Recipe, check_one_of, check_range, flag

logger = logging.getLogger(__name__)
TIME_SCALE = 1000  # the network is given 1000 t, as diffusers' FlowMatch schedulers do


class FlowMatching(Upsampling):
    """`build` the network, `loss` of a batch, `pipeline` to save."""

    @dataclass(frozen=True)
    class Options(Upsampling.Options):
        """The path, how times are drawn, and whether with classes."""

        FIXED: ClassVar[tuple[str, ...]] = (*Upsampling.Options.FIXED, "path")

        path: str = flag("linear", "linear (rectified flow) or variance_preserving")
        weighting_scheme: str = flag("none", "how times are drawn: none (uniform) or logit_normal")
        logit_mean: float = flag(0.0, "mean of logit(t) for logit_normal")
        logit_std: float = flag(1.0, "standard deviation of logit(t) for logit_normal")

        def __post_init__(self) -> None:
            """Refuse, by name, what cannot work."""
            super().__post_init__()
            check_one_of(self, path=tuple(PATHS), weighting_scheme=("none", "logit_normal"))
            check_range(self, logit_mean=(-10.0, 10.0), logit_std=(1e-3, 10.0))

    def __init__(self, options: Options, network: nn.Module, *told: Any) -> None:
        super().__init__(options, network, *told)
        self.path_name = options.path
        self.scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIME_SCALE)
        self.guidance_interval = (0.0, 1.0)

    @classmethod
    def build(cls, recipe: Recipe, options: Options, data: ImageData) -> Self:
        """The objective with a network that fits the data, new or from a pipeline of any kind.

        Raises:
            ValueError: `class_conditional` for data without labels, or a network that cannot take the data.
        """
        names, vae, captions = (
            options.class_names(data),
            open_vae(recipe, options),
            open_captions(recipe, options, data),
        )
        if recipe.pretrained_model_name_or_path is None:
            settings = {"text_width": text_width(captions)} | options.network_settings(data)
            network = build_network(recipe, data, num_class_embeds(names), **settings)
            objective = cls(options, network, names, vae, captions)
            objective.show(data)
            return objective
        pipeline = load_start(recipe.pretrained_model_name_or_path, options.low_resolution)
        if pipeline.facts.learns_variance:
            raise ValueError("pretrained_model_name_or_path must predict no variance, but its network does")
        objective = cls(options, fit_network(pipeline, data, names, text_width(captions)), names, vae, captions)
        objective.show(data)
        objective.tell_of_other_parts(pipeline)
        objective._follow(pipeline)
        return objective

    def _follow(self, pipeline: DiffusionPipeline | Stage) -> None:
        """Use the guidance interval of the pipeline that is fine-tuned and, of a flow, its path and scheduler."""
        self.guidance_interval = pipeline.config.get("guidance_interval", self.guidance_interval)
        if pipeline.config.get("path") is None:
            logger.warning("the network of a %s learns a velocity from here on", type(pipeline).__name__)
            return
        self.scheduler, self.path_name = pipeline.scheduler, pipeline.config["path"]
        logger.info("path and scheduler are those of the pipeline that is fine-tuned (%s)", self.path_name)

    @property
    def path(self) -> Path:
        """What the network learns the velocity of."""
        return find_path(self.path_name)

    def loss(self, batch: Batch, rng: BatchRandom) -> Tensor:
        """Mean squared error of the velocity: "images" (N, C, H, W) in [-1, 1] or latents, "labels" (N,)."""
        x0, conditions = self.examples(batch, rng)
        eps, t = rng.normal("noise", tuple(x0.shape[1:])).to(x0), self.times(rng)
        a, b = (broadcast(level, x0) for level in self.path.marginal(t))
        timestep = (TIME_SCALE * t).to(x0)
        velocity = self.output(a * x0 + b * eps, timestep, conditions)
        return (velocity.to(x0) - path_velocity(self.path, x0, eps, t)).square().mean()

    def times(self, rng: BatchRandom) -> Tensor:
        """t (N,), float64 in (0, 1), stratified over the examples of the update."""
        share = rng.stratified("t")
        if self.options.weighting_scheme == "none":
            return share
        return torch.sigmoid(self.options.logit_mean + self.options.logit_std * torch.special.ndtri(share))

    def pipeline(self, network: nn.Module) -> DiffusionPipeline:
        """What to save and to draw samples with."""
        config = {"path": self.path_name, "guidance_interval": self.guidance_interval}
        if self.vae is not None:
            return self.latent_pipeline(network, self.scheduler, **config)
        if self.in_cascade:
            return self.cascade(network, self.scheduler, self.path_name)
        parts = {"unet": self.drawn(network), "scheduler": self.scheduler, "id2label": self.id2label}
        return FlowMatchingPipeline(**parts, **config)


OBJECTIVE = FlowMatching
