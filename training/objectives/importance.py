"""Timesteps drawn by the size of L_vlb's terms (Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672, section 3.3).

    p_t ~ sqrt(E[L_t^2]),   each example weighted by 1 / (T p_t)

E[L_t^2] is taken over the last ten L_t at each t. Until every t has ten, all are drawn alike. The history is all that
a run remembers of its losses: it is gathered over processes, and a checkpoint holds it.
"""

import torch
from torch import Tensor

TERMS = 10
UNIFORM = 0.001  # share of the draws that stay uniform, so that no term is forgotten


class LossHistory:
    """The last `TERMS` values of L_t of each of T timesteps."""

    def __init__(self, length: int) -> None:
        self.values = torch.zeros(length, TERMS, dtype=torch.float64)
        self.counts = torch.zeros(length, dtype=torch.int64)
        self._pending: list[Tensor] = []

    def timesteps(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """From `shares` (N,), uniform in [0, 1): timesteps (N,) by importance, and the weight of each, float64."""
        p = self.probabilities()
        t = torch.searchsorted(p.cumsum(0), shares.double(), right=True).clamp(max=len(p) - 1)
        return t, 1 / (len(p) * p[t])

    def probabilities(self) -> Tensor:
        """p_t, (T,), float64."""
        length = len(self.counts)
        if not bool((self.counts >= TERMS).all()):
            return torch.full((length,), 1 / length, dtype=torch.float64)
        size = self.values.square().mean(1).sqrt()
        return (1 - UNIFORM) * size / size.sum() + UNIFORM / length

    def note(self, t: Tensor, terms: Tensor) -> None:
        """Put aside L_t (N,) at timesteps t (N,), for `take`."""
        self._pending.append(torch.stack([t.double(), terms.detach().double()], 1))

    def take(self) -> Tensor:
        """What was noted since the last call, (M, 2) pairs of t and L_t."""
        taken, self._pending = torch.cat(self._pending), []
        return taken

    def update(self, pairs: Tensor) -> None:
        """Remember (M, 2) pairs, of all processes, in their order."""
        for t, value in pairs.cpu().tolist():
            row = int(t)
            self.values[row, int(self.counts[row]) % TERMS] = value
            self.counts[row] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"values": self.values, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        self.values, self.counts = state["values"], state["counts"]
