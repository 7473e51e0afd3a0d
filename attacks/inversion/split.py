"""Split inference: from the activation that a client sends back to the record that he had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from ...engine.attack import ThreatModel
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
#: Held-out records of his own on which he compares the decoder with the searches from it.
_COMPARED = 64
#: Records that the linear decoder is fitted on at most, and the ridges among which leaving one out chooses.
_LINEAR_RECORDS = 2000
_RIDGES = (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4)


@dataclass(frozen=True, slots=True)
class Split:
    """Reconstructs a record from a layer's activation: by a decoder, and by a search with the weights.

    The decoder learns from activations of the adversary's own records that passed the same release, noised as often and
    averaged as often as those that he reads: a network, a kernel ridge, a linear one. Who holds the weights besides
    looks for the record whose activation is nearest, beginning at the decoder's guess, with and without a weight on
    smoothness (regularised maximum likelihood). Which guess he believes his own held-out records decide.

    Attributes:
        decoder: Network between activation and record: `mlp`, `conv` for images, or the better of `both`.
        hidden: Widths of the hidden layers of the `mlp`.
        epochs: Most passes over the auxiliary records; it stops earlier where it no longer gets better.
        batch: Records in a step.
        lr: Learning rate of Adam.
        validation: Share of the auxiliary records held out to stop the network and to choose.
        repeats: How often a record passes by, where the noise is drawn anew each time.
        steps: Steps of the search; 0 for none.
        search_lr: Its learning rate, as a share of the range of values.
        total_variation: Weight of the differences between neighbours in the search.
        victims: Records that are reconstructed at most.
    """

    decoder: Literal["mlp", "conv", "both"] = "mlp"
    hidden: tuple[int, ...] = (512, 512)
    epochs: int = 40
    batch: int = 64
    lr: float = 1e-3
    validation: float = 0.1
    repeats: int = 64
    steps: int = 200
    search_lr: float = 0.02
    total_variation: float = 1e-3
    victims: int = 250

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=frozenset({Exposure.ACTIVATIONS}),
        knowledge=("the activation that the record was sent as",),
        goal=Goal.RECORD,
        auxiliary=True,
        watches=frozenset({Exposure.ACTIVATIONS}),
    )
    source: ClassVar[str] = (
        "decoder: Titcombe et al. 2021, arXiv 2104.05743; regularised maximum likelihood: He, Zhang and Lee, ACSAC 2019"
    )
    thorough: ClassVar[Mapping[str, object]] = {"decoder": "both", "epochs": 100, "steps": 1000, "victims": 1000}

    def __post_init__(self) -> None:
        if self.decoder not in {"mlp", "conv", "both"}:
            raise ValueError(f"expected decoder mlp, conv or both, found {self.decoder!r}")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"expected hidden={self.hidden} all >= 1")
        for name in ("epochs", "batch", "repeats", "victims"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 1")
        if self.steps < 0:
            raise ValueError(f"expected steps={self.steps} >= 0")
        for name in ("lr", "search_lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"expected {name}={getattr(self, name)} > 0")
        if not 0 <= self.total_variation < float("inf"):
            raise ValueError(f"expected total_variation={self.total_variation} >= 0")
        if not 0 < self.validation <= 0.5:
            raise ValueError(f"expected 0 < validation={self.validation} <= 0.5")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each auxiliary record and repeat; with the weights, at most one more for each record and step."""
        compared = len(self._weights()) * min(_COMPARED, auxiliary)
        return auxiliary * self.repeats + (targets + compared) * self.steps

    def reconstruct_records(
        self, target: Target, outputs: NDArray[float64], seed: int, progress: Progress
    ) -> NDArray[float32]:
        """Reconstruct the records behind these activations.

        Args:
            target: Its auxiliary records are what the decoder learns from.
            outputs: `(r, n, d)`, what passed by of each record.
            seed: Of the split and of the network.
            progress: Told the share of the work that is done.

        Returns:
            `(n, *shape)`, within the target's bounds; NaN for an activation that is not finite.

        Raises:
            AttackError: The auxiliary records are missing or too few, or the layer is not finite on them.
        """
        import numpy as np

        owned = _owned(target)
        repeats = min(self.repeats, len(outputs)) if target.release.noisy else 1
        seen, lesson = _Sight.of(target, owned, repeats, self.validation, seed)
        known = np.isfinite(outputs).all(axis=(0, 2))
        activations = outputs[:repeats, known].mean(axis=0)
        found = np.full((outputs.shape[1], lesson.records.shape[1]), np.nan)
        if known.any():
            best = self._best(lesson, target.shape, seed, lambda share: progress(0.7 * share))
            found[known] = self._searched(target, seen, lesson, best, activations, progress)
        progress(1.0)
        low, high = target.bounds
        return (low + (high - low) * found).astype(np.float32).reshape(-1, *target.shape)

    def _best(self, lesson: Lesson, shape: tuple[int, ...], seed: int, progress: Progress) -> Decoder:
        """The decoder that is best on the held-out auxiliary records."""
        from . import _decoders

        training = _decoders.Training(self.epochs, self.batch, self.lr, 0.0)
        decoders = [_decoders.class_means(lesson), _linear(lesson), _decoders.kernel_ridge(lesson)]
        decoders += [
            _decoders.network(lesson, net, training, seed, progress) for net in self._networks(lesson, shape, seed)
        ]
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

    def _searched(
        self,
        target: Target,
        seen: _Sight,
        lesson: Lesson,
        best: Decoder,
        activations: NDArray[float64],
        progress: Progress,
    ) -> NDArray[float64]:
        """The decoder's guesses, searched on from where that brings his own held-out records nearer."""
        guess = best.decode(seen.read(activations))
        if target.access is not Access.WEIGHTS or not self.steps:
            return guess
        count, weights = min(_COMPARED, lesson.held), self._weights()
        own, truth = seen.held[:count], lesson.records[:count]
        begun = best.decode(seen.read(own))
        errors = []
        for done, weight in enumerate(weights):
            told = partial(_part, progress, 0.7 + 0.1 * done / len(weights), 0.1 / len(weights))
            reached = self._search(target, seen, own, begun, weight, told)
            errors.append(float(((reached - truth) ** 2).mean()))
        if min(errors) >= ((begun - truth) ** 2).mean():
            return guess
        smooth = weights[errors.index(min(errors))]
        return self._search(target, seen, activations, guess, smooth, partial(_part, progress, 0.8, 0.2))

    def _weights(self) -> tuple[float, ...]:
        """What smoothness may weigh in the search; where there is no noise, nothing is best."""
        return (0.0, self.total_variation) if self.total_variation else (0.0,)

    def _search(
        self,
        target: Target,
        seen: _Sight,
        activations: NDArray[float64],
        start: NDArray[float64],
        smooth: float,
        progress: Progress,
    ) -> NDArray[float64]:
        """Descend to records whose activations are nearest (rMLE). Args: start `(n, values)`. Returns: likewise."""
        import numpy as np

        from ._white_box import ROWS

        parts = [slice(i, i + ROWS) for i in range(0, len(start), ROWS)]
        found = []
        for done, part in enumerate(parts):
            found.append(self._descend(target, seen, activations[part], start[part], smooth))
            progress((done + 1) / len(parts))
        return np.concatenate(found)

    def _descend(
        self, target: Target, seen: _Sight, activations: NDArray[float64], start: NDArray[float64], smooth: float
    ) -> NDArray[float64]:
        import numpy as np
        import torch

        from ._white_box import Place, total_variation

        module, low, high = target.module(), *target.bounds
        place = Place.of(module)
        wanted, scale = (torch.as_tensor(a, dtype=place.dtype, device=place.device) for a in (activations, seen.scale))
        x = torch.as_tensor(start, dtype=place.dtype, device=place.device).reshape(-1, *target.shape).requires_grad_()
        adam = torch.optim.Adam([x], lr=self.search_lr)
        with torch.enable_grad():
            for _ in range(self.steps):
                given = layer_output(module, target.release.layer, low + (high - low) * x)
                missed = ((given - wanted) / scale).square().mean(dim=1)
                loss = (missed + smooth * total_variation(x)).sum()
                (x.grad,) = torch.autograd.grad(loss, x)
                adam.step()
                x.data.clamp_(0.0, 1.0)
        return np.asarray(x.detach().flatten(1).double().cpu().numpy())


