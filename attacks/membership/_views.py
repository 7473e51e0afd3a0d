"""Views of a record: what else an adversary asks about it, to learn more from one model than one answer tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy import bool_, float32
    from numpy.typing import NDArray

#: How far a view of a record that is no image is moved, in standard deviations of each column.
_NOISE = 0.1
#: The same where only labels are shown: what tells is how often a label holds further out.
_LABEL_NOISE = 0.6
#: Which share of the yes-or-no columns is turned over where the others move by a standard deviation.
_FLIPPED = 0.1
#: An image's eight neighbours at one pixel, the nearest first: down, right.
_SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))


def views(
    x: NDArray[float32], count: int, bounds: tuple[float, float], seed: int, labels: bool = False
) -> Iterator[NDArray[float32]]:
    """The records themselves, then varied: every record in the same way, whatever its place among the others.

    An image is moved by one pixel in each of eight directions, then mirrored and moved. Whatever has no such view left
    (any other record, from its first) gets a little noise in its columns; one that holds only the two bounds gets some
    of its entries turned over. Where only labels are shown every view but the first is noise, and more of it.

    Args:
        x: `(n, *shape)`; never written to.
        count: How many views, at least 1.
        bounds: Smallest and largest value of an entry.
        seed: What the noise is drawn from.
        labels: Whether the answers are labels alone.

    Yields:
        `(n, *shape)`.
    """
    rng = np.random.default_rng(seed)
    pictures = 2 * len(_SHIFTS) if _are_images(x) and not labels else 1
    for number in range(count):
        if number == 0:
            yield x
        elif number < pictures:
            mirrored, step = divmod(number, len(_SHIFTS))
            yield _moved(x[..., ::-1] if mirrored else x, *_SHIFTS[step], bounds[0])
        else:
            yield _blurred(x, bounds, _LABEL_NOISE if labels else _NOISE, rng)


def _are_images(x: NDArray[float32]) -> bool:
    return x.ndim == 4 and min(x.shape[2:]) > 2


def _moved(x: NDArray[float32], down: int, right: int, fill: float) -> NDArray[float32]:
    """Images moved by at most one pixel; what moves in is `fill`. Args: x `(n, channels, height, width)`."""
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=fill)
    return np.ascontiguousarray(padded[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width])


def _blurred(
    x: NDArray[float32], bounds: tuple[float, float], size: float, rng: np.random.Generator
) -> NDArray[float32]:
    """Every record with the same noise, of a size in standard deviations of each column."""
    noise, draw = rng.normal(size=x.shape[1:]), rng.random(x.shape[1:])
    low, high = bounds
    binary = _binary_columns(x, bounds)
    turn = draw < max(size * _FLIPPED, draw[binary].min(initial=1.0) * (1 + 1e-9))  # one at least
    moved = np.clip(x + size * noise * x.std(axis=0, dtype=np.float64), low, high)
    return np.where(binary, np.where(turn, low + high - x, x), moved).astype(np.float32)


def _binary_columns(x: NDArray[float32], bounds: tuple[float, float]) -> NDArray[bool_]:
    """Which columns hold the two bounds and nothing else. Returns: `shape` of one record."""
    return np.asarray(((x == np.float32(bounds[0])) | (x == np.float32(bounds[1]))).all(axis=0))
