"""What an attack reads from a model's answers: log-probabilities that keep apart what rounds to 0 or to 1.

Everything is float64. A row with a NaN or an infinite logit has no answer: it is NaN throughout. A probability that the
release shows as 0 gets a value that what is shown leaves room for, so that its logarithm is finite:

- logits, all probabilities: by log-sum-exp; a probability that underflowed counts as the smallest positive float64;
- behind noise: what is less than half of the noise's scale counts as that, a 0 that noise left included, since it would
  tell of the noise alone, and its logarithm would drown all others; never more than a tenth of an even share, since
  noise that is larger was divided by its own sum; answers that were averaged have less of it;
- truncated (`top`): the share that the shown probabilities leave over, spread evenly over the classes not shown;
- rounded (`decimals`): half a unit in the last place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from ..engine.target import Exposure

if TYPE_CHECKING:
    from numpy import float64, int64
    from numpy.typing import NDArray

    from ..engine.target import Records, Release, Target

#: The smallest positive float64: what an underflowed probability counts as.
_SMALLEST = float(np.nextafter(0.0, 1.0))
#: Below this a share cannot be told from what rounding left of 1 - sum(p).
_PRECISION = 2.0**-53
#: Between these the largest and the smallest logit of a middling answer differ in a model as people train them.
_FAINT, _LOUD, _USUAL = 1e-2, 1e5, 8.0


@dataclass(frozen=True, slots=True)
class Shares:
    """The probability of each class, and of everything but that class.

    Attributes:
        p: `(n, classes)` probability; exactly 0 where the release rounded it away.
        log_p: `(n, classes)` its logarithm, finite (see the module's docstring for what is 0).
        log_rest: `(n, classes)` logarithm of 1 - p, finite and without cancellation where p is close to 1.
    """

    p: NDArray[float64]
    log_p: NDArray[float64]
    log_rest: NDArray[float64]


def ask(target: Target, candidates: Records) -> Shares:
    """Ask the model about every candidate and read probabilities from whatever it answers."""
    answers = target.query(candidates.x)
    return read(target, answers, undoing(target, answers))


def undoing(target: Target, answers: NDArray[float64]) -> float:
    """The factor that undoes a scale of the logits which makes all answers look alike, or all of them sure.

    Whoever sees the numbers can undo it, so it hides nothing: `w / 1e20` is the same model. 1 for an ordinary model,
    for one whose answers do not differ at all, and for a release whose truncation or rounding does hide.

    Args:
        target: Who answered.
        answers: `(n, classes)`, on records that are like those to be attacked.
    """
    if target.exposure is Exposure.LABEL or _is_hidden(target, answers.shape[1]):
        return 1.0
    logits = _logits(target, answers, _drowned(target, 1))
    spread = np.ptp(logits[np.isfinite(logits).all(axis=1)], axis=1)
    middle = float(np.median(spread)) if len(spread) else 0.0
    return 1.0 if middle == 0 or _FAINT <= middle <= _LOUD else _USUAL / middle


def read(target: Target, answers: NDArray[float64], factor: float = 1.0, looks: int = 1) -> Shares:
    """Read probabilities from answers that this target gave.

    Args:
        target: Who answered.
        answers: `(n, classes)`, logits or probabilities.
        factor: What the logits are multiplied by first (`undoing`).
        looks: Of how many answers each is the mean.
    """
    answers = np.asarray(answers, dtype=np.float64)
    drowned = _drowned(target, looks)
    if _is_hidden(target, answers.shape[1]):
        return _reduced(answers, target.release, drowned)
    return _whole(factor * _logits(target, answers, drowned))


def _is_hidden(target: Target, classes: int) -> bool:
    return target.exposure is Exposure.PROBABILITIES and _is_reduced(target.release, classes)


def _logits(target: Target, answers: NDArray[float64], drowned: float) -> NDArray[float64]:
    """The logits, but for a constant in each row; centred, so that a faint difference is not lost beside it."""
    logits = answers if target.exposure is Exposure.LOGITS else np.log(np.maximum(answers, drowned))
    with np.errstate(invalid="ignore"):  # a row that is not finite stays so
        return np.asarray(logits - logits.mean(axis=1, keepdims=True))


def _drowned(target: Target, looks: int) -> float:
    """What a probability counts as at least: what is below is noise."""
    noise = target.release.noise
    if noise is None:
        return _SMALLEST
    return max(min(0.5 * noise.scale, 0.1 / target.classes) / math.sqrt(looks), _SMALLEST)


def at_label(values: NDArray[float64], labels: NDArray[int64]) -> NDArray[float64]:
    """The entry of each row that belongs to its recorded label. Args: values `(n, classes)`, labels `(n,)`."""
    return np.asarray(np.take_along_axis(values, labels[:, None], axis=1)[:, 0])


def _is_reduced(release: Release, classes: int) -> bool:
    return release.decimals is not None or (release.top is not None and release.top < classes)


def _whole(logits: NDArray[float64]) -> Shares:
    """Shares from logits (or from the logarithms of all probabilities), exact at both ends."""
    logits = np.where(np.isfinite(logits).all(axis=1, keepdims=True), logits, np.nan)
    first = np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]
    gap = logits - logits.max(axis=1, keepdims=True)
    log_others = logsumexp(np.where(first, -np.inf, gap), axis=1, keepdims=True)
    log_total = np.log1p(np.exp(log_others))
    log_p = gap - log_total
    p = np.exp(log_p)
    close = p > 0.5  # where 1 - p cancels
    log_rest = np.where(close, log_others - log_total, np.log1p(-np.where(close, 0.0, p)))
    return Shares(p, log_p, np.where(np.isnan(log_p), np.nan, log_rest))


def _reduced(p: NDArray[float64], release: Release, drowned: float) -> Shares:
    """Shares from truncated or rounded probabilities."""
    resolution = _PRECISION if release.decimals is None else max(0.5 * 10.0**-release.decimals, _SMALLEST)
    if release.noise is not None:
        resolution = max(resolution, drowned)
        p = np.where((p > 0) & (p < resolution), resolution, p)
    if release.top is not None and release.top < p.shape[1]:
        p = _spread_rest(p, resolution)
    log_p = np.log(np.where(p == 0, resolution, p))
    return Shares(p, log_p, np.log(np.maximum(1.0 - p, resolution)))


def _spread_rest(p: NDArray[float64], resolution: float) -> NDArray[float64]:
    """Give the classes that are not shown an equal part of what is left, never more than the smallest that is shown."""
    hidden = p == 0
    rest = np.maximum(1.0 - p.sum(axis=1, keepdims=True), resolution)
    each = rest / np.maximum(hidden.sum(axis=1, keepdims=True), 1)
    least_shown = np.where(hidden, np.inf, p).min(axis=1, keepdims=True)
    return np.where(hidden, np.minimum(each, least_shown), p)
