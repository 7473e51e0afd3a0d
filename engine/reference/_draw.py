"""Who is in which reference model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..plan import derive

if TYPE_CHECKING:
    from numpy.typing import NDArray


def complementary(n: int, count: int, seed: int) -> NDArray[np.bool_]:
    """Random halves in complementary pairs: number 2i + 1 gets what number 2i does not.

    The first pairs are the same whatever the count, so that more can be added.

    Returns:
        `(count, n)`: every record is in exactly half of the models where the count is even.
    """
    masks = np.zeros((count, n), dtype=bool)
    for i in range(0, count, 2):
        order = np.random.default_rng(derive(seed, "half", str(i // 2))).permutation(n)
        masks[i, order[: (n + (i // 2) % 2) // 2]] = True
        if i + 1 < count:
            masks[i + 1] = ~masks[i]
    return masks


def samples(n: int, count: int, size: int, seed: int) -> NDArray[np.bool_]:
    """Independent random samples of one size. Returns: `(count, n)`; the first are the same whatever the count."""
    masks = np.zeros((count, n), dtype=bool)
    for i in range(count):
        masks[i, np.random.default_rng(derive(seed, "sample", str(i))).permutation(n)[:size]] = True
    return masks
