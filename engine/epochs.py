"""How a training went, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Epoch:
    """How one epoch went.

    Attributes:
        number: Counted from 1.
        loss: Mean cross-entropy over the records it saw; NaN where it saw none.
        accuracy: Share of them that was classified right while training; likewise.
        epsilon: Upper bound on the privacy loss so far, at the defense's δ; `None` without a defense.
        public: Whether it was on public records, before the private ones.
    """

    number: int
    loss: float
    accuracy: float
    epsilon: float | None
    public: bool = False


#: Called after each epoch with the epoch and the total number of epochs of its kind.
EpochProgress = Callable[[Epoch, int], None]
#: Called with a sentence about what training does besides.
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Tally:
    """What an epoch has seen so far.

    Attributes:
        seen: How many records.
        right: How many of them were classified right.
        loss: Sum of their cross-entropies.
    """

    seen: int = 0
    right: int = 0
    loss: float = 0.0

    def plus(self, seen: int, right: int, loss: float) -> Tally:
        """With another batch."""
        return Tally(self.seen + seen, self.right + right, self.loss + loss)

    def epoch(self, number: int, epsilon: float | None, public: bool = False) -> Epoch:
        """The epoch, now that it is over."""
        if not self.seen:
            return Epoch(number, math.nan, math.nan, epsilon, public)
        return Epoch(number, self.loss / self.seen, self.right / self.seen, epsilon, public)
