"""One model after the other: what `fit` does and draws, in its order, without what is told of a subject's training.

Imports torch: to be imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from ..descent import check_fit, diverged, optimizer_over, seeded
from ..errors import InputError
from ..gradients._layout import channels_last
from ..variation import vary
from ._memory import keep_freed_memory

if TYPE_CHECKING:
    from ..gradients._chain import Chain
    from ..recipe import Recipe
    from ..target import Records
    from ._protocol import Part, Weights


@dataclass(frozen=True, slots=True)
class Work:
    """One model about to be trained.

    Attributes:
        recipe: How.
        module: Freshly initialised, in training mode.
        records: How many it is trained on.
        seed: Of everything that is left to chance.
    """

    recipe: Recipe
    module: torch.nn.Module
    records: int
    seed: int

    def optimizer(self) -> torch.optim.Optimizer:
        """The recipe's, over every parameter, in one pass over memory."""
        return optimizer_over(list(self.module.parameters()), self.recipe.optimizer, fused=True)


class Steps(Protocol):
    """What is done with each batch of one training."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Whose rate the schedule sets."""
        ...

    def batches(self, epoch: int) -> Iterator[torch.Tensor]:
        """Positions of the records of each step of an epoch, counted from 1."""
        ...

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One step on a batch. Returns: its loss; 0 where a mechanism sees to what is finite."""
        ...


class PlainSteps:
    """Steps without a mechanism: every record once an epoch, in a fresh order.

    Args:
        work: What is trained.
        module: How its answers are computed, from the same parameters.
    """

    def __init__(self, work: Work, module: torch.nn.Module) -> None:
        self._work, self._module = work, module
        self.optimizer = work.optimizer()

    def batches(self, epoch: int) -> Iterator[torch.Tensor]:
        """The records in random order, in batches; the last may be smaller."""
        yield from torch.split(torch.randperm(self._work.records), self._work.recipe.batch_size)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One step down the mean cross-entropy of the batch."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(self._module(channels_last(x)), y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()


class ChainSteps(PlainSteps):
    """The same steps of a plain row of layers, whose gradients are written out.

    Args:
        work: What is trained.
        chain: Of its module.
    """

    def __init__(self, work: Work, chain: Chain) -> None:
        super().__init__(work, work.module)
        self._chain, self._parameters = chain, list(work.module.parameters())

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One step down the mean cross-entropy of the batch."""
        loss, gradients = self._chain.gradients(x, y)
        for p, gradient in zip(self._parameters, gradients, strict=True):
            # A fused optimiser takes both as they lie in memory, whatever their strides say.
            p.grad = gradient if gradient.stride() == p.stride() else torch.empty_like(p).copy_(gradient)
        self.optimizer.step()
        return loss


def one_by_one(
    recipe: Recipe,
    pool: Records,
    parts: Sequence[Part],
    progress: Callable[[float], None],
    start: Callable[[Work], Steps],
) -> tuple[Weights, ...]:
    """Train one model for each part. Args: start begins a training, torch's generator being the part's."""
    keep_freed_memory()
    trained = []
    for done, part in enumerate(parts):
        trained.append(_train(recipe, pool.take(part.records), part.seed, start, _share(progress, done, len(parts))))
    return tuple(trained)


def _share(progress: Callable[[float], None], done: int, models: int) -> Callable[[float], None]:
    """From how far one model is to how far all are."""
    return lambda own: progress((done + own) / models)


def _train(
    recipe: Recipe, records: Records, seed: int, start: Callable[[Work], Steps], progress: Callable[[float], None]
) -> Weights:
    """One model's weights."""
    check_fit(recipe, records)
    x, y = torch.tensor(records.x, dtype=torch.float32), torch.tensor(records.y, dtype=torch.int64)
    with seeded(seed):
        work = Work(recipe, built(recipe), len(records), seed)
        steps = start(work)
        for epoch in range(1, recipe.epochs + 1):
            for group in steps.optimizer.param_groups:
                group["lr"] = recipe.optimizer.lr * recipe.schedule.share(epoch, recipe.epochs)
            loss = torch.zeros(())
            for index in steps.batches(epoch):
                varied = vary(x[index], recipe.augmentation, recipe.task.bounds)
                loss += steps.step(varied, y[index])
            check_finite(loss, work.module.parameters(), epoch, recipe)
            progress(epoch / recipe.epochs)
    return weights_of(work.module.state_dict())


def built(recipe: Recipe) -> torch.nn.Module:
    """The module in training mode, initialised from torch's generator."""
    try:
        return recipe.architecture.build(recipe.task.shape, recipe.task.classes).train()
    except ValueError as error:
        raise InputError.of(str(error), "choose another architecture") from error


def check_finite(loss: torch.Tensor, values: Iterator[torch.Tensor], epoch: int, recipe: Recipe) -> None:
    """Refuse a training that diverged."""
    if not bool(loss.isfinite().all()):
        raise diverged("loss", epoch, recipe)
    if not all(bool(value.isfinite().all()) for value in values):
        raise diverged("weights", epoch, recipe)


def weights_of(state: dict[str, torch.Tensor]) -> Weights:
    """A state_dict as arrays, whatever its layout in memory was."""
    return {name: np.ascontiguousarray(value.detach().cpu().numpy(), np.float32) for name, value in state.items()}
