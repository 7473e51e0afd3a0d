"""Accountant by Rényi divergences: looser than the others, and the only one for the best of many runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._bound import Bound, Estimate, bound

if TYPE_CHECKING:
    from ..ledger import Ledger


@dataclass(frozen=True, slots=True)
class Rdp:
    """Rényi differential privacy (Mironov et al. 2019, arXiv 1908.10530; Papernot & Steinke 2022, arXiv 2110.03620)."""

    def epsilon(self, ledger: Ledger, delta: float) -> Bound | None:
        """The bound, without a stated error: the true value may lie anywhere below.

        Raises:
            AccountingError: It could not be computed.
        """

        def compute() -> Estimate:
            from ._renyi import epsilon_at
            from ._selection import divergences_of

            return Estimate(epsilon_at(divergences_of(ledger), delta), 0.0, one_sided=True)

        return bound("rdp", ledger, delta, compute)
