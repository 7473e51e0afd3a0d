"""What an adversary could say without the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ._distances import Closeness, Distances, Images, mean_squared_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..target import Records


def baselines(auxiliary: Records, labels: NDArray[np.int64], seed: int = 0) -> dict[str, Images]:
    """What an adversary who owns these records and knows each target's true class can guess without the model.

    A class of which he owns no record is guessed by the global mean.

    Args:
        auxiliary: The adversary's own records, at least one.
        labels: `(n,)` class of each target.
        seed: Draws the random record of each class; different targets get different ones while there are any.

    Returns:
        Name of the guess to `(n, *shape)`.
    """
    overall = auxiliary.x.mean(axis=0, dtype=np.float64).astype(np.float32)
    guesses = {name: np.repeat(overall[None], len(labels), axis=0) for name in _BASELINES}
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        at, own = labels == label, auxiliary.x[auxiliary.y == label]
        if len(own):
            mean = own.mean(axis=0, dtype=np.float64).astype(np.float32)
            guesses["class mean"][at] = mean
            guesses["mean of the class without its outliers"][at] = _trimmed_mean(own)
            guesses["most typical record of the class"][at] = own[mean_squared_error(own, mean[None]).argmin()]
            guesses["another record of the class"][at] = own[np.resize(rng.permutation(len(own)), at.sum())]
    return guesses


_BASELINES = (
    "global mean",
    "class mean",
    "mean of the class without its outliers",
    "most typical record of the class",
    "another record of the class",
)
#: Share of a class that counts as typical of it, and how often the mean is taken anew over those.
_TYPICAL, _ROUNDS = 0.75, 5


def _trimmed_mean(own: Images) -> Images:
    """The mean of the three quarters of the records that are nearest to it: wrong labels do not blur it.

    The start is the median; after a few rounds nothing moves (Rousseeuw & Van Driessen 1999, the C-step).
    """
    centre = np.median(own, axis=0).astype(np.float32)
    for _ in range(_ROUNDS):
        distance = mean_squared_error(own, centre[None])
        centre = own[distance <= np.quantile(distance, _TYPICAL)].mean(axis=0, dtype=np.float64).astype(np.float32)
    return centre


@dataclass(frozen=True, slots=True)
class Guessed:
    """How close every guess without the model comes, `(b, n)`."""

    names: tuple[str, ...]
    mse: Distances
    ssim: Distances
    feature: Distances


def guessed(guesses: dict[str, Images], closeness: Callable[[Images], Closeness]) -> Guessed:
    """Hold every guess against the truth; which of them is the best, the measure says, at the quantile it is asked."""
    found = [closeness(guess) for guess in guesses.values()]
    return Guessed(
        tuple(guesses), np.stack([f.mse for f in found]), np.stack([f.ssim for f in found]), _features(found)
    )


def _features(found: list[Closeness]) -> Distances:
    return np.stack([np.full(len(f.mse), np.nan) if f.feature is None else f.feature for f in found])