@dataclass(frozen=True, slots=True)
class _Sight:
    """How activations are read: each coordinate on the scale that it has on the adversary's own records.

    Attributes:
        mean: `(d,)`.
        scale: `(d,)`, infinite where a coordinate does not vary.
        held: `(h, d)`, the activations of his held-out records.
    """

    mean: NDArray[float64]
    scale: NDArray[float64]
    held: NDArray[float64]

    @classmethod
    def of(cls, target: Target, owned: Records, repeats: int, validation: float, seed: int) -> tuple[_Sight, Lesson]:
        """Let his own records pass, so often, in a random order. Returns: how to read, and what to learn from."""
        import numpy as np

        from ._decoders import Lesson

        low, high = target.bounds
        order = np.random.default_rng(seed).permutation(len(owned))
        total = target.observe(owned.x[order])
        for _ in range(repeats - 1):
            total = total + target.observe(owned.x[order])
        activations = total / repeats
        if not np.isfinite(activations).all():
            raise AttackError("the layer's activations are not finite on auxiliary records: check the model's weights")
        mean, deviation = activations.mean(axis=0), activations.std(axis=0)
        scale = np.where(deviation > 1e-9 * (np.abs(mean) + 1e-9), deviation, np.inf)
        flat = (owned.x[order].reshape(len(owned), -1).astype(np.float64) - low) / (high - low)
        held = max(1, round(validation * len(owned)))
        seen = cls(mean, scale, activations[:held])
        return seen, Lesson(seen.read(activations), flat, held)

    def read(self, activations: NDArray[float64]) -> Answers:
        """The activations as decoders read them; they name no class."""
        import numpy as np

        from ._decoders import Answers

        return Answers((activations - self.mean) / self.scale, np.zeros(len(activations), dtype=np.int64))


