"""MI-Face as published: plain descent on what the model lacks to be sure of a class.

It is kept beside `inversion.gradient` because it is what the literature starts from. By itself it understates the risk:
a few faint strokes on an empty image convince a shallow model, and a plain distance finds nobody in them (a judge who
stretches their contrast does); on deeper models it hardly leaves the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from ...engine.attack import ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access, Exposure
from ._white_box import Place, gradient_at, to_records

if TYPE_CHECKING:
    import torch
    from numpy import bool_, float32, float64, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Target


@dataclass(frozen=True, slots=True)
class MIFace:
    """Descends from an empty record until the model is sure of the class (MI-Face).

    Attributes:
        alpha: Most descent steps.
        beta: How many past costs the stop rule looks back on.
        gamma: Cost, 1 - p(class), at which a reconstruction is good enough. The paper prints .99, which reads as a
            confidence: as a cost it would stop at p = .01.
        learning_rate: Length of a step over its gradient; lambda in the paper.
    """

    alpha: int = 5000
    beta: int = 100
    gamma: float = 0.01
    learning_rate: float = 0.1

    source: ClassVar[str] = "Fredrikson, Jha and Ristenpart, CCS 2015, algorithm 1 (MI-Face)"
    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.WEIGHTS,
        exposures=frozenset(Exposure),
        knowledge=("the class label",),
        goal=Goal.CLASS,
    )

    def __post_init__(self) -> None:
        if self.alpha < 1 or self.beta < 1:
            raise ValueError(f"expected alpha={self.alpha} >= 1 and beta={self.beta} >= 1")
        if not 0 <= self.gamma < 1:
            raise ValueError(f"expected 0 <= gamma={self.gamma} < 1")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"expected learning_rate={self.learning_rate} > 0")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One forward pass per class and step and one to start with, at most."""
        return targets * (self.alpha + 1)

    def reconstruct_classes(
        self, target: Target, classes: NDArray[int64], seed: int, progress: Progress
    ) -> NDArray[float32]:
        """Reconstruct these classes, all at once; nothing is random.

        Args:
            target: The adversary must hold its weights.
            classes: `(k,)`.
            seed: Not used.
            progress: Told the share of the steps that are done.

        Returns:
            `(k, *shape)`: of each class the iterate of least cost, within the bounds.

        Raises:
            AccessError: The adversary does not hold the weights.
        """
        module = target.module()
        parts, batches = [], list(Place.of(module).batches(classes))
        for done, labels in enumerate(batches):
            parts.append(self._descend(module, target, labels, partial(_report, progress, done, len(batches))))
        return to_records(parts, target.shape)

    def _descend(
        self, module: torch.nn.Module, target: Target, labels: torch.Tensor, progress: Progress
    ) -> torch.Tensor:
        """Algorithm 1 for one batch; a row that has stopped is not touched again. Returns: `(k, *shape)`."""
        import numpy as np
        import torch

        place = Place.of(module)
        x = torch.zeros((len(labels), *target.shape), device=place.device, dtype=place.dtype).clamp(*target.bounds)
        best, least = x.clone(), np.full(len(x), np.inf)
        costs = np.full((self.alpha + 1, len(x)), np.nan)
        going = np.arange(len(x))
        for step in range(self.alpha + 1):
            slope = gradient_at(x[going], partial(_cost, module, labels[going]))
            costs[step, going] = slope.value.cpu().numpy()
            better = costs[step] < least
            best[better], least[better] = x[better], costs[step, better]
            x[going] = (x[going] - self.learning_rate * slope.gradient).clamp(*target.bounds)
            going = going[~stopped(costs[: step + 1, going], self.beta, self.gamma)]
            progress((step + 1) / (self.alpha + 1))
            if not len(going):
                break
        return best


def stopped(costs: NDArray[float64], beta: int, gamma: float) -> NDArray[bool_]:
    """Which rows have stopped: the last cost is good enough, or no lower than the highest of the `beta` before it.

    The second clause needs `beta` costs to look back on.

    Args:
        costs: `(steps, n)`, all costs so far, at least one step.
        beta: How many costs to look back on.
        gamma: Cost that is good enough.

    Returns:
        `(n,)`.
    """
    import numpy as np

    last, before = costs[-1], costs[-1 - beta : -1]
    good = last <= gamma
    return np.asarray(good | (last >= before.max(axis=0)) if len(before) == beta else good)


def _cost(module: torch.nn.Module, labels: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What the model lacks to be sure of each row's label, 1 - p(label). Returns: `(k,)`."""
    probability: torch.Tensor = module(x).softmax(dim=1).gather(1, labels[:, None])[:, 0]
    return 1 - probability


def _report(progress: Progress, done: int, batches: int, share: float) -> None:
    """Tell the share of all batches from the share of this one."""
    progress((done + share) / batches)
