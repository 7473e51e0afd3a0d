"""Many dense networks trained together. Imports torch: to be imported inside functions only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..architectures.mlp import Mlp
from ..descent import diverged, seeded
from ..variation import vary
from ._chance import Chance
from ._stacked_batches import Batch, Sampled, Shuffled
from ._stacked_descent import Descent, descent
from ._stacked_network import Layers, Network, Scratch, clip, softmax_errors

if TYPE_CHECKING:
    from ..ledger import SampledGaussian
    from ..recipe import Recipe
    from ..target import Records
    from ._protocol import Part, Weights

#: A reference gets the noise of the subject: a little more than is accounted (see engine/defenses/_noise.py).
_SPARE = 1e-4
#: Told the share that is done at the end of each epoch, and after so many steps.
_STEPS = 200


@dataclass(frozen=True, slots=True)
class Pool:
    """All records, as tensors. Attributes: x `(n, d)`; y `(n,)`."""

    x: torch.Tensor
    y: torch.Tensor

    @classmethod
    def of(cls, records: Records) -> Pool:
        """Shares the memory of the records where it can."""
        x = torch.from_numpy(np.ascontiguousarray(records.x, np.float32)).flatten(start_dim=1)
        return cls(x, torch.from_numpy(np.ascontiguousarray(records.y, np.int64)))


class StackedRun:
    """One training of several models with equally many steps.

    Args:
        recipe: How.
        pool: What the parts are of.
        parts: One a model.
        planned: One a model for DP-SGD; empty for plain training.
    """

    def __init__(self, recipe: Recipe, pool: Pool, parts: Sequence[Part], planned: Sequence[SampledGaussian]) -> None:
        self._recipe, self._pool, self._planned = recipe, pool, planned
        self._scratch = Scratch()
        self._generators = [torch.Generator() for _ in parts]
        states = [_initial(recipe, *pair) for pair in zip(parts, self._generators, strict=True)]
        self._layers = Layers.of(states)
        self._network = _network(recipe, self._layers, self._generators, self._scratch)
        self._descent: Descent = descent(self._layers, recipe.optimizer, self._scratch)
        self._chances = [Chance(part.seed) for part in parts] if planned else []
        members = [part.records for part in parts]
        self._batches: Shuffled | Sampled
        if planned:
            self._batches = Sampled(members, planned, recipe.epochs, self._chances)
        else:
            self._batches = Shuffled(members, recipe.batch_size, self._generators)

    def train(self, progress: Callable[[float], None]) -> tuple[Weights, ...]:
        """All epochs.

        Raises:
            MidguardError: The loss of a plain training, or a weight, is not finite.
        """
        for number in range(1, self._recipe.epochs + 1):
            rate = self._recipe.optimizer.lr * self._recipe.schedule.share(number, self._recipe.epochs)
            total = torch.zeros(())
            for step, batch in enumerate(self._batches.epoch(number), start=1):
                total += self._step(batch, rate)
                if step % _STEPS == 0:
                    progress((number - 1) / self._recipe.epochs)
            self._check_finite(number, total)
            progress(number / self._recipe.epochs)
        return tuple({name: value.numpy().copy() for name, value in state.items()} for state in self._layers.states())

    def _step(self, batch: Batch, rate: float) -> torch.Tensor:
        """One step of every model. Returns: the sum of all logits, which is finite where the losses are."""
        k, b = batch.index.shape
        rows = batch.index.reshape(-1)
        labels = self._pool.y.index_select(0, rows).view(k, b, 1)
        logits = self._network.forward(self._records(batch, rows), batch.sizes)
        errors = softmax_errors(logits, labels, self._scratch)
        if self._planned:
            self._private_step(batch, errors, rate)
        elif batch.full:
            self._descent.step(self._network.backward(errors), None, 1 / b, rate)
        else:
            errors.mul_((batch.real() / torch.tensor(batch.sizes)[:, None])[..., None])
            self._descent.step(self._network.backward(errors), None, 1.0, rate)
        return logits.sum()

    def _private_step(self, batch: Batch, errors: torch.Tensor, rate: float) -> None:
        """Clipped sums, noise on them, divided by the expected number of records: also where a sample is empty."""
        slopes = self._network.backward(errors)
        clip(slopes, self._planned[0].clipping_norm, batch.real())
        noise = self._scratch("noise", len(self._planned), self._layers.parameters)
        for row, planned, chance in zip(noise, self._planned, self._chances, strict=True):
            chance.fill(row, planned.noise_multiplier * planned.clipping_norm * (1 + _SPARE))
        # Every model expects as many, whatever the number of its records.
        self._descent.step(slopes, noise, 1 / self._recipe.batch_size, rate)

    def _records(self, batch: Batch, rows: torch.Tensor) -> torch.Tensor:
        """`(k, b, d)`: the batch's records, varied as the recipe says."""
        (k, b), d = batch.index.shape, self._pool.x.shape[1]
        x = self._scratch("x", k, b, d)
        torch.index_select(self._pool.x, 0, rows, out=x.view(k * b, d))
        how, task = self._recipe.augmentation, self._recipe.task
        if how.shift or how.flip or how.noise:
            for row, size, generator in zip(x, batch.sizes, self._generators, strict=True):
                images = row[:size].view(size, *task.shape)
                row[:size] = vary(images, how, task.bounds, generator).flatten(start_dim=1)
        return x

    def _check_finite(self, number: int, logits: torch.Tensor) -> None:
        # A defense counts a record without a finite gradient as zero, so there the loss may be what it wants.
        if not self._planned and not bool(logits.isfinite()):
            raise diverged("loss", number, self._recipe)
        if not bool(self._layers.flat.isfinite().all()):
            raise diverged("weights", number, self._recipe)


def _initial(recipe: Recipe, part: Part, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The weights that `fit` starts from; the generator then goes on from where initialisation left torch's."""
    with seeded(part.seed):
        module = recipe.architecture.build(recipe.task.shape, recipe.task.classes)
        generator.set_state(torch.default_generator.get_state())
    return {name: value.detach() for name, value in module.state_dict().items()}


def _network(recipe: Recipe, layers: Layers, generators: Sequence[torch.Generator], scratch: Scratch) -> Network:
    """The recipe's architecture over stacked layers."""
    if isinstance(recipe.architecture, Mlp):
        return Network(layers, recipe.architecture.activation, recipe.architecture.dropout, generators, scratch)
    return Network(layers, "relu", 0.0, generators, scratch)
