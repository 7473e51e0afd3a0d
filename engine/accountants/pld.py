"""Google's accountant by privacy loss distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._bound import Bound, Estimate, bound
from ._losses import INTERVAL, epsilon_of, width
from ._pairs import steps_of

if TYPE_CHECKING:
    from ..ledger import Ledger


@dataclass(frozen=True, slots=True)
class Pld:
    """Composed privacy loss distribution, connect the dots (dp-accounting; Doroshenko et al., arXiv 2207.04380)."""

    def epsilon(self, ledger: Ledger, delta: float) -> Bound | None:
        """The bound at a discretisation of 1e-4 (wider where ε is large), which is its stated error.

        `None` where runs were tried and the best kept: that has no known distribution of losses.

        Raises:
            AccountingError: It could not be computed.
        """
        steps = steps_of(ledger) if ledger.private else ()
        if steps is None:
            return None

        def compute() -> Estimate:
            interval = width(steps, INTERVAL)
            return Estimate(epsilon_of(steps, delta, interval), interval)

        return bound("pld", ledger, delta, compute)
