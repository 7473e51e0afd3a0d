"""Share of targets that are identified from their reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...measure import Reads
from ...measurement import Basis, Measurement, Quantity, undetermined
from ...observation import Goal
from ._outcome import reconstruction

if TYPE_CHECKING:
    from ...ledger import Account
    from ...observation import Observation

#: Fewer evaluators than this can be fooled together (inversion attacks make adversarial examples).
_FEWEST_EVALUATORS = 3


@dataclass(frozen=True, slots=True)
class Identification:
    """Share of people or classes that independent evaluators recognise in what the attack drew.

    A target counts when the majority of at least three evaluators names it; how often the same evaluators name it in
    pictures that cannot carry it is measured and subtracted.
    """

    reads: ClassVar[Reads] = Reads.INVERSION
    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.CLASS})
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Fredrikson et al. 2015 (line-up test); Ho et al. 2025, arXiv 2505.03519 (false positives)"

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The majority's share less its own false positives."""
        from ...statistics import Count, difference

        seen = reconstruction(observation)
        if len(seen.evaluators) < _FEWEST_EVALUATORS or not len(seen.votes) or not len(seen.false_votes):
            return undetermined(1 - alpha, len(seen.votes), Basis.ATTACKED)
        more_than_half = len(seen.evaluators) / 2
        hits = Count(int((seen.votes.sum(axis=1) > more_than_half).sum()), len(seen.votes))
        false = Count(int((seen.false_votes.sum(axis=1) > more_than_half).sum()), len(seen.false_votes))
        found = difference(hits, false, alpha)
        details = (
            Quantity("identified", hits.share),
            Quantity("identified where nothing can be", false.share),
            *(
                Quantity(f"accuracy of evaluator {name}", float(accuracy))
                for name, accuracy in zip(seen.evaluators, seen.evaluator_accuracy, strict=True)
            ),
        )
        return Measurement(found.value, found.low, found.high, 1 - alpha, hits.n, Basis.ATTACKED, details)

    def no_leak(self) -> float:
        """0: nobody is recognised more often than by chance."""
        return 0.0

    def worst(self) -> float:
        """1: everybody is recognised, and nobody by mistake."""
        return 1.0
