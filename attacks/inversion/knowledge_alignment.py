"""Knowledge alignment: a decoder from the model's answer back to the record, trained on the adversary's own records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ...engine.attack import ANSWERS, ThreatModel
from ...engine.errors import AttackError
from ...engine.observation import Goal
from ...engine.target import Access, Exposure

if TYPE_CHECKING:
    import torch
    from numpy import float32, float64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Records, Target
    from ._decoders import Answers, Decoder, Lesson

#: Fewer records of his own teach an adversary nothing that could be compared.
_FEWEST = 10
#: A coordinate that varies less than this share of its mean varies by rounding.
_ROUNDING = 2.0**-46


@dataclass(frozen=True, slots=True)
class KnowledgeAlignment:
    """Reconstructs a record from the model's answer, by a decoder trained on the adversary's own records.

    The decoder learns from exactly what the release exposes (all probabilities, the largest few, rounded ones, the
    label alone), so the attack adapts to every such defense. An adversary would never do worse than his simplest
    decoder: beside the network stand a kernel ridge and the mean record of each predicted class, and the one that is
    best on held-out records of his own is used.

    The answer is read as log-probabilities, standardised for each class. Where the release hides classes they get the
    share that is left over, and a mark that they were hidden; the shift of the paper drops out.

    Attributes:
        decoder: Network between answer and record: `mlp` for any record, `conv` for images.
        hidden: Widths of the hidden layers of the `mlp`.
        epochs: Most passes over the auxiliary records; it stops earlier where it no longer gets better.
        batch: Records in a step.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        validation: Share of the auxiliary records held out to stop the network and to choose the decoder.
    """

    decoder: Literal["mlp", "conv"] = "mlp"
    hidden: tuple[int, ...] = (256, 512)
    epochs: int = 40
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-5
    validation: float = 0.1

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=ANSWERS,
        knowledge=("the model's answer on the record",),
        goal=Goal.RECORD,
        auxiliary=True,
    )
    source: ClassVar[str] = "Yang et al. 2019, arXiv 1902.08552"

    def __post_init__(self) -> None:
        if self.decoder not in {"mlp", "conv"}:
            raise ValueError(f"expected decoder mlp or conv, found {self.decoder!r}")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"expected hidden={self.hidden} all >= 1")
        if self.epochs < 1 or self.batch < 1:
            raise ValueError(f"expected epochs={self.epochs} >= 1 and batch={self.batch} >= 1")
        if not self.lr > 0 or not self.weight_decay >= 0:
            raise ValueError(f"expected lr={self.lr} > 0 and weight_decay={self.weight_decay} >= 0")
        if not 0 < self.validation <= 0.5:
            raise ValueError(f"expected 0 < validation={self.validation} <= 0.5")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each auxiliary record; the answers on the records themselves are given."""
        return auxiliary

    def reconstruct_records(
        self, target: Target, outputs: NDArray[float64], seed: int, progress: Progress
    ) -> NDArray[float32]:
        """Reconstruct the records behind these answers.

        Args:
            target: Its auxiliary records are what the decoder learns from.
            outputs: `(n, classes)`, of the kind that `target.query` returns.
            seed: Of the split and of the network.
            progress: Told the share of the work that is done.

        Returns:
            `(n, *shape)`, within the target's bounds; NaN for an answer that is not finite.

        Raises:
            AttackError: The auxiliary records are missing or too few, or the model has no finite answer on them.
        """
        import numpy as np

        owned = _owned(target)
        outputs = outputs.mean(axis=0) if outputs.ndim == 3 else outputs
        answers = _finite(target.query(owned.x))
        reader = _Reader.of(target, answers)
        lesson = self._lesson(target, owned, reader.read(target, answers), seed)
        best = self._best(lesson, target.shape, seed, progress)
        known = np.isfinite(outputs).all(axis=1)
        flat = np.full((len(outputs), lesson.records.shape[1]), np.nan)
        if known.any():
            flat[known] = best.decode(reader.read(target, outputs[known]))
        progress(1.0)
        low, high = target.bounds
        return (low + (high - low) * flat).astype(np.float32).reshape(-1, *target.shape)

    def _lesson(self, target: Target, owned: Records, answers: Answers, seed: int) -> Lesson:
        """The auxiliary records in a random order, flat and scaled to [0, 1]."""
        import numpy as np

        from ._decoders import Lesson

        low, high = target.bounds
        order = np.random.default_rng(seed).permutation(len(owned))
        flat = owned.x[order].reshape(len(owned), -1).astype(np.float64)
        return Lesson(answers.take(order), (flat - low) / (high - low), max(1, round(self.validation * len(owned))))

    def _best(self, lesson: Lesson, shape: tuple[int, ...], seed: int, progress: Progress) -> Decoder:
        """The decoder that is best on the held-out auxiliary records; the simpler one where two are equal."""
        from . import _decoders

        simple = (_decoders.class_means(lesson), _decoders.kernel_ridge(lesson))
        progress(0.1)
        training = _decoders.Training(self.epochs, self.batch, self.lr, self.weight_decay)
        net = self._network(lesson, shape, seed)
        deep = _decoders.network(lesson, net, training, seed, lambda share: progress(0.1 + 0.9 * share))
        return min((*simple, deep), key=lambda decoder: decoder.error)

    def _network(self, lesson: Lesson, shape: tuple[int, ...], seed: int) -> torch.nn.Module:
        from ._decoders import conv, mlp

        inputs = lesson.answers.features.shape[1]
        if self.decoder == "mlp":
            return mlp(inputs, self.hidden, lesson.records.shape[1], seed)
        if len(shape) != 3:
            raise AttackError(f"decoder: conv needs images (channels, height, width), found records of shape {shape}")
        return conv(inputs, shape, seed)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Puts every coordinate of the features on the scale that it has on the adversary's own records.

    Attributes:
        mean: `(d,)` of each coordinate.
        scale: `(d,)` standard deviation of each; infinite where it varies by rounding alone, so that it reads as 0.
        factor: What undoes a scale of the logits that makes all answers look alike.
    """

    mean: NDArray[float64]
    scale: NDArray[float64]
    factor: float

    @classmethod
    def of(cls, target: Target, answers: NDArray[float64]) -> _Reader:
        """The reader for which what it reads from these answers has mean 0 and variance 1."""
        import numpy as np

        from .._shares import undoing

        factor = undoing(target, answers)
        features = _features(target, answers, factor)
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        return cls(mean, np.where(deviation > _ROUNDING * np.abs(mean), deviation, np.inf), factor)

    def read(self, target: Target, answers: NDArray[float64]) -> Answers:
        """The answers as decoders read them."""
        from ._decoders import Answers

        features = (_features(target, answers, self.factor) - self.mean) / self.scale
        return Answers(features, answers.argmax(axis=1))


def _features(target: Target, answers: NDArray[float64], factor: float) -> NDArray[float64]:
    """Everything that an answer tells, one row each: `(n, d)`."""
    import numpy as np

    from .._shares import read

    if target.exposure is Exposure.LABEL:
        return answers
    besides = answers.mean(axis=1, keepdims=True) if target.exposure is Exposure.LOGITS else answers > 0
    return np.concatenate([read(target, answers, factor).log_p, besides], axis=1)


def _owned(target: Target) -> Records:
    owned = target.auxiliary
    if owned is None or len(owned) < _FEWEST:
        found = 0 if owned is None else len(owned)
        raise AttackError(f"expected at least {_FEWEST} auxiliary records to train a decoder on, found {found}")
    return owned


def _finite(answers: NDArray[float64]) -> NDArray[float64]:
    import numpy as np

    wrong = int((~np.isfinite(answers).all(axis=1)).sum())
    if wrong:
        raise AttackError(f"the model's answer is not finite on {wrong} of {len(answers)} auxiliary records")
    return answers
