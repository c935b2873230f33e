"""How long runs will take, from short runs that were timed: seconds per step and per image, by model and sampler."""

from collections.abc import Iterable

from .catalogue import Catalogue
from .fields import FIELDS
from .run import draw
from .settings import Settings

STEPS = 3  # of a run that is only timed

Kind = tuple[str, str]


def kind_of(settings: Settings) -> Kind:
    """What runs are timed by: (model, sampler)."""
    return settings.model, settings.sampler


class Timing:
    """What has been timed so far, for all visitors. A run is one of a single image."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._seconds: dict[Kind, tuple[float, float]] = {}

    def unknown(self, runs: Iterable[Settings]) -> list[Settings]:
        """A run of each kind that has not been timed."""
        return list({kind_of(run): run for run in runs if kind_of(run) not in self._seconds}.values())

    def seconds(self, runs: Iterable[Settings]) -> float:
        """What the runs will take together; all of their kinds have been timed."""
        known = [(run.steps, *self._seconds[kind_of(run)]) for run in runs]
        return sum(steps * per_step + per_image for steps, per_step, per_image in known)

    def measure(self, settings: Settings) -> None:
        """Draw an image in a few steps, after a run that loads and warms up what it needs."""
        own, row = self._catalogue[settings.model].own("steps"), FIELDS["steps"]
        steps = row.values.nearest(own, min(STEPS, settings.steps))
        short = type(settings)(**(settings.as_dict() | {"steps": steps, "count": 1}))
        for _ in range(2):
            *in_steps, last = [progress.seconds for progress in draw(short, self._catalogue, previews=False)]
        self._seconds[kind_of(settings)] = in_steps[-1] / steps, last - in_steps[-1]


def in_words(seconds: float) -> str:
    """About how long, for a visitor."""
    if seconds < 1:
        return "less than a second"
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} minutes"
