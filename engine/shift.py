"""Whether members and nonmembers differ by themselves: a classifier that sees the records and never the model.

Under the null that a fair coin decided who is a member, every test here holds its error for any records: the halves,
the subsample and whatever is fitted on both kinds alike do not know who is a member, and both sides are cut to the same
size. Then each statistic is made of random signs, whose even moments are at most those of the normal distribution
(Khintchine 1923), and the normal and chi-square tails that are used are no lighter than the exact ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .statistics import holm
from .target import Records

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

#: Fewer records than these on one side tell nothing.
FEWEST = 20
#: At most so many records of each side are looked at, and at most so many values of all of them together.
_MOST_RECORDS, _MOST_VALUES = 10_000, 20_000_000
#: The classifiers see at most so many records of each side.
_MOST_FITTED = 4_000
#: A column with no more values than these is compared value by value.
_FEW_VALUES = 10
#: Images are averaged over blocks until no edge is longer.
_LONGEST_EDGE = 32
#: The trees see so many principal components, and the columns themselves where there are no more than these.
_COMPONENTS, _FEW_COLUMNS = 32, 64
_NAMED = 10


@dataclass(frozen=True, slots=True)
class Feature:
    """One value of a record by which members can be told.

    Attributes:
        name: `class`, `class, given the rest`, `column 7`, `pixel (channel, row, column)` or, in a large image,
            `pixels (0, 84-90, 63-69)`; all counted from 0.
        p: Holm-adjusted p-value of its own test.
    """

    name: str
    p: float


@dataclass(frozen=True, slots=True)
class Shift:
    """What can be told of membership from the records alone.

    Attributes:
        found: Whether members and nonmembers differ by themselves.
        p: Of the null that they do not, over everything that was tried; corrected.
        alpha: How often it may be found where there is none.
        auc: How well the better classifier tells them, on records that it was not fitted on.
        records: How many records were looked at.
        features: What tells them, the clearest first; empty where nothing on its own does.
        untested: Why nothing can be said; empty where something can. Then membership requirements stay inconclusive.
        detectable: By how many standard deviations the mean of one column must differ to be found four times out of
            five; `None` where nothing was tested.
    """

    found: bool
    p: float
    alpha: float
    auc: float
    records: int
    features: tuple[Feature, ...]
    untested: str = ""
    detectable: float | None = None


def shift_test(members: Records, nonmembers: Records, seed: int, alpha: float = 0.01) -> Shift:
    """Hold the records of both kinds against each other.

    A half of alpha goes to the values one by one (Mann & Whitney 1947 for the place and Smirnov 1939 for the shape, or
    chi-square where a value is one of few; Holm over all of them), the other to two classifiers, fitted on one half and
    judged on the other by their ranks, both ways round (Lopez-Paz & Oquab 2017, arXiv 1610.06545). Where persons are
    wholly members or wholly not, the split was one of persons, and one record of each is looked at.

    Args:
        members: Records that the model was trained on.
        nonmembers: Records that it was not trained on, of the same shape.
        seed: Of the subsample, the halves and the classifiers. The order of the records does not matter.
        alpha: How often a shift may be found where there is none.
    """
    if not (np.isfinite(members.x).all() and np.isfinite(nonmembers.x).all()):
        return _untested("a record holds a value that is not finite", alpha)
    rng = np.random.default_rng(seed)
    sides = _independent(_shuffled(members, rng), _shuffled(nonmembers, rng))
    size = min(len(side) for side in sides)
    if size < FEWEST:
        return _untested(f"{size} independent records on one side, {FEWEST} are needed", alpha)
    columns = _Columns.of(*sides)
    values = _by_value(columns)
    told = _by_classifier(columns, int(rng.integers(2**31)))
    p = min(1.0, 2 * min(*(feature.p for feature in values), told.p))
    clear = sorted((feature for feature in values if 2 * feature.p <= alpha), key=lambda feature: feature.p)
    tests = 2 * 2 * len(values)
    return Shift(
        p <= alpha, p, alpha, told.auc, len(columns.inside), tuple(clear[:_NAMED]),
        detectable=_detectable(columns.inside, alpha / tests),
    )  # fmt: skip


def _untested(why: str, alpha: float) -> Shift:
    return Shift(found=False, p=1.0, alpha=alpha, auc=0.5, records=0, features=(), untested=why)


def _detectable(inside: Bools, alpha: float) -> float:
    """The difference of two normal means, in standard deviations, that Mann and Whitney's test finds with 80 %."""
    from scipy.special import ndtri

    return float((ndtri(1 - alpha / 2) + ndtri(0.8)) * math.sqrt(math.pi / 3 * 2 / inside.sum()))


