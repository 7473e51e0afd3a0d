"""How far the work is, and how long it will take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

#: Told what is being done and how far it is, 0 to 1; never twice at once, but maybe from another thread.
Report = Callable[[str, float], None]


@dataclass(slots=True)
class Clock:
    """Tells how far the work is, and how long it will take.

    Attributes:
        report: Who is told.
        asked: How many models are asked for, those in the store included.
        missing: How many of them were not there.
        sizes: Models of each chunk.
        start: When it began.
    """

    report: Report
    asked: int
    missing: int
    sizes: tuple[int, ...]
    start: float = field(default_factory=time.monotonic)

    def tell(self, shares: Sequence[float]) -> None:
        """Report. Args: how far each chunk is, 0 to 1."""
        share = sum(size * done for size, done in zip(self.sizes, shares, strict=True)) / sum(self.sizes)
        ready = self.asked - self.missing + math.floor(share * self.missing + 1e-9)
        text = f"training reference models: {ready} of {self.asked}"
        if 0.02 < share < 1:
            text += f", about {spoken((time.monotonic() - self.start) * (1 / share - 1))} left"
        self.report(text, share)


def spoken(seconds: float) -> str:
    """A time in words, roughly."""
    units = ((3600, "h"), (60, "min"), (1, "s"))
    size, unit = next((one for one in units if seconds >= 1.5 * one[0]), units[-1])
    return f"{max(1, round(seconds / size))} {unit}"
