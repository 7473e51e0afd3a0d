"""Google's accountant by privacy loss distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._bound import Bound, bound
from ._losses import INTERVAL, epsilon_of

if TYPE_CHECKING:
    from ..ledger import Ledger


@dataclass(frozen=True, slots=True)
class Pld:
    """Composed privacy loss distribution, connect the dots (dp-accounting; Doroshenko et al., arXiv 2207.04380)."""

    def epsilon(self, ledger: Ledger, delta: float) -> Bound:
        """The bound at a discretisation of 1e-4 (wider where ε is large), which is its stated error.

        Raises:
            AccountingError: It could not be computed.
        """
        return bound("pld", ledger, delta, INTERVAL, lambda mechanisms, width: epsilon_of(mechanisms, delta, width))
