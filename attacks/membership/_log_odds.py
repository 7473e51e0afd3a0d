"""The log-odds of the recorded label: on the candidates, and on the adversary's own records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...engine.errors import AttackError
from .._shares import at_label, read, undoing

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from ...engine.target import Records, Target


@dataclass(frozen=True, slots=True)
class LogOdds:
    """log p_y - log(1 - p_y) of the recorded label y (arXiv 2112.03570, equation 6); NaN where the model answers NaN.

    Attributes:
        candidates: `(n,)`.
        owned: `(m,)`, of the records that `auxiliary` holds.
        auxiliary: The adversary's own records on which the model has an answer.
    """

    candidates: NDArray[float64]
    owned: NDArray[float64]
    auxiliary: Records


def log_odds(target: Target, candidates: Records) -> LogOdds:
    """Ask the model about the candidates and about the adversary's own records, and read both by one scale.

    Raises:
        AttackError: The adversary owns no records.
    """
    if target.auxiliary is None:
        raise AttackError("this attack compares the candidates with auxiliary records, and the target has none")
    own, theirs = target.query(target.auxiliary.x), target.query(candidates.x)
    factor = undoing(target, own)
    owned = _of(target, own, target.auxiliary, factor)
    known = np.flatnonzero(np.isfinite(owned))
    return LogOdds(_of(target, theirs, candidates, factor), owned[known], target.auxiliary.take(known))


def _of(target: Target, answers: NDArray[float64], records: Records, factor: float) -> NDArray[float64]:
    shares = read(target, answers, factor)
    return at_label(shares.log_p - shares.log_rest, records.y)
