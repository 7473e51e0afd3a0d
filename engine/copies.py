"""Copies among records: one that stands twice counts once, and a member's near copy is no nonmember."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import float32, float64, int64
    from numpy.typing import NDArray

    from .target import Records

#: So many of each are compared at most; enough to see copies, and quick.
_COMPARED = 1500
#: A fair nonmember comes nearer than this share of members come to each other just as often.
_NEAR = 0.01
#: The probability of calling a fair split unfair.
_FALSE_ALARM = 1e-9


def first_copies(x: NDArray[float32]) -> NDArray[int64]:
    """Positions of each record's first copy, in order. Args: x `(n, *shape)`."""
    import numpy as np

    from .formats._records import record_digests

    first: dict[bytes, int] = {}
    for position, digest in enumerate(record_digests(x)):
        first.setdefault(digest, position)
    return np.array(sorted(first.values()), dtype=np.int64)


def near_copies(members: Records, others: Records) -> int:
    """How many of the others (of those that were compared) are near copies of members; 0 for a fair split.

    Half of the members are held against the other half, and so are the others. Drawn from the same source they come as
    near. More of them than chance allows nearer than the nearest 1 % of the members: copies with a few values changed,
    frames of one film, pictures of one scene. A binomial test at 1e-9.

    Args:
        members: Each record once.
        others: Each record once, of the same shape.
    """
    import numpy as np
    from scipy import stats

    rng = np.random.default_rng(0)
    order = rng.permutation(len(members))[: 2 * _COMPARED]
    reference, probes = members.x[order[::2]], members.x[order[1::2]]
    compared = others.x[rng.permutation(len(others))[:_COMPARED]]
    if len(probes) < 1 / _NEAR:
        return 0  # too few to say what is near
    usual, found = _nearest(probes, reference), _nearest(compared, reference)
    near = int((found < np.quantile(usual, _NEAR)).sum())
    # The threshold is itself an estimate: its share of a fair split is at most twice the nominal one, all but surely.
    test = stats.binomtest(near, len(compared), 4 * _NEAR, alternative="greater")
    return near if test.pvalue < _FALSE_ALARM else 0


def _nearest(x: NDArray[float32], reference: NDArray[float32]) -> NDArray[float64]:
    """Distance of each to the nearest reference record. Args: x, reference `(n, *shape)`. Returns: `(n,)`."""
    import numpy as np

    a, b = (part.reshape(len(part), -1).astype(np.float64) for part in (x, reference))
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares.min(axis=1), 0.0)))
