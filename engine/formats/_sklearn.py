"""scikit-learn's own data sets as records. Imports numpy and scikit-learn: to be imported inside functions only."""

from __future__ import annotations

from math import prod

import numpy as np
from sklearn import datasets

from ..errors import InputError
from ..registry import suggest
from ._protocol import Extent, RawRecords

_SHIPPED = ("breast_cancer", "digits", "iris", "wine")
_DIGITS_WHITE = 16.0


def read_shipped(name: str, shape: tuple[int, ...]) -> RawRecords:
    """A shipped data set: digits by their white, every other one column by column between its extremes.

    Raises:
        InputError: There is no such data set for classification, or its records have another shape.
    """
    if name not in _SHIPPED:
        hint = suggest(name, _SHIPPED) or f"known are {', '.join(_SHIPPED)}"
        raise InputError.of(f"scikit-learn ships no data set {name!r} for classification", hint)
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    if prod(shape) != x.shape[1]:
        own = "[1, 8, 8]" if name == "digits" else f"[{x.shape[1]}]"
        raise InputError.of(
            f"builtin:{name} has records of {own}, the task expects {list(shape)}", f"write input: {own}"
        )
    low, high = (np.zeros(x.shape[1]), np.full(x.shape[1], _DIGITS_WHITE)) if name == "digits" else (x.min(0), x.max(0))
    extent = Extent(low.reshape(shape), high.reshape(shape))
    return RawRecords(x.reshape(-1, *shape), y, extent)
