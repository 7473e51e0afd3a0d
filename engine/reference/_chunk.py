"""Models that are trained together, from their parts to their entries in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import registry
from ..ensembles import Ensemble, Part
from ..errors import MidguardError
from ..store import Store
from ._entry import Entry

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from ..ensembles._protocol import Weights
    from ..recipe import Recipe
    from ..target import Records

#: Records that a model answers at once.
_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Chunk:
    """Models that are trained together.

    Attributes:
        recipe: How.
        way: By what way.
        parts: One a model.
        names: Of their entries.
        store: Where they go.
        device: `cpu` or `cuda`.
    """

    recipe: Recipe
    way: str
    parts: tuple[Part, ...]
    names: tuple[str, ...]
    store: Store
    device: str

    def train(self, pool: Records, progress: Callable[[float], None]) -> None:
        """Train and store them. Those that are there stay as they are, even where all are trained again for one.

        Raises:
            MidguardError: A training diverged.
        """
        missing = self.missing(pool)
        if not missing:
            return
        plugin: Ensemble = registry.load("ensembles", self.way)()
        trained = plugin.train(self.recipe, pool, self.parts, progress)
        for name, weights in zip(self.names, trained, strict=True):
            if name in missing:
                logits = _logits(module(self.recipe, weights).to(self.device), pool.x)
                if not np.isfinite(logits).all():
                    raise MidguardError(
                        "a reference model diverged: it answers NaN or infinity; lower the recipe's optimizer.lr "
                        f"(now {self.recipe.optimizer.lr:g}) or add warmup epochs"
                    )
                Entry(name, self.way, logits, weights).write(self.store)

    def missing(self, pool: Records) -> list[str]:
        """Names of those that the store does not hold."""
        shape = (len(pool), self.recipe.task.classes)
        return [name for name in self.names if Entry.read(self.store, name, shape) is None]


def module(recipe: Recipe, weights: Weights) -> torch.nn.Module:
    """The recipe's network with these weights, in evaluation mode, its parameters frozen."""
    import torch

    with torch.random.fork_rng(devices=[]):
        network = recipe.architecture.build(recipe.task.shape, recipe.task.classes)
    network.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    return network.eval().requires_grad_(False)


def _logits(network: torch.nn.Module, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a model answers. Args: x `(n, *shape)`. Returns: `(n, classes)`."""
    import torch

    device = next(network.parameters()).device
    with torch.no_grad():
        answers = [
            network(torch.tensor(x[at : at + _BATCH], dtype=torch.float32, device=device)).cpu().numpy()
            for at in range(0, len(x), _BATCH)
        ]
    return np.concatenate(answers).astype(np.float32, copy=False)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch: the same sums in the same order, here and in any other process.

    Numbers below 1e-38 count as 0: a model that knows its records by heart has gradients of that size, and a processor
    takes twice as long over them.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
