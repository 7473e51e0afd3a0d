"""Who does a reconstruction show? Classifiers of different kinds that never saw the model under attack."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import NotMeasurable
from ..target import Records
from ._distances import Distances, Images, window_of

if TYPE_CHECKING:
    import torch

#: Records per class that an evaluator is fitted on at most: enough to tell classes apart, and quick.
_PER_CLASS = 300
_FOLDS = 3
_COMPONENTS = 60
#: A larger image is averaged down to this side before the network evaluator looks at it.
_SIDE = 32
_NETWORK_STEPS, _NETWORK_BATCH = 300, 64
#: Noise on the network's training records, as a share of their spread.
_NOISE = 0.25

#: Tells the class of each of `(n, *shape)`.
Classifier = Callable[[Images], NDArray[np.int64]]
#: What is seen in each of `(n, *shape)`: `(n, d)`.
Features = Callable[[Images], Distances]


@dataclass(frozen=True, slots=True)
class Evaluators:
    """Classifiers of different kinds that never saw the target model.

    Attributes:
        names: What each of them is; at least three.
        accuracy: `(e,)` cross-validated accuracy on real records that they were not fitted on.
        classes: `(c,)` the classes that they know; they can recognise no other.
        bounds: Smallest and largest value a record's entry may take.
    """

    names: tuple[str, ...]
    accuracy: NDArray[np.float64]
    classes: NDArray[np.int64]
    bounds: tuple[float, float]
    _fitted: tuple[Classifier, ...]
    _features: tuple[Features, ...] = ()

    def __post_init__(self) -> None:
        if not 3 <= len(self.names) == len(self.accuracy) == len(self._fitted):
            raise ValueError("expected at least three evaluators, each with a name and an accuracy")

    def identify(self, images: Images) -> NDArray[np.int64]:
        """The class that each evaluator sees. Args: images `(n, *shape)`. Returns: `(n, e)`."""
        seen = appearance(images, self.bounds)
        return np.stack([classify(seen) for classify in self._fitted], axis=1)

    def features(self, images: Images) -> Distances:
        """What the evaluators see in images: eigen-features, and the network's last layer but one, each standardised.

        Args:
            images: `(n, *shape)`.

        Returns:
            `(n, d)`; the mean squared difference of two unrelated records is about 2.
        """
        parts = [features(images) for features in self._features]
        # Both kinds count alike, however many coordinates each has.
        weights = [(sum(p.shape[1] for p in parts) / (len(parts) * part.shape[1])) ** 0.5 for part in parts]
        return np.concatenate([w * part for w, part in zip(weights, parts, strict=True)], axis=1)

    def votes(self, images: Images, classes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Who recognises which class. Args: images `(r * k, *shape)`, classes `(k,)`. Returns: `(r * k, e)`."""
        return np.asarray(self.identify(images) == np.resize(classes, len(images))[:, None])


def fit_evaluators(records: Records, bounds: tuple[float, float], seed: int) -> Evaluators:
    """Fit three classifiers of different kinds on records that the target was never trained on.

    Args:
        records: Real records with their classes: nonmembers and auxiliary.
        bounds: Smallest and largest value a record's entry may take.
        seed: Decides folds, initial weights and batches.

    Raises:
        NotMeasurable: Too few records to tell the classes apart.
    """
    used = _sample(Records(appearance(records.x, bounds), records.y), seed)
    folds = _folds(used.y, seed)
    classes = np.unique(used.y)
    fewest = min(int((folds != fold).sum()) for fold in range(_FOLDS))
    if len(classes) < 2 or fewest <= len(classes):
        raise NotMeasurable(
            f"{len(records)} records of {len(classes)} classes are too few to judge who a reconstruction shows: "
            "give two classes or more and about three records of each, as nonmembers or auxiliary records"
        )
    kinds = _kinds(records.x.shape[1:])
    accuracy = [_accuracy(fit, used, folds, seed) for fit in kinds.values()]
    fitted = tuple(fit(used, seed) for fit in kinds.values())
    features = (_eigen(used, bounds), *(_network_features(f, used, bounds) for f in fitted if isinstance(f, _Network)))
    return Evaluators(tuple(kinds), np.array(accuracy), classes, bounds, fitted, features)


