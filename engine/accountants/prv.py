"""Opacus' accountant by privacy random variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._bound import Bound, bound

if TYPE_CHECKING:
    from ..ledger import Ledger, SampledGaussian

_HALF_WIDTH = 0.01


@dataclass(frozen=True, slots=True)
class Prv:
    """Numerical composition of privacy random variables, upper end (Opacus; Gopi et al. 2021, arXiv 2106.02848)."""

    def epsilon(self, ledger: Ledger, delta: float) -> Bound:
        """The upper end of the certified interval, whose lower end is twice 0.01 below it.

        Raises:
            AccountingError: It could not be computed.
        """

        def compute(mechanisms: tuple[SampledGaussian, ...]) -> float:
            from opacus.accountants import PRVAccountant

            accountant = PRVAccountant()
            accountant.history = [(m.noise_multiplier, m.sampling_probability, m.steps) for m in mechanisms]
            return float(accountant.get_epsilon(delta, eps_error=_HALF_WIDTH))

        return bound("prv", ledger, delta, 2 * _HALF_WIDTH, compute)
