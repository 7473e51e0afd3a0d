"""Dense networks side by side in batched matrix products, with the backward pass written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ..ledger import SampledGaussian
    from ..recipe import Recipe
    from ..target import Records
    from ._protocol import Part, Weights


@dataclass(frozen=True, slots=True)
class Stacked:
    """Trains dense networks together by batched matrix products, plainly or by DP-SGD without per-record gradients."""

    source: ClassVar[str] = "Bu et al. 2022, arXiv 2210.00038 (book-keeping, for DP-SGD)"

    def obstacle(self, recipe: Recipe, device: str) -> str:
        """Other architectures, other defenses, other devices than the processor."""
        from ..architectures.linear import Linear
        from ..architectures.mlp import Mlp
        from ..defenses.dp_sgd import DpSgd

        if not isinstance(recipe.architecture, Linear | Mlp):
            return f"it stacks mlp and linear, not {type(recipe.architecture).__name__.lower()}"
        if recipe.defense is not None and not isinstance(recipe.defense, DpSgd):
            return f"it knows dp_sgd alone, not {type(recipe.defense).__name__.lower()}"
        if recipe.defense is not None and (recipe.defense.clipping != "flat" or recipe.defense.max_epsilon is not None):
            return "its clipping norm and its number of steps are fixed"
        return "" if device == "cpu" else f"it computes on the cpu, not on {device}"

    def memory(self, recipe: Recipe, records: int, models: int) -> int:
        """Parameters with what the optimiser and the noise need, one batch with its activations, the orders."""
        widths = _widths(recipe)
        parameters = sum(fed * given + given for fed, given in pairwise(widths))
        # Weights, those handed out, the optimiser's state, and what starting and looking for NaN copies for a moment.
        copies = {"sgd": 4 + (recipe.optimizer.momentum > 0), "adam": 7, "adamw": 7}[recipe.optimizer.name]
        rows = recipe.batch_size
        if recipe.defense is not None:
            copies, rows = copies + 1, rows + round(4 * rows**0.5)
        varied = 4 if recipe.augmentation.shift or recipe.augmentation.flip or recipe.augmentation.noise else 1
        values = varied * widths[0] + 4 * sum(widths[1:])
        return models * (4 * copies * parameters + 4 * rows * values + 16 * records)

    def train(
        self, recipe: Recipe, pool: Records, parts: Sequence[Part], progress: Callable[[float], None]
    ) -> tuple[Weights, ...]:
        """Train one model for each part; those that take equally many steps are trained together."""
        import torch

        from ..descent import check_fit
        from ._stacked_run import Pool, StackedRun

        if not parts:
            return ()
        check_fit(recipe, pool)
        check_fit(recipe, pool.take(min((part.records for part in parts), key=len)))
        tensors, planned = Pool.of(pool), _planned(recipe, parts)
        trained: dict[int, Weights] = {}
        for together in _equally_long(recipe, parts, planned):
            done, share = len(trained) / len(parts), len(together) / len(parts)
            with torch.no_grad():
                run = StackedRun(
                    recipe, tensors, [parts[i] for i in together], [planned[i] for i in together if planned]
                )
                weights = run.train(lambda part, done=done, share=share: progress(done + share * part))  # type: ignore[misc]
            trained |= zip(together, weights, strict=True)
        return tuple(trained[i] for i in range(len(parts)))


def _widths(recipe: Recipe) -> list[int]:
    """Values of a record, of each hidden layer and of the answer."""
    hidden: tuple[int, ...] = getattr(recipe.architecture, "hidden", ())
    return [prod(recipe.task.shape), *hidden, recipe.task.classes]


def _planned(recipe: Recipe, parts: Sequence[Part]) -> list[SampledGaussian]:
    """What DP-SGD does to the records of each part; empty for plain training."""
    sizes = [len(part.records) for part in parts]
    planned = {records: _plan(recipe, records) for records in set(sizes)} if recipe.defense is not None else {}
    return [planned[records] for records in sizes if planned]


def _plan(recipe: Recipe, records: int) -> SampledGaussian:
    """The mechanism on so many records, refused where the defense itself would refuse it.

    Raises:
        InputError: Too few records for this δ or batch size, or a target that cannot be reached.
    """
    import torch

    from ..defenses import Setting
    from ..defenses.dp_sgd import DpSgd
    from ..descent import optimizer_over, seeded

    defense = recipe.defense
    if not isinstance(defense, DpSgd):
        raise TypeError("no other defense is trained here, obstacle says so")
    with seeded(0):
        module = recipe.architecture.build(recipe.task.shape, recipe.task.classes)
    optimizer = optimizer_over(list(module.parameters()), recipe.optimizer)
    setting = Setting(module, optimizer, torch.empty(0), records, recipe.batch_size, recipe.epochs)
    return defense.planned(setting)


def _equally_long(recipe: Recipe, parts: Sequence[Part], planned: Sequence[SampledGaussian]) -> list[list[int]]:
    """Positions of parts by the number of their steps, in the order of the first of each."""
    groups: dict[int, list[int]] = {}
    for i, part in enumerate(parts):
        steps = planned[i].steps if planned else -(-len(part.records) // recipe.batch_size)
        groups.setdefault(steps, []).append(i)
    return list(groups.values())
