"""Batch sizes and participation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...engine.audit import LEVEL, Found, Observer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy import int64
    from numpy.typing import NDArray

    from ...engine.audit import Claimed, Planned
    from ...engine.defenses import StepSeen

#: The break that must be found for a run to say anything: half of the variance of a Poisson sample.
_BREAK = 0.5
#: Fewer records in two batches than these on average tell nothing by being there or not.
_ENOUGH = 100.0


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """Whether every record entered every step by a coin of its own, as Poisson sampling says."""

    source: ClassVar[str] = (
        "index of dispersion, Fisher 1925; why it matters: Chua et al. 2024, arXiv 2403.17673; Annamalai et al. 2024, "
        "arXiv 2411.10614"
    )

    def plan(self, planned: Planned) -> Observer:
        """Nothing is secret here."""
        return _Counter()


class _Counter(Observer):
    """Keeps who was in which step; told to nobody."""

    def __init__(self) -> None:
        self._samples: list[NDArray[int64]] = []

    def saw(self, seen: StepSeen, contributed: Sequence[torch.Tensor] | None) -> None:
        """Keep the sample."""
        import numpy as np

        self._samples.append(np.array(seen.sample, dtype=np.int64))

    def found(self, claimed: Claimed, module: torch.nn.Module) -> Found:
        """Rate, dispersion of sizes and participation, repeats a step and an epoch later; the worst of five counts."""
        n, q, steps = claimed.records, claimed.event.sampling_probability, len(self._samples)
        if steps == 0:
            return Found(math.nan, math.nan, False, "no step was seen")
        if steps > claimed.event.steps:
            said = f"{steps} steps were seen, the ledger says {claimed.event.steps}"
            return Found(math.inf, 0.0, True, said)
        epoch = min(steps, max(1, round(1 / q)))
        sizes, cells = _Dispersion.of_sizes(self._samples, n, q), _Dispersion.of_records(self._samples, n, q, epoch)
        p = [
            self._rate(n, q),
            sizes.p(),
            cells.p(),
            _repeats(self._samples, n, q, 1),
            _repeats(self._samples, n, q, epoch),
        ]
        detail = f"batch sizes vary {sizes.ratio:.3g} times as much as Poisson samples do, participation in an epoch "
        detail += f"{cells.ratio:.3g} times"
        # Within a part of an epoch a shuffle is next to nothing else than Poisson sampling.
        whole = steps >= round(1 / q)
        conclusive = whole and len(p) * min(sizes.p_at(_BREAK), cells.p_at(_BREAK)) <= LEVEL
        return Found(sizes.ratio, min(1.0, len(p) * min(p)), conclusive, detail)

    def _rate(self, n: int, q: float) -> float:
        """Whether records enter more often than was said; one-sided, for the other way costs no privacy."""
        from scipy import stats

        total = sum(len(sample) for sample in self._samples)
        return float(stats.binom.sf(total - 1, n * len(self._samples), q))


@dataclass(frozen=True, slots=True)
class _Dispersion:
    """Squared deviations of binomial counts over their variance, summed.

    Attributes:
        total: The sum.
        counts: How many counts there are.
        spread: Variance of one term: 2 + (1 - 6 q (1 - q)) / (n q (1 - q)), by the binomial's fourth moment.
    """

    total: float
    counts: int
    spread: float

    @classmethod
    def of_sizes(cls, samples: list[NDArray[int64]], n: int, q: float) -> _Dispersion:
        """Of the batch sizes, each Bin(n, q)."""
        import numpy as np

        return cls._of(np.array([len(sample) for sample in samples]), n, q)

    @classmethod
    def of_records(cls, samples: list[NDArray[int64]], n: int, q: float, epoch: int) -> _Dispersion:
        """Of how often each record took part in each epoch, Bin(steps of an epoch, q): a shuffle gives 1 to all."""
        import numpy as np

        starts = range(0, len(samples) - epoch + 1, epoch)
        counts = [np.bincount(np.concatenate(samples[start : start + epoch]), minlength=n) for start in starts]
        return cls._of(np.concatenate(counts), epoch, q)

    @classmethod
    def _of(cls, counts: NDArray[int64], n: int, q: float) -> _Dispersion:
        variance = n * q * (1 - q)
        if variance <= 0:  # everybody takes part in every step: nothing varies
            return cls(float(len(counts)), len(counts), 2.0)
        total = float(((counts - n * q) ** 2).sum() / variance)
        return cls(total, len(counts), 2 + (1 - 6 * q * (1 - q)) / variance)

    @property
    def ratio(self) -> float:
        """1 on average."""
        return self.total / self.counts

    def p(self) -> float:
        """Two-sided, by a gamma distribution of the same mean and variance."""
        return _gamma_p(self.total, self.counts, self.counts * self.spread)

    def p_at(self, ratio: float) -> float:
        """What p would be at another ratio."""
        return _gamma_p(ratio * self.counts, self.counts, self.counts * self.spread)


def _gamma_p(found: float, mean: float, variance: float) -> float:
    from scipy import stats

    chance = stats.gamma(mean**2 / variance, scale=variance / mean)
    return min(1.0, 2 * float(min(chance.cdf(found), chance.sf(found))))


def _repeats(samples: list[NDArray[int64]], n: int, q: float, lag: int) -> float:
    """Whether steps that lie so far apart share as many records as independent samples do: none do within a shuffle.

    The mean is n q² a pair; a pair's variance n q² (1 - q²), that of two pairs with a step in common n q³ (1 - q).
    """
    import numpy as np

    pairs = len(samples) - lag
    mean = pairs * n * q * q
    if pairs < 1 or mean < _ENOUGH or q >= 1:
        return 1.0
    shared = sum(len(np.intersect1d(samples[t], samples[t + lag], assume_unique=True)) for t in range(pairs))
    common = max(0, pairs - lag)
    return _gamma_p(shared, mean, mean * (1 - q * q) + 2 * common * n * q**3 * (1 - q))
