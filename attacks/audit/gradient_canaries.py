"""Canaries among the gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...engine.audit import Found, Observer
from ...engine.ledger import Planted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy import bool_, float64
    from numpy.typing import NDArray

    from ...engine.audit import Claimed, Planned, Training
    from ...engine.defenses import StepSeen


@dataclass(frozen=True, slots=True)
class GradientCanaries:
    """Whether gradients along single coordinates are told apart better than the ledger allows.

    Each canary is the clipping norm at a coordinate of its own. It is in the training or not by a fair coin; one that
    is in enters each step as a record does, with the sampling probability. Its score is the log-likelihood ratio of
    what was seen at its coordinate, step by step, the records' own gradient taken off.

    Attributes:
        most: At most so many canaries.
        share: At most this share of the coordinates.
    """

    most: int = 5000
    share: float = 0.1

    source: ClassVar[str] = "Nasr et al. 2023, arXiv 2302.07956 (Dirac canaries); Cebere et al. 2025, arXiv 2405.14457"

    def __post_init__(self) -> None:
        if self.most < 1 or not 0 < self.share <= 1:
            raise ValueError(f"expected most={self.most} >= 1 and 0 < share={self.share} <= 1")

    def plan(self, planned: Planned) -> Observer:
        """Coordinates and coins are drawn when it is known how many there are."""
        return _Dirac(self, planned)


class _Dirac(Observer):
    def __init__(self, test: GradientCanaries, planned: Planned) -> None:
        self._test, self._planned = test, planned

    def begins(self, training: Training) -> None:
        """Draw coordinates, signs and coins."""
        import numpy as np

        self._parameters, event = training.parameters, training.event
        sizes = [p.numel() for p in self._parameters]
        count = max(1, min(self._test.most, int(self._test.share * sum(sizes))))
        self._chance = self._planned.chance()
        where = np.sort(self._chance.choice(sum(sizes), size=count, replace=False))
        self._ends = np.searchsorted(where, np.cumsum([0, *sizes]))
        self._offsets = where - np.repeat(np.cumsum([0, *sizes])[:-1], np.diff(self._ends))
        self._signs = self._chance.choice([-1.0, 1.0], size=count)  # so that they do not all pull the model one way
        self._inside: NDArray[bool_] = self._planned.coins(count)
        self._q, self._sigma = event.sampling_probability, event.noise_multiplier
        self._scores: NDArray[float64] = np.zeros(count)
        self._drawn = np.zeros(count)
        self.planted = Planted(gradients=count)

    def contribute(self, step: int, norm: float) -> Sequence[torch.Tensor] | None:
        """Those that are in and were sampled for this step."""
        import numpy as np
        import torch

        self._drawn = (self._inside & (self._chance.random(len(self._inside)) < self._q)).astype(np.float64)
        added = []
        for i, p in enumerate(self._parameters):
            part = torch.zeros(p.numel(), dtype=p.dtype)
            here = slice(self._ends[i], self._ends[i + 1])
            part[torch.from_numpy(self._offsets[here])] = torch.from_numpy(
                norm * self._signs[here] * self._drawn[here]
            ).to(p.dtype)
            added.append(part.view_as(p))
        return added

    def saw(self, seen: StepSeen, contributed: Sequence[torch.Tensor] | None) -> None:
        """Add each canary's log-likelihood ratio of in over out: log(1 - q + q exp((2 u - 1) / (2 σ²)))."""
        import numpy as np

        noise = np.concatenate([self._at(seen.noised, i) - self._at(seen.sums, i) for i in range(len(seen.sums))])
        u = self._signs * noise / seen.clipping_norm + self._drawn
        slope = (2 * u - 1) / (2 * self._sigma**2)
        stay = math.log1p(-self._q) if self._q < 1 else -math.inf
        self._scores += np.logaddexp(stay, math.log(self._q) + slope)

    def _at(self, parts: Sequence[torch.Tensor], i: int) -> NDArray[float64]:
        """The canaries' coordinates of one parameter."""
        import numpy as np
        import torch

        where = torch.from_numpy(self._offsets[self._ends[i] : self._ends[i + 1]])
        return np.asarray(parts[i].detach().flatten()[where].double().numpy())

    def found(self, claimed: Claimed, module: torch.nn.Module) -> Found:
        """The claim test on the log-likelihood ratios."""
        from ._canaries import judged

        return judged(self._scores, self._inside, claimed)
