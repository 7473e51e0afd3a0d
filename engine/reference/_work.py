"""What one call asks for, and how much of it the store holds."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import machine
from ..ensembles import Ensemble, Part
from ..plan import derive
from ..store import Store, key
from ._entry import Entry, digest, identity
from ._layout import ways

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..recipe import Recipe
    from ..target import Records

#: The way that every recipe can go.
PLAIN_WAY = "sequential"


@dataclass(frozen=True, slots=True)
class Work:
    """Models that are asked for, and under what they are stored.

    Attributes:
        recipe: How they are trained.
        pool: What they are trained on, each on a part of it.
        parts: One a model.
        store: Where they are kept.
        device: `cpu` or `cuda`.
        ways: In which they can be trained here.
        base: What they have in common that can change them.
        masks: Digest of each one's mask.
    """

    recipe: Recipe
    pool: Records
    parts: tuple[Part, ...]
    store: Store
    device: str
    ways: Mapping[str, Ensemble]
    base: Mapping[str, object]
    masks: tuple[str, ...]

    @classmethod
    def of(cls, recipe: Recipe, pool: Records, inside: NDArray[np.bool_], seed: int, store: Store) -> Work:
        """The work of one call."""
        device = machine.device()
        parts = tuple(
            Part(np.flatnonzero(mask), derive(seed, "reference", str(number))) for number, mask in enumerate(inside)
        )
        base = {"recipe": identity(recipe), "device": device, "torch": importlib.metadata.version("torch")}
        base["pool"] = digest(pool.x, pool.y)
        masks = tuple(digest(mask) for mask in inside)
        return cls(recipe, pool, parts, store, device, ways(recipe, device), base, masks)

    @property
    def shape(self) -> tuple[int, int]:
        """Of what a model answers on the pool."""
        return len(self.pool), self.recipe.task.classes

    @property
    def sizes(self) -> list[int]:
        """Records of each model."""
        return [len(part.records) for part in self.parts]

    def name(self, number: int, way: str) -> str:
        """The key of one model."""
        own = {"mask": self.masks[number], "seed": self.parts[number].seed, "way": way}
        return key({"kind": "reference model", **self.base, **own})

    def schedule_name(self) -> str:
        """Under what is remembered which of these models are trained together."""
        seeds = [part.seed for part in self.parts]
        return key({"kind": "reference schedule", **self.base, "masks": list(self.masks), "seeds": seeds})

    def speeds_name(self) -> str:
        """Under what is remembered how fast each way is; the records themselves do not change that."""
        shapes = [list(self.pool.x.shape), min(self.sizes), max(self.sizes)]
        about = {name: value for name, value in self.base.items() if name != "pool"}
        return key({"kind": "way of training", **about, "shapes": shapes})

    def found(self, numbers: Sequence[int] | None = None) -> dict[int, Entry]:
        """The models that the store holds, whatever way they were trained: the ways differ in rounding alone."""
        entries = {}
        for number in range(len(self.parts)) if numbers is None else numbers:
            for way in self.ways:
                entry = Entry.read(self.store, self.name(number, way), self.shape)
                if entry is not None:
                    entries[number] = entry
                    break
        return entries


def steps_of(recipe: Recipe, records: int) -> int:
    """Steps of one training, about."""
    return recipe.epochs * max(1, math.ceil(records / recipe.batch_size))
