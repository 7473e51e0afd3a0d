"""Reference models: what the adversary trains himself, as the subject was trained, to see what membership changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .ensembles import Part
from .ensembles.sequential import Sequential
from .plan import derive
from .target import Records

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from .ensembles._protocol import Weights
    from .recipe import Recipe
    from .store import Store

#: Told what is being done and how far it is, 0 to 1.
Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class ReferenceModel:
    """One trained model.

    Attributes:
        recipe: How it was trained.
        inside: `(n,)` bool, which records of the pool it was trained on.
        logits: `(n, classes)` float32, what it answers on the pool.
        weights: Its parameters.
    """

    recipe: Recipe
    inside: NDArray[np.bool_]
    logits: NDArray[np.float32]
    weights: Weights

    def module(self) -> torch.nn.Module:
        """The model, in evaluation mode, its parameters frozen."""
        import torch

        with torch.random.fork_rng(devices=[]):
            module = self.recipe.architecture.build(self.recipe.task.shape, self.recipe.task.classes)
        module.load_state_dict({name: torch.tensor(value) for name, value in self.weights.items()})
        return module.eval().requires_grad_(False)


@dataclass(frozen=True, slots=True)
class Trained:
    """Reference models, and how they came to be.

    Attributes:
        models: In the order of the masks that they were asked for by.
        method: How they were trained, in words: the way, how many at a time, in how many processes.
        reused: How many of them the store held already.
        seconds: How long the others took.
    """

    models: tuple[ReferenceModel, ...]
    method: str
    reused: int
    seconds: float


def complementary(n: int, count: int, seed: int) -> NDArray[np.bool_]:
    """Random halves in complementary pairs: number 2i + 1 gets what number 2i does not.

    The first pairs are the same whatever the count, so that more can be added.

    Returns:
        `(count, n)`: every record is in exactly half of the models where the count is even.
    """
    masks = np.zeros((count, n), dtype=bool)
    for i in range(0, count, 2):
        order = np.random.default_rng(derive(seed, "half", str(i // 2))).permutation(n)
        masks[i, order[: (n + (i // 2) % 2) // 2]] = True
        if i + 1 < count:
            masks[i + 1] = ~masks[i]
    return masks


def samples(n: int, count: int, size: int, seed: int) -> NDArray[np.bool_]:
    """Independent random samples of one size. Returns: `(count, n)`; the first are the same whatever the count."""
    masks = np.zeros((count, n), dtype=bool)
    for i in range(count):
        masks[i, np.random.default_rng(derive(seed, "sample", str(i))).permutation(n)[:size]] = True
    return masks


def train_references(
    recipe: Recipe,
    pool: Records,
    inside: NDArray[np.bool_],
    seed: int,
    store: Store,
    report: Report,
    workers: int | None = None,
) -> Trained:
    """Train one model for each mask, or take it from the store.

    Args:
        recipe: How; its data are not looked at.
        pool: What the masks are over.
        inside: `(k, n)`, one row a model.
        seed: What each model's own seed is derived from, with its number.
        store: Where finished models are kept; they are personal data.
        report: Told how far the work is.
        workers: How many processes; `None` for one a core.
    """
    import torch

    parts = [Part(np.flatnonzero(mask), derive(seed, "reference", str(i))) for i, mask in enumerate(inside)]
    weights = Sequential().train(recipe, pool, parts, lambda share: report("training reference models", share))
    models = []
    for mask, state in zip(inside, weights, strict=True):
        model = ReferenceModel(recipe, mask, np.empty((0, 0), np.float32), state)
        with torch.no_grad():
            logits = torch.cat([model.module()(part) for part in torch.split(torch.tensor(pool.x), 1024)]).numpy()
        models.append(dataclasses.replace(model, logits=logits))
    return Trained(tuple(models), "sequential, 1 process", 0, 0.0)
