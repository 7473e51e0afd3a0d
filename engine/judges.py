"""The judges: how close a reconstruction came, beside the best guess without the model, and whether it identifies.

A distance alone says little: on faces, a reconstruction that everybody recognises can be further from the photograph
than the mean face is. So every distance stands beside that of the best no-model guess, and identity is judged by
itself, by classifiers that never saw the model under attack and whose false positives are counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import AttackError, NotMeasurable
from .observation import Goal, Reconstruction
from .target import Records

if TYPE_CHECKING:
    import torch

#: Pairs of images whose similarity is computed at once.
_PAIRS = 4096
#: Window of the structural similarity (Wang et al. 2004), for images that are large enough.
_WINDOW, _SIGMA = 11, 1.5
#: Records per class that an evaluator is fitted on at most: enough to tell classes apart, and quick.
_PER_CLASS = 300
_FOLDS = 3
_COMPONENTS = 60
#: A larger image is averaged down to this side before the network evaluator looks at it.
_SIDE = 32
_NETWORK_STEPS, _NETWORK_BATCH = 300, 64
#: Noise on the network's training records, as a share of their spread.
_NOISE = 0.25

Images = NDArray[np.float32]
Distances = NDArray[np.float64]


# --- distances -------------------------------------------------------------------------------------------------------


def mean_squared_error(a: Images, b: Images) -> Distances:
    """Mean squared error per value of each pair. Args: a, b `(n, *shape)` or `(1, *shape)`. Returns: `(n,)`."""
    difference = a.astype(np.float64) - b.astype(np.float64)
    return np.asarray((difference**2).reshape(len(difference), -1).mean(axis=1))


def structural_similarity(a: Images, b: Images, bounds: tuple[float, float]) -> Distances:
    """Structural similarity of each pair, in [-1, 1]; NaN where the records are not images (Wang et al. 2004, eq. 13).

    The window is Gaussian, 11 x 11 with sigma 1.5, or the largest odd square that fits; only windows that lie wholly
    inside the image count, channels are averaged.

    Args:
        a: `(n, channels, height, width)`, or `(1, ...)`.
        b: Likewise.
        bounds: Smallest and largest value, whose difference is the data range.

    Returns:
        `(n,)`.
    """
    n = max(len(a), len(b))
    window = _window(a.shape[1:])
    if window is None:
        return np.full(n, np.nan)
    x, y = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = ((k * (bounds[1] - bounds[0])) ** 2 for k in (0.01, 0.03))
    mx, my = _blur(x, window), _blur(y, window)
    vx, vy, cov = _blur(x * x, window) - mx**2, _blur(y * y, window) - my**2, _blur(x * y, window) - mx * my
    index = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return np.asarray(index.reshape(n, -1).mean(axis=1))


def _window(shape: tuple[int, ...]) -> Distances | None:
    """The Gaussian weights along one side, or `None` where the records are not images (or under 3 pixels)."""
    if len(shape) != 3 or min(shape[1:]) < 3:
        return None
    size = min(_WINDOW, *(side - 1 + side % 2 for side in shape[1:]))
    weights = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * _SIGMA**2))
    return np.asarray(weights / weights.sum())


def _blur(x: Distances, window: Distances) -> Distances:
    """Weighted mean over every window inside the image. Args: x `(n, c, h, w)`."""
    from scipy.ndimage import correlate1d

    r = len(window) // 2
    rows = correlate1d(x, window, axis=2)[:, :, r : x.shape[2] - r]
    return np.asarray(correlate1d(rows, window, axis=3)[..., r : x.shape[3] - r])


@dataclass(frozen=True, slots=True)
class _Closeness:
    """Both distances of a set of reconstructions, one entry per target."""

    mse: Distances
    ssim: Distances


def _paired(guess: Images, truth: Images, bounds: tuple[float, float]) -> _Closeness:
    """Each guess against its own truth."""
    starts = range(0, len(truth), _PAIRS)
    parts = [(guess[i : i + _PAIRS], truth[i : i + _PAIRS]) for i in starts]
    mse = [mean_squared_error(a, b) for a, b in parts]
    ssim = [structural_similarity(a, b, bounds) for a, b in parts]
    return _Closeness(np.concatenate(mse), np.concatenate(ssim))


def _nearest(guess: Images, classes: NDArray[np.int64], members: Records, bounds: tuple[float, float]) -> _Closeness:
    """Each guess against the member of its class that is nearest, by each distance for itself."""
    rows = []
    for image, label in zip(guess, classes, strict=True):
        own = members.x[members.y == label]
        rows.append(_paired(np.broadcast_to(image, own.shape), own, bounds))
    return _Closeness(np.array([r.mse.min() for r in rows]), np.array([r.ssim.max() for r in rows]))


# --- what the adversary could say without the model ------------------------------------------------------------------


def baselines(auxiliary: Records, labels: NDArray[np.int64]) -> dict[str, Images]:
    """What an adversary who owns these records and knows each target's true class can guess without the model.

    A class of which he owns no record is guessed by the global mean.

    Args:
        auxiliary: The adversary's own records, at least one.
        labels: `(n,)` class of each target.

    Returns:
        Name of the guess to `(n, *shape)`.
    """
    overall = auxiliary.x.mean(axis=0, dtype=np.float64).astype(np.float32)
    guesses = {name: np.repeat(overall[None], len(labels), axis=0) for name in _BASELINES}
    for label in np.unique(labels):
        at, own = labels == label, auxiliary.x[auxiliary.y == label]
        if len(own):
            mean = own.mean(axis=0, dtype=np.float64).astype(np.float32)
            guesses["class mean"][at] = mean
            guesses["mean of the class without its outliers"][at] = _trimmed_mean(own)
            guesses["most typical record of the class"][at] = own[mean_squared_error(own, mean[None]).argmin()]
            guesses["another record of the class"][at] = own[np.arange(at.sum()) % len(own)]
    return guesses


_BASELINES = (
    "global mean",
    "class mean",
    "mean of the class without its outliers",
    "most typical record of the class",
    "another record of the class",
)
#: Share of a class that counts as typical of it, and how often the mean is taken anew over those.
_TYPICAL, _ROUNDS = 0.75, 5


def _trimmed_mean(own: Images) -> Images:
    """The mean of the three quarters of the records that are nearest to it: wrong labels do not blur it.

    The start is the median; after a few rounds nothing moves (Rousseeuw & Van Driessen 1999, the C-step).
    """
    centre = np.median(own, axis=0).astype(np.float32)
    for _ in range(_ROUNDS):
        distance = mean_squared_error(own, centre[None])
        centre = own[distance <= np.quantile(distance, _TYPICAL)].mean(axis=0, dtype=np.float64).astype(np.float32)
    return centre


@dataclass(frozen=True, slots=True)
class _Guessed:
    """How close every guess without the model comes, `(b, n)`."""

    names: tuple[str, ...]
    mse: Distances
    ssim: Distances


def _guessed(guesses: dict[str, Images], closeness: Callable[[Images], _Closeness]) -> _Guessed:
    """Hold every guess against the truth; which of them is the best, the measure says, at the quantile it is asked."""
    found = [closeness(guess) for guess in guesses.values()]
    return _Guessed(tuple(guesses), np.stack([f.mse for f in found]), np.stack([f.ssim for f in found]))


# --- who is it? ------------------------------------------------------------------------------------------------------

#: Tells the class of each of `(n, *shape)`.
Classifier = Callable[[Images], NDArray[np.int64]]


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

    def __post_init__(self) -> None:
        if not 3 <= len(self.names) == len(self.accuracy) == len(self._fitted):
            raise ValueError("expected at least three evaluators, each with a name and an accuracy")

    def identify(self, images: Images) -> NDArray[np.int64]:
        """The class that each evaluator sees. Args: images `(n, *shape)`. Returns: `(n, e)`."""
        seen = _appearance(images, self.bounds)
        return np.stack([classify(seen) for classify in self._fitted], axis=1)

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
    used = _sample(Records(_appearance(records.x, bounds), records.y), seed)
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
    return Evaluators(tuple(kinds), np.array(accuracy), classes, bounds, fitted)


def _appearance(x: Images, bounds: tuple[float, float]) -> Images:
    """What the evaluators look at: images with brightness and contrast taken out, other records scaled by their bounds.

    Anybody can stretch a picture's contrast. Without this, what is merely dark would pass for unrecognisable.
    """
    if _window(x.shape[1:]) is None:
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
    network = "small CNN" if _window(shape) is not None else "small MLP"
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


def _fit_network(records: Records, seed: int) -> Classifier:
    """A small network, trained on noisy views of the records."""
    import torch

    classes, y = np.unique(records.y, return_inverse=True)
    x, labels = _shrunk(torch.from_numpy(records.x)), torch.from_numpy(y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _network(tuple(x.shape[1:]), len(classes))
        _train(module, x, labels)

    def classify(images: Images) -> NDArray[np.int64]:
        views = _shrunk(torch.from_numpy(images))
        with torch.no_grad():
            answers = [module(views[i : i + 1024]).argmax(dim=1) for i in range(0, len(views), 1024)]
        return np.asarray(classes[torch.cat(answers).numpy()])

    return classify


def _shrunk(x: torch.Tensor) -> torch.Tensor:
    """Images no larger than `_SIDE` each way, averaged down; other records as they are."""
    from torch.nn.functional import adaptive_avg_pool2d

    if _window(tuple(x.shape[1:])) is None:
        return x
    return adaptive_avg_pool2d(x, (min(_SIDE, x.shape[2]), min(_SIDE, x.shape[3])))


def _network(shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    """Two convolutions for images, one hidden layer for anything else."""
    from torch import nn

    if _window(shape) is None:
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


# --- judging ---------------------------------------------------------------------------------------------------------


def judge_classes(
    images: Images,
    classes: NDArray[np.int64],
    members: Records,
    evaluators: Evaluators,
    auxiliary: Records | None,
    nothing: Images,
) -> Reconstruction:
    """Judge reconstructions of classes: distance to the nearest training record of the class, and identity.

    Args:
        images: `(k, *shape)`, the attack's reconstructions.
        classes: `(k,)`, the class of each.
        members: The records that the target was trained on.
        evaluators: They recognise a class, or do not.
        auxiliary: What the adversary owns.
        nothing: `(r * k, *shape)`, the same attack's reconstructions of the same classes, r times over, from a model
            that never saw them: what is recognised in them is a false positive.

    Raises:
        NotMeasurable: No reconstructions, no null reconstructions (the evaluators' false positives would be unknown),
            no auxiliary records, or a class that has no member or that the evaluators do not know.
        AttackError: A reconstruction is not finite or has the wrong shape.
    """
    _check_images("reconstructions", images, (len(classes), *members.x.shape[1:]))
    _check_images("null reconstructions", nothing, (len(nothing), *members.x.shape[1:]))
    if len(nothing) % len(classes):
        raise ValueError(f"expected a multiple of {len(classes)} null reconstructions, found {len(nothing)}")
    owned = _owned(auxiliary)
    _check_known(classes, members.y, "has no training record")
    _check_known(
        classes, evaluators.classes, "is unknown to the evaluators: give nonmembers or auxiliary records of it"
    )

    def closeness(guess: Images) -> _Closeness:
        return _nearest(guess, classes, members, evaluators.bounds)

    found, guessed = closeness(images), _guessed(baselines(owned, classes), closeness)
    return Reconstruction(
        goal=Goal.CLASS,
        targets=classes,
        labels=classes,
        mse=found.mse,
        ssim=found.ssim,
        baselines=guessed.names,
        baseline_mse=guessed.mse,
        baseline_ssim=guessed.ssim,
        evaluators=evaluators.names,
        votes=evaluators.votes(images, classes),
        false_votes=evaluators.votes(nothing, classes),
        evaluator_accuracy=evaluators.accuracy,
    )


def judge_records(
    images: Images, victims: Records, auxiliary: Records | None, bounds: tuple[float, float] | None = None
) -> Reconstruction:
    """Judge reconstructions of single records, each by its distance to its own victim; identity is not at stake.

    Args:
        images: `(n, *shape)`, the attack's reconstructions.
        victims: The n records behind the answers.
        auxiliary: What the adversary owns.
        bounds: Smallest and largest value a record's entry may take; `None` for those that occur in the real records.

    Raises:
        NotMeasurable: There are no reconstructions, or no auxiliary records.
        AttackError: A reconstruction is not finite or has the wrong shape.
    """
    _check_images("reconstructions", images, victims.x.shape)
    owned = _owned(auxiliary)
    ends = bounds or _range(victims.x, owned.x)
    found = _paired(images, victims.x, ends)
    guessed = _guessed(baselines(owned, victims.y), lambda guess: _paired(guess, victims.x, ends))
    return Reconstruction(
        goal=Goal.RECORD,
        targets=np.arange(len(victims)),
        labels=victims.y,
        mse=found.mse,
        ssim=found.ssim,
        baselines=guessed.names,
        baseline_mse=guessed.mse,
        baseline_ssim=guessed.ssim,
        evaluators=(),
        votes=np.zeros((len(victims), 0), dtype=bool),
        false_votes=np.zeros((0, 0), dtype=bool),
        evaluator_accuracy=np.zeros(0),
    )


def _owned(auxiliary: Records | None) -> Records:
    """The adversary's records, if he has any."""
    if auxiliary is None or not len(auxiliary):
        raise NotMeasurable(
            "there are no auxiliary records, so nothing says what can be guessed without the model: "
            "name some in the subject (spec.data.auxiliary)"
        )
    return auxiliary


def _check_images(what: str, images: Images, shape: tuple[int, ...]) -> None:
    """Refuse reconstructions that cannot be judged: NaN would count as not recognised, none as never recognised."""
    if not shape[0]:
        raise NotMeasurable(f"there are no {what} to judge")
    if images.shape != shape:
        raise AttackError(f"expected {what} of shape {shape}, found {images.shape}")
    if not np.isfinite(images).all():
        broken = int((~np.isfinite(images.reshape(len(images), -1)).all(axis=1)).sum())
        raise AttackError(f"{broken} of {len(images)} {what} hold values that are not finite")


def _check_known(classes: NDArray[np.int64], known: NDArray[np.int64], otherwise: str) -> None:
    """Refuse to judge a class that could not be recognised at all: it would count as not identified."""
    missing = np.setdiff1d(classes, known)
    if len(missing):
        raise NotMeasurable(f"class {', '.join(str(label) for label in missing[:10])} {otherwise}")


def _range(*arrays: Images) -> tuple[float, float]:
    """The smallest and largest value that occurs."""
    return min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)


