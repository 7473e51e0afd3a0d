"""Networks of one architecture trained together. Imports torch: to be imported inside functions only.

Shapes: k models of m records each, b records a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from ..descent import check_fit, optimizer_over, seeded
from ..variation import vary
from ._one import built, check_finite, weights_of

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..target import Records
    from ._protocol import Part, Weights

#: Parameters or gradients by name, each `(k, ...)`.
_Stacked = dict[str, torch.Tensor]


def train_together(
    recipe: Recipe, pool: Records, parts: Sequence[Part], progress: Callable[[float], None]
) -> list[Weights]:
    """One model for each part, all of equally many records; each draws what `fit` draws, on the processor."""
    for part in parts:
        check_fit(recipe, pool.take(part.records))
    run = _Run(recipe, pool, parts)
    for epoch in range(1, recipe.epochs + 1):
        run.epoch(epoch)
        progress(epoch / recipe.epochs)
    return run.weights()


class _Run:
    """A training of several models under way."""

    def __init__(self, recipe: Recipe, pool: Records, parts: Sequence[Part]) -> None:
        self._recipe = recipe
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        how = recipe.augmentation
        self._varied = bool(how.shift or how.flip or how.noise)
        # Chance is drawn on the processor: only records that are not varied may wait on the device.
        self._home = torch.device("cpu") if self._varied else self._device
        self._x = torch.tensor(pool.x, dtype=torch.float32, device=self._home)
        self._y = torch.tensor(pool.y, dtype=torch.int64, device=self._home)
        self._members = torch.from_numpy(np.stack([part.records for part in parts]))
        self._generators = [torch.Generator() for _ in parts]
        modules = [_initial(recipe, *pair) for pair in zip(parts, self._generators, strict=True)]
        state, _ = stack_module_state(modules)
        self._state = {name: torch.nn.Parameter(value.detach().to(self._device)) for name, value in state.items()}
        self._slopes = vmap(grad_and_value(_loss_of(modules[0])))
        self._optimizer = optimizer_over(list(self._state.values()), recipe.optimizer, fused=True)

    def epoch(self, number: int) -> None:
        """Train all models for one epoch.

        Raises:
            MidguardError: A loss or a weight is not finite.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.optimizer.lr * self._recipe.schedule.share(number, self._recipe.epochs)
        total = torch.zeros((), device=self._device)
        for index in self._batches():
            gradients, losses = self._slopes(self._values(), self._records(index), self._y[index].to(self._device))
            for name, parameter in self._state.items():
                parameter.grad = gradients[name].contiguous()
            self._optimizer.step()
            total += losses.sum()
        check_finite(total, iter(self._state.values()), number, self._recipe)

    def _values(self) -> _Stacked:
        return {name: parameter.detach() for name, parameter in self._state.items()}

    def _batches(self) -> Iterator[torch.Tensor]:
        """`(k, b)`, positions in the pool: each model's records in its own fresh order."""
        m = self._members.shape[1]
        orders = torch.stack([torch.randperm(m, generator=generator) for generator in self._generators])
        yield from torch.split(self._members.gather(1, orders).to(self._home), self._recipe.batch_size, dim=1)

    def _records(self, index: torch.Tensor) -> torch.Tensor:
        """`(k, b, *shape)`: the batch's records, varied as the recipe says."""
        x, how = self._x[index], self._recipe.augmentation
        if not self._varied:
            return x
        bounds = self._recipe.task.bounds
        varied = [vary(own, how, bounds, chance) for own, chance in zip(x, self._generators, strict=True)]
        return torch.stack(varied).to(self._device)

    def weights(self) -> list[Weights]:
        """One mapping a model, each array its own."""
        return [
            weights_of({name: value[i].clone() for name, value in self._state.items()})
            for i in range(len(self._generators))
        ]


def _initial(recipe: Recipe, part: Part, generator: torch.Generator) -> torch.nn.Module:
    """The module that `fit` starts from; the generator then goes on from where initialisation left torch's."""
    with seeded(part.seed):
        module = built(recipe)
        generator.set_state(torch.default_generator.get_state())
    return module


def _loss_of(module: torch.nn.Module) -> Callable[[_Stacked, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Mean cross-entropy of one model as a function of its parameters."""

    def loss(values: _Stacked, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(functional_call(module, values, (x,)), y)

    return loss