def eigen_features(records: Records, bounds: tuple[float, float]) -> Features:
    """Principal components of what records look like, fitted on records that the target never saw.

    On one scale for all of them: whitened, the directions in which records hardly differ would drown the others.

    Args:
        records: The adversary's own, for example.
        bounds: Smallest and largest value a record's entry may take.

    Returns:
        What takes `(n, *shape)` to `(n, d)`; the mean squared difference of two unrelated records is about 2.
    """
    return _eigen(_sample(Records(appearance(records.x, bounds), records.y), 0), bounds)


def _eigen(used: Records, bounds: tuple[float, float]) -> Features:
    """Args: used, records as they appear."""
    if len(used) < 2:
        return lambda images: appearance(images, bounds).reshape(len(images), -1).astype(np.float64)
    project = _components(used, 0)
    scale = max(float(project(used.x).var(axis=0).mean()) ** 0.5, np.finfo(float).tiny)
    return lambda images: np.asarray(project(appearance(images, bounds)) / scale)


def _network_features(network: _Network, used: Records, bounds: tuple[float, float]) -> Features:
    return _standardised(lambda images: network.features(appearance(images, bounds)), network.features(used.x))


def _standardised(features: Features, known: Distances) -> Features:
    """Each coordinate on the scale that it has on known records; one that does not vary there counts for nothing."""
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    scale = np.where(deviation > 1e-9, deviation, np.inf)
    return lambda images: np.asarray((features(images) - mean) / scale)


