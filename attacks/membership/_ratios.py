"""The likelihood of a label relative to what it is over models with and without the record (Zarifzadeh et al. 2024).

Everything is kept as log p and as 1 - p, so that labels that all models are sure of are still told apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, logsumexp
from scipy.stats import rankdata

if TYPE_CHECKING:
    from numpy import bool_, float64
    from numpy.typing import NDArray

    from ._signals import Signals

#: What `a` may be: p_in = a p_out + (1 - a).
_GRID = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
#: How many references take the subject's place in turn.
_TURNS = 4
#: Above this correlation of two masks one says something of the other.
_RELATED = 0.5
#: The least probability of a label that was computed backwards from models with the record.
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class Label:
    """The mean probability of each record's label.

    Attributes:
        log_p: `(n,)` its logarithm.
        rest: `(n,)` 1 - p.
    """

    log_p: NDArray[float64]
    rest: NDArray[float64]

    @classmethod
    def of(cls, phi: NDArray[float64], mask: NDArray[bool_]) -> Label:
        """The mean over the models that the mask names; NaN where there is none. Args: both `(k, n)`."""
        count = mask.sum(axis=0)
        count = np.where(count > 0, count, np.nan)
        with np.errstate(invalid="ignore"):  # who has no answer stays without
            log_p = np.where(mask, -np.logaddexp(0.0, -phi), -np.inf)
            mean = logsumexp(log_p, axis=0) - np.log(count)
        return cls(mean, np.where(mask, expit(-phi), 0.0).sum(axis=0) / count)

    def mixed(self, other: Label, share: float) -> Label:
        """This one with a share of the other."""
        if share == 0:
            return self
        own = np.log1p(-share) if share < 1 else -np.inf
        with np.errstate(invalid="ignore"):  # who has no answer stays without
            log_p = np.logaddexp(own + self.log_p, np.log(share) + other.log_p)
        return Label(log_p, (1 - share) * self.rest + share * other.rest)

    def where(self, mask: NDArray[bool_], other: Label) -> Label:
        """This one where the mask says so, the other elsewhere. Args: mask `(n,)`."""
        return Label(np.where(mask, self.log_p, other.log_p), np.where(mask, self.rest, other.rest))

    def outside(self, a: float) -> Label:
        """What models without the record answer, from those with it: 1 - p_out = (1 - p_in) / a, p_out > 0."""
        rest = np.minimum(self.rest / a, 1.0 - _LEAST)
        return Label(np.log1p(-rest), rest)

    def inside(self, a: float) -> Label:
        """What models with the record answer, from those without it: p_in = a p_out + (1 - a)."""
        sure = Label(np.zeros_like(self.log_p), np.zeros_like(self.rest))
        return self.mixed(sure, 1.0 - a)

    def log(self) -> NDArray[float64]:
        """Its logarithm, from whichever of both is exact."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.rest < 0.5, np.log1p(-self.rest), self.log_p)


def log_ratio(signals: Signals, a: float, online: bool) -> NDArray[float64]:
    """Logarithm of p(label | subject) / p(label): the latter is the mean of p_in and p_out.

    Args:
        signals: One view of the records.
        a: How p_in follows from p_out, for what is not known from references.
        online: Whether p_in is that of references; otherwise p = ((1 + a) p_out + (1 - a)) / 2.

    Returns:
        `(n,)`; NaN where the subject, or every reference, has no answer.
    """
    return Sides.of(signals).log_ratio(a, online)


@dataclass(frozen=True, slots=True)
class Sides:
    """The label's probability in the subject, and in models with and without the record.

    Attributes:
        subject: NaN where it has no answer.
        inside: NaN where there is no such model.
        outside: Likewise.
    """

    subject: Label
    inside: Label
    outside: Label

    @classmethod
    def of(cls, signals: Signals) -> Sides:
        """From one view."""
        known = np.isfinite(signals.subject)[None]
        return cls(
            Label.of(signals.subject[None], known),
            Label.of(signals.references, signals.inside),
            Label.of(signals.references, signals.outside),
        )

    def log_ratio(self, a: float, online: bool) -> NDArray[float64]:
        """As `log_ratio`, for one `a` of many. Returns: `(n,)`."""
        outside = self.outside.where(~np.isnan(self.outside.rest), self.inside.outside(a))
        inferred = outside.inside(a)
        inside = self.inside.where(~np.isnan(self.inside.rest), inferred) if online else inferred
        return self.subject.log() - outside.mixed(inside, 0.5).log()


def fitted(signals: Signals, online: bool) -> float:
    """The `a` by which references can be told from each other's records.

    Up to four references take the subject's place in turn. They are compared with those references alone whose records
    say nothing of theirs (the complement's mask would give the answer away); the best `a` is that of the highest mean
    area under the curve. Where no such reference is left, `a` is the ratio of the mean 1 - p with and without a record,
    which is what it stands for; with models on one side alone it is 1.
    """
    turns = [(j, others) for j in range(min(_TURNS, len(signals.references))) if len(others := _unrelated(signals, j))]
    if not turns:
        return _by_moments(signals)
    areas = np.sum([_areas(signals, j, others, online) for j, others in turns], axis=0)
    return _GRID[len(_GRID) - 1 - int(np.argmax(areas[::-1]))]


def _unrelated(signals: Signals, number: int) -> list[int]:
    """Which references' masks are not related to this one's."""
    masks = signals.inside.astype(np.float64)
    own = masks[number] - masks[number].mean()
    others = masks - masks.mean(axis=1, keepdims=True)
    norms = np.sqrt((own**2).sum() * (others**2).sum(axis=1))
    related = np.abs(others @ own) > _RELATED * norms
    return [j for j in range(len(masks)) if j != number and norms[j] > 0 and not related[j]]


def _areas(signals: Signals, number: int, others: list[int], online: bool) -> NDArray[float64]:
    """Area under the curve of one reference's records, by the other references, for each `a` of the grid."""
    own = signals.references[number]
    known = np.isfinite(own)
    world = type(signals)(own, signals.references[others], signals.inside[others], signals.outside[others])
    sides = Sides.of(world)
    return np.array([_area(sides.log_ratio(a, online)[known], signals.inside[number][known]) for a in _GRID])


def _area(ratios: NDArray[float64], members: NDArray[bool_]) -> float:
    """Area under the curve over the records that have a ratio; one half where a side is empty."""
    ratios, members = ratios[np.isfinite(ratios)], members[np.isfinite(ratios)]
    inside, outside = int(members.sum()), int((~members).sum())
    if not inside or not outside:
        return 0.5
    return float((rankdata(ratios)[members].sum() - inside * (inside + 1) / 2) / (inside * outside))


def _by_moments(signals: Signals) -> float:
    rest = expit(-signals.references)
    if not signals.inside.any() or not signals.outside.any():
        return 1.0
    without = float(rest[signals.outside].mean())
    a = float(rest[signals.inside].mean()) / without if without > 0 else 1.0
    return min(max(a, _GRID[0]), 1.0)
