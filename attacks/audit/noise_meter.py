"""The noise meter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...engine.audit import LEVEL, Found, Observer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ...engine.audit import Claimed, Planned
    from ...engine.defenses import StepSeen

#: The break that must be found for a run to say anything: half of the noise, a quarter of its variance.
_BREAK = 0.25


@dataclass(frozen=True, slots=True)
class NoiseMeter:
    """Whether the noise that was added has at least the variance that the ledger says."""

    source: ClassVar[str] = "chi-squared test of a variance, Fisher 1924; why: Tramèr et al. 2022, arXiv 2202.12219"

    def plan(self, planned: Planned) -> Observer:
        """Nothing is secret here."""
        return _Meter()


class _Meter(Observer):
    """Sums the squares of the noise over the clipping norm, by step and by parameter."""

    def __init__(self) -> None:
        self._squares: list[list[float]] = []
        self._sizes: list[int] = []

    def saw(self, seen: StepSeen, contributed: Sequence[torch.Tensor] | None) -> None:
        """Take the step's noise: what stands behind the sum less the sum."""
        self._sizes = [total.numel() for total in seen.sums]
        self._squares.append(
            [
                float((noised.detach().double() - total.detach().double()).square().sum()) / seen.clipping_norm**2
                for noised, total in zip(seen.noised, seen.sums, strict=True)
            ]
        )

    def found(self, claimed: Claimed, module: torch.nn.Module) -> Found:
        """The variance of all noise, of each step's and of each parameter's, against the ledger's; the worst counts.

        One-sided: more noise than was said is remarked upon and no breach.
        """
        import numpy as np
        from scipy import stats

        squares = np.array(self._squares) / claimed.event.noise_multiplier**2
        if not squares.size:
            return Found(math.nan, math.nan, False, "no step was seen")
        sizes = np.array(self._sizes, dtype=np.float64)
        steps, freedom = len(squares), len(squares) * float(sizes.sum())
        whole = float(stats.chi2.cdf(squares.sum(), freedom))
        by_step = float(stats.chi2.cdf(squares.sum(axis=1), sizes.sum()).min()) * steps
        by_parameter = float(stats.chi2.cdf(squares.sum(axis=0), sizes * steps).min()) * len(sizes)
        ratio = float(squares.sum()) / freedom
        z = (ratio - 1) / math.sqrt(2 / freedom)
        p = min(1.0, 3 * min(whole, by_step, by_parameter))
        detail = f"the noise has {ratio:.4g} times the variance that the ledger says (z = {z:.3g})"
        if float(stats.chi2.sf(squares.sum(), freedom)) < LEVEL and ratio > 1.01:
            detail += ", more than was said: the ledger promises less than was done"
        conclusive = 3 * float(stats.chi2.cdf(_BREAK * freedom, freedom)) <= LEVEL
        return Found(z, p, conclusive, detail)
