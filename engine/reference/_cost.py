"""What training reference models takes, said before."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

from .. import machine
from ._layout import layout, ways

if TYPE_CHECKING:
    from ..recipe import Recipe


@dataclass(frozen=True, slots=True)
class Cost:
    """What training reference models takes, as far as it can be said before.

    Attributes:
        models: How many.
        steps: Of the optimiser, for all of them.
        bytes: Memory, about, for all processes: the records, what is trained at a time, and what every model answers.
        chunk: How many are trained together, at most.
        processes: How many at a time, at most.
    """

    models: int
    steps: int
    bytes: int
    chunk: int
    processes: int


def estimate(recipe: Recipe, n_pool: int, count: int, workers: int | None = None) -> Cost:
    """What training so many models on halves of a pool takes; of the possible ways, the one that needs most memory.

    Imports no torch, unless there is a GPU to be asked or the architecture is not one of `engine/architectures/`.

    Args:
        recipe: How each is trained.
        n_pool: Records in the pool.
        count: How many models.
        workers: How many processes; `None` for one a core.
    """
    device, half = machine.device(), (n_pool + 1) // 2
    layouts = [layout(way, recipe, half, count, workers, device) for way in ways(recipe, device).values()]
    largest = max(layouts, key=lambda one: one.bytes)
    shared = 4 * n_pool * (prod(recipe.task.shape) + count * recipe.task.classes)
    steps = count * recipe.epochs * ceil(half / recipe.batch_size)
    return Cost(count, steps, shared + largest.bytes, largest.chunk, largest.processes)
