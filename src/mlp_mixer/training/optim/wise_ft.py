"""Weights between those that fine-tuning began with and those that it came to.

WiSE-FT ("Robust fine-tuning of zero-shot models", Wortsman et al. 2021, arXiv
2109.01903): few images are soon learnt by heart, and half of the way back to the start
forgets more of that than of what was learnt.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WiseFt:
    """Mixes the weights of the start into those that are evaluated."""

    def __init__(self, learnt: nn.Module, start_share: float) -> None:
        """Take the present weights for the start.

        Args:
            learnt: The network whose weights move; with an average, the average.
            start_share: What the start counts in the mixture, 0 to 1.
        """
        self.share = start_share
        self.learnt = learnt
        self.start = copy.deepcopy(learnt).eval()
        self.mixed = copy.deepcopy(learnt).eval()

    @torch.no_grad()
    def mix(self) -> None:
        """Make `mixed` share * start + (1 - share) * learnt."""
        learnt, start, mixed = (
            list[Tensor](network.parameters())
            for network in (self.learnt, self.start, self.mixed)
        )
        torch._foreach_copy_(mixed, learnt)
        torch._foreach_lerp_(mixed, start, self.share)
