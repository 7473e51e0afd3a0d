"""What of reference models is in the store, and under what."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..store import Store, pack, unpacked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..ensembles._protocol import Weights
    from ..recipe import Recipe

#: What of a recipe cannot change a model that is trained on given records with a given seed.
BESIDE = frozenset({"name", "version", "data", "file", "text", "release", "seed"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished model in the store. Attributes: name, way, logits `(n, classes)`, weights (empty where not read)."""

    name: str
    way: str
    logits: NDArray[np.float32]
    weights: Weights

    @classmethod
    def read(cls, store: Store, name: str, shape: tuple[int, ...], weights: bool = False) -> Entry | None:
        """The entry, or `None` where there is none, or not one of a model with answers of this shape."""
        content = store.get(name)
        if content is None:
            return None
        try:
            with unpacked(content) as (plain, arrays):
                logits, way = arrays["logits"], str(plain["way"])
                held = [array for array in arrays if array.startswith("weights/")]
                parameters = {array.removeprefix("weights/"): arrays[array] for array in held if weights}
        except (ValueError, KeyError, OSError, zipfile.BadZipFile):
            return None
        if not held or logits.shape != shape or logits.dtype != np.float32 or not np.isfinite(logits).all():
            return None
        return cls(name, way, logits, parameters)

    def write(self, store: Store) -> None:
        """Put it there, all of it or nothing."""
        weights = {f"weights/{name}": value for name, value in self.weights.items()}
        store.put(self.name, pack({"way": self.way}, {"logits": self.logits, **weights}))


def identity(recipe: Recipe) -> dict[str, object]:
    """Everything of a recipe that can change a model, plainly; what a recipe learns to say tomorrow is in it, too."""
    return {f.name: _plain(getattr(recipe, f.name)) for f in dataclasses.fields(recipe) if f.name not in BESIDE}


def _plain(value: object) -> object:
    """A dataclass as its class and fields, anything else as it is."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    return [f"{type(value).__module__}.{type(value).__qualname__}", dataclasses.asdict(value)]


def digest(*arrays: NDArray[Any]) -> str:
    """SHA-256 of arrays, their types and shapes, in their order."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}\0".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def remembered(store: Store, name: str) -> dict[str, Any]:
    """A small entry of plain values; empty where there is none."""
    content = store.get(name)
    return {} if content is None else dict(json.loads(content))
