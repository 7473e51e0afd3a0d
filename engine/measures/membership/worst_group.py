"""The subgroup that an attack hits hardest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ...measure import Reads
from ...measurement import Basis, Measurement, Quantity, undetermined
from ...observation import Goal, Membership
from ._scores import membership, persons_of, unusable

if TYPE_CHECKING:
    from numpy import bool_, float64
    from numpy.typing import NDArray

    from ...ledger import Account
    from ...observation import Observation
    from ...statistics import Interval

#: A column with more values than this is cut at its quartiles.
_FEW_VALUES = 10
_SIZES = ("its members", "its others")


@dataclass(frozen=True, slots=True)
class WorstGroup:
    """Advantage, or TPR at a FPR, of the attack within the class or group that it hits hardest.

    The lower end pays for having looked at several groups (Bonferroni); the upper end needs not, because the worst
    group's own limit holds and the largest of all limits is no smaller. Nothing is known of a group with fewer than
    two persons among members or others: it takes the upper end to 1, unless `smallest` leaves it out.

    Attributes:
        by: What makes a group: the class, or the value of a column.
        column: Which column, counted from 0; one of many values is cut at its quartiles.
        of: What is measured within each group.
        fpr: The share of others that may be accused wrongly, in (0, 1), where the TPR is measured.
        smallest: Groups with fewer members or fewer others than this are left out; 0 leaves out none.
    """

    by: Literal["class", "column"] = "class"
    column: int = 0
    of: Literal["advantage", "tpr"] = "advantage"
    fpr: float = 0.01
    smallest: int = 0

    reads: ClassVar[Reads] = Reads.MEMBERSHIP
    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.MEMBERSHIP})
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Kulynych et al. 2022, arXiv 1906.00389, sec. 3; Dunn 1961"

    def __post_init__(self) -> None:
        if not 0 < self.fpr < 1:
            raise ValueError(f"expected 0 < fpr={self.fpr} < 1")
        if min(self.column, self.smallest) < 0:
            raise ValueError(f"expected column={self.column} and smallest={self.smallest} >= 0")

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The largest value of all groups, with the group that has it.

        Raises:
            ValueError: The records have no such column.
        """
        seen = membership(observation)
        n = len(seen.scores)
        nothing = unusable(seen, alpha)
        labels = self._labels(seen)
        groups = [group for group in self._groups(labels) if min(_sizes(seen, group)) >= self.smallest]
        told = [group for group in groups if not unusable(_part(seen, group), alpha)]
        if nothing or not told:
            return nothing or undetermined(1 - alpha, n, Basis.ATTACKED)
        sure, wide = ([self._within(_part(seen, group), a) for group in told] for a in (alpha / len(told), alpha))
        worst = max(range(len(told)), key=lambda i: sure[i].value)
        low = max(found.low for found in sure)
        high = 1.0 if len(told) < len(groups) else max(found.high for found in wide)
        name = "worst class" if self.by == "class" else "worst group's smallest value"
        details = (
            Quantity(name, float(labels[told[worst]].min())),
            *(Quantity(what, size) for what, size in zip(_SIZES, _sizes(seen, told[worst]), strict=True)),
            Quantity("groups measured", len(told)),
            Quantity("groups too small to say anything", len(groups) - len(told)),
            *persons_of(seen),
        )
        return Measurement(sure[worst].value, low, high, 1 - alpha, n, Basis.ATTACKED, details)

    def no_leak(self) -> float:
        """That of a coin: an advantage of 0, or the FPR itself."""
        return 0.0 if self.of == "advantage" else self.fpr

    def worst(self) -> float:
        """1: in some group every record is told apart."""
        return 1.0

    def _labels(self, seen: Membership) -> NDArray[float64]:
        """What each record's group is known by: its class, or a value of the column."""
        import numpy as np

        if self.by == "class":
            return seen.groups.astype(np.float64)
        if seen.slices is None or self.column >= seen.slices.shape[1]:
            found = 0 if seen.slices is None else seen.slices.shape[1]
            raise ValueError(f"expected column={self.column} among the columns of the records, found {found}")
        return np.asarray(seen.slices[:, self.column], dtype=np.float64)

    def _groups(self, labels: NDArray[float64]) -> list[NDArray[bool_]]:
        """The records of each group: those of one value, or between two quartiles; what is no number is a group too."""
        import numpy as np

        values, codes = np.unique(labels, return_inverse=True)
        if self.by == "column" and len(values) > _FEW_VALUES:
            codes = np.searchsorted(np.nanquantile(labels, [0.25, 0.5, 0.75]), labels, side="left")
            codes = np.where(np.isnan(labels), -1, codes)
        return [codes == code for code in np.unique(codes)]

    def _within(self, seen: Membership, alpha: float) -> Interval:
        """The interval within one group."""
        from ...statistics import advantage, tpr_at_fpr

        if self.of == "advantage":
            return advantage(seen.scores, seen.members, seen.groups, alpha, seen.persons).interval
        return tpr_at_fpr(seen.scores, seen.members, self.fpr, alpha, seen.persons).tpr


def _part(seen: Membership, group: NDArray[bool_]) -> Membership:
    """The records of one group."""
    persons = None if seen.persons is None else seen.persons[group]
    return Membership(seen.scores[group], seen.members[group], seen.groups[group], persons)


def _sizes(seen: Membership, group: NDArray[bool_]) -> tuple[int, int]:
    """Members and others in a group."""
    return int((seen.members & group).sum()), int((~seen.members & group).sum())
