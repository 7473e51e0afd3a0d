"""Opacus' accountant by privacy random variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._bound import Bound, bound

if TYPE_CHECKING:
    from ..ledger import Ledger, SampledGaussian

#: Of the certified interval.
_WIDTH = 0.02


@dataclass(frozen=True, slots=True)
class Prv:
    """Numerical composition of privacy random variables, upper end (Opacus; Gopi et al. 2021, arXiv 2106.02848)."""

    def epsilon(self, ledger: Ledger, delta: float) -> Bound:
        """The upper end of the certified interval, which is 0.02 wide (wider where ε is large).

        Raises:
            AccountingError: It could not be computed.
        """

        def compute(mechanisms: tuple[SampledGaussian, ...], width: float) -> float:
            from opacus.accountants import PRVAccountant

            accountant = PRVAccountant()
            accountant.history = [(m.noise_multiplier, m.sampling_probability, m.steps) for m in mechanisms]
            return float(accountant.get_epsilon(delta, eps_error=width / 2))

        return bound("prv", ledger, delta, _WIDTH, compute)
