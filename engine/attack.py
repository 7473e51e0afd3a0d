"""What an attack is: a frozen dataclass that declares what it needs and turns a target into an outcome.

An attack never learns the truth that it is judged by: a membership attack gets candidates without their membership, an
inversion attack gets classes or exposed outputs without the records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from .observation import Goal
from .target import Access, Exposure, Target

if TYPE_CHECKING:
    from numpy import float32, float64, int64
    from numpy.typing import NDArray

    from .target import Records

#: Called with the share of the work that is done, 0 to 1.
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class ThreatModel:
    """The tuple that every attack declares and every report prints.

    Attributes:
        access: What the adversary must hold at least; `RELEASE` attacks also work for an adversary with the weights.
        exposures: Which answers of a release are enough to mount it.
        knowledge: What the adversary must know besides, in words.
        goal: What it is after.
        auxiliary: Whether it needs records of its own.
    """

    access: Access
    exposures: frozenset[Exposure]
    knowledge: tuple[str, ...]
    goal: Goal
    auxiliary: bool = False

    def obstacle(self, access: Access, exposure: Exposure, auxiliary: bool) -> str:
        """Why this adversary cannot mount it, in words; empty where he can."""
        if self.access is Access.WEIGHTS and access is not Access.WEIGHTS:
            return "it needs the weights, which this adversary does not hold"
        if exposure not in self.exposures:
            known = " or ".join(sorted(self.exposures))
            return f"it needs {known}, the release exposes {exposure}"
        if self.auxiliary and not auxiliary:
            return "it needs auxiliary records, and the subject names none (spec.data.auxiliary)"
        return ""


#: Exposures that carry a score for each class.
SCORES = frozenset({Exposure.LOGITS, Exposure.PROBABILITIES})
#: Exposures that at least tell the predicted class.
ANSWERS = SCORES | {Exposure.LABEL}


@runtime_checkable
class Attack(Protocol):
    """What every attack declares, whatever its kind."""

    threat: ClassVar[ThreatModel]
    source: ClassVar[str]

    def queries(self, targets: int, auxiliary: int) -> int:
        """How many records it sends through the model (forward passes), known before it runs."""
        ...


@runtime_checkable
class MembershipAttack(Attack, Protocol):
    """Says of each candidate how much it looks like a training record."""

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """Score each candidate. Returns: `(n,)`, higher means member; NaN where it has no answer."""
        ...


@runtime_checkable
class ClassInversion(Attack, Protocol):
    """Reconstructs what each class looks like."""

    def reconstruct_classes(
        self, target: Target, classes: NDArray[int64], seed: int, progress: Progress
    ) -> NDArray[float32]:
        """Reconstruct these classes, all at once. Returns: `(k, *shape)`."""
        ...


@runtime_checkable
class RecordInversion(Attack, Protocol):
    """Reconstructs single records from what the model answered on them."""

    def reconstruct_records(
        self, target: Target, outputs: NDArray[float64], seed: int, progress: Progress
    ) -> NDArray[float32]:
        """Reconstruct the records behind these answers. Args: outputs `(n, classes)`. Returns: `(n, *shape)`."""
        ...
