"""One model after the other, by the same code as the subject."""

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
class Sequential:
    """Trains one model after the other, as the subject was trained; under DP-SGD with chance that repeats."""

    source: ClassVar[str] = "Paszke et al. 2019, arXiv 1912.01703"

    def obstacle(self, recipe: Recipe, device: str) -> str:
        """A defense whose chance it cannot seed."""
        from ..defenses.dp_sgd import DpSgd

        if recipe.defense is None or isinstance(recipe.defense, DpSgd):
            return ""
        return f"it cannot seed the chance of {type(recipe.defense).__name__.lower()}"

    def memory(self, recipe: Recipe, records: int, models: int) -> int:
        """One model's records and one batch's activations, under DP-SGD a gradient for each record; all weights."""
        from ._memory import footprint, one_model

        gradients = 0 if recipe.defense is None else 2 * 4 * recipe.batch_size * footprint(recipe).parameters
        return one_model(recipe, records, models) + gradients

    def train(
        self, recipe: Recipe, pool: Records, parts: Sequence[Part], progress: Callable[[float], None]
    ) -> tuple[Weights, ...]:
        """Train one model for each part."""
        from ..descent import fit
        from ._one import one_by_one, weights_of

        if recipe.defense is not None:
            return one_by_one(recipe, pool, parts, progress, _start)
        trained = []
        for number, part in enumerate(parts, start=1):
            trained.append(weights_of(fit(recipe, pool.take(part.records), part.seed).module.state_dict()))
            progress(number / len(parts))
        return tuple(trained)


def _start(work: Work) -> Steps:
    """Steps as the subject's are, but with seeded samples and noise."""
    from ._private import PrivateSteps, chosen

    mode = chosen(work).mode
    # Which way `auto` takes is found out by probes; every model is known to this one.
    return PrivateSteps(work, work.optimizer(), "hooks" if mode == "auto" else mode)
