"""DP-SGD by book-keeping, one model after the other."""

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
class BookKeeping:
    """Trains one model after the other by DP-SGD, clipping from each layer's inputs and errors in one backward pass."""

    source: ClassVar[str] = "Bu et al. 2022, arXiv 2210.00038"

    def obstacle(self, recipe: Recipe, device: str) -> str:
        """No DP-SGD, or layers whose per-record gradients are not known here."""
        from ..architectures.cnn import Cnn
        from ..architectures.linear import Linear
        from ..architectures.mlp import Mlp
        from ..architectures.mnist_cnn import MnistCnn
        from ..architectures.resnet8 import Resnet8
        from ..defenses.dp_sgd import DpSgd

        if not isinstance(recipe.defense, DpSgd):
            return "it trains by dp_sgd only"
        if not isinstance(recipe.architecture, Cnn | Linear | Mlp | MnistCnn | Resnet8):
            return f"it does not know the layers of {type(recipe.architecture).__name__.lower()}"
        return ""

    def memory(self, recipe: Recipe, records: int, models: int) -> int:
        """One model's records and one batch's activations with what each place of a convolution sees, all weights."""
        from ._memory import footprint, one_model

        size = footprint(recipe)
        return one_model(recipe, records, models) + 2 * 4 * recipe.batch_size * (size.patches + size.parameters)

    def train(
        self, recipe: Recipe, pool: Records, parts: Sequence[Part], progress: Callable[[float], None]
    ) -> tuple[Weights, ...]:
        """Train one model for each part."""
        from ._one import one_by_one

        return one_by_one(recipe, pool, parts, progress, _start)


def _start(work: Work) -> Steps:
    """Steps by book-keeping."""
    from ._private import PrivateSteps

    return PrivateSteps(work, work.optimizer(), "bookkeeping")
