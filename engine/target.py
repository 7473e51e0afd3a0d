"""The target: a loaded model and the records, narrowed to what one adversary may see and touch.

Every look at the model goes through `Target.query`, which applies the release and counts, or, where the release exposes
activations or gradients, through `Target.observe`. The module itself is handed out to an adversary who holds the
weights and to nobody else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, get_args

from .errors import AccessError

if TYPE_CHECKING:
    import torch
    from numpy import bool_, float32, float64, int64
    from numpy.random import Generator
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


class NoiseKind(StrEnum):
    """How noise is distributed."""

    UNIFORM = "uniform"
    GAUSSIAN = "gaussian"
    LAPLACE = "laplace"


#: Whether asking again draws the noise again.
_Per = Literal["query", "record"]


@dataclass(frozen=True, slots=True)
class Noise:
    """What a release adds to what it gives.

    Attributes:
        kind: `uniform` between 0 and `scale`, `gaussian` of standard deviation `scale`, or `laplace` of scale `scale`.
        scale: Above 0.
        per: `query` draws it anew every time; `record` keys it by the record, so that asking again tells nothing new.
    """

    kind: NoiseKind
    scale: float
    per: _Per = "query"

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"expected a finite noise scale={self.scale} > 0")
        if self.per not in get_args(_Per):
            raise ValueError(f"expected noise per={self.per!r} to be one of {', '.join(get_args(_Per))}")

    def draw(self, generator: Generator, shape: tuple[int, ...]) -> NDArray[float64]:
        """Draw it. Returns: `shape`."""
        if self.kind is NoiseKind.UNIFORM:
            return generator.uniform(0.0, self.scale, shape)
        if self.kind is NoiseKind.GAUSSIAN:
            return generator.normal(0.0, self.scale, shape)
        return generator.laplace(0.0, self.scale, shape)


@dataclass(slots=True)
class NoiseSource:
    """Where one target's noise comes from: the same questions in the same order meet the same noise.

    Attributes:
        seed: What it is drawn from; the adversary does not know it.
        draws: How often it was asked.
    """

    seed: int = 0
    draws: int = 0

    def add(self, noise: Noise | None, values: NDArray[float64], x: NDArray[float32]) -> NDArray[float64]:
        """Add noise to what was computed of records.

        Args:
            noise: What is added; `None` for nothing.
            values: `(n, ...)`.
            x: `(n, ...)`, what they were computed of.

        Returns:
            `(n, ...)`.
        """
        import numpy as np

        if noise is None:
            return values
        if noise.per == "query":
            self.draws += 1
            return values + noise.draw(np.random.default_rng([self.seed, self.draws]), values.shape)
        keyed = (np.random.default_rng([self.seed, *_digest_words(record)]) for record in x)
        return values + np.stack([noise.draw(generator, values.shape[1:]) for generator in keyed])


def _digest_words(record: NDArray[float32]) -> tuple[int, ...]:
    """A record's SHA-256 as numbers, to key its noise."""
    import numpy as np

    digest = hashlib.sha256(np.ascontiguousarray(record).tobytes()).digest()
    return tuple(int.from_bytes(digest[i : i + 8], "big") for i in range(0, 32, 8))


#: What can pass by an adversary besides answers: nothing of it is asked for, he listens.
PASSING = frozenset({Exposure.ACTIVATIONS, Exposure.GRADIENTS})


