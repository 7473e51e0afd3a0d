"""The target: a loaded model and the records, narrowed to what one adversary may see and touch.

Every look at the model goes through `Target.query`, which applies the release and counts. The module itself is handed
out to an adversary who holds the weights and to nobody else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from .errors import AccessError

if TYPE_CHECKING:
    import torch
    from numpy import bool_, float32, float64, int64
    from numpy.typing import NDArray


class Access(StrEnum):
    """What the policy's adversary holds."""

    WEIGHTS = "weights"  # the model file
    RELEASE = "release"  # only what the release exposes


class Exposure(StrEnum):
    """What a query returns."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    LABEL = "label"
    ACTIVATIONS = "activations"
    GRADIENTS = "gradients"


@dataclass(frozen=True, slots=True)
class Records:
    """Records with their classes.

    Attributes:
        x: `(n, *shape)` float32, finite.
        y: `(n,)` int64, class of each.
        persons: `(n,)` int64, whose record it is; `None` where every record is a person of its own.
    """

    x: NDArray[float32]
    y: NDArray[int64]
    persons: NDArray[int64] | None = None

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"{len(self.x)} records but {len(self.y)} labels")
        if self.persons is not None and len(self.persons) != len(self.y):
            raise ValueError(f"{len(self.y)} records but {len(self.persons)} persons")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: NDArray[int64]) -> Records:
        """The records at these positions."""
        return Records(self.x[index], self.y[index], None if self.persons is None else self.persons[index])


def joined(first: Records, *others: Records | None) -> Records:
    """Records behind each other; a person of one part is the same person in another."""
    import numpy as np

    parts = [first, *(part for part in others if part is not None)]
    x, y = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y"))
    if all(part.persons is None for part in parts):
        return Records(x, y)
    alone, persons = -1, []
    for part in parts:
        # Where a part names nobody, each of its records is somebody of its own.
        nobody = np.arange(alone, alone - len(part), -1, dtype=np.int64)
        persons.append(nobody if part.persons is None else part.persons)
        alone -= len(part)
    return Records(x, y, np.concatenate(persons))


@dataclass(frozen=True, slots=True)
class Release:
    """What the deployed model gives to whoever asks it.

    Attributes:
        exposes: What a query returns.
        top: Only the largest `top` probabilities are given, the rest are 0; `None` for all.
        decimals: Probabilities are rounded to that many decimals; `None` for no rounding.
    """

    exposes: Exposure
    top: int | None = None
    decimals: int | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise ValueError(f"expected top={self.top} >= 1")
        if self.decimals is not None and self.decimals < 0:
            raise ValueError(f"expected decimals={self.decimals} >= 0")
        if (self.top, self.decimals) != (None, None) and self.exposes is not Exposure.PROBABILITIES:
            raise ValueError("top and decimals go with probabilities")

    @property
    def defended(self) -> bool:
        """Whether it keeps back some of what the model computes."""
        return self.exposes is Exposure.LABEL or (self.top, self.decimals) != (None, None)

    def opened(self) -> Release:
        """The release with its defense taken away: every score, unrounded."""
        return Release(Exposure.LOGITS if self.exposes is Exposure.LOGITS else Exposure.PROBABILITIES)

    def apply(self, logits: NDArray[float64]) -> NDArray[float64]:
        """What a caller gets to see of these logits.

        Args:
            logits: `(n, classes)`.

        Returns:
            `(n, classes)`: logits, probabilities (truncated, rounded), or the predicted label as a one-hot row;
            NaN where the model has no finite answer.
        """
        import numpy as np

        if self.exposes is Exposure.LOGITS:
            return logits
        if self.exposes is Exposure.LABEL:
            known = np.isfinite(logits).all(axis=1, keepdims=True)
            return np.where(known, np.eye(logits.shape[1])[logits.argmax(axis=1)], np.nan)
        if self.exposes is not Exposure.PROBABILITIES:
            raise AccessError(f"a release that exposes {self.exposes} cannot be queried for an answer")
        p = softmax(logits)
        if self.top is not None and self.top < p.shape[1]:
            rank = np.argsort(np.argsort(-p, axis=1, kind="stable"), axis=1, kind="stable")
            p = np.where(rank < self.top, p, 0.0)
        return p if self.decimals is None else np.asarray(np.round(p, self.decimals))


def softmax(logits: NDArray[float64]) -> NDArray[float64]:
    """Row-wise softmax in float64. Args: logits `(n, classes)`; infinities and NaN give NaN rows."""
    import numpy as np
    from scipy.special import softmax as scipy_softmax

    return np.asarray(scipy_softmax(np.asarray(logits, dtype=np.float64), axis=1))


@dataclass(frozen=True, slots=True)
class Reference:
    """A model that the adversary trained himself, as the subject was trained, on records that he chose.

    Attributes:
        target: The model, asked like the subject: the same access, the same release.
        inside: `(n,)` bool, which of the candidates it was trained on. Says nothing of the subject.
    """

    target: Target
    inside: NDArray[bool_]


@dataclass(slots=True)
class Target:
    """What one adversary may see and touch.

    Attributes:
        release: What a query returns. An adversary with the weights computes the logits himself.
        access: What the adversary holds.
        shape: Shape of one record.
        classes: How many classes the model tells apart.
        bounds: Smallest and largest value a record's entry may take.
        auxiliary: Records that the adversary owns, disjoint from those the model was trained on; `None` for none.
        queries: How many records have been sent through `query` so far.
        references: Models of his own; only where the attack asked for them. Complementary ones stand side by side:
            number 2i + 1 was trained on what number 2i was not.
    """

    release: Release
    access: Access
    shape: tuple[int, ...]
    classes: int
    bounds: tuple[float, float]
    auxiliary: Records | None
    _logits: Callable[[NDArray[float32]], NDArray[float64]] = field(repr=False)
    _module: Callable[[], torch.nn.Module] = field(repr=False)
    queries: int = 0
    references: tuple[Reference, ...] = ()

    @property
    def exposure(self) -> Exposure:
        """What `query` returns to this adversary."""
        return Exposure.LOGITS if self.access is Access.WEIGHTS else self.release.exposes

    def query(self, x: NDArray[float32]) -> NDArray[float64]:
        """Ask the model. Args: x `(n, *shape)`. Returns: `(n, classes)` of kind `exposure`."""
        self.queries += len(x)
        logits = self._logits(x)
        return logits if self.access is Access.WEIGHTS else self.release.apply(logits)

    def module(self) -> torch.nn.Module:
        """The model itself, in evaluation mode, its parameters frozen.

        Raises:
            AccessError: This adversary does not hold the weights.
        """
        if self.access is not Access.WEIGHTS:
            raise AccessError("this adversary does not hold the weights")
        return self._module()
