"""What the report's figures of membership attacks are drawn from: counts and curves over many records, none of one.

No verdict rests on any of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .observation import Membership
from .statistics import advantage, auc, roc, tpr_at_fpr

if TYPE_CHECKING:
    from numpy import bool_, float64, int64
    from numpy.typing import NDArray

    from .ledger import Ledger
    from .plan import Outcome

Json = dict[str, object]

#: Error of every interval that is drawn; pointwise for a ROC, over all classes and attacks together for the classes.
ALPHA = 0.05
#: A bin or class that shows anybody shows at least so many people.
HANDFUL = 5
_BINS = 30
#: The histogram spans this many interquartile ranges around the median at most: scores may have long tails.
_SPREAD = 4.0
#: Where a proved bound is drawn.
_BOUND_FPR = np.geomspace(1e-6, 1.0, 121)


def usable(outcomes: Iterable[Outcome]) -> list[tuple[Outcome, Membership]]:
    """The membership outcomes that can be drawn, the strongest attack first; NaN anywhere is no answer."""
    found = [
        (outcome, outcome.observation)
        for outcome in outcomes
        if isinstance(outcome.observation, Membership) and drawable(outcome.observation)
    ]
    return sorted(found, key=lambda pair: -_strength(pair[1]))


def drawable(seen: Membership) -> bool:
    """Whether every record has a score, and there are several people of either kind."""
    people = people_of(seen)
    fewest = min(len(np.unique(people[kind])) for kind in (seen.members, ~seen.members))
    return bool(fewest > 1 and not np.isnan(seen.scores).any())


def _strength(seen: Membership) -> float:
    """The area under the curve as it is drawn: TPR over the logarithm of the FPR, from one nonmember to all."""
    curve = roc(seen.scores, seen.members, ALPHA)
    rates = np.geomspace(1 / int((~seen.members).sum()), 1.0, 50)
    return float(np.interp(rates, curve[:, 0], curve[:, 1]).mean())


def curve_of(name: str, seen: Membership) -> Json:
    """An attack's ROC with its pointwise band."""
    points = roc(seen.scores, seen.members, ALPHA, persons=seen.persons)
    inside = int(seen.members.sum())
    columns = {key: rounded(points[:, i]) for i, key in enumerate(("fpr", "tpr", "low", "high"))}
    return {"attack": name, **columns, "members": inside, "nonmembers": len(seen.members) - inside}


def proved_curve(ledger: Ledger | None) -> Json | None:
    """What the ledger leaves possible to any attack; `None` where it bounds nothing. Takes about half a second.

    Raises:
        AccountingError: It could not be computed.
    """
    from .bounds import advantage_bound, tpr_bound

    tpr = None if ledger is None else tpr_bound(ledger, _BOUND_FPR)
    if ledger is None or tpr is None:
        return None
    basis = "proved" if ledger.proves else "declared"
    return {"fpr": rounded(_BOUND_FPR), "tpr": rounded(tpr), "advantage": advantage_bound(ledger), "basis": basis}


# --- score distributions ---------------------------------------------------------------------------------------------


def histogram(name: str, seen: Membership) -> Json:
    """How members and nonmembers score; the first and the last bin also hold everything beyond.

    Bins are merged until each shows nobody or at least a handful of people of either kind.
    """
    low, high = _span(seen.scores)
    inner = np.linspace(low, high, _BINS + 1)[1:-1] if high > low else np.empty(0)
    where = np.searchsorted(inner, seen.scores, side="right")
    ends = _ends(where, len(inner) + 1, seen)
    bins = np.searchsorted(ends, where)
    edges = np.concatenate([[low], inner[ends[:-1]], [high]])
    tallies = [np.bincount(bins[kind], minlength=len(ends)).tolist() for kind in (seen.members, ~seen.members)]
    width = high - low
    decimals = 2 - math.floor(math.log10(width)) if width > 0 else 2  # an edge must not be anybody's score
    return {
        "attack": name,
        "edges": [round(edge, decimals) for edge in edges.tolist()],
        "members": tallies[0],
        "nonmembers": tallies[1],
    }


def _span(scores: NDArray[float64]) -> tuple[float, float]:
    """Where most scores lie; an infinite one lies beyond it."""
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return 0.0, 0.0
    least, first, middle, third, most = np.quantile(finite, [0.01, 0.25, 0.5, 0.75, 0.99])
    room = _SPREAD * (third - first) or math.inf
    return float(max(least, middle - room)), float(min(most, middle + room))


def _ends(where: NDArray[int64], bins: int, seen: Membership) -> NDArray[int64]:
    """The last fine bin of each merged one. Args: where `(n,)`, the fine bin of each record."""
    people = people_of(seen)

    def shown(first: int, last: int) -> bool:
        here = (where >= first) & (where <= last)
        heads = (len(np.unique(people[here & kind])) for kind in (seen.members, ~seen.members))
        return all(count == 0 or count >= HANDFUL for count in heads)

    ends: list[int] = []
    for i in range(bins):
        if shown(ends[-1] + 1 if ends else 0, i):
            ends.append(i)
    while ends and ends[-1] != bins - 1:  # what is left over joins the bin before, and that the one before if it must
        ends[-1] = bins - 1
        if not shown(ends[-2] + 1 if len(ends) > 1 else 0, bins - 1):
            ends.pop()
    return np.array(ends or [bins - 1])


def people_of(seen: Membership) -> NDArray[int64]:
    """Whose each record is."""
    return np.arange(len(seen.members)) if seen.persons is None else seen.persons


# --- classes ---------------------------------------------------------------------------------------------------------


