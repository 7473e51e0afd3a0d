"""Which side of its label's boundary a point lies on, and how far a record is from the other side, by labels alone.

All records take the same random steps: their distances depend neither on their order nor on how many are asked about
at once, and equal records are equally far. Every record costs the same number of queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy import bool_, float32, float64, int64
    from numpy.typing import NDArray

    from ...engine.target import Records, Target

#: Numbers that the points of one block of records hold at most: 128 MiB in float64.
_NUMBERS = 2**24
#: In how many sizes flips come.
_AMOUNTS = 8
#: Numbers of records whose distances from all others are held at once.
_PAIRS = 2**24


@dataclass(frozen=True, slots=True)
class Sides:
    """Records, and on which side of their own label's boundary the model puts them.

    Attributes:
        target: The model.
        x: `(n, d)` the records, flat.
        y: `(n,)` their recorded labels.
        predicted: `(n,)` what the model calls them; -1 where it has no answer.
    """

    target: Target
    x: NDArray[float32]
    y: NDArray[int64]
    predicted: NDArray[int64]

    @classmethod
    def ask(cls, target: Target, records: Records) -> Sides:
        """Ask for the label of each record: one query each."""
        return cls(target, records.x.reshape(len(records), -1), records.y, _labels(target, records.x))

    @property
    def right(self) -> NDArray[bool_]:
        """Where the model gives the recorded label."""
        return np.asarray(self.predicted == self.y)

    @property
    def known(self) -> NDArray[bool_]:
        """Where the model has an answer."""
        return self.predicted >= 0

    def blocks(self) -> list[NDArray[int64]]:
        """Positions of the records in blocks that memory has room for the points of."""
        rows = max(1, _NUMBERS // max(self.x.shape[1], 1))
        return [np.arange(start, min(start + rows, len(self.y))) for start in range(0, len(self.y), rows)]

    def take(self, index: NDArray[int64]) -> Sides:
        """The records at these positions."""
        return Sides(self.target, self.x[index], self.y[index], self.predicted[index])

    def crossed(self, points: NDArray[float64]) -> NDArray[bool_]:
        """Whether each point lies beyond its record's boundary: one query each. A point without an answer does not.

        Args:
            points: `(n, d)`, within the bounds.
        """
        labels = _labels(self.target, points.astype(np.float32).reshape(-1, *self.target.shape))
        return np.asarray(((labels == self.y) != self.right) & (labels >= 0) & self.known)

    def nearest_beyond(self, whole: Sides) -> Ends:
        """For each record the nearest one among all that the model puts beyond its boundary; costs no query."""
        points, found = self.x.astype(np.float64), np.zeros(len(self.y), dtype=bool)
        squares = (whole.x.astype(np.float64) ** 2).sum(axis=1)
        rows = max(1, _PAIRS // max(len(whole.y), 1))
        for start in range(0, len(self.y), rows):
            part = slice(start, start + rows)
            beyond = (whole.predicted == self.y[part, None]) != self.right[part, None]
            # |a - b|^2 but for |a|^2, the same in the whole row
            distances = squares - 2.0 * (self.x[part] @ whole.x.T)
            distances[~(beyond & whole.known & self.known[part, None])] = np.inf
            nearest = distances.argmin(axis=1)
            found[part] = np.isfinite(np.take_along_axis(distances, nearest[:, None], axis=1)[:, 0])
            points[part][found[part]] = whole.x[nearest[found[part]]]
        return Ends(points, found)


@dataclass(frozen=True, slots=True)
class Ends:
    """A point beyond each record's boundary.

    Attributes:
        points: `(n, d)`; the record itself where none is known.
        found: `(n,)`, where one is.
    """

    points: NDArray[float64]
    found: NDArray[bool_]


def _labels(target: Target, x: NDArray[float32]) -> NDArray[int64]:
    """The class that the model puts each record into; -1 where it has no answer. Returns: `(n,)`."""
    answers = target.query(x)
    known = np.isfinite(answers).all(axis=1)
    return np.where(known, answers.argmax(axis=1), -1)


@dataclass(frozen=True, slots=True)
class Walk:
    """How the search for the nearest point beyond the boundary is divided (HopSkipJump, arXiv 1904.02144, algorithm 2).

    Attributes:
        starts: Mixtures with random noise that are tried as a start, beside the nearest record beyond.
        halvings: Of a segment, when the boundary is searched on it.
        strides: Sizes of the step along the boundary's normal, as shares of the distance: the first to cross counts.
        directions: In each round, how many random ones the normal is estimated from.
    """

    starts: int
    halvings: int
    strides: tuple[float, ...]
    directions: tuple[int, ...]

    @property
    def queries(self) -> int:
        """What it costs for each record."""
        rounds = len(self.directions)
        return self.starts + self.halvings + sum(self.directions) + rounds * (len(self.strides) + self.halvings)

    @classmethod
    def within(cls, queries: int) -> Walk:
        """The walk that costs exactly so many queries a record.

        Raises:
            ValueError: That is too few.
        """
        fixed = cls(*_FIXED, directions=(0,) * _ROUNDS).queries
        if queries < fixed + _ROUNDS:
            raise ValueError(f"expected at least {fixed + _ROUNDS} queries a record, found {queries}")
        left = queries - fixed
        share = tuple(left // _ROUNDS + (number < left % _ROUNDS) for number in range(_ROUNDS))
        return cls(*_FIXED, directions=share)


#: Rounds, and of each walk the starts, halvings and strides.
_ROUNDS = 5
_FIXED = (8, 8, (2.0, 1.0, 0.5, 0.25))
#: Length of the random directions, as a share of the distance from the record, for a record of 64 values.
_PROBE, _VALUES = 0.1, 64


def distances(sides: Sides, ends: Ends, walk: Walk, seed: int, asked: Callable[[], None]) -> NDArray[float64]:
    """Euclidean distance of each record from the nearest point found beyond its boundary.

    Args:
        sides: The records.
        ends: Where to start, where a point beyond is known.
        walk: How many queries go where.
        seed: What all random steps come from.
        asked: Called after every round.

    Returns:
        `(n,)`; infinite where no point beyond was found.
    """
    rng, x = np.random.default_rng(seed), sides.x.astype(np.float64)
    ends = _with_noise(sides, ends, walk.starts, rng)
    points = _on_boundary(sides, ends.points, walk.halvings)
    for number, count in enumerate(walk.directions):
        far = np.linalg.norm(points - x, axis=1)
        normal = _normal(sides, points, far, count, rng)
        strides = [stride / np.sqrt(number + 1) for stride in walk.strides]
        stepped = _on_boundary(sides, _step(sides, points, normal, far, strides), walk.halvings)
        nearer = np.linalg.norm(stepped - x, axis=1) < far
        points = np.where(nearer[:, None], stepped, points)
        asked()
    return np.where(ends.found, np.linalg.norm(points - x, axis=1), np.inf)


def _clipped(sides: Sides, points: NDArray[float64]) -> NDArray[float64]:
    return np.clip(points, *sides.target.bounds)


def _with_noise(sides: Sides, ends: Ends, starts: int, rng: np.random.Generator) -> Ends:
    """Mix each record with more and more of a random one, and start there where that is nearer."""
    points, found = ends.points.copy(), ends.found.copy()
    for number in range(starts):
        noise = rng.uniform(*sides.target.bounds, size=sides.x.shape[1])
        mixed = sides.x + (number + 1) / starts * (noise - sides.x)
        nearer = np.linalg.norm(mixed - sides.x, axis=1) < np.linalg.norm(points - sides.x, axis=1)
        taken = sides.crossed(mixed) & (nearer | ~found)
        points[taken], found = mixed[taken], found | taken
    return Ends(points, found)


def _on_boundary(sides: Sides, ends: NDArray[float64], halvings: int) -> NDArray[float64]:
    """The first point beyond the boundary on the way from each record to its end, by bisection."""
    near, beyond = np.zeros((len(ends), 1)), np.ones((len(ends), 1))
    way = ends - sides.x
    for _ in range(halvings):
        middle = (near + beyond) / 2
        crossed = sides.crossed(sides.x + middle * way)[:, None]
        near, beyond = np.where(crossed, near, middle), np.where(crossed, middle, beyond)
    return np.asarray(sides.x + beyond * way)


def _normal(
    sides: Sides, points: NDArray[float64], far: NDArray[float64], count: int, rng: np.random.Generator
) -> NDArray[float64]:
    """The boundary's normal at each point, from random directions that cross and that do not (equation 16)."""
    directions = rng.normal(size=(count, points.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    length = _PROBE * np.sqrt(points.shape[1] / _VALUES) * far[:, None]
    signs = np.stack([sides.crossed(_clipped(sides, points + length * one)) for one in directions], axis=1)
    normal = (signs - signs.mean(axis=1, keepdims=True)) @ directions
    return np.asarray(normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), np.finfo(np.float64).tiny))


