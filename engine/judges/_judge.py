"""Judging: how close a reconstruction came, beside the best guess without the model, and whether it identifies."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from ..errors import AttackError, NotMeasurable
from ..observation import Goal, Reconstruction
from ..target import Records
from ._distances import Closeness, Distances, Images, nearest, paired
from ._evaluators import Evaluators, eigen_features
from ._guesses import baselines, guessed
from ._shares import told

#: What nobody can guess without the model but whoever knows the answer: rows beside the attack, never its baseline.
NEAREST_OWNED = "nearest auxiliary record"
CLASS_MEAN_OF_MEMBERS = "class mean of the members"
NEAREST_OTHER = "nearest other member"


def judge_classes(
    images: Images,
    classes: NDArray[np.int64],
    members: Records,
    evaluators: Evaluators,
    auxiliary: Records | None,
    nothing: Images,
    seed: int = 0,
) -> Reconstruction:
    """Judge reconstructions of classes: distance to the nearest training record of the class, and identity.

    Args:
        images: `(k, *shape)`, the attack's reconstructions.
        classes: `(k,)`, the class of each.
        members: The records that the target was trained on.
        evaluators: They recognise a class, or do not.
        auxiliary: What the adversary owns.
        nothing: `(r * k, *shape)`, the same attack's reconstructions of the same classes, r times over, from models
            that never saw them: what is recognised in them is a false positive.
        seed: Draws the random record of each class.

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
    own = {int(label): evaluators.features(members.x[members.y == label]) for label in np.unique(classes)}

    def closeness(guess: Images) -> Closeness:
        near = nearest(guess, classes, members, evaluators.bounds)
        return Closeness(near.mse, near.ssim, _nearest_feature(evaluators.features(guess), classes, own))

    found, guesses = closeness(images), guessed(baselines(owned, classes, seed), closeness)
    standing, false = _class_standing(images, classes, members), _class_standing(nothing, classes, members)
    sticks = _class_yardsticks(classes, members, owned)
    return Reconstruction(
        goal=Goal.CLASS,
        targets=classes,
        labels=classes,
        mse=found.mse,
        ssim=found.ssim,
        baselines=guesses.names,
        baseline_mse=guesses.mse,
        baseline_ssim=guesses.ssim,
        evaluators=evaluators.names,
        votes=evaluators.votes(images, classes),
        false_votes=evaluators.votes(nothing, classes),
        evaluator_accuracy=evaluators.accuracy,
        feature=found.feature,
        baseline_feature=guesses.feature,
        gap=standing.gap,
        rank=standing.rank,
        false_rank=false.rank,
        yardsticks=tuple(sticks),
        yardstick_mse=np.stack([closeness(stick).mse for stick in sticks.values()]),
        yardstick_votes=np.stack([evaluators.votes(stick, classes) for stick in sticks.values()]),
    )


def judge_records(
    images: Images,
    victims: Records,
    auxiliary: Records | None,
    bounds: tuple[float, float] | None = None,
    batch: int = 1,
    seed: int = 0,
) -> Reconstruction:
    """Judge reconstructions of single records, each by its distance to its own victim; identity is not at stake.

    Args:
        images: `(n, *shape)`, the attack's reconstructions.
        victims: The n records behind the answers.
        auxiliary: What the adversary owns.
        bounds: Smallest and largest value a record's entry may take; `None` for those that occur in the real records.
        batch: Within so many consecutive records a reconstruction names none: they are matched so that they lie as near
            as they can (Hungarian), the guesses without the model like the attack's.
        seed: Draws the random record of each class.

    Raises:
        NotMeasurable: There are no reconstructions, or no auxiliary records.
        AttackError: A reconstruction is not finite or has the wrong shape.
    """
    return _judge_paired(Goal.RECORD, images, victims, auxiliary, bounds, batch, seed)


def judge_updates(
    images: Images,
    update: Records,
    auxiliary: Records | None,
    bounds: tuple[float, float] | None = None,
    seed: int = 0,
    shares: NDArray[float64] | None = None,
) -> Reconstruction:
    """Judge reconstructions of what an update learnt from, matched to its records so that they lie as near as they can.

    Args:
        images: `(n, *shape)`, in any order.
        update: The n records.
        auxiliary: What the adversary owns.
        bounds: As for `judge_records`.
        seed: Draws the random record of each class.
        shares: `(classes,)`, what the attack tells of the classes; `None` where it tells nothing.

    Raises:
        NotMeasurable: There are no reconstructions, or no auxiliary records.
        AttackError: A reconstruction is not finite or has the wrong shape, or shares are none.
    """
    judged = _judge_paired(Goal.UPDATE, images, update, auxiliary, bounds, len(update), seed)
    if shares is None:
        return judged
    if int(update.y.max()) >= len(shares):
        raise AttackError(f"expected shares of at least {int(update.y.max()) + 1} classes, found {len(shares)}")
    usual = np.bincount(_owned(auxiliary).y, minlength=len(shares)).astype(np.float64)
    return dataclasses.replace(judged, told=told(shares, update.y), told_without=told(usual, update.y))