def _shuffled(records: Records, rng: np.random.Generator) -> Records:
    """The records in an order that depends on what they hold and on the seed, not on the order they came in."""
    from hashlib import blake2b

    persons = np.zeros(len(records), np.int64) if records.persons is None else records.persons
    parts = zip(np.ascontiguousarray(records.x), records.y, persons, strict=True)
    digests = [blake2b(x.tobytes() + bytes(f"{y} {person}", "ascii")).digest() for x, y, person in parts]
    order = np.array(sorted(range(len(records)), key=digests.__getitem__), dtype=np.int64)
    return records.take(order[rng.permutation(len(order))])


def _independent(members: Records, nonmembers: Records) -> tuple[Records, Records]:
    """The records that were dealt out independently of each other: one of each person where persons were dealt out."""
    inside, outside = members.persons, nonmembers.persons
    if inside is None or outside is None or np.isin(inside, outside).any():
        return members, nonmembers
    first = [np.sort(np.unique(persons, return_index=True)[1]) for persons in (inside, outside)]
    return members.take(first[0]), nonmembers.take(first[1])


@dataclass(frozen=True, slots=True)
class _Columns:
    """Both sides in one table, as many members as nonmembers.

    Attributes:
        x: `(n, d)` float32.
        y: `(n,)` class of each.
        inside: `(n,)` bool, members.
        half: `(n,)` bool, which half; as many members in it as nonmembers.
        shape: Shape of one record after averaging.
        block: Over how many pixels an image was averaged, in each direction.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    inside: Bools
    half: Bools
    shape: tuple[int, ...]
    block: int

    @classmethod
    def of(cls, members: Records, nonmembers: Records) -> _Columns:
        """Args: both sides, shuffled."""
        shape = members.x.shape[1:]
        block = -(-max(shape[1:]) // _LONGEST_EDGE) if len(shape) == 3 else 1
        width = math.prod(shape) // block**2 or 1
        size = min(len(members), len(nonmembers), _MOST_RECORDS, max(500, _MOST_VALUES // (2 * width)))
        x = _averaged(np.concatenate([members.x[:size], nonmembers.x[:size]]), block)
        inside, half = np.arange(2 * size) < size, np.arange(2 * size) % size % 2 == 1
        y = np.concatenate([members.y[:size], nonmembers.y[:size]])
        return cls(x.reshape(2 * size, -1), y, inside, half, x.shape[1:], block)

    def name(self, column: int) -> str:
        """How a reader finds this column in a record."""
        if len(self.shape) == 1:
            return f"column {column}"
        place = [int(i) for i in np.unravel_index(column, self.shape)]
        if len(self.shape) == 3 and self.block > 1:
            rows, columns = (f"{i * self.block}-{(i + 1) * self.block - 1}" for i in place[1:])
            return f"pixels ({place[0]}, {rows}, {columns})"
        return f"{'pixel' if len(self.shape) == 3 else 'value'} ({', '.join(map(str, place))})"


def _averaged(x: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Images averaged over square blocks; what is left of the last block at the edges counts as 0."""
    if block == 1:
        return x
    rows, columns = (-size % block for size in x.shape[2:])
    x = np.pad(x, ((0, 0), (0, 0), (0, rows), (0, columns)))
    n, channels, height, width = x.shape
    return np.asarray(x.reshape(n, channels, height // block, block, width // block, block).mean(axis=(3, 5)))


def _by_value(columns: _Columns) -> list[Feature]:
    """A test of the class, of the class given the rest, and of every column; Holm-adjusted."""
    names = ["class", "class, given the rest", *map(columns.name, range(columns.x.shape[1]))]
    by_class = _chi_square(*_counts(columns.y, columns.inside))
    surprise = _label_probability(columns)
    tested = [by_class, _differs(surprise, columns.inside)]
    tested += [_differs(column, columns.inside) for column in np.ascontiguousarray(columns.x.T)]
    return [Feature(name, float(p)) for name, p in zip(names, holm(tested), strict=True)]


def _counts(values: NDArray[np.generic], inside: Bools) -> tuple[Floats, Floats]:
    """How many members and how many nonmembers have each value, in the order of the values."""
    _, where = np.unique(values, return_inverse=True)
    size = int(where.max()) + 1
    return tuple(np.bincount(where[side], minlength=size).astype(np.float64) for side in (inside, ~inside))  # type: ignore[return-value]


def _differs(values: NDArray[np.floating], inside: Bools) -> float:
    """p-value of the null that one value is distributed alike on both sides."""
    first, second = _counts(values, inside)
    if len(first) <= _FEW_VALUES:
        return _chi_square(first, second)
    return min(1.0, 2 * min(_mann_whitney(first, second), _smirnov(first, second)))


def _chi_square(first: Floats, second: Floats) -> float:
    from scipy.special import chdtrc

    if len(first) < 2:
        return 1.0
    return float(chdtrc(len(first) - 1, ((first - second) ** 2 / (first + second)).sum()))


def _mann_whitney(first: Floats, second: Floats) -> float:
    """Two-sided, with ties and continuity corrected. Args: counts per value, in order, the same total."""
    from scipy.special import ndtr

    m, n, ties = first.sum(), 2 * first.sum(), first + second
    wins = (first * (np.cumsum(second) - second / 2)).sum()
    variance = m * m / 12 * (n + 1 - ((ties**3 - ties).sum() / (n * (n - 1))))
    if variance <= 0:
        return 1.0
    return float(min(1.0, 2 * ndtr(-max(0.0, abs(wins - m * m / 2) - 0.5) / math.sqrt(variance))))


def _smirnov(first: Floats, second: Floats) -> float:
    """The largest distance of both distribution functions, with its limiting law, which ties make no smaller."""
    from scipy.special import kolmogorov

    m = first.sum()
    return float(kolmogorov(math.sqrt(m / 2) * np.abs(np.cumsum(first - second)).max() / m))


def _label_probability(columns: _Columns) -> Floats:
    """How likely each record's class is by its other values: a Gaussian of each class, fitted on the other half.

    It sees both sides alike, so that any difference is theirs: wrong labels on one of them, for one.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    found = np.zeros(len(columns.y))
    x = _components(columns.x)
    for fitted in (columns.half, ~columns.half):
        values, often = np.unique(columns.y[fitted], return_counts=True)
        known = values[often > 1]
        if len(known) < 2:
            continue
        seen = fitted & np.isin(columns.y, known)
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(x[seen], columns.y[seen])
        log_p = model.predict_log_proba(x[~fitted])
        at = np.minimum(np.searchsorted(known, columns.y[~fitted]), len(known) - 1)
        right = known[at] == columns.y[~fitted]
        found[~fitted] = np.where(right, log_p[np.arange(len(at)), at], -np.inf)
    return found


def _components(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first principal components of both sides together, and the columns themselves where they are few."""
    from sklearn.decomposition import PCA

    count = min(_COMPONENTS, *x.shape)
    first = PCA(count, random_state=0).fit_transform(x) if x.std(axis=0).any() else np.zeros((len(x), 1), x.dtype)
    return np.concatenate([first, x], axis=1) if x.shape[1] <= _FEW_COLUMNS else np.asarray(first)


@dataclass(frozen=True, slots=True)
class _Told:
    """How well a classifier tells the sides, on the half that it was not fitted on, and the p-value of that."""

    auc: float
    p: float


def _by_classifier(columns: _Columns, seed: int) -> _Told:
    """The better of two classifiers, both ways round; its p-value pays for the four tries."""
    told = list(_tries(columns, seed))
    best = min(range(len(told)), key=lambda i: told[i].p)
    pair = told[best // 2 * 2 : best // 2 * 2 + 2]
    return _Told(sum(each.auc for each in pair) / 2, min(1.0, len(told) * told[best].p))


def _tries(columns: _Columns, seed: int) -> Iterator[_Told]:
    """A linear classifier on every value, which adds up small differences; trees, which see what goes with what."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    keep = np.arange(len(columns.inside)) % (len(columns.inside) // 2) < _MOST_FITTED
    x, inside, half = columns.x[keep], columns.inside[keep], columns.half[keep]
    classes = (columns.y[keep][:, None] == np.unique(columns.y)).astype(np.float32)
    spread = x.std(axis=0)
    flat = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1)
    linear = LogisticRegression(C=0.01, max_iter=100)
    yield from _both_ways(linear, np.concatenate([flat, classes], axis=1), inside, half)
    trees = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=8, early_stopping=False, random_state=seed)
    yield from _both_ways(trees, np.concatenate([_components(x), classes], axis=1), inside, half)


def _both_ways(classifier: object, x: NDArray[np.float32], inside: Bools, half: Bools) -> Iterator[_Told]:
    from sklearn.base import clone

    for fitted in (half, ~half):
        scores = clone(classifier).fit(x[fitted], inside[fitted]).decision_function(x[~fitted])
        first, second = _counts(scores, inside[~fitted])
        wins = (first * (np.cumsum(second) - second / 2)).sum()
        yield _Told(float(wins / first.sum() ** 2), _mann_whitney(first, second) if wins else 1.0)