@dataclass(frozen=True, slots=True)
class Release:
    """What the deployed model gives to whoever asks it, or to whoever listens.

    Attributes:
        exposes: What a query returns; activations and gradients are not asked for but pass by.
        top: Only the largest `top` probabilities are given, the rest are 0; `None` for all.
        decimals: Probabilities are rounded to that many decimals; `None` for no rounding.
        noise: Added to what is given (before `top` and `decimals`, the probabilities clipped at 0 and made to sum to 1
            again); `None` for none. There is none on labels.
        layer: Name of the submodule whose output is exposed, where activations are.
        batch: How many records' mean gradient is exposed at a time, where gradients are.
        clip: Each record's gradient is scaled down to this norm first; `None` for no clipping.
    """

    exposes: Exposure
    top: int | None = None
    decimals: int | None = None
    noise: Noise | None = None
    layer: str = ""
    batch: int = 1
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise ValueError(f"expected top={self.top} >= 1")
        if self.decimals is not None and self.decimals < 0:
            raise ValueError(f"expected decimals={self.decimals} >= 0")
        if (self.top, self.decimals) != (None, None) and self.exposes is not Exposure.PROBABILITIES:
            raise ValueError("top and decimals go with probabilities")
        if self.noise is not None and self.exposes is Exposure.LABEL:
            raise ValueError("noise goes with scores, activations or gradients, not with a label")
        if bool(self.layer) != (self.exposes is Exposure.ACTIVATIONS):
            raise ValueError("a release of activations names the layer that they come from, and no other release does")
        self._check_gradients()

    def _check_gradients(self) -> None:
        if (self.batch, self.clip) != (1, None) and self.exposes is not Exposure.GRADIENTS:
            raise ValueError("batch and clip go with gradients")
        if self.batch < 1:
            raise ValueError(f"expected batch={self.batch} >= 1")
        if self.clip is not None and not 0 < self.clip < float("inf"):
            raise ValueError(f"expected a finite clip={self.clip} > 0")
        if self.exposes is Exposure.GRADIENTS and self.noise is not None and self.noise.per != "query":
            raise ValueError("noise on gradients is drawn for each batch: per: query")

    @property
    def defended(self) -> bool:
        """Whether it keeps back some of what the model computes."""
        kept = (self.top, self.decimals, self.noise, self.clip) != (None, None, None, None)
        return self.exposes is Exposure.LABEL or kept

    @property
    def noisy(self) -> bool:
        """Whether the same record is answered differently every time."""
        return self.noise is not None and self.noise.per == "query"

    def opened(self) -> Release:
        """The release with its defense taken away: every score, unrounded, without noise."""
        if self.exposes in PASSING:
            return Release(self.exposes, layer=self.layer, batch=self.batch)
        return Release(Exposure.LOGITS if self.exposes is Exposure.LOGITS else Exposure.PROBABILITIES)

    def apply(
        self, logits: NDArray[float64], x: NDArray[float32] | None = None, source: NoiseSource | None = None
    ) -> NDArray[float64]:
        """What a caller gets to see of these logits.

        Args:
            logits: `(n, classes)`.
            x: `(n, *shape)`, the records; only needed where there is noise, like the next.
            source: What the noise is drawn from.

        Returns:
            `(n, classes)`: logits, probabilities (noised, truncated, rounded), or the predicted label as a one-hot row;
            NaN where the model has no finite answer.
        """
        import numpy as np

        if self.noise is not None and (x is None or source is None):
            raise ValueError("a noisy release needs the records and a source of noise")
        if self.exposes is Exposure.LABEL:
            known = np.isfinite(logits).all(axis=1, keepdims=True)
            return np.where(known, np.eye(logits.shape[1])[logits.argmax(axis=1)], np.nan)
        if self.exposes in PASSING:
            raise AccessError(f"a release that exposes {self.exposes} cannot be queried for an answer")
        given = logits if self.exposes is Exposure.LOGITS else softmax(logits)
        if self.noise is not None and x is not None and source is not None:
            given = source.add(self.noise, given, x)
            given = given if self.exposes is Exposure.LOGITS else _shares(given)
        return given if self.exposes is Exposure.LOGITS else self._shortened(given)

    def _shortened(self, p: NDArray[float64]) -> NDArray[float64]:
        """Probabilities, truncated and rounded."""
        import numpy as np

        if self.top is not None and self.top < p.shape[1]:
            rank = np.argsort(np.argsort(-p, axis=1, kind="stable"), axis=1, kind="stable")
            p = np.where(rank < self.top, p, 0.0)
        return p if self.decimals is None else np.asarray(np.round(p, self.decimals))


def _shares(noised: NDArray[float64]) -> NDArray[float64]:
    """What noise left of probabilities, made probabilities again; even where nothing above 0 is left."""
    import numpy as np

    kept = np.maximum(noised, 0.0)  # NaN stays NaN: no answer stays none
    total = kept.sum(axis=1, keepdims=True)
    even = np.full_like(kept, 1 / kept.shape[1])
    return np.where(total == 0, even, kept / np.where(total == 0, 1.0, total))


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


@dataclass(frozen=True, slots=True)
class Previous:
    """The model as it was before its last update, as the same adversary sees it.

    Attributes:
        size: How many records the update learnt from.
        target: The earlier snapshot, asked like the subject: the same access, the same release.
        recipe: How the update was trained, as `engine.recipe.Recipe`; typed loosely, since that stands above this.
    """

    size: int
    target: Target
    recipe: object


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
        previous: The model before its last update; `None` where the subject names none.
        noise: What the noise of the release is drawn from.
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
    previous: Previous | None = None
    noise: NoiseSource = field(default_factory=NoiseSource, repr=False)
    _passing: Callable[[NDArray[float32], NDArray[int64] | None, NoiseSource], NDArray[float64]] | None = field(
        default=None, repr=False
    )

    @property
    def exposure(self) -> Exposure:
        """What `query` returns to this adversary."""
        return Exposure.LOGITS if self.access is Access.WEIGHTS else self.release.exposes

    @property
    def noisy(self) -> bool:
        """Whether `query` answers the same record differently every time. What passes by is noisy as the release is."""
        return self.access is not Access.WEIGHTS and self.release.noisy

    def query(self, x: NDArray[float32]) -> NDArray[float64]:
        """Ask the model. Args: x `(n, *shape)`. Returns: `(n, classes)` of kind `exposure`."""
        self.queries += len(x)
        logits = self._logits(x)
        return logits if self.access is Access.WEIGHTS else self.release.apply(logits, x, self.noise)

    def observe(self, x: NDArray[float32], y: NDArray[int64] | None = None) -> NDArray[float64]:
        """What passes by an adversary when these records go through the model, whatever else he holds.

        Args:
            x: `(n, *shape)`.
            y: `(n,)`, their classes; gradients need them.

        Returns:
            Activations `(n, d)`, flattened and noised as the release says; or gradients `(n // batch, parameters)`, of
            each consecutive batch, clipped and noised.

        Raises:
            AccessError: The release exposes neither.
        """
        if self._passing is None or self.release.exposes not in PASSING:
            raise AccessError(f"nothing passes by at a release that exposes {self.release.exposes}")
        self.queries += len(x)
        return self._passing(x, y, self.noise)

    def module(self) -> torch.nn.Module:
        """The model itself, in evaluation mode, its parameters frozen.

        Raises:
            AccessError: This adversary does not hold the weights.
        """
        if self.access is not Access.WEIGHTS:
            raise AccessError("this adversary does not hold the weights")
        return self._module()
