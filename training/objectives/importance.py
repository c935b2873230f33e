"""Draws timesteps by the size of their terms of L_vlb (Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672, 3.3).

    p_t ~ sqrt(E[L_t^2]),   each example weighted by 1 / (T p_t)

E[L_t^2] is the mean over the last ten L_t at each t. Until every t has ten values, all t are equally likely. The
history is gathered from all processes and saved in checkpoints.
"""

import torch
from torch import Tensor

TERMS = 10
UNIFORM = 0.001  # share of the draws that stay uniform, so that the history of every t is renewed


class LossHistory:
    """The last `TERMS` values of L_t of each of T timesteps."""

    def __init__(self, length: int) -> None:
        self.values = torch.zeros(length, TERMS, dtype=torch.float64)
        self.counts = torch.zeros(length, dtype=torch.int64)
        self._pending: list[Tensor] = []

    def timesteps(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Draw timesteps (N,) by importance, from `shares` (N,) uniform in [0, 1); also their weights, float64."""
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
        """Store L_t (N,) at timesteps t (N,) until `take` returns them."""
        self._pending.append(torch.stack([t.double(), terms.detach().double()], 1))

    def take(self) -> Tensor:
        """The (M, 2) pairs of t and L_t that were stored since the last call."""
        taken, self._pending = torch.cat(self._pending), []
        return taken

    def update(self, pairs: Tensor) -> None:
        """Add (M, 2) pairs of all processes to the history, in their order."""
        for t, value in pairs.cpu().tolist():
            row = int(t)
            self.values[row, int(self.counts[row]) % TERMS] = value
            self.counts[row] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The state to save in a checkpoint."""
        return {"values": self.values, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the state from a checkpoint."""
        self.values, self.counts = state["values"], state["counts"]
