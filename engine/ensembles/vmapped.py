"""Any networks side by side: one function of stacked parameters, for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..target import Records
    from ._protocol import Part, Weights


@dataclass(frozen=True, slots=True)
class Vmapped:
    """Trains networks of any architecture together, as one function of stacked parameters; for a GPU."""

    source: ClassVar[str] = "Horace He and Richard Zou 2021, functorch (torch.func)"

    def obstacle(self, recipe: Recipe, device: str) -> str:
        """A processor, on which it is half as fast as one by one; a defense; dropout."""
        if recipe.defense is not None:
            return "it trains without a defense only"
        if getattr(recipe.architecture, "dropout", 0.0):
            return "it cannot draw each model's dropout as training one by one draws it"
        return "" if device.startswith("cuda") else f"it is for a GPU, on {device} one model after the other is faster"

    def memory(self, recipe: Recipe, records: int, models: int) -> int:
        """All models' states and all their batches' activations at once."""
        from ._memory import footprint

        size, batch = footprint(recipe), min(recipe.batch_size, records)
        return models * (4 * (4 * size.parameters + 4 * batch * size.activations) + 16 * records)

    def train(
        self, recipe: Recipe, pool: Records, parts: Sequence[Part], progress: Callable[[float], None]
    ) -> tuple[Weights, ...]:
        """Train one model for each part, on a GPU if there is one; those of equally many records together."""
        from ._vmapped_run import train_together

        trained: dict[int, Weights] = {}
        for size in sorted({len(part.records) for part in parts}):
            together = [i for i, part in enumerate(parts) if len(part.records) == size]
            share = _share(progress, len(trained) / len(parts), len(together) / len(parts))
            weights = train_together(recipe, pool, [parts[i] for i in together], share)
            trained |= zip(together, weights, strict=True)
        return tuple(trained[i] for i in range(len(parts)))


def _share(progress: Callable[[float], None], done: float, share: float) -> Callable[[float], None]:
    """From how far some models are to how far all are."""
    return lambda own: progress(done + share * own)
