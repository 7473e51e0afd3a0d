"""Raw, per-record outcomes. Personal data: they stay in the local store and never enter a report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import bool_, float64, int64
    from numpy.typing import NDArray


class Goal(StrEnum):
    """What an attack is after; outcomes of different goals are never put into one number."""

    MEMBERSHIP = "membership"
    CLASS = "class-representative"  # training-class inference: what does class k look like
    RECORD = "record-reconstruction"  # instance reconstruction: what was this one input
    UPDATE = "update-reconstruction"  # what did the model learn between two snapshots
    ATTRIBUTE = "attribute"
    RISK = "record-risk"  # how well each record's membership could be told, from models trained with and without it


def candidate_order(seed: int, n: int) -> NDArray[int64]:
    """In which order an attack meets n records, members first before: shuffled, so that their order tells nothing."""
    import numpy as np

    return np.random.default_rng(seed).permutation(n)


@dataclass(frozen=True, slots=True)
class Membership:
    """What a membership attack said of each candidate.

    Attributes:
        scores: `(n,)` float64, higher means "member". NaN where the attack had no answer.
        members: `(n,)` bool, the truth; the attack never saw it.
        groups: `(n,)` int64, class label of each record.
        persons: `(n,)` int64, whose record it is; `None` where every record is a person of its own.
        slices: `(n, c)` float64, the columns of the records by which a requirement slices; `None` for none.
    """

    scores: NDArray[float64]
    members: NDArray[bool_]
    groups: NDArray[int64]
    persons: NDArray[int64] | None = None
    slices: NDArray[float64] | None = None

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.members) == len(self.groups):
            raise ValueError("scores, members and groups differ in length")
        for name in ("persons", "slices"):
            part = getattr(self, name)
            if part is not None and len(part) != len(self.scores):
                raise ValueError(f"expected {len(self.scores)} {name}, found {len(part)}")


@dataclass(frozen=True, slots=True)
class Separation:
    """What models trained with and without each record answered on it.

    Attributes:
        signals: `(k, n)` float64, the logit-scaled confidence of each of k models on each record.
        inside: `(k, n)` bool, which model was trained on which record; complementary models stand side by side.
        members: `(n,)` bool, which records the subject was trained on.
        groups: `(n,)` int64, class label of each record.
    """

    signals: NDArray[float64]
    inside: NDArray[bool_]
    members: NDArray[bool_]
    groups: NDArray[int64]

    def __post_init__(self) -> None:
        if self.signals.shape != self.inside.shape or self.signals.ndim != 2:
            raise ValueError("signals and inside differ in shape")
        if not self.signals.shape[1] == len(self.members) == len(self.groups):
            raise ValueError("signals, members and groups differ in length")


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """How close an inversion attack came to each of its targets, beside the best guess without the model.

    Attributes:
        goal: `Goal.CLASS` (a target is a class), `Goal.RECORD` (one record) or `Goal.UPDATE` (a record of an update).
        targets: `(n,)` int64, the class or the record's position among the victims.
        labels: `(n,)` int64, the class of each target.
        mse: `(n,)` mean squared error per value; for classes, to the nearest training record of that class.
        ssim: `(n,)` structural similarity in [-1, 1], higher is closer; NaN where the records are not images.
        baselines: The b reconstructions without the model ("class mean", "global mean", ...); at least one.
        baseline_mse: `(b, n)` the same distance for each of them.
        baseline_ssim: `(b, n)` likewise.
        evaluators: Names of the identity evaluators; at least three, or none where identity is not at stake.
        votes: `(n, e)` bool: evaluator recognises the target's identity in the reconstruction.
        false_votes: `(m, e)` bool: the same evaluators on reconstructions that cannot carry it (their false positives).
        evaluator_accuracy: `(e,)` accuracy of each evaluator on real records that it was not fitted on.
        feature: `(n,)` mean squared distance between features; `None` where nothing was fitted to have any. For
            classes, to the nearest training record of the class.
        baseline_feature: `(b, n)` likewise.
        gap: `(n,)` how much further the nearest other class, or victim, is than the own, in mean squared error.
        rank: `(n,)` how many classes, or victims, are at least as near, the own included: 1 is the best.
        false_rank: `(m,)` the same for reconstructions that cannot carry the target.
        yardsticks: What only the truth could tell: names of stand-ins for the best that there could be.
        yardstick_mse: `(y, n)` how far each of them is.
        yardstick_votes: `(y, n, e)` bool: in which of them the evaluators recognise the target.
        told: `(n,)` bool, of an update: whether the class of each of its records is among as many classes as the attack
            named, each as often as it named it; `None` where it named none.
        told_without: `(n,)` likewise of the classes named without the model, by their shares among the adversary's
            records.
    """

    goal: Goal
    targets: NDArray[int64]
    labels: NDArray[int64]
    mse: NDArray[float64]
    ssim: NDArray[float64]
    baselines: tuple[str, ...]
    baseline_mse: NDArray[float64]
    baseline_ssim: NDArray[float64]
    evaluators: tuple[str, ...]
    votes: NDArray[bool_]
    false_votes: NDArray[bool_]
    evaluator_accuracy: NDArray[float64]
    feature: NDArray[float64] | None = None
    baseline_feature: NDArray[float64] | None = None
    gap: NDArray[float64] | None = None
    rank: NDArray[int64] | None = None
    false_rank: NDArray[int64] | None = None
    yardsticks: tuple[str, ...] = ()
    yardstick_mse: NDArray[float64] | None = None
    yardstick_votes: NDArray[bool_] | None = None
    told: NDArray[bool_] | None = None
    told_without: NDArray[bool_] | None = None

    def __post_init__(self) -> None:
        n = len(self.targets)
        for name in ("labels", "mse", "ssim", "votes"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"expected {n} {name}, found {len(getattr(self, name))}")
        for name in ("baseline_mse", "baseline_ssim"):
            if not self.baselines or getattr(self, name).shape != (len(self.baselines), n):
                raise ValueError(f"expected {name} of shape {(len(self.baselines), n)}")
        for name in ("feature", "gap", "rank", "told", "told_without"):
            part = getattr(self, name)
            if part is not None and len(part) != n:
                raise ValueError(f"expected {n} {name}, found {len(part)}")


#: Predicted where the model gave NaN or infinity: an answer that is right about no record.
NO_ANSWER = -1


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the released model predicts on records that it never saw.

    Attributes:
        labels: `(n,)` int64, the recorded class.
        predicted: `(n,)` int64, the predicted class; `NO_ANSWER` where the model's answer is no number.
    """

    labels: NDArray[int64]
    predicted: NDArray[int64]


Observation = Membership | Separation | Reconstruction | Predictions
