"""One model after the other, by the same code as the subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..target import Records
    from ._protocol import Part, Weights


@dataclass(frozen=True, slots=True)
class Sequential:
    """Trains one model after the other, by the code that trains the subject: works for every recipe."""

    source: ClassVar[str] = "Paszke et al. 2019, arXiv 1912.01703"

    def obstacle(self, recipe: Recipe, device: str) -> str:
        """None."""
        return ""

    def memory(self, recipe: Recipe, records: int, models: int) -> int:
        """The records of one model, as tensors."""
        return 4 * records * prod(recipe.task.shape)

    def train(
        self, recipe: Recipe, pool: Records, parts: Sequence[Part], progress: Callable[[float], None]
    ) -> tuple[Weights, ...]:
        """Train one model for each part."""
        from ..training import fit

        trained = []
        for number, part in enumerate(parts, start=1):
            module = fit(recipe, pool.take(part.records), part.seed).module
            trained.append({name: value.numpy() for name, value in module.state_dict().items()})
            progress(number / len(parts))
        return tuple(trained)
