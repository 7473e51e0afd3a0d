"""dp-accounting's own account of choosing the best of many runs, to hold ours against."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ledger import Repetitions, SampledGaussian, Tuned
from ._bound import Bound, Estimate, bound
from ._pairs import steps_in

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from ..ledger import Event, Ledger


@dataclass(frozen=True, slots=True)
class Selection:
    """Repeat and select by Rényi divergences (dp-accounting; Papernot & Steinke 2022, arXiv 2110.03620)."""

    def epsilon(self, ledger: Ledger, delta: float) -> Bound | None:
        """The bound, without a stated error; `None` where nothing was chosen among runs.

        Raises:
            AccountingError: It could not be computed.
        """
        if not any(isinstance(event, Tuned) for event in ledger.events):
            return None

        def compute() -> Estimate:
            from dp_accounting.rdp import RdpAccountant

            accountant = RdpAccountant()
            for event in ledger.events:
                accountant.compose(_event(event, ledger))
            return Estimate(float(accountant.get_epsilon(delta)), 0.0, one_sided=True)

        return bound("selection", ledger, delta, compute)


def _event(event: Event, ledger: Ledger) -> DpEvent:
    """The event in dp-accounting's words."""
    from dp_accounting import NonPrivateDpEvent
    from dp_accounting.dp_event import RepeatAndSelectDpEvent

    if isinstance(event, Tuned):
        shape = math.inf if event.distribution is Repetitions.POISSON else float(event.eta or 0.0)
        return RepeatAndSelectDpEvent(_event(event.event, ledger), event.expected_runs, shape)
    if isinstance(event, SampledGaussian):
        return _sums(event, ledger)
    return NonPrivateDpEvent()


def _sums(event: SampledGaussian, ledger: Ledger) -> DpEvent:
    """Noisy sums that all records of the unit take part in as soon as one does: never less than they cost."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent

    steps = steps_in(event, ledger)
    any_record = -math.expm1(steps.group * math.log1p(-steps.probability)) if steps.probability < 1 else 1.0
    one = PoissonSampledDpEvent(any_record, GaussianDpEvent(steps.noise / steps.shift))
    return SelfComposedDpEvent(one, steps.count)
