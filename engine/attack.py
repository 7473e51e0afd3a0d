"""What an attack is: a frozen dataclass that declares what it needs and turns a target into an outcome.

An attack never learns the truth that it is judged by: a membership attack gets candidates without their membership, an
inversion attack gets classes or exposed outputs without the records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from .observation import Goal
from .target import PASSING, Access, Exposure, Target

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
        references: Whether it needs models of its own, trained as the subject was. Such an attack has a parameter
            `references`, how many.
        unasked: Behind which exposures it runs without being named; `None` for all of `exposures`. One that reads less
            than such a release tells is left to those that read all of it.
        watches: What must pass by at the release, whatever the adversary holds besides; then `exposures` is not asked.
        previous: Whether it needs the model as it was before its last update.
    """

    access: Access
    exposures: frozenset[Exposure]
    knowledge: tuple[str, ...]
    goal: Goal
    auxiliary: bool = False
    references: bool = False
    unasked: frozenset[Exposure] | None = None
    watches: frozenset[Exposure] = frozenset()
    previous: bool = False

    def obstacle(
        self,
        access: Access,
        exposure: Exposure,
        auxiliary: bool,
        no_references: str = "",
        released: Exposure | None = None,
        previous: bool = False,
    ) -> str:
        """Why this adversary cannot mount it, in words; empty where he can.

        Args:
            access: What he holds.
            exposure: What a query returns to him.
            auxiliary: Whether he owns records.
            no_references: Why no model can be trained as the subject was; empty where one can.
            released: What the release exposes; `None` for what a query returns.
            previous: Whether he has the model as it was before its last update.
        """
        if self.access is Access.WEIGHTS and access is not Access.WEIGHTS:
            return "it needs the weights, which this adversary does not hold"
        unseen = self._unseen(exposure, released or exposure)
        if unseen:
            return unseen
        if self.previous and not previous:
            return "it needs the model's previous version, and the subject names none (spec.release.previous)"
        if self.auxiliary and not auxiliary:
            return "it needs auxiliary records, and the subject names none (spec.data.auxiliary)"
        if self.references and no_references:
            return f"it needs reference models, and {no_references}"
        return ""

    def _unseen(self, exposure: Exposure, released: Exposure) -> str:
        """Why he does not see what it reads; empty where he does."""
        if self.watches:
            needed, found = self.watches, released
        elif self.goal is Goal.RECORD and released in PASSING:
            # He may hold the model, but the answer on a record that he does not have never passes by him.
            needed, found = self.exposures - PASSING, released
        else:
            needed, found = self.exposures, exposure
        known = " or ".join(sorted(needed))
        return "" if found in needed else f"it needs {known}, the release exposes {found}"

    def left_to_others(self, exposure: Exposure) -> str:
        """Why it does not run behind this exposure unless it is named; empty where it does."""
        if self.unasked is None or exposure in self.unasked:
            return ""
        return f"the release exposes {exposure}, from which other attacks read all that it reads; name it to run it"


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
        """How many records it sends through the model (forward passes), known before it runs.

        An attack with a parameter `repeats` asks so often where the release is noisy; where it is not, the plan reckons
        with `repeats` = 1.
        """
        ...


@runtime_checkable
class MembershipAttack(Attack, Protocol):
    """Says of each candidate how much it looks like a training record."""

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """Score each candidate. Returns: `(n,)`, higher means member; NaN where it has no answer."""
        ...


@runtime_checkable
class RecordSeparation(Attack, Protocol):
    """Says of each candidate how far apart the models are that were trained with and without it."""

    def signals(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """What each of the target's reference models answers on each candidate. Returns: `(k, n)`."""
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
        """Reconstruct the records behind what the adversary saw of them.

        Args:
            target: What he attacks.
            outputs: `(r, n, d)`, r answers on each of n records, as `target.query` gives them; 1 unless the release
                is noisy and the attack has a parameter `repeats`. Where the attack watches: what `target.observe` gave,
                for gradients `(r, n // batch, parameters)`.
            seed: What its randomness is drawn from.
            progress: Told the share of the work that is done.

        Returns:
            `(n, *shape)`; those of one batch of gradients stand together, in any order.
        """
        ...


@dataclass(frozen=True, slots=True)
class UpdateGuess:
    """What an attack tells of the records that an update learnt from.

    Attributes:
        images: `(m, *shape)`, one guess for each record, in no order.
        labels: `(classes,)`, the guessed share of each class among them.
    """

    images: NDArray[float32]
    labels: NDArray[float64]


@runtime_checkable
class UpdateInversion(Attack, Protocol):
    """Tells from a model before and after an update what the update learnt from."""

    def reconstruct_update(self, target: Target, seed: int, progress: Progress) -> UpdateGuess:
        """Reconstruct the `target.previous.size` records behind the update."""
        ...


def profile_of(attack: object) -> str:
    """Whether an attack runs unasked in every check (`standard`) or in a thorough one alone (`thorough`)."""
    return str(getattr(attack, "profile", "standard"))


def parameters_under(attack: Attack, profile: str) -> Attack:
    """The attack with what the profile sets of its parameters (its `thorough`, where it has one)."""
    changes: Mapping[str, object] = getattr(attack, "thorough", {}) if profile == "thorough" else {}
    return replace(attack, **changes) if changes else attack  # type: ignore[type-var]