def class_risks(name: str, seen: Membership, tried: int) -> Json:
    """The strongest attack's advantage within each class, the most exposed class first.

    Args:
        name: The attack.
        seen: Its outcome.
        tried: Among how many attacks it is the strongest; they are paid for as the classes are.
    """
    people = people_of(seen)
    kinds = [(c, seen.groups == c) for c in np.unique(seen.groups)]
    judged = [(c, here) for c, here in kinds if _enough(people, seen.members, here)]
    alpha = ALPHA / max(1, len(judged) * tried)
    rows = [_class(int(c), seen, here, alpha) for c, here in judged]
    rows.sort(key=lambda row: (-row.low, -row.value))
    return {
        "attack": name,
        "confidence": 1 - ALPHA,
        "classes": [row.json for row in rows],
        "tooFew": len(kinds) - len(judged),
    }


def _enough(people: NDArray[int64], members: NDArray[bool_], here: NDArray[bool_]) -> bool:
    return min(len(np.unique(people[members & here])), len(np.unique(people[~members & here]))) >= HANDFUL


@dataclass(frozen=True, slots=True)
class _Class:
    """One class's advantage."""

    label: int
    value: float
    low: float
    high: float
    members: int
    nonmembers: int

    @property
    def json(self) -> Json:
        ends = dict(zip(("value", "low", "high"), rounded(np.array([self.value, self.low, self.high])), strict=True))
        return {"class": self.label, **ends, "members": self.members, "nonmembers": self.nonmembers}


def _class(label: int, seen: Membership, here: NDArray[bool_], alpha: float) -> _Class:
    members, persons = seen.members[here], None if seen.persons is None else seen.persons[here]
    found = advantage(seen.scores[here], members, seen.groups[here], alpha, persons).interval
    inside = int(members.sum())
    return _Class(label, found.value, found.low, found.high, inside, len(members) - inside)


# --- what more reference models would change -------------------------------------------------------------------------


def power(outcome: Outcome, seen: Membership, fpr: float) -> Json | None:
    """What the attack achieves by the number of its reference models; `None` where only one number is known.

    Args:
        outcome: Of an attack that uses reference models.
        seen: Its outcome with all of them.
        fpr: Where the true-positive rate is read.
    """
    runs: dict[int, Membership] = {
        k: o for k, o in outcome.budgets.items() if isinstance(o, Membership) and drawable(o)
    } | {outcome.job.references: seen}
    if not outcome.job.references or len(runs) < 2:
        return None
    points = [_point(k, runs[k], fpr) for k in sorted(runs)]
    return {"attack": outcome.job.name, "points": points, "doubling": _doubling(runs, outcome.job.references)}


def _point(references: int, seen: Membership, fpr: float) -> Json:
    area = auc(seen.scores, seen.members, ALPHA, seen.persons)
    rate = tpr_at_fpr(seen.scores, seen.members, fpr, ALPHA, seen.persons).tpr
    names = ("value", "low", "high")
    found = [dict(zip(names, rounded(np.array([i.value, i.low, i.high])), strict=True)) for i in (area, rate)]
    return {"references": references, "auc": found[0], "tpr": {"fpr": fpr, **found[1]}}


def _doubling(runs: Mapping[int, Membership], references: int) -> str:
    """What the last doubling of the reference models changed, in words."""
    half = references // 2
    before, after = runs.get(half), runs[references]
    if before is None or before.scores.shape != after.scores.shape or (before.members != after.members).any():
        return ""
    value, low, high = auc_change(before.scores, after.scores, after.members, after.persons)
    step = f"from {half} to {references} reference models the AUC changed by {value:+z.3f} [{low:+z.3f}, {high:+z.3f}]"
    if low <= 0 <= high:
        return f"{step}: within noise, nothing shows that {2 * references} would find more"
    if value < 0:
        return f"{step}: more of them did not help here"
    return f"{step}: {2 * references} would be expected to find more still, by about as much or less"


def auc_change(
    before: NDArray[float64], after: NDArray[float64], members: NDArray[bool_], persons: NDArray[int64] | None = None
) -> tuple[float, float, float]:
    """AUC of the second score less that of the first, on the same records, with its 95 % interval.

    Each record's influence on an AUC is the share of the other kind that it beats (DeLong et al. 1988); influences of
    one person's records are added before they are squared (Obuchowski 1997).

    Args:
        before: `(n,)`.
        after: `(n,)`.
        members: `(n,)`.
        persons: `(n,)`, whose record it is; `None` where every record is a person of its own.
    """
    from scipy.stats import norm

    change = _influences(after, members) - _influences(before, members)
    inside, n = members.sum(), len(members)
    value = float(change[members].mean())
    centred = np.where(members, (change - value) / inside, (change - change[~members].mean()) / (n - inside))
    _, whose = np.unique(np.arange(n) if persons is None else persons, return_inverse=True)
    by_person = np.bincount(whose, weights=centred)
    people = len(by_person)
    error = math.sqrt(float((by_person**2).sum()) * people / max(1, people - 1))
    width = float(norm.ppf(1 - ALPHA / 2)) * error
    return value, value - width, value + width


def _influences(scores: NDArray[float64], members: NDArray[bool_]) -> NDArray[float64]:
    """For a member the share of nonmembers below it, for a nonmember the share of members above it; ties count half."""
    inside, outside = np.sort(scores[members]), np.sort(scores[~members])
    beaten = (np.searchsorted(outside, scores, "left") + np.searchsorted(outside, scores, "right")) / 2 / len(outside)
    above = 1 - (np.searchsorted(inside, scores, "left") + np.searchsorted(inside, scores, "right")) / 2 / len(inside)
    return np.where(members, beaten, above)


def rounded(values: NDArray[float64] | Sequence[float], digits: int = 6) -> list[float | None]:
    """Numbers as the evidence writes them: so many significant digits, `None` for what is not finite."""
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in np.asarray(values, dtype=float).tolist()]
