"""What training reference models gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import MidguardError
from ._chunk import module
from ._entry import Entry

if TYPE_CHECKING:
    import torch
    from numpy import bool_, float32
    from numpy.typing import NDArray

    from ..ensembles._protocol import Weights
    from ..recipe import Recipe
    from ..store import Store


@dataclass(frozen=True, slots=True)
class ReferenceModel:
    """One trained model.

    Attributes:
        recipe: How it was trained.
        inside: `(n,)` bool, which records of the pool it was trained on.
        logits: `(n, classes)` float32, what it answers on the pool.
        store: Where its weights are.
        name: Of its entry there.
    """

    recipe: Recipe
    inside: NDArray[bool_]
    logits: NDArray[float32]
    store: Store = field(repr=False)
    name: str = field(repr=False)

    @property
    def weights(self) -> Weights:
        """Its parameters by the names of its state_dict, read from the store.

        Raises:
            MidguardError: They are no longer there.
        """
        entry = Entry.read(self.store, self.name, self.logits.shape, weights=True)
        if entry is None:
            raise MidguardError(
                f"a reference model is gone from {self.store.folder} since it was trained: leave the store alone while "
                "a check runs, and start it again"
            )
        return entry.weights

    def module(self) -> torch.nn.Module:
        """The model, in evaluation mode, its parameters frozen.

        Raises:
            MidguardError: Its weights are no longer in the store.
        """
        return module(self.recipe, self.weights)


@dataclass(frozen=True, slots=True)
class Trained:
    """Reference models, and how they came to be.

    Attributes:
        models: In the order of the masks that they were asked for by.
        method: How they were trained, in words: the way, how many at a time, in how many processes.
        reused: How many of them the store held already.
        seconds: How long the others took.
        speeds: Steps of a model in a second of one core, by way of training; empty where the ways were not compared.
    """

    models: tuple[ReferenceModel, ...]
    method: str
    reused: int
    seconds: float
    speeds: Mapping[str, float] = field(default_factory=dict)