def layer_output(module: torch.nn.Module, layer: str, x: torch.Tensor) -> torch.Tensor:
    """What a layer makes of records that the adversary has, differentiable. Returns: `(n, d)`."""
    seen: list[torch.Tensor] = []
    hook = module.get_submodule(layer).register_forward_hook(lambda _, __, output: seen.append(output.flatten(1)))
    try:
        module(x)
    finally:
        hook.remove()
    return seen[0]


def _linear(lesson: Lesson) -> Decoder:
    """Ridge regression on the activations: exact where the layer is linear and loses nothing."""
    import numpy as np
    from sklearn.linear_model import RidgeCV

    from ._decoders import Decoder

    features, records, held = lesson.answers.features, lesson.records, lesson.held
    learnt = slice(held, held + _LINEAR_RECORDS)
    ridge = RidgeCV(alphas=_RIDGES).fit(features[learnt], records[learnt])
    error = ((np.clip(ridge.predict(features[:held]), 0.0, 1.0) - records[:held]) ** 2).mean()
    return Decoder(lambda answers: np.clip(ridge.predict(answers.features), 0.0, 1.0), float(error))


def _part(progress: Progress, done: float, part: float, share: float) -> None:
    """Tell the share of the whole from the share of a part."""
    progress(done + part * share)


def _owned(target: Target) -> Records:
    owned = target.auxiliary
    if owned is None or len(owned) < _FEWEST:
        found = 0 if owned is None else len(owned)
        raise AttackError(f"expected at least {_FEWEST} auxiliary records to train a decoder on, found {found}")
    return owned
