"""What a way to train many models is: the same models as one by one, to floating-point tolerance, only faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray

    from ..recipe import Recipe
    from ..target import Records

#: A model's weights by the names of its state_dict.
Weights = Mapping[str, "NDArray[float32]"]


@dataclass(frozen=True, slots=True)
class Part:
    """One model to be trained.

    Attributes:
        records: `(m,)` int64, positions in the pool of the records that it is trained on, ascending.
        seed: Of its initialisation, order, dropout, augmentation, and of the sampling and noise of a mechanism: a
            reference is nobody's secret.
    """

    records: NDArray[int64]
    seed: int


@runtime_checkable
class Ensemble(Protocol):
    """A way to train many models at once. Runs in one thread of one process.

    Attributes:
        source: Where it comes from.
    """

    source: ClassVar[str]

    def obstacle(self, recipe: Recipe, device: str) -> str:
        """Why it cannot train by this recipe there, in words; empty where it can. Imports no torch."""
        ...

    def memory(self, recipe: Recipe, records: int, models: int) -> int:
        """About how many bytes it needs beside the pool, for so many models on so many records each."""
        ...

    def train(
        self, recipe: Recipe, pool: Records, parts: Sequence[Part], progress: Callable[[float], None]
    ) -> tuple[Weights, ...]:
        """Train one model for each part.

        Raises:
            InputError: The recipe does not fit the records.
            MidguardError: A training diverged.
        """
        ...
