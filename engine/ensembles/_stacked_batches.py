"""Which records each of many models sees in each step. Imports torch: to be imported inside functions only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..ledger import SampledGaussian
from ._chance import Chance


@dataclass(frozen=True, slots=True)
class Batch:
    """One step of all models.

    Attributes:
        index: `(k, b)` int64, positions in the pool; behind its own records a model has its first one again.
        sizes: How many of the b are records, one number a model.
    """

    index: torch.Tensor
    sizes: tuple[int, ...]

    @property
    def full(self) -> bool:
        """Whether every row is a record."""
        return min(self.sizes) == self.index.shape[1]

    def real(self) -> torch.Tensor:
        """`(k, b)` bool, which rows are records."""
        return torch.arange(self.index.shape[1]) < torch.tensor(self.sizes)[:, None]


class Shuffled:
    """Every record once an epoch, in a fresh order, as `fit` draws it. The models have equally many batches.

    Args:
        members: For each model the `(m,)` positions of its records.
        size: Of a batch.
        generators: One a model.
    """

    def __init__(self, members: Sequence[NDArray[np.int64]], size: int, generators: Sequence[torch.Generator]) -> None:
        self._members, self._size = [torch.from_numpy(own) for own in members], size
        self._generators = generators
        starts = range(0, max(len(own) for own in members), size)
        self._sizes = [tuple(min(size, len(own) - start) for own in members) for start in starts]

    def epoch(self, number: int) -> Iterator[Batch]:
        """Its batches; the last may be smaller."""
        orders = self._orders()
        for order, sizes in zip(orders, self._sizes, strict=True):
            yield Batch(order[:, : max(sizes)], sizes)

    def _orders(self) -> torch.Tensor:
        """`(batches, k, size)`."""
        orders = torch.empty(len(self._members), len(self._sizes) * self._size, dtype=torch.int64)
        for row, own, generator in zip(orders, self._members, self._generators, strict=True):
            row[: len(own)] = own[torch.randperm(len(own), generator=generator)]
            row[len(own) :] = own[0]
        return orders.view(len(self._members), len(self._sizes), self._size).transpose(0, 1).contiguous()


class Sampled:
    """Poisson samples, each model's from its own chance. The models have equally many steps.

    Args:
        members: For each model the `(m,)` positions of its records.
        planned: What happens to them; the numbers of steps are equal.
        epochs: Over how many epochs the steps are spread.
        chances: One a model.
    """

    def __init__(
        self,
        members: Sequence[NDArray[np.int64]],
        planned: Sequence[SampledGaussian],
        epochs: int,
        chances: Sequence[Chance],
    ) -> None:
        self._members, self._planned, self._epochs, self._chances = members, planned, epochs, chances

    def epoch(self, number: int) -> Iterator[Batch]:
        """As many samples as DP-SGD takes in that epoch; one may be empty."""
        steps = self._planned[0].steps
        by = [math.ceil(steps * epoch / self._epochs) for epoch in (number - 1, number)]
        for _ in range(*by):
            yield self._sample()

    def _sample(self) -> Batch:
        drawn = [
            chance.poisson_sample(len(own), planned.sampling_probability)
            for own, planned, chance in zip(self._members, self._planned, self._chances, strict=True)
        ]
        sizes = tuple(len(sample) for sample in drawn)
        index = np.empty((len(drawn), max(1, *sizes)), np.int64)
        for row, own, sample in zip(index, self._members, drawn, strict=True):
            row[: len(sample)] = own[sample]
            row[len(sample) :] = own[0]
        return Batch(torch.from_numpy(index), sizes)
