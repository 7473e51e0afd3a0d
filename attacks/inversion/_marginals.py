"""Priors that know each value by itself, or nothing but its bounds.

Imports torch.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch

from ...engine.errors import AttackError
from ._priors import Decoded, scaled

if TYPE_CHECKING:
    from ...engine.target import Records
    from ._white_box import Place

#: A value that varies less than this share of the bounds is constant.
_ROUNDING = 1e-6


def marginals(auxiliary: Records | None, bounds: tuple[float, float], place: Place) -> Decoded:
    """Each value by itself, as a Gaussian with the mean and the variance that it has among the adversary's records.

    A value that is the same in all of them stays as it is. One that takes few values, like a column of a table, counts
    by its moments, so that a reconstruction may lie between them.

    Raises:
        AttackError: Too few records, or they do not differ.
    """
    x = scaled(auxiliary, bounds, place)
    flat = x.flatten(1).double()
    mean, deviation = flat.mean(dim=0), flat.std(dim=0)
    varies = torch.nonzero(deviation > _ROUNDING)[:, 0]
    if not len(varies):
        raise AttackError("the auxiliary records do not differ from each other, so they say nothing of other records")
    decoder = partial(_spread, mean.to(place.dtype), varies, deviation[varies].to(place.dtype))
    return Decoded(len(varies), bounds, tuple(x.shape[1:]), place, decoder)


def uniform(shape: tuple[int, ...], bounds: tuple[float, float], place: Place) -> Decoded:
    """Every value anywhere within the bounds: z from -1 to 1."""
    values = math.prod(shape)
    half = torch.full((values,), 0.5, device=place.device, dtype=place.dtype)
    decoder = partial(_spread, half, torch.arange(values, device=place.device), half)
    return Decoded(values, bounds, shape, place, decoder, radius=1.0)


def _spread(mean: torch.Tensor, varies: torch.Tensor, deviation: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The mean, and z deviations from it where values vary. Args: z `(n, size)`. Returns: `(n, values)`."""
    return mean.expand(len(z), -1).index_add(1, varies, z * deviation)
