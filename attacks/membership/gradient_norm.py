"""The gradient norm attack: what the model was trained on pulls at its parameters no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from ...engine.attack import ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access, Exposure

if TYPE_CHECKING:
    import torch
    from numpy import float64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Records, Target

#: Which norm of the gradient.
_Norm = Literal["l1", "l2", "max"]
_ORDERS = {"l1": 1.0, "l2": 2.0, "max": float("inf")}
#: Numbers that a batch of per-record gradients, and of activations, holds at most: 128 MiB in float32.
_NUMBERS = 2**25
#: Records of a batch at most.
_ROWS = 256
#: Records whose answers are asked for at once.
_ASKED = 1024


@dataclass(frozen=True, slots=True)
class GradientNorm:
    """Scores a record by how small the gradient of its loss is with respect to all parameters.

    The gradient is J'(p - e_y), J being the derivative of the logits. The size of p - e_y is taken out and computed in
    float64 from the logits, so that neither a loss that rounds to 0 nor the scale of the logits hides the order.

    Attributes:
        norm: `l2`, the root of the sum of squares; `l1`, the sum of absolute values; or `max`, the largest of them.
    """

    norm: _Norm = "l2"

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.WEIGHTS,
        exposures=frozenset(Exposure),
        knowledge=("the record", "its recorded label"),
        goal=Goal.MEMBERSHIP,
    )
    source: ClassVar[str] = "Nasr et al. 2019, arXiv 1812.00910, section V"

    def __post_init__(self) -> None:
        if self.norm not in get_args(_Norm):
            raise ValueError(f"expected norm={self.norm!r} to be one of {', '.join(get_args(_Norm))}")

    def queries(self, targets: int, auxiliary: int) -> int:
        """Two for each candidate: its answer, and the pass that its gradient goes back through."""
        return 2 * targets

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The negative logarithm of each gradient's norm.

        Returns:
            `(n,)`; NaN where answer or gradient is not finite.

        Raises:
            AccessError: The adversary does not hold the weights.
        """
        import numpy as np
        import torch

        module = target.module()
        like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
        x = torch.tensor(candidates.x, dtype=like.dtype)
        pull = _pull(target, module, torch.split(x, _ASKED), candidates, like)
        progress(0.2)
        slopes = _Slopes.of(module, _ORDERS[self.norm])
        norms = [
            slopes.norms(part.to(like.device), sides.to(like.device))
            for part, sides in _batches(x, torch.tensor(pull.direction, dtype=like.dtype), slopes.numbers, progress)
        ]
        found = torch.cat(norms).numpy() if norms else np.empty(0)
        with np.errstate(invalid="ignore"):
            score = -(pull.log_size + np.log(np.maximum(found, np.finfo(np.float64).tiny)))
        progress(1.0)
        return np.where(np.isfinite(score), score, np.nan)


@dataclass(frozen=True, slots=True)
class _Pull:
    """The derivative of each loss by its logits, as a size and a direction.

    Attributes:
        log_size: `(n,)` logarithm of the largest absolute entry.
        direction: `(n, classes)` the entries divided by it.
    """

    log_size: NDArray[float64]
    direction: NDArray[float64]


def _pull(
    target: Target, module: torch.nn.Module, parts: tuple[torch.Tensor, ...], records: Records, like: torch.Tensor
) -> _Pull:
    """The pull p - e_y of every record, however close to 0 (`like` says where the module lives)."""
    import numpy as np
    import torch

    from .._shares import read, undoing

    with torch.no_grad():
        logits = [module(part.to(like.device)).double().cpu() for part in parts]
    answers = torch.cat(logits).numpy()
    shares = read(target, answers, undoing(target, answers))
    own = np.arange(answers.shape[1]) == records.y[:, None]
    logs = np.where(own, shares.log_rest, shares.log_p)
    size = logs.max(axis=1)
    return _Pull(size, np.where(own, -1.0, 1.0) * np.exp(logs - size[:, None]))


def _batches(
    x: torch.Tensor, direction: torch.Tensor, numbers: int, progress: Progress
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Records with their directions, as many at a time as memory has room for the gradients of."""
    rows = max(1, min(_ROWS, _NUMBERS // max(numbers, 1)))
    for start in range(0, len(x), rows):
        yield x[start : start + rows], direction[start : start + rows]
        progress(0.2 + 0.8 * min(1.0, (start + rows) / len(x)))


@dataclass(frozen=True, slots=True)
class _Slopes:
    """Gradients of single records by all parameters.

    Attributes:
        module: The model.
        order: Which norm.
        learnt: Its floating-point parameters.
        rest: What else it holds.
    """

    module: torch.nn.Module
    order: float
    learnt: dict[str, torch.Tensor]
    rest: dict[str, torch.Tensor]

    @classmethod
    def of(cls, module: torch.nn.Module, order: float) -> _Slopes:
        """Sort what the model holds into what is differentiated by and what is not."""
        named = {name: parameter.detach() for name, parameter in module.named_parameters()}
        learnt = {name: value for name, value in named.items() if value.is_floating_point()}
        rest = {name: value for name, value in named.items() if name not in learnt}
        return cls(module, order, learnt, {**rest, **dict(module.named_buffers())})

    @property
    def numbers(self) -> int:
        """How many numbers the gradient of one record has."""
        return sum(value.numel() for value in self.learnt.values())

    def norms(self, x: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """The norm of J' times each direction. Args: x `(b, *shape)`, direction `(b, classes)`. Returns: `(b,)`."""
        import torch

        if not self.learnt:
            return torch.zeros(len(x), dtype=torch.float64)
        try:
            found = torch.func.vmap(self._batched, in_dims=(0, 0))(x, direction)
        except RuntimeError:  # not every operation can be batched; one that fails by itself fails again here
            found = torch.stack([self._single(*row) for row in zip(x, direction, strict=True)])
        return found.detach().cpu()

    def _batched(self, record: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """The norm of one record's gradient, in operations that `vmap` turns into those of a batch."""
        import torch

        gradients = torch.func.grad(lambda learnt: self._along(learnt, record, direction))(self.learnt)
        return self._size(gradients.values())

    def _single(self, record: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """The norm of one record's gradient, by ordinary backpropagation."""
        import torch

        learnt = {name: value.detach().requires_grad_() for name, value in self.learnt.items()}
        with torch.enable_grad():
            along = self._along(learnt, record, direction)
        return self._size(torch.autograd.grad(along, [*learnt.values()], allow_unused=True, materialize_grads=True))

    def _along(self, learnt: dict[str, torch.Tensor], record: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        import torch

        logits: torch.Tensor = torch.func.functional_call(self.module, {**learnt, **self.rest}, (record[None],))
        return (logits[0] * direction).sum()

    def _size(self, gradients: Iterable[torch.Tensor]) -> torch.Tensor:
        import torch

        parts = [torch.linalg.vector_norm(g.flatten().double(), self.order) for g in gradients]
        whole: torch.Tensor = torch.linalg.vector_norm(torch.stack(parts), self.order)
        return whole
