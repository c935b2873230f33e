"""Flow matching: the velocity of a path from images to noise (Lipman et al. 2023, https://arxiv.org/abs/2210.02747).

    L = E || a'(t) x_0 + b'(t) eps - u(x_t, t, y) ||^2,   x_t = a(t) x_0 + b(t) eps,   t in [0, 1], noise at t = 1

with y dropped at random for classifier-free guidance, and t uniform or logit-normal, t = sigmoid(m + s z), which spends
more of the run on the middle of the path (Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 3.1). Either
is stratified over the batch.
"""

import logging
from dataclasses import dataclass
from typing import Self

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from pipelines import FlowMatchingPipeline
from pipelines.flow_matching import PATHS, find_path
from pipelines.process import broadcast, path_velocity
from training.data import ImageData
from training.networks.adapt import fit_network
from training.networks.build import build_network
from training.networks.open import load_pipeline
from training.objectives.base import Batch, Objective
from training.objectives.conditions import class_names_of, drop
from training.randomness import BatchRandom
from training.recipes import Recipe, check_one_of, check_range, flag

logger = logging.getLogger(__name__)
TIME_SCALE = 1000  # the network is given 1000 t, as diffusers' FlowMatch schedulers do


class FlowMatching(Objective):
    """`build` the network, `loss` of a batch, `pipeline` to save."""

    @dataclass(frozen=True)
    class Options(Objective.Options):
        """The path, how times are drawn, and whether with classes."""

        class_conditional: bool = flag(False, "train on labels, dropped now and then, for classifier-free guidance")
        label_dropout: float = flag(0.1, "share of examples whose label is dropped")
        path: str = flag("linear", "linear (rectified flow) or variance_preserving")
        weighting_scheme: str = flag("none", "how times are drawn: none (uniform) or logit_normal")
        logit_mean: float = flag(0.0, "mean of logit(t) for logit_normal")
        logit_std: float = flag(1.0, "standard deviation of logit(t) for logit_normal")

        def __post_init__(self) -> None:
            """Refuse, by name, what cannot work."""
            check_one_of(self, path=tuple(PATHS), weighting_scheme=("none", "logit_normal"))
            check_range(self, label_dropout=(0.0, 1.0), logit_mean=(-10.0, 10.0), logit_std=(1e-3, 10.0))

    def __init__(self, options: Options, network: nn.Module, class_names: tuple[str, ...] | None) -> None:
        super().__init__(options, network)
        self.class_names, self.path = class_names, find_path(options.path)
        self.nulls = {"class_labels": len(class_names)} if class_names else {}
        self.scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIME_SCALE)
        self.guidance_interval = (0.0, 1.0)

    @classmethod
    def build(cls, recipe: Recipe, options: Options, data: ImageData) -> Self:
        """The objective with a network that fits the data, new or from a pipeline of any kind.

        Raises:
            ValueError: `class_conditional` and data without labels, or a network that cannot take the data.
        """
        if options.class_conditional and data.labels is None:
            raise ValueError("class_conditional must be False for data without labels, got True")
        names = class_names_of(data) if options.class_conditional else None
        if recipe.pretrained_model_name_or_path is None:
            return cls(options, build_network(recipe, data, len(names) + 1 if names else None), names)
        pipeline = load_pipeline(recipe.pretrained_model_name_or_path)
        if pipeline.facts.learns_variance:
            raise ValueError("pretrained_model_name_or_path must predict no variance, but its network does")
        objective = cls(options, fit_network(pipeline, data, names), names)
        objective._follow(pipeline)
        return objective

    def _follow(self, pipeline: DiffusionPipeline) -> None:
        """Take over the path, the scheduler and the guidance interval of a flow that is trained further."""
        self.guidance_interval = pipeline.config.get("guidance_interval", self.guidance_interval)
        if not isinstance(pipeline, FlowMatchingPipeline):
            logger.warning("the network of a %s learns a velocity from here on", type(pipeline).__name__)
            return
        self.scheduler, self.path = pipeline.scheduler, find_path(pipeline.config.path)
        logger.info("path and scheduler are those of the pipeline that is fine-tuned (%s)", pipeline.config.path)

    def loss(self, batch: Batch, rng: BatchRandom) -> Tensor:
        """Mean squared error of the velocity: "images" (N, C, H, W) in [-1, 1], "labels" (N,)."""
        x0 = batch["images"]
        eps, t = rng.normal("noise", tuple(x0.shape[1:])).to(x0), self.times(rng)
        a, b = (broadcast(level, x0) for level in self.path.marginal(t))
        timestep = (TIME_SCALE * t).to(x0)
        velocity = self.network(a * x0 + b * eps, timestep, **self.conditions(batch, rng), return_dict=False)[0]
        return (velocity.to(x0) - path_velocity(self.path, x0, eps, t)).square().mean()

    def times(self, rng: BatchRandom) -> Tensor:
        """t (N,), float64 in (0, 1), stratified over the examples of the update."""
        share = rng.stratified("t")
        if self.options.weighting_scheme == "none":
            return share
        return torch.sigmoid(self.options.logit_mean + self.options.logit_std * torch.special.ndtri(share))

    def conditions(self, batch: Batch, rng: BatchRandom) -> dict[str, Tensor]:
        """What the network is given besides x_t and t, dropped now and then: "class_labels" (N,), or nothing."""
        given = {"class_labels": batch["labels"]} if self.class_names else {}
        return drop(given, self.nulls, self.options.label_dropout, rng)

    def pipeline(self, network: nn.Module) -> DiffusionPipeline:
        """What to save and to draw samples with."""
        names = {str(i): name for i, name in enumerate(self.class_names)} if self.class_names else None
        return FlowMatchingPipeline(
            unet=network,
            scheduler=self.scheduler,
            id2label=names,
            path=self._path_name(),
            guidance_interval=self.guidance_interval,
        )

    def _path_name(self) -> str:
        return next(name for name, kind in PATHS.items() if isinstance(self.path, kind))


OBJECTIVE = FlowMatching
