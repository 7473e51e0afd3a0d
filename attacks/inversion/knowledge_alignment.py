"""Knowledge alignment: a decoder from the model's answer back to the record, trained on the adversary's own records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from ...engine.attack import ANSWERS, ThreatModel
from ...engine.errors import AttackError
from ...engine.observation import Goal
from ...engine.target import Access

if TYPE_CHECKING:
    import torch
    from numpy import float32, float64, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Records, Target
    from ._decoders import Answers, Decoder, Lesson
    from ._readings import Reading

#: Fewer records of his own teach an adversary nothing that could be compared.
_FEWEST = 10


@dataclass(frozen=True, slots=True)
class KnowledgeAlignment:
    """Reconstructs a record from the model's answer, by a decoder trained on the adversary's own records.

    The decoder learns from exactly what the release exposes (all probabilities, the largest few, rounded, noised ones,
    the label alone), so the attack adapts to every such defense. An adversary would never do worse than his simplest
    decoder: beside the network stand a kernel ridge and the mean record of each predicted class, and the one that is
    best on held-out records of his own is used.

    The answer is read as log-probabilities, standardised for each class. Where the release hides classes they get the
    share that is left over, and a mark that they were hidden; the shift of the paper drops out.

    Where the same record is answered differently every time, its answers are averaged: as they are, or as
    log-probabilities, or de-noised by what half of the answers on his own records say of the other half. Which of these
    readings is best his held-out records decide, too.

    Attributes:
        decoder: Network between answer and record: `mlp` for any record, `conv` for images, or the better of `both`.
        hidden: Widths of the hidden layers of the `mlp`.
        epochs: Most passes over the auxiliary records; it stops earlier where it no longer gets better.
        batch: Records in a step.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        validation: Share of the auxiliary records held out to stop the network and to choose the decoder.
        repeats: How often a record is asked about, where the release is noisy.
    """

    decoder: Literal["mlp", "conv", "both"] = "mlp"
    hidden: tuple[int, ...] = (256, 512)
    epochs: int = 40
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-5
    validation: float = 0.1
    repeats: int = 32

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=ANSWERS,
        knowledge=("the model's answer on the record",),
        goal=Goal.RECORD,
        auxiliary=True,
    )
    source: ClassVar[str] = "Yang et al. 2019, arXiv 1902.08552"
    thorough: ClassVar[Mapping[str, object]] = {"decoder": "both", "epochs": 100}

    def __post_init__(self) -> None:
        if self.decoder not in {"mlp", "conv", "both"}:
            raise ValueError(f"expected decoder mlp, conv or both, found {self.decoder!r}")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"expected hidden={self.hidden} all >= 1")
        if self.epochs < 1 or self.batch < 1 or self.repeats < 1:
            raise ValueError(
                f"expected epochs={self.epochs} >= 1, batch={self.batch} >= 1 and repeats={self.repeats} >= 1"
            )
        if not self.lr > 0 or not self.weight_decay >= 0:
            raise ValueError(f"expected lr={self.lr} > 0 and weight_decay={self.weight_decay} >= 0")
        if not 0 < self.validation <= 0.5:
            raise ValueError(f"expected 0 < validation={self.validation} <= 0.5")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each auxiliary record and repeat; the answers on the records themselves are given."""
        return auxiliary * self.repeats

    def reconstruct_records(
        self, target: Target, outputs: NDArray[float64], seed: int, progress: Progress
    ) -> NDArray[float32]:
        """Reconstruct the records behind these answers.

        Args:
            target: Its auxiliary records are what the decoder learns from.
            outputs: `(r, n, classes)`, of the kind that `target.query` returns.
            seed: Of the split and of the network.
            progress: Told the share of the work that is done.

        Returns:
            `(n, *shape)`, within the target's bounds; NaN for a record with an answer that is not finite.

        Raises:
            AttackError: The auxiliary records are missing or too few, or the model has no finite answer on them.
        """
        import numpy as np

        from . import _readings

        owned, low, high = _owned(target), *target.bounds
        # He trains on answers that were averaged as often as those that he reads.
        repeats = min(self.repeats, len(outputs)) if target.noisy else 1
        answers = _finite(np.stack([target.query(owned.x) for _ in range(repeats)]))
        order, held = self._order(len(owned), seed)
        flat = owned.x[order].reshape(len(owned), -1).astype(np.float64)
        records = (flat - low) / (high - low)
        known = np.isfinite(outputs).all(axis=(0, 2))
        readings = _readings.readings(target, answers[:, order], outputs[:repeats, known])
        chosen = _best_reading(readings, records, held)
        progress(0.1)
        found = np.full((outputs.shape[1], records.shape[1]), np.nan)
        if known.any():
            found[known] = self._best(chosen.lesson, target.shape, seed, progress).decode(chosen.answers)
        progress(1.0)
        return (low + (high - low) * found).astype(np.float32).reshape(-1, *target.shape)

    def _order(self, owned: int, seed: int) -> tuple[NDArray[int64], int]:
        """His records in a random order, and how many of them, from the front, are held out."""
        import numpy as np

        return np.random.default_rng(seed).permutation(owned), max(1, round(self.validation * owned))

    def _best(self, lesson: Lesson, shape: tuple[int, ...], seed: int, progress: Progress) -> Decoder:
        """The decoder that is best on the held-out auxiliary records; the simpler one where two are equal."""
        from . import _decoders

        decoders = [_decoders.class_means(lesson), _decoders.kernel_ridge(lesson)]
        training = _decoders.Training(self.epochs, self.batch, self.lr, self.weight_decay)
        networks = self._networks(lesson, shape, seed)
        for done, net in enumerate(networks):
            told = partial(_part, progress, done, len(networks))
            decoders.append(_decoders.network(lesson, net, training, seed, told))
        return min(decoders, key=lambda decoder: decoder.error)

    def _networks(self, lesson: Lesson, shape: tuple[int, ...], seed: int) -> list[torch.nn.Module]:
        from ._decoders import conv, mlp

        inputs = lesson.answers.features.shape[1]
        if self.decoder == "conv" and len(shape) != 3:
            raise AttackError(f"decoder: conv needs images (channels, height, width), found records of shape {shape}")
        found = []
        if self.decoder in {"mlp", "both"}:
            found.append(mlp(inputs, self.hidden, lesson.records.shape[1], seed))
        if self.decoder in {"conv", "both"} and len(shape) == 3:
            found.append(conv(inputs, shape, seed))
        return found


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A way to read answers: what the decoders are fitted on, and the victims' answers."""

    lesson: Lesson
    answers: Answers


