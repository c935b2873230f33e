"""Inpainting over pixels with a network that was trained for whole images (Lugmayr et al. 2022, RePaint).

    x_s <- m x_s + (1 - m) (a_s y + b_s eps)          eps ~ N(0, I), after every step        algorithm 1, lines 4 to 8
    x_t  = (a_t / a_s) x_s + sqrt(b_t^2 - (a_t b_s / a_s)^2) z,          z ~ N(0, I)         line 10, t noisier than s

m is 1 where the image is drawn and 0 where it is y. The first line alone is replacement: the network sees what is kept
at the right noise, but each step of what is drawn has been taken before that was put back, and the two do not fit. The
second line is the forward process: the run goes back up `jump_length` steps and comes down again, and what is drawn is
drawn anew beside what is kept. Each stretch of `jump_length` steps is run `jump_n_sample` times, but for the last step
and for the noisiest, where fewer are left; 1 is replacement. After the last step b is 0: what is kept ends as y.

It stands around any sampler that can begin at each of its steps, and asks nothing of the network.
Lugmayr et al. 2022: https://arxiv.org/abs/2201.09865 (line 5 there lacks a root). Repeats are placed as in their code.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .from_image_af70dd4e import checked_strength
from .image_inputs_34f57068 import Images, given_pixels
from .process_713930e3 import Process
from .run_32486b83 import Step, plain

# for tens of steps; the paper's 10 and 10 are for 250: over 20, on exact data, they take twice as many for the same
JUMP_LENGTH, JUMP_N_SAMPLE = 3, 5
Begin = Callable[[Tensor, int], Iterator[Step]]  # (x, i) -> a sampler's steps from its step number i on, which sees x
Level = tuple[float, float]  # (a, b) of a sample between two steps


@dataclass(frozen=True)
class Inpainting:
    """What a run keeps of an image, and how often it is drawn anew beside that.

    Attributes:
        image: y, (N or 1, C, H, W) in [-1, 1]
        mask: bool (N or 1, 1, H, W), True where it is drawn
        jump_length: how many steps a jump goes back, at most to the first step
        jump_n_sample: how often each stretch of that many steps is run; 1: no jumps
    """

    image: Tensor
    mask: Tensor
    jump_length: int = JUMP_LENGTH
    jump_n_sample: int = JUMP_N_SAMPLE

    def __post_init__(self) -> None:
        for name in ("jump_length", "jump_n_sample"):
            value = plain(getattr(self, name))
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def begun_with(
    image: Images | None,
    strength: float | None,
    mask_image: Images | None,
    jump_length: int,
    jump_n_sample: int,
    shape: tuple[int, int, int],
    count: int,
) -> tuple[Tensor | None, float, Inpainting | None]:
    """What a run over pixels begins with: the image (N or 1, C, H, W), the share of the steps, and what is kept.

    With a mask and all of the steps it begins with noise: nothing is left there of what is to be drawn anew.

    Raises:
        ValueError: as `given_pixels`, `checked_strength` and `Inpainting`.
    """
    strength = checked_strength(strength, image is not None, mask_image is not None)
    y, mask = given_pixels(image, mask_image, shape, count)
    kept = Inpainting(y, mask, jump_length, jump_n_sample) if mask is not None else None
    return (None if kept is not None and strength == 1.0 else y), strength, kept


def stretches(num_steps: int, jump_length: int, jump_n_sample: int) -> list[tuple[int, int]]:
    """The descents of a run of `num_steps`, each from its first step to the one before which it ends.

    x jumps up between two of them. As in the paper's code, the lowest jump begins before the last step, and the others
    a multiple of `jump_length` above it.
    """
    length, first, found = max(min(jump_length, num_steps - 1), 1), 0, []
    for end in range(length + (num_steps - 1) % length, num_steps, length):
        for _ in range(jump_n_sample - 1):
            found.append((first, end))
            first = end - length
    return [*found, (first, num_steps)]


def noisier(x: Tensor, low: Level, high: Level, noise: Tensor) -> Tensor:
    """A draw of q(x_t | x_s), (N, ...), from the level (a_s, b_s) to (a_t, b_t), which has more noise."""
    scale = high[0] / low[0]
    return scale * x + max(high[1] ** 2 - (scale * low[1]) ** 2, 0.0) ** 0.5 * noise.to(x.dtype)


def levels_of(process: Process, times: Sequence[float] | Tensor) -> list[Level]:
    """The levels before each of the steps that begin at `times`, which fall, and after the last: an image's."""
    a, b = process.marginal(times if isinstance(times, Tensor) else torch.tensor(times, dtype=torch.float64))
    return [*zip(a.tolist(), b.tolist(), strict=True), (1.0, 0.0)]


def steps_from_image(
    begin: Begin,
    x_1: Tensor,
    levels: list[Level],
    noise: Callable[[], Tensor],
    image: Tensor | None,
    kept: Inpainting | None,
    order: int = 1,
) -> Iterator[Step]:
    """A sampler's steps from unit noise (N, C, H, W), or from `image` at the first level, and what of it is `kept`.

    The other arguments are those of `repaint_steps`.
    """
    if image is not None:
        a, b = levels[0]
        x_1 = a * image.to(x_1) + b * x_1
    return begin(x_1, 0) if kept is None else repaint_steps(begin, x_1, levels, noise, kept, order)


@torch.no_grad()
def repaint_steps(
    begin: Begin, x: Tensor, levels: list[Level], noise: Callable[[], Tensor], kept: Inpainting, order: int = 1
) -> Iterator[Step]:
    """Algorithm 1 around a sampler's steps, numbered through, from x (N, C, H, W).

    `levels` are those before each Step and after the last, `order` how many Steps of the sampler make one of `begin`'s.
    """
    count = len(levels) - 1
    found = stretches(-(-count // order), kept.jump_length, kept.jump_n_sample)
    runs = [(order * first, min(order * end, count)) for first, end in found]
    y, mask, index, total = kept.image.to(x), kept.mask.to(x.device), 0, sum(end - first for first, end in runs)

    def put_back(x: Tensor, level: Level) -> Tensor:
        a, b = level
        return torch.where(mask, x, a * y + b * noise().to(y.dtype) if b else y)

    x = put_back(x, levels[0])
    for number, (first, end) in enumerate(runs):
        if number:
            x = noisier(x, levels[runs[number - 1][1]], levels[first], noise())
        for at, step in zip(range(first + 1, end + 1), begin(x, first // order), strict=False):
            step.prev_sample = put_back(step.prev_sample, levels[at])
            step.index, step.num_steps, index = index, total, index + 1
            yield step
            x = step.prev_sample


# what the imports above import: diffusers' loader fetches only the files that this one names
from .conditions_5712ea1d import __doc__ as _  # noqa: E402, F401
