"""What the attacks compare: how sure the subject and each reference model are of each record's label.

The signal is phi = log p_y - log(1 - p_y), in float64: nearly Gaussian over models that were trained alike (Carlini et
al. 2022, arXiv 2112.03570, section V-C). A release that shows only the label gets the same log odds from the share of
right answers over the views of a record, smoothed: log(right + 1/2) - log(wrong + 1/2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...engine.errors import NotMeasurable
from ...engine.target import Exposure, Records
from .._shares import at_label, read, undoing
from ._views import views

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy import bool_, float32, float64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Reference, Target

#: How far from the middle a signal may lie: this much, and this many times the distance between the quartiles.
_FAR, _FAR_QUARTILES = 1e3, 30.0


@dataclass(frozen=True, slots=True)
class Signals:
    """What one view of the records tells.

    Attributes:
        subject: `(n,)` phi of the subject; NaN where it has no answer.
        references: `(k, n)` phi of each reference; NaN where it has no answer.
        inside: `(k, n)` bool, where a reference that was trained on the record has an answer.
        outside: `(k, n)` bool, where one that was not has an answer.
    """

    subject: NDArray[float64]
    references: NDArray[float64]
    inside: NDArray[bool_]
    outside: NDArray[bool_]

    def first(self, n: int) -> Signals:
        """The same of the first n records."""
        return Signals(self.subject[:n], self.references[:, :n], self.inside[:, :n], self.outside[:, :n])

    @classmethod
    def of(cls, subject: NDArray[float64], references: NDArray[float64], inside: NDArray[bool_]) -> Signals:
        """Signals with the masks that belong to them. Args: `(n,)`, `(k, n)`, `(k, n)`."""
        known = np.isfinite(references)
        return cls(subject, references, inside & known, ~inside & known)


def chosen(target: Target, count: int) -> tuple[Reference, ...]:
    """The first `count` of the target's references, or as many as there are.

    Raises:
        NotMeasurable: There is none.
    """
    if not target.references:
        raise NotMeasurable("there is no reference model to compare the subject with: name a recipe to train them by")
    return target.references[:count]


def inside_of(references: tuple[Reference, ...], records: int) -> NDArray[bool_]:
    """Which reference was trained on which candidate. Returns: `(k, n)`."""
    inside = np.stack([reference.inside for reference in references]).astype(bool)
    if inside.shape[1] != records:
        raise ValueError(f"expected {records} records in each reference's mask, found {inside.shape[1]}")
    return inside


def view_signals(
    target: Target,
    candidates: Records,
    count: int,
    number: int,
    seed: int,
    progress: Progress,
    others: Records | None = None,
) -> Iterator[Signals]:
    """Ask the subject and its first references about every view of the candidates.

    Args:
        target: The subject.
        candidates: What is asked about.
        count: How many references at most.
        number: How many views.
        seed: What the views are drawn from.
        progress: Told how far the asking is.
        others: Records that no model was trained on; they stand after the candidates.

    Yields:
        One for each view; a single one for all of them where a release shows only the label.

    Raises:
        NotMeasurable: There is no reference model, or none of them answers with a number.
    """
    references = chosen(target, count)
    inside = inside_of(references, len(candidates))
    arrays = [candidates.x]
    if others is not None:
        arrays.append(others.x)
        candidates = Records(np.concatenate(arrays), np.concatenate([candidates.y, others.y]))
        inside = np.pad(inside, ((0, 0), (0, len(others))))
    for phi in _confidences(target, references, candidates, arrays, number, seed, progress):
        if len(candidates) and not np.isfinite(phi[1:]).any():
            raise NotMeasurable("no reference model gives a finite answer: see that the recipe's training converges")
        bounded = _bounded(phi)
        yield Signals.of(bounded[0], bounded[1:], inside)


class Comparing(Protocol):
    """What an attack says of how it asks."""

    @property
    def references(self) -> int:
        """How many references at most."""
        ...

    @property
    def views(self) -> int:
        """How many views of a record."""
        ...

    @property
    def label_views(self) -> int:
        """How many at least where the release shows only the label."""
        ...


def views_of(attack: Comparing, target: Target) -> int:
    """How many views of a record an attack asks this target about."""
    return max(attack.views, attack.label_views) if target.exposure is Exposure.LABEL else attack.views


def mean_score(
    attack: Comparing,
    compare: Callable[[Signals], NDArray[float64]],
    target: Target,
    candidates: Records,
    seed: int,
    progress: Progress,
) -> NDArray[float64]:
    """The mean over the views of what an attack makes of each. Returns: `(n,)`; NaN where the subject answers NaN.

    Raises:
        NotMeasurable: There is no reference model, or none of them answers with a number.
    """
    number = views_of(attack, target)
    total, seen = np.zeros(len(candidates)), 0
    for signals in view_signals(target, candidates, attack.references, number, seed, progress):
        total += compare(signals)
        seen += 1
    return total / seen


def reference_signals(target: Target, candidates: Records, count: int, progress: Progress) -> NDArray[float64]:
    """Phi of each of the first references on each candidate itself; the subject is not asked. Returns: `(k, n)`."""
    references = chosen(target, count)
    inside_of(references, len(candidates))
    rows = []
    for reference in references:
        answers = reference.target.query(candidates.x)
        rows.append(_phi(reference.target, answers, candidates, undoing(reference.target, answers)))
        progress(len(rows) / len(references))
    return np.stack(rows)


def _confidences(
    target: Target,
    references: tuple[Reference, ...],
    candidates: Records,
    arrays: Sequence[NDArray[float32]],
    number: int,
    seed: int,
    progress: Progress,
) -> Iterator[NDArray[float64]]:
    """Phi of the subject (first row) and of each reference. Yields: `(1 + k, n)`.

    The arrays are those that the candidates' records came in: what a model is known to answer on one of them is not
    computed again.
    """
    models = (target, *(reference.target for reference in references))
    factors: list[float] = []
    right = np.zeros((len(models), len(candidates)))
    labels = target.exposure is Exposure.LABEL
    for done, x in enumerate(views(candidates.x, number, target.bounds, seed, labels)):
        phi = np.empty_like(right)
        for row, model in enumerate(models):
            answers = model.query(x) if done else np.concatenate([model.query(array) for array in arrays])
            if not done:
                factors.append(undoing(model, answers))
            phi[row] = _phi(model, answers, candidates, factors[row])
            progress((done + (row + 1) / len(models)) / number)
        if not labels:
            yield phi
        right += phi > 0
        right[np.isnan(phi)] = np.nan
    if labels:
        yield np.log(right + 0.5) - np.log(number - right + 0.5)


def _bounded(phi: NDArray[float64]) -> NDArray[float64]:
    """Signals without what lies absurdly far out: one record that explodes would drown the variance of all others.

    Args:
        phi: `(1 + k, n)`; the subject's first row has no say in where the bounds lie.
    """
    if not np.isfinite(phi[1:]).any():
        return phi
    low, middle, high = np.nanquantile(phi[1:], (0.25, 0.5, 0.75))
    reach = _FAR + _FAR_QUARTILES * (high - low)
    return np.clip(phi, middle - reach, middle + reach)


def _phi(model: Target, answers: NDArray[float64], records: Records, factor: float) -> NDArray[float64]:
    """Log odds of the recorded label; finite, or NaN where there is no answer. Returns: `(n,)`."""
    if model.exposure is Exposure.LABEL:
        right = at_label(np.asarray(answers, dtype=np.float64), records.y)
        return np.log(right + 0.5) - np.log(1.5 - right)
    shares = read(model, answers, factor)
    phi = at_label(shares.log_p, records.y) - at_label(shares.log_rest, records.y)
    return np.where(np.isfinite(phi), phi, np.nan)