def _best_reading(readings: list[Reading], records: NDArray[float64], held: int) -> _Chosen:
    """The reading from which a kernel ridge is best on the held-out records; the simplest where there is only one."""
    from . import _decoders

    lessons = [_Chosen(_decoders.Lesson(r.owned, records, held), r.victims) for r in readings]
    if len(lessons) == 1:
        return lessons[0]
    return min(lessons, key=lambda chosen: _decoders.kernel_ridge(chosen.lesson).error)


def _part(progress: Progress, done: int, networks: int, share: float) -> None:
    """Tell the share of all networks from the share of this one."""
    progress(0.1 + 0.9 * (done + share) / networks)


def _owned(target: Target) -> Records:
    owned = target.auxiliary
    if owned is None or len(owned) < _FEWEST:
        found = 0 if owned is None else len(owned)
        raise AttackError(f"expected at least {_FEWEST} auxiliary records to train a decoder on, found {found}")
    return owned


def _finite(answers: NDArray[float64]) -> NDArray[float64]:
    """The answers `(r, n, classes)`, all of them numbers."""
    import numpy as np

    wrong = int((~np.isfinite(answers).all(axis=(0, 2))).sum())
    if wrong:
        raise AttackError(f"the model's answer is not finite on {wrong} of {answers.shape[1]} auxiliary records")
    return answers