def appearance(x: Images, bounds: tuple[float, float]) -> Images:
    """What the evaluators look at: images with brightness and contrast taken out, other records scaled by their bounds.

    Anybody can stretch a picture's contrast. Without this, what is merely dark would pass for unrecognisable.
    """
    if window_of(x.shape[1:]) is None:
        return np.asarray((x - bounds[0]) / (bounds[1] - bounds[0]) - 0.5, dtype=np.float32)
    axes = tuple(range(1, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True, dtype=np.float64)
    spread = centred.std(axis=axes, keepdims=True)
    return np.asarray(centred / np.maximum(spread, 1e-6 * (bounds[1] - bounds[0])), dtype=np.float32)


def _sample(records: Records, seed: int) -> Records:
    """At most `_PER_CLASS` records of each class, in their order."""
    order = np.random.default_rng(seed).permutation(len(records))
    kept = [order[records.y[order] == label][:_PER_CLASS] for label in np.unique(records.y)]
    return records.take(np.sort(np.concatenate([np.empty(0, dtype=np.int64), *kept])))


def _folds(y: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A fold for each record, every class spread evenly over them. Returns: `(n,)`."""
    rng, folds = np.random.default_rng(seed), np.zeros(len(y), dtype=np.int64)
    for offset, label in enumerate(np.unique(y)):
        own = np.flatnonzero(y == label)
        folds[rng.permutation(own)] = (np.arange(len(own)) + offset) % _FOLDS
    return folds


#: Fits a classifier on records with a seed.
Fit = Callable[[Records, int], Classifier]


def _kinds(shape: tuple[int, ...]) -> dict[str, Fit]:
    """The evaluators by name: a neighbour, a linear one and a network."""
    network = "small CNN" if window_of(shape) is not None else "small MLP"
    return {
        "PCA and nearest neighbour": _fit_neighbour,
        "linear discriminants": _fit_discriminants,
        network: _fit_network,
    }


def _accuracy(fit: Fit, records: Records, folds: NDArray[np.int64], seed: int) -> float:
    """Share of the records that are recognised by a fit on the other folds."""
    right = np.zeros(len(records), dtype=bool)
    for fold in np.unique(folds):
        held = folds == fold
        classify = fit(Records(records.x[~held], records.y[~held]), seed)
        right[held] = classify(records.x[held]) == records.y[held]
    return float(right.mean())


def _components(records: Records, seed: int) -> Callable[[Images], Distances]:
    """Fit principal components. Returns: what projects `(n, *shape)` onto them."""
    from sklearn.decomposition import PCA

    flat = records.x.reshape(len(records), -1).astype(np.float64)
    pca = PCA(min(_COMPONENTS, len(flat) - 1, flat.shape[1]), svd_solver="randomized", random_state=seed % 2**32)
    pca.fit(flat)
    return lambda x: np.asarray(pca.transform(x.reshape(len(x), -1).astype(np.float64)))


def _fit_neighbour(records: Records, seed: int) -> Classifier:
    """The class of the nearest record in the space of the principal components (eigenfaces)."""
    from sklearn.neighbors import KNeighborsClassifier

    project = _components(records, seed)
    nearest = KNeighborsClassifier(1).fit(project(records.x), records.y)
    return lambda x: np.asarray(nearest.predict(project(x)))


def _fit_discriminants(records: Records, seed: int) -> Classifier:
    """Linear discriminants over the principal components, the covariance shrunk (fisherfaces)."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    project = _components(records, seed)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only one sample available")  # a class of one record adds no spread: as meant
        model.fit(project(records.x), records.y)
    return lambda x: np.asarray(model.predict(project(x)))


@dataclass(frozen=True, slots=True)
class _Network:
    """A small network: the class that it sees, and what it sees it by."""

    module: torch.nn.Sequential
    classes: NDArray[np.int64]

    def __call__(self, images: Images) -> NDArray[np.int64]:
        return np.asarray(self.classes[self._run(self.module, images).argmax(axis=1)])

    def features(self, images: Images) -> Distances:
        """The last layer but one. Returns: `(n, d)`."""
        return self._run(self.module[:-1], images)

    def _run(self, module: torch.nn.Module, images: Images) -> Distances:
        import torch

        views = _shrunk(torch.from_numpy(images))
        with torch.no_grad():
            parts = [module(views[i : i + 1024]).flatten(1).double() for i in range(0, len(views), 1024)]
        return np.asarray(torch.cat(parts).numpy()) if parts else np.empty((0, 0))


def _fit_network(records: Records, seed: int) -> Classifier:
    """A small network, trained on noisy views of the records."""
    import torch

    classes, y = np.unique(records.y, return_inverse=True)
    x, labels = _shrunk(torch.from_numpy(records.x)), torch.from_numpy(y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _network(tuple(x.shape[1:]), len(classes))
        _train(module, x, labels)
    return _Network(module, classes)


def _shrunk(x: torch.Tensor) -> torch.Tensor:
    """Images no larger than `_SIDE` each way, averaged down; other records as they are."""
    from torch.nn.functional import adaptive_avg_pool2d

    if window_of(tuple(x.shape[1:])) is None:
        return x
    return adaptive_avg_pool2d(x, (min(_SIDE, x.shape[2]), min(_SIDE, x.shape[3])))


def _network(shape: tuple[int, ...], classes: int) -> torch.nn.Sequential:
    """Two convolutions for images, one hidden layer for anything else."""
    from torch import nn

    if window_of(shape) is None:
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, classes))
    return nn.Sequential(
        *(nn.Conv2d(shape[0], 16, 3, padding=1, stride=2), nn.GroupNorm(4, 16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.GroupNorm(4, 32), nn.ReLU()),
        *(nn.Flatten(), nn.LazyLinear(classes)),
    )


def _train(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Adam on batches with a little noise; draws from the generator that the caller has seeded."""
    import torch
    from torch.nn.functional import cross_entropy

    module(x[:2])  # shapes the lazy layer
    optimiser = torch.optim.Adam(module.parameters(), lr=2e-3, weight_decay=1e-4)
    for _ in range(_NETWORK_STEPS):
        index = torch.randint(0, len(x), (_NETWORK_BATCH,))
        batch = x[index] + _NOISE * torch.randn(_NETWORK_BATCH, *x.shape[1:])
        optimiser.zero_grad()
        loss = cross_entropy(module(batch), y[index])
        torch.autograd.backward(loss)
        optimiser.step()
    module.eval().requires_grad_(False)
