"""Denoising score matching (Vincent 2011; Song & Ermon 2019, https://arxiv.org/abs/1907.05600; Song et al. 2021).

    L = E_t w(t) E || b(t) s(x_t, t, y) + z ||^2,   x_t = a(t) x_0 + b(t) z,   s the score, grad log p(x_t)

With w = 1 this is the loss of NCSN and, as eps = -b s, of DDPM ("variance" weighting, lambda(t) = b^2). With w = g^2 /
b^2 it bounds the likelihood (Song et al. 2021b, https://arxiv.org/abs/2101.09258, theorem 1); its t may be drawn with a
density in proportion to w, whose every example then counts alike (section 5.2). t is uniform in (0, 1], or, with
`ncsn_levels`, one of that many noise levels.

Under VP the network answers eps and is asked at the steps of DDPM's linear schedule with the same signal-to-noise
ratio, under sub-VP at 1000 t - 1; under VE it is asked by sigma and answers the score, as NCSN++.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, SchedulerMixin, ScoreSdeVeScheduler
from torch import Tensor, nn

from pipelines import NoiseSchedule, ScoreSDEPipeline
from pipelines.process import broadcast
from pipelines.score_sde import ENDS, SDES, Steps, SubVPSteps
from pipelines.sde import SDE, VESDE
from training.data import ImageData
from training.networks.adapt import fit_network
from training.networks.build import build_network
from training.networks.open import load_pipeline
from training.objectives.base import Batch
from training.objectives.conditions import ClassConditional, num_class_embeds
from training.randomness import BatchRandom
from training.recipes import Recipe, check_at_least_one, check_one_of, flag

STEPS = 1000  # of the schedule that a VP network is asked at
GRID = 10_001  # points at which the density of t is tabulated


class ScoreMatching(ClassConditional):
    """`build` the network, `loss` of a batch, `pipeline` to save."""

    @dataclass(frozen=True)
    class Options(ClassConditional.Options):
        """The process, how its times are weighted and drawn, and whether with classes."""

        FIXED: ClassVar[tuple[str, ...]] = (
            *ClassConditional.Options.FIXED,
            "sde",
            "beta_min",
            "beta_max",
            "sigma_min",
            "sigma_max",
            "ncsn_levels",
        )

        sde: str = flag("ve", "vp, subvp or ve")
        beta_min: float = flag(0.1, "of vp and subvp")
        beta_max: float = flag(20.0, "of vp and subvp")
        sigma_min: float = flag(0.01, "of ve, in units of images in [-1, 1]")
        sigma_max: float = flag(50.0, "of ve: about the largest distance between two images")
        loss_weighting: str = flag("variance", "variance (w = 1) or likelihood (w = g^2 / b^2)")
        importance_sampling: bool = flag(False, "draw t in proportion to the likelihood weighting")
        ncsn_levels: int | None = flag(None, "train at this many noise levels [at all times]")

        def __post_init__(self) -> None:
            """Refuse, by name, what cannot work."""
            super().__post_init__()
            check_one_of(self, sde=tuple(SDES), loss_weighting=("variance", "likelihood"))
            if self.ncsn_levels is not None:
                check_at_least_one(self, "ncsn_levels")
            if self.importance_sampling and (self.loss_weighting != "likelihood" or self.ncsn_levels is not None):
                raise ValueError(
                    "importance_sampling must be False unless loss_weighting is likelihood and ncsn_levels is None"
                )
            self.make_sde()

        def make_sde(self) -> SDE:
            """The process; ValueError for constants that make none."""
            if self.sde == "ve":
                return VESDE(self.sigma_min, self.sigma_max)
            return SDES[self.sde](self.beta_min, self.beta_max)

    def __init__(self, options: Options, network: nn.Module, class_names: tuple[str, ...] | None) -> None:
        super().__init__(options, network, class_names)
        self.sde, self.end = options.make_sde(), ENDS[options.sde]
        self.scheduler = self._scheduler()
        self.steps = None if options.sde == "ve" else self._steps()
        self._times, self._shares, self._total = self._density()

    @classmethod
    def build(cls, recipe: Recipe, options: Options, data: ImageData) -> Self:
        """The objective with a network that fits the data, new or from a ScoreSDEPipeline.

        Raises:
            ValueError: `class_conditional` for data without labels, or a network that cannot take the data or was
                trained on another process.
        """
        names = options.class_names(data)
        if recipe.pretrained_model_name_or_path is None:
            time = {"time_embedding_type": "fourier"} if options.sde == "ve" else {}
            return cls(options, build_network(recipe, data, num_class_embeds(names), **time), names)
        pipeline = load_pipeline(recipe.pretrained_model_name_or_path)
        fourier = pipeline.unet.config.get("time_embedding_type") == "fourier"
        own = "ve" if fourier else pipeline.config.get("sde") or "vp"
        if options.sde != own:
            start = recipe.pretrained_model_name_or_path
            raise ValueError(f"sde must be {own} for the network of {start}, got {options.sde!r}")
        return cls(options, fit_network(pipeline, data, names), names)

    def _scheduler(self) -> SchedulerMixin:
        """What states the process in the saved folder."""
        options = self.options
        if options.sde == "ve":
            return ScoreSdeVeScheduler(STEPS, sigma_min=options.sigma_min, sigma_max=options.sigma_max)
        ends = {"beta_start": options.beta_min / STEPS, "beta_end": options.beta_max / STEPS}
        return DDPMScheduler(STEPS, **ends, beta_schedule="linear", prediction_type="epsilon")

    def _steps(self) -> Steps:
        """The steps at which the network is asked."""
        if self.options.sde == "subvp":
            return SubVPSteps(self.sde, STEPS)
        return NoiseSchedule.from_scheduler(self.scheduler)

    # -------------------------------------------------------------------------------------------------------- times

    def _density(self) -> tuple[Tensor, Tensor, float]:
        """Times, the share of the likelihood weighting below each, and its integral."""
        t = torch.linspace(self.end, 1.0, GRID, dtype=torch.float64)
        weight = self.likelihood_weight(t)
        rising = torch.cat([t.new_zeros(1), torch.cumulative_trapezoid(weight, t)])
        return t, rising / rising[-1], float(rising[-1])

    def likelihood_weight(self, t: Tensor) -> Tensor:
        """g^2 / b^2 at t (N,)."""
        _, b = self.sde.marginal(t)
        return self.sde.diffusion(t).square() / b.square()

    def times(self, rng: BatchRandom) -> tuple[Tensor, Tensor]:
        """t (N,), stratified over the examples of the update, and w of each (N,), both float64."""
        share, options = rng.stratified("t"), self.options
        if options.importance_sampling:
            return self._quantile(share), torch.full_like(share, self._total / (1 - self.end))
        if options.ncsn_levels is not None:
            level = (share * options.ncsn_levels).floor()
            share = level / max(options.ncsn_levels - 1, 1)
        t = self.end + (1 - self.end) * share
        return t, torch.ones_like(t) if options.loss_weighting == "variance" else self.likelihood_weight(t)

    def _quantile(self, share: Tensor) -> Tensor:
        high = torch.searchsorted(self._shares, share).clamp(1, GRID - 1)
        below, above = self._shares[high - 1], self._shares[high]
        return torch.lerp(self._times[high - 1], self._times[high], (share - below) / (above - below))

    # --------------------------------------------------------------------------------------------------------- loss

    def loss(self, batch: Batch, rng: BatchRandom) -> Tensor:
        """Mean weighted loss of a batch: "images" (N, C, H, W) in [-1, 1], "labels" (N,)."""
        return self.losses(batch, rng).mean()

    def losses(self, batch: Batch, rng: BatchRandom) -> Tensor:
        """w || b s + z ||^2 / D of each example, (N,)."""
        x0, conditions = self.examples(batch, rng)
        z, (t, weight) = rng.normal("noise", tuple(x0.shape[1:])).to(x0), self.times(rng)
        a, b = self.sde.marginal(t)
        x_t = broadcast(a, x0) * x0 + broadcast(b, x0) * z
        error = self.noise_of(x_t, a, b, conditions) - z
        return weight.to(x0) * error.square().flatten(1).mean(1)

    def noise_of(self, x_t: Tensor, a: Tensor, b: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        """eps = -b s by the network at x_t (N, ...)."""
        if self.options.sde == "ve":
            score = self.network(x_t, b.to(x_t), **conditions, return_dict=False)[0].to(x_t)
            return -broadcast(b, x_t) * score
        size = (a.square() + b.square()).sqrt()
        step = self.steps.time_of(a, b).to(x_t)
        return self.network(x_t / broadcast(size, x_t), step, **conditions, return_dict=False)[0].to(x_t)

    def pipeline(self, network: nn.Module) -> DiffusionPipeline:
        """What to save and to draw samples with."""
        own = {"sde": "subvp"} if self.options.sde == "subvp" else {}
        return ScoreSDEPipeline(self.drawn(network), self.scheduler, self.id2label, **own)


OBJECTIVE = ScoreMatching
