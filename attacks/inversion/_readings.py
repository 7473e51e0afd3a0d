"""How an adversary reads a model's answers before he decodes them: one answer a record, or several that he averages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...engine.target import Exposure
from .._shares import read, undoing
from ._decoders import Answers, Lesson, kernel_ridge

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy import float64
    from numpy.typing import NDArray

    from ...engine.target import Target

#: A coordinate that varies less than this share of its mean varies by rounding.
_ROUNDING = 2.0**-46
#: The de-noiser is chosen by leaving out one record at a time, so that none has to be held out for it.
_NOT_HELD = 1


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read answers.

    Attributes:
        name: `mean`, `mean of logarithms` or `de-noised`.
        owned: The answers on the adversary's own records.
        victims: The answers on the records that he is after.
    """

    name: str
    owned: Answers
    victims: Answers


def readings(target: Target, owned: NDArray[float64], victims: NDArray[float64]) -> list[Reading]:
    """Every way to read these answers, the simplest first; only one where each record was answered once.

    Args:
        target: Who answered.
        owned: `(r, m, classes)`, on the adversary's own records.
        victims: `(r, n, classes)`, on the others.
    """
    factor = undoing(target, owned.mean(axis=0))
    plain = _reading("mean", target, owned, victims, lambda a: features(target, a.mean(axis=0), factor, len(a)))
    if len(owned) == 1 or target.exposure is Exposure.LABEL:
        return [plain]
    logarithms = _reading(
        "mean of logarithms",
        target,
        owned,
        victims,
        lambda a: np.mean([features(target, p, factor) for p in a], axis=0),
    )
    return [plain, logarithms, _denoised(target, owned, victims, factor)]


def _reading(
    name: str,
    target: Target,
    owned: NDArray[float64],
    victims: NDArray[float64],
    read_them: Callable[[NDArray[float64]], NDArray[float64]],
) -> Reading:
    """Standardised as the adversary's own answers are, so that what does not vary there reads as 0."""
    theirs = read_them(owned)
    mean, deviation = theirs.mean(axis=0), theirs.std(axis=0)
    scale = np.where(deviation > _ROUNDING * np.abs(mean), deviation, np.inf)
    parts = [(theirs - mean) / scale, (read_them(victims) - mean) / scale]
    labels = [answers.mean(axis=0).argmax(axis=1) for answers in (owned, victims)]
    found = [Answers(part, label) for part, label in zip(parts, labels, strict=True)]
    return Reading(name, found[0], found[1])


def _denoised(target: Target, owned: NDArray[float64], victims: NDArray[float64], factor: float) -> Reading:
    """Answers as half of them foretell the other half, which has noise of its own (Lehtinen et al., arXiv 1803.04189).

    What can be foretold of the other half is what both have in common: what the model computed, not the noise.
    """

    def halves(answers: NDArray[float64]) -> list[NDArray[float64]]:
        return [features(target, half.mean(axis=0), factor, len(half)) for half in (answers[0::2], answers[1::2])]

    first, second = halves(owned)
    mean, deviation = first.mean(axis=0), first.std(axis=0)
    scale = np.where(deviation > _ROUNDING * np.abs(mean), deviation, np.inf)
    centre, width = second.mean(axis=0), np.maximum(second.std(axis=0), np.finfo(float).tiny)
    unit = 0.5 + (second - centre) / (12 * width)  # the decoders' records lie in [0, 1]: six deviations each way
    decoder = kernel_ridge(Lesson(_unlabelled((first - mean) / scale), unit, _NOT_HELD))

    def read_them(answers: NDArray[float64]) -> NDArray[float64]:
        parts = [decoder.decode(_unlabelled((half - mean) / scale)) for half in halves(answers)]
        return np.asarray(np.mean(parts, axis=0))

    return _reading("de-noised", target, owned, victims, read_them)


def _unlabelled(values: NDArray[float64]) -> Answers:
    return Answers(values, np.zeros(len(values), dtype=np.int64))


def features(target: Target, answers: NDArray[float64], factor: float, looks: int = 1) -> NDArray[float64]:
    """Everything that an answer tells, one row each: logarithms, and beside them what they leave out.

    That is the level of logits, which of exact probabilities were shown at all, and noised ones as they are, since
    noise that was added blurs a small one's logarithm the most.

    Args:
        target: Who answered.
        answers: `(n, classes)`.
        factor: As `read` takes it.
        looks: Of how many answers each is the mean.

    Returns:
        `(n, d)`.
    """
    if target.exposure is Exposure.LABEL:
        return answers
    besides = answers.mean(axis=1, keepdims=True) if target.exposure is Exposure.LOGITS else answers > 0
    if target.exposure is Exposure.PROBABILITIES and target.release.noise is not None:
        besides = answers
    return np.concatenate([read(target, answers, factor, looks).log_p, besides], axis=1)
