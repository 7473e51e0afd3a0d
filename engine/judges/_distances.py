"""How far reconstructions are from what they are meant to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..target import Records

#: Pairs of images whose similarity is computed at once.
_PAIRS = 4096
#: Window of the structural similarity (Wang et al. 2004), for images that are large enough.
_WINDOW, _SIGMA = 11, 1.5

Images = NDArray[np.float32]
Distances = NDArray[np.float64]


def mean_squared_error(a: Images, b: Images) -> Distances:
    """Mean squared error per value of each pair. Args: a, b `(n, *shape)` or `(1, *shape)`. Returns: `(n,)`."""
    difference = a.astype(np.float64) - b.astype(np.float64)
    return np.asarray((difference**2).reshape(len(difference), -1).mean(axis=1))


def structural_similarity(a: Images, b: Images, bounds: tuple[float, float]) -> Distances:
    """Structural similarity of each pair, in [-1, 1]; NaN where the records are not images (Wang et al. 2004, eq. 13).

    The window is Gaussian, 11 x 11 with sigma 1.5, or the largest odd square that fits; only windows that lie wholly
    inside the image count, channels are averaged.

    Args:
        a: `(n, channels, height, width)`, or `(1, ...)`.
        b: Likewise.
        bounds: Smallest and largest value, whose difference is the data range.

    Returns:
        `(n,)`.
    """
    n = max(len(a), len(b))
    window = window_of(a.shape[1:])
    if window is None:
        return np.full(n, np.nan)
    x, y = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = ((k * (bounds[1] - bounds[0])) ** 2 for k in (0.01, 0.03))
    mx, my = _blur(x, window), _blur(y, window)
    vx, vy, cov = _blur(x * x, window) - mx**2, _blur(y * y, window) - my**2, _blur(x * y, window) - mx * my
    index = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return np.asarray(index.reshape(n, -1).mean(axis=1))


def window_of(shape: tuple[int, ...]) -> Distances | None:
    """The Gaussian weights along one side, or `None` where the records are not images (or under 3 pixels)."""
    if len(shape) != 3 or min(shape[1:]) < 3:
        return None
    size = min(_WINDOW, *(side - 1 + side % 2 for side in shape[1:]))
    weights = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * _SIGMA**2))
    return np.asarray(weights / weights.sum())


def _blur(x: Distances, window: Distances) -> Distances:
    """Weighted mean over every window inside the image. Args: x `(n, c, h, w)`."""
    from scipy.ndimage import correlate1d

    r = len(window) // 2
    rows = correlate1d(x, window, axis=2)[:, :, r : x.shape[2] - r]
    return np.asarray(correlate1d(rows, window, axis=3)[..., r : x.shape[3] - r])


@dataclass(frozen=True, slots=True)
class Closeness:
    """The distances of a set of reconstructions, one entry per target; `feature` by whoever has features."""

    mse: Distances
    ssim: Distances
    feature: Distances | None = None


def paired(guess: Images, truth: Images, bounds: tuple[float, float]) -> Closeness:
    """Each guess against its own truth."""
    starts = range(0, len(truth), _PAIRS)
    parts = [(guess[i : i + _PAIRS], truth[i : i + _PAIRS]) for i in starts]
    mse = [mean_squared_error(a, b) for a, b in parts]
    ssim = [structural_similarity(a, b, bounds) for a, b in parts]
    return Closeness(np.concatenate(mse), np.concatenate(ssim))


def nearest(guess: Images, classes: NDArray[np.int64], members: Records, bounds: tuple[float, float]) -> Closeness:
    """Each guess against the member of its class that is nearest, by each distance for itself."""
    rows = []
    for image, label in zip(guess, classes, strict=True):
        own = members.x[members.y == label]
        rows.append(paired(np.broadcast_to(image, own.shape), own, bounds))
    return Closeness(np.array([r.mse.min() for r in rows]), np.array([r.ssim.max() for r in rows]))