def _judge_paired(
    goal: Goal,
    images: Images,
    victims: Records,
    auxiliary: Records | None,
    bounds: tuple[float, float] | None,
    batch: int,
    seed: int,
) -> Reconstruction:
    _check_images("reconstructions", images, victims.x.shape)
    owned = _owned(auxiliary)
    ends = bounds or _range(victims.x, owned.x)
    features = eigen_features(owned, ends)
    seen = features(victims.x)

    def closeness(guess: Images) -> Closeness:
        placed = matched(guess, victims.x, batch)
        near = paired(placed, victims.x, ends)
        return Closeness(near.mse, near.ssim, _mean_square(features(placed), seen))

    found = closeness(images)
    guesses = guessed(baselines(owned, victims.y, seed), closeness)
    placed = matched(images, victims.x, batch)
    standing = _record_standing(placed, victims)
    false = _false_standing(placed, victims, owned, batch, seed)
    sticks = _record_yardsticks(victims, owned)
    return Reconstruction(
        goal=goal,
        targets=np.arange(len(victims)),
        labels=victims.y,
        mse=found.mse,
        ssim=found.ssim,
        baselines=guesses.names,
        baseline_mse=guesses.mse,
        baseline_ssim=guesses.ssim,
        evaluators=(),
        votes=np.zeros((len(victims), 0), dtype=bool),
        false_votes=np.zeros((0, 0), dtype=bool),
        evaluator_accuracy=np.zeros(0),
        feature=found.feature,
        baseline_feature=guesses.feature,
        gap=standing.gap,
        rank=standing.rank,
        false_rank=false.rank,
        yardsticks=tuple(sticks),
        yardstick_mse=np.stack(list(sticks.values())),
    )


def matched(images: Images, truth: Images, batch: int) -> Images:
    """Each batch of images in the order in which it lies nearest to the truth, by mean squared error (Hungarian).

    Args:
        images: `(n, *shape)`.
        truth: `(n, *shape)`.
        batch: Images that may change places; 1 for none.
    """
    from scipy.optimize import linear_sum_assignment

    if batch == 1:
        return images
    placed = images.copy()
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        rows, columns = linear_sum_assignment(_pairwise(truth[part], images[part]))
        placed[start + rows] = images[part][columns]
    return placed


# --- features --------------------------------------------------------------------------------------------------------


def _mean_square(a: Distances, b: Distances) -> Distances:
    return np.asarray(((a - b) ** 2).mean(axis=1))


def _nearest_feature(seen: Distances, classes: NDArray[np.int64], own: dict[int, Distances]) -> Distances:
    """Each row's distance to the nearest training record of its class, over all reconstructions, not the good ones."""
    rows = [_mean_square(row[None], own[int(label)]).min() for row, label in zip(seen, classes, strict=True)]
    return np.array(rows)


# --- standing among the others ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Standing:
    """How targets stand among the others: `gap` `(n,)`, to the nearest other less to the own; `rank` `(n,)`."""

    gap: Distances
    rank: NDArray[np.int64]


def _standing(distance: Distances, own: NDArray[np.int64]) -> _Standing:
    """From the distance of every image to every candidate. Args: distance `(n, c)`, own `(n,)` its own column."""
    rows = np.arange(len(distance))
    mine = distance[rows, own]
    others = distance.copy()
    others[rows, own] = np.inf
    # As near as another is not nearer: a picture that is the same for all is first for nobody.
    return _Standing(others.min(axis=1) - mine, 1 + (others <= mine[:, None]).sum(axis=1))


def _class_standing(images: Images, classes: NDArray[np.int64], members: Records) -> _Standing:
    """By the nearest training record of each class. Args: images `(r * k, *shape)`, classes `(k,)`."""
    names = np.unique(members.y)
    parts = [_pairwise(images, members.x[members.y == label]).min(axis=1) for label in names]
    return _standing(np.stack(parts, axis=1), np.searchsorted(names, np.resize(classes, len(images))))


def _record_standing(images: Images, victims: Records) -> _Standing:
    """Among the victims, each image against every one of them."""
    return _standing(_pairwise(images, victims.x), np.arange(len(victims)))


def _false_standing(placed: Images, victims: Records, owned: Records, batch: int, seed: int) -> _Standing:
    """How pictures stand that cannot tell the victim: of another record of its class.

    Where they are matched, so is what they are held against: matching alone puts half of anything first.
    """
    if batch == 1:
        return _record_standing(placed[_another_of_the_class(victims.y)], victims)
    others = baselines(owned, victims.y, seed)["another record of the class"]
    return _record_standing(matched(others, victims.x, batch), victims)


def _another_of_the_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each position another one of the same class, where there is one."""
    moved = np.arange(len(labels))
    for label in np.unique(labels):
        here = np.flatnonzero(labels == label)
        moved[here] = np.roll(here, 1)
    return moved


# --- what only the truth could tell ----------------------------------------------------------------------------------


def _class_yardsticks(classes: NDArray[np.int64], members: Records, owned: Records) -> dict[str, Images]:
    """A stand-in for a perfect reconstruction, and the nearest that the adversary owns but could not pick."""
    means = [members.x[members.y == label].mean(axis=0, dtype=np.float64) for label in classes]
    near = []
    for label in classes:
        own = owned.x[owned.y == label]
        own = own if len(own) else owned.x
        near.append(own[_pairwise(own, members.x[members.y == label]).min(axis=1).argmin()])
    return {CLASS_MEAN_OF_MEMBERS: np.stack(means).astype(np.float32), NEAREST_OWNED: np.stack(near)}


def _record_yardsticks(victims: Records, owned: Records) -> dict[str, Distances]:
    """How far the nearest other victim is, and the nearest record that the adversary owns but could not pick."""
    among = _pairwise(victims.x, victims.x)
    np.fill_diagonal(among, np.inf)
    other = among.min(axis=1) if len(victims) > 1 else np.full(1, np.nan)
    return {NEAREST_OTHER: other, NEAREST_OWNED: _pairwise(victims.x, owned.x).min(axis=1)}


# --- checks ----------------------------------------------------------------------------------------------------------


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
