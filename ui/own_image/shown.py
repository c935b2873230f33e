"""What the page says and draws of an image under a model."""

from html import escape

from ..catalogue import ModelInfo
from ..laboratory.images import side_by_side
from ..laboratory.plots import Plot, lines, plot
from .fields import NO_CLASS
from .process import DRAWS, Look, Whole
from .settings import Settings

COLORS = ("first", "second", "third", "truth", "muted")
FORWARD = "x<sub>t</sub> = a x₀ + b ε, from any image in one step: a is what is left of it, b how much is noise."
LOSSES = (
    "L<sub>t</sub> is what the network loses at t against the step back that knows x₀, in bits per dimension; L₀ is "
    "what it loses at the end, as it names the grey of each pixel. Small t cost the most: details are decided there. "
    "The error of x̂₀ grows with t instead, as ever less can be told from x<sub>t</sub>."
)
INVERSION = (
    "DDIM without fresh noise is an equation that can be followed both ways: from the image to the noise that it would "
    "be drawn from, and from that noise back."
)


def look_of(found: Look, settings: Settings, info: ModelInfo) -> str:
    """The image at one t: five images, and the numbers below them."""
    told = "" if settings.class_name == NO_CLASS else f", told “{settings.class_name}”"
    end = f"one step back, to t = {found.s}" if found.s >= 0 else "one step back, to the end"
    images = [
        ("x₀, the image", found.images["x0"]),
        (f"x_t, noised to t = {settings.t}", found.images["x_t"]),
        (f"x̂₀, the image as the network predicts it{told}", found.images["predicted"]),
        ("ε̂, the noise as it predicts it, halved", found.images["eps"]),
        (end, found.images["x_s"]),
    ]
    loss = f" · L<sub>t</sub> = {_short(found.loss)} bits/dim"
    numbers = f"a = {found.a:.4f}, b = {found.b:.4f}, SNR a²/b² = {_short((found.a / found.b) ** 2)}"
    text = f"<p>{FORWARD}</p>{side_by_side(images)}<p><b>{numbers}</b> · error of x̂₀ {found.error:.3f}{loss}</p>"
    return text + _opinion(found.opinion, info)


def _opinion(opinion: list[float], info: ModelInfo) -> str:
    if not opinion:
        return ""
    best = sorted(range(len(opinion)), key=lambda label: -opinion[label])[:3]
    said = ", ".join(f"{escape(class_of(info, label))} {opinion[label]:.0%}" for label in best)
    return f"<p>The classifier of noisy images sees in x<sub>t</sub>: {said}.</p>"


def plots_of(whole: Whole, info: ModelInfo) -> list[Plot]:
    """The curves over t, from a few of their points on."""
    if len(whole.timesteps) < 2:
        return []
    length = (0.0, float(info.num_train_timesteps))
    found = [
        _curve("L_t, bits/dim", whole.timesteps, whole.losses, length, "what the network loses at t", log=True),
        _curve("Error of x̂₀", whole.timesteps, whole.errors, length, "root mean square, black to white is 1"),
    ]
    if whole.opinions:
        found.append(_opinions(whole, info, length))
    return found


def _curve(
    title: str, t: list[int], values: list[float], length: tuple[float, float], what: str, log: bool = False
) -> Plot:
    low, high = min(values), max(values)
    span = (max(low / 1.5, 1e-9), max(high * 1.5, 1e-8)) if log else (0.0, 1.1 * high or 1.0)
    points = [list(map(list, zip(t, (max(v, span[0]) for v in values), strict=True)))]
    said = f"{title} over t: {what}; {_short(values[0])} at t = {t[0]}, {_short(values[-1])} at t = {t[-1]}"
    layer = lines(points, "first", what, 2.0) | {"points": points}  # L_t goes far below what `lines` rounds to
    return plot(title, said, length, span, [layer], x_label="t", y_label=title, log_y=log)


def _opinions(whole: Whole, info: ModelInfo, length: tuple[float, float]) -> Plot:
    means = [sum(column) / len(column) for column in zip(*whole.opinions, strict=True)]
    best = sorted(range(len(means)), key=lambda label: -means[label])[: len(COLORS)]
    layers = [
        lines(
            [[[t, row[label]] for t, row in zip(whole.timesteps, whole.opinions, strict=True)]],
            color,
            class_of(info, label),
            2.0,
        )
        for label, color in zip(best, COLORS, strict=False)
    ]
    said = f"p(y | x_t) of the classifier over t: at t = {whole.timesteps[0]} mostly {class_of(info, best[0])}"
    return plot("The classifier's opinion", said, length, (0.0, 1.0), layers, x_label="t", y_label="p(y | x_t)")


def story_of(whole: Whole, settings: Settings) -> str:
    """The text below the curves, and the way to noise and back as far as it has gone."""
    prior = f"L<sub>T</sub> = {_short(whole.prior)} bits/dim, what x<sub>T</sub> still tells of the image."
    which = f"{escape(settings.image)}, under {escape(settings.model)}"
    said = f"<h2>{which}, over t</h2><p>{LOSSES}</p><p>Means over {DRAWS} draws of the noise. {prior}</p>"
    if not whole.up:
        return said
    said += f"<h2>To noise and back, in {settings.steps} steps each</h2><p>{INVERSION}</p>"
    said += side_by_side([(f"t = {t}", pixels) for t, pixels in whole.up], small=True)
    if whole.down or whole.returned is not None:
        ending = [] if whole.returned is None else [("returned", whole.returned)]
        said += side_by_side([*((f"t = {t}", pixels) for t, pixels in whole.down), *ending], small=True)
    if whole.returned is not None:
        error = f"The image comes back with an error of {whole.return_error:.3f}"
        said += (
            f"<p><b>{error}</b> (root mean square, black to white is 1); it falls with the number of steps. The noise "
            f"it went to has standard deviation {whole.noise_std:.2f}; that of runs has 1.</p>"
        )
    return said


def class_of(info: ModelInfo, label: int) -> str:
    """The name of a class, or its number."""
    return info.class_names[label] if label < len(info.class_names) else str(label)


def _short(value: float) -> str:
    return f"{value:.3g}"
