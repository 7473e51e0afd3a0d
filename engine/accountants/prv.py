"""Opacus' accountant by privacy random variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._bound import Bound, Estimate, bound
from ._losses import refuse_replaced_groups, rough_epsilon, widening
from ._pairs import Steps, steps_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..ledger import Ledger

#: Of the certified interval.
_WIDTH = 0.02
#: Opacus writes e^ε down as a double, which ends at ε = 709: beyond, its answers are noise.
_LARGEST = 600.0


@dataclass(frozen=True, slots=True)
class Prv:
    """Numerical composition of privacy random variables, upper end (Opacus; Gopi et al. 2021, arXiv 2106.02848)."""

    def epsilon(self, ledger: Ledger, delta: float) -> Bound | None:
        """The upper end of the certified interval, which is 0.02 wide (wider where ε is large).

        `None` where runs were tried and the best kept, which has no known distribution of losses, and where ε is in
        the hundreds.

        Raises:
            AccountingError: It could not be computed.
        """
        steps = steps_of(ledger) if ledger.private else ()
        if steps is None or rough_epsilon(steps) > _LARGEST:
            return None

        def compute() -> Estimate:
            width = _WIDTH * widening(steps)
            return Estimate(_upper_end(steps, delta, width / 2), width)

        return bound("prv", ledger, delta, compute)


def _upper_end(steps: Sequence[Steps], delta: float, error: float) -> float:
    """By Opacus' own variable where it has one, else by its composition of the one that is written out here."""
    for entry in steps:
        refuse_replaced_groups(entry)
    if all(entry.plain or entry.shift == 1 for entry in steps):
        from opacus.accountants import PRVAccountant

        accountant = PRVAccountant()
        accountant.history = [_history(entry) for entry in steps]
        return float(accountant.get_epsilon(delta, eps_error=error))
    from ._variables import epsilon_of

    return epsilon_of(steps, delta, error)


def _history(steps: Steps) -> tuple[float, float, int]:
    """Noise, rate and number, as Opacus writes them down."""
    return (steps.noise / steps.shift, steps.probability, steps.count)
