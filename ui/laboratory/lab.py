"""An experiment: what is drawn from, by which process, and how it is looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import distributions
from .distributions import DISTRIBUTIONS, Component

if TYPE_CHECKING:
    from pipelines.exact import GaussianMixture


@dataclass(frozen=True)
class Lab:
    """Checked settings; an attribute per row of fields.py."""

    view: str
    distribution: str
    components: str
    process: str
    steps: int
    eta: float
    variance: str
    predictor: str
    corrector_steps: int
    snr: float
    step_size: float
    solver: str
    guidance: str
    guidance_scale: float
    class_number: int
    particles: int
    seed: int
    time: float
    x_t: float
    pair: str
    compared: str
    step: int
    particle: int

    @cached_property
    def mixture(self) -> GaussianMixture:
        """The distribution, exactly."""
        return distributions.mixture_of(self.distribution, self.components)

    @cached_property
    def movable(self) -> tuple[Component, ...]:
        """The components that can be moved; none for a classic set."""
        return distributions.components_of(self.distribution, self.components)

    @property
    def dimensions(self) -> int:
        """1 for a line, 2 for a plane."""
        return DISTRIBUTIONS[self.distribution].dimensions

    def as_dict(self) -> dict[str, Any]:
        """Names to plain values."""
        return asdict(self)