# --- plain identification, for tests and benchmarks ------------------------------------------------------------------


def nearest_identity(images: Images, gallery: Records) -> NDArray[np.int64]:
    """The class of the gallery's nearest record, value by value. Args: images `(n, *shape)`. Returns: `(n,)`."""
    return np.asarray(gallery.y[_pairwise(images, gallery.x).argmin(axis=1)])


def identity_gap(images: Images, classes: NDArray[np.int64], gallery: Records) -> Distances:
    """How much further the nearest record of another class is than the nearest of its own, in mean squared error.

    Args:
        images: `(n, *shape)`.
        classes: `(n,)` the class that each is meant to show.
        gallery: Real records, of at least two classes.

    Returns:
        `(n,)`: positive where the image is closer to its own class than to any other.
    """
    distance, own = _pairwise(images, gallery.x), classes[:, None] == gallery.y[None]
    return np.asarray(np.where(own, np.inf, distance).min(axis=1) - np.where(own, distance, np.inf).min(axis=1))


def _pairwise(a: Images, b: Images) -> Distances:
    """Mean squared error of every pair. Returns: `(n, m)`."""
    from scipy.spatial.distance import cdist

    flat = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
    return np.asarray(cdist(*flat, metric="sqeuclidean") / flat[0].shape[1])