def _step(
    sides: Sides, points: NDArray[float64], normal: NDArray[float64], far: NDArray[float64], strides: list[float]
) -> NDArray[float64]:
    """Each point moved along its normal by the first of these strides that ends beyond the boundary."""
    moved, done = points.copy(), np.zeros(len(points), dtype=bool)
    for stride in strides:
        tried = _clipped(sides, points + stride * far[:, None] * normal)
        taken = sides.crossed(tried) & ~done
        moved[taken], done = tried[taken], done | taken
    return moved


def agreement(sides: Sides, queries: int, seed: int) -> NDArray[float64]:
    """How often the recorded label is given to a record of two values, some of which are flipped.

    From one value to half of them, over and over. A query counts the less, the more it flips: few flips tell how close
    the record itself is to the boundary, many tell how likely its class is anywhere.

    Returns:
        `(n,)`, strictly between 0 and 1.
    """
    rng, d = np.random.default_rng(seed), sides.x.shape[1]
    low, high = sides.target.bounds
    amounts = np.unique(np.maximum(1, np.geomspace(1, max(d / 2, 1), _AMOUNTS).round().astype(int)))
    weights = 1.0 / np.resize(amounts, queries)
    given = np.full(len(sides.y), weights[-1] / 2)
    for weight in weights:
        flipped = np.zeros(d, dtype=bool)
        flipped[rng.permutation(d)[: round(1 / weight)]] = True
        given += weight * (sides.crossed(np.where(flipped, low + high - sides.x, sides.x)) != sides.right)
    return np.asarray(given / (weights.sum() + weights[-1]))
