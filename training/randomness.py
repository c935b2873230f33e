"""The randomness of a training example, as a pure function of (seed, step, global index).

Every process draws the random numbers of all examples in an update, from a generator seeded with (seed, step, stream),
and keeps its own rows. So the number of processes changes nothing, and a resumed run needs only its step.
"""

import hashlib

import torch
from torch import Tensor


def seed_of(*parts: int | str) -> int:
    """A seed in [0, 2^63) that is a hash of `parts`."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seeded(*parts: int | str) -> torch.Generator:
    """A CPU generator whose state is a hash of `parts`."""
    return torch.Generator().manual_seed(seed_of(*parts))


class BatchRandom:
    """Random numbers for the examples [start, start + count) of the `total` examples in update `step`."""

    def __init__(self, seed: int, step: int, start: int, count: int, total: int) -> None:
        self._key, self._rows, self._total = (seed, step), slice(start, start + count), total

    def normal(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal, float32, (count, *shape)."""
        return torch.randn((self._total, *shape), generator=seeded(*self._key, stream))[self._rows]

    def uniform(self, stream: str) -> Tensor:
        """Uniform in [0, 1), float32, (count,)."""
        return torch.rand(self._total, generator=seeded(*self._key, stream))[self._rows]

    def stratified(self, stream: str) -> Tensor:
        """Uniform in [0, 1), float64, (count,): one value in each of `total` equal slices, shuffled over the update.

        This lowers the variance of a mean over t to the variance within a slice (Kingma et al. 2021, appendix I.1).
        """
        generator = seeded(*self._key, stream)
        slices = torch.randperm(self._total, generator=generator)
        inside = torch.rand(self._total, generator=generator, dtype=torch.float64)
        return ((slices + inside) / self._total)[self._rows]


class DataOrder:
    """The order of the images in a run: each epoch is a permutation that depends on (seed, epoch)."""

    def __init__(self, seed: int, size: int) -> None:
        self._seed, self._size, self._epochs = seed, size, {}

    def indices(self, first: int, count: int) -> Tensor:
        """The indices into the data of examples first to first + count - 1, int64 (count,)."""
        examples = torch.arange(first, first + count)
        epochs = examples // self._size
        return torch.stack([self._epoch(int(e))[k % self._size] for e, k in zip(epochs, examples, strict=True)])

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            self._epochs = {e: p for e, p in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = torch.randperm(self._size, generator=seeded(self._seed, "epoch", epoch))
        return self._epochs[epoch]
