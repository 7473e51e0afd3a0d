"""One model after the other, with the channels last in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..target import Records
    from ._one import Steps, Work
    from ._protocol import Part, Weights


@dataclass(frozen=True, slots=True)
class ChannelsLast:
    """Trains one model after the other, channels of images last in memory, plain rows of layers without autograd."""

    source: ClassVar[str] = "Georganas et al. 2018, arXiv 1808.05567"

    def obstacle(self, recipe: Recipe, device: str) -> str:
        """A defense: it has no per-record gradients."""
        return "it trains without a defense only" if recipe.defense is not None else ""

    def memory(self, recipe: Recipe, records: int, models: int) -> int:
        """One model's records and one batch's activations, and all weights."""
        from ._memory import one_model

        return one_model(recipe, records, models)

    def train(
        self, recipe: Recipe, pool: Records, parts: Sequence[Part], progress: Callable[[float], None]
    ) -> tuple[Weights, ...]:
        """Train one model for each part."""
        from ._one import one_by_one

        return one_by_one(recipe, pool, parts, progress, _start)


def _start(work: Work) -> Steps:
    """Steps of a training without a mechanism."""
    import torch

    from ..gradients._chain import Chain
    from ..gradients._layout import pooled_first
    from ._one import ChainSteps, PlainSteps

    module = work.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's overloads
    chain = Chain.of(module)
    return PlainSteps(work, pooled_first(module)) if chain is None else ChainSteps(work, chain)
