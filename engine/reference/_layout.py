"""How work is laid out over memory and processes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import machine, registry
from ..ensembles import Ensemble

if TYPE_CHECKING:
    from ..recipe import Recipe

#: At most so many models are trained together: more gain nothing, and a killed run loses what is under way.
_TOGETHER = 32


@dataclass(frozen=True, slots=True)
class Layout:
    """How work is laid out. Attributes: models a chunk, processes, bytes of what is trained at a time."""

    chunk: int
    processes: int
    bytes: int


def layout(way: Ensemble, recipe: Recipe, records: int, count: int, workers: int | None, device: str) -> Layout:
    """Chunks as large as memory, processes and patience allow, all about equal. Args: records of one model."""
    budget = machine.free_memory(device) // 2
    processes = max(1, min(machine.processes(workers, device), count))
    while processes > 1 and way.memory(recipe, records, 1) > budget // processes:
        processes -= 1
    fitting = (c for c in range(_TOGETHER, 1, -1) if way.memory(recipe, records, c) <= budget // processes)
    rounds = math.ceil(count / (processes * next(fitting, 1)))
    chunk = math.ceil(count / (processes * rounds)) if count else 1
    return Layout(chunk, processes, processes * way.memory(recipe, records, chunk))


def ways(recipe: Recipe, device: str) -> dict[str, Ensemble]:
    """Every way that can train by this recipe here."""
    known: dict[str, Ensemble] = {name: registry.load("ensembles", name)() for name in registry.names("ensembles")}
    return {name: way for name, way in known.items() if not way.obstacle(recipe, device)}
