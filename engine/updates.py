"""Many small updates of one model at once: what its answers change by when it learns from a few records more.

Every update starts at the same weights and learns from its own records alone. The copies are stacked, so that a step of
all of them is one step; an optimiser that works value by value does the same to each as if it were alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import AttackError, NotMeasurable

if TYPE_CHECKING:
    import torch
    from numpy import float32, float64, int64
    from numpy.typing import NDArray

    from .attack import Progress
    from .recipe import Recipe

#: Values of stacked parameters that are held at once, in bytes: 8 copies of each (slopes, momentum, activations).
_MEMORY = 1 << 29
_COPIES = 8


@dataclass(frozen=True, slots=True)
class UpdateSets:
    """The records of many updates.

    Attributes:
        x: `(u, m, *shape)`.
        y: `(u, m)`.
    """

    x: NDArray[float32]
    y: NDArray[int64]

    def __post_init__(self) -> None:
        if self.x.shape[:2] != self.y.shape:
            raise ValueError(f"expected {self.x.shape[:2]} labels, found {self.y.shape}")

    def __len__(self) -> int:
        return len(self.y)

    def part(self, start: int, stop: int) -> UpdateSets:
        """Some of the updates."""
        return UpdateSets(self.x[start:stop], self.y[start:stop])


def answers_after(
    module: torch.nn.Module,
    sets: UpdateSets,
    recipe: Recipe,
    probes: NDArray[float32],
    seed: int,
    progress: Progress = lambda share: None,
) -> NDArray[float64]:
    """What a fresh copy of the model answers on the probes after each update.

    Args:
        module: The model before; its weights stay as they are.
        sets: What each update learns from.
        recipe: How it learns: optimiser, epochs, records a step.
        probes: `(p, *shape)`.
        seed: Of the order within the updates.
        progress: Told the share of the updates that are done.

    Returns:
        `(u, p, classes)` logits.

    Raises:
        AttackError: A loss is not finite.
        NotMeasurable: The recipe has a defense, augmentation, a schedule, frozen layers or dropout.
    """
    import numpy as np

    _refuse_unlike(recipe)
    size = sum(p.numel() for p in module.parameters())
    chunk = max(1, min(len(sets), _MEMORY // max(1, 4 * _COPIES * size)))
    parts = []
    for start in range(0, len(sets), chunk):
        parts.append(_answers(module, sets.part(start, start + chunk), recipe, probes, seed))
        progress(min(1.0, (start + chunk) / len(sets)))
    return np.concatenate(parts)


def updated(
    module: torch.nn.Module, x: NDArray[float32], y: NDArray[int64], recipe: Recipe, seed: int
) -> torch.nn.Module:
    """The model after one update, a copy. Args: x `(m, *shape)`, y `(m,)`."""
    import copy

    import torch

    _refuse_unlike(recipe)
    device = next(module.parameters()).device
    stacked = {name: p.detach().clone().unsqueeze(0).requires_grad_() for name, p in module.named_parameters()}
    records, labels = (torch.as_tensor(part, device=device).unsqueeze(0) for part in (x, y))
    with torch.enable_grad():
        _learn(module, stacked, records, labels, recipe, seed)
    after = copy.deepcopy(module)
    with torch.no_grad():
        for name, parameter in after.named_parameters():
            parameter.copy_(stacked[name][0])
    return after.eval().requires_grad_(False)


def _refuse_unlike(recipe: Recipe) -> None:
    """Refuse a recipe that these updates would not follow: what is imitated badly is attacked badly, and would pass."""
    from .recipe import Augmentation, Schedule

    unlike = {
        "a defense": recipe.defense is not None,
        "augmentation": recipe.augmentation != Augmentation(),
        "a schedule": recipe.schedule != Schedule("constant"),
        "frozen layers": bool(recipe.freeze),
        "dropout": bool(getattr(recipe.architecture, "dropout", 0.0)),
    }
    named = [words for words, found in unlike.items() if found]
    if named:
        raise NotMeasurable(f"the update was trained with {' and '.join(named)}, and such updates are not imitated")


def _answers(
    module: torch.nn.Module, sets: UpdateSets, recipe: Recipe, probes: NDArray[float32], seed: int
) -> NDArray[float64]:
    import torch

    device = next(module.parameters()).device
    stacked = {
        name: p.detach().unsqueeze(0).repeat(len(sets), *(1 for _ in p.shape)).requires_grad_()
        for name, p in module.named_parameters()
    }
    x, y = (torch.as_tensor(part, device=device) for part in (sets.x, sets.y))
    with torch.enable_grad():
        _learn(module, stacked, x, y, recipe, seed)
    with torch.no_grad():
        asked = torch.as_tensor(probes, device=device)
        found = torch.func.vmap(_forward(module), in_dims=(0, None))(_plain(stacked), asked)
    answers: NDArray[float64] = found.double().cpu().numpy()
    return answers


def _learn(
    module: torch.nn.Module,
    stacked: dict[str, torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
    recipe: Recipe,
    seed: int,
) -> None:
    """Every copy through its own records, step by step."""
    import torch
    from torch.nn.functional import cross_entropy

    from .descent import optimizer_over

    forward = _forward(module)

    def loss(parameters: dict[str, torch.Tensor], records: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(forward(parameters, records), labels)

    slope = torch.func.vmap(torch.func.grad_and_value(loss))
    optimiser = optimizer_over(list(stacked.values()), recipe.optimizer)  # type: ignore[arg-type]
    for index in _batches(x.shape[1], recipe, seed, x.device):
        slopes, values = slope(_plain(stacked), x[:, index], y[:, index])
        if not bool(torch.isfinite(values).all()):
            raise AttackError("an update's loss is not finite: is its learning rate that of the recipe?")
        for name, parameter in stacked.items():
            parameter.grad = slopes[name]
        optimiser.step()


def _batches(records: int, recipe: Recipe, seed: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Positions of the records of each step, in a new order every epoch, the same for all updates."""
    import torch

    order = torch.Generator().manual_seed(seed)
    for _ in range(recipe.epochs):
        yield from torch.split(torch.randperm(records, generator=order).to(device), recipe.batch_size)


def _plain(stacked: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in stacked.items()}


def _forward(module: torch.nn.Module) -> Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]:
    """The model with other parameters; its buffers are its own."""
    import torch

    buffers = dict(module.named_buffers())

    def forward(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = torch.func.functional_call(module, (parameters, buffers), (x,))
        return answer

    return forward
