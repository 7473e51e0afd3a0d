"""DP-SGD with seeded chance, for references. Imports torch: to be imported inside functions only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from ..defenses import Setting
from ..defenses._noise import SPARE
from ..defenses._size import records_at_once
from ..defenses._sums import Gradient, add_in_pieces, sums_by
from ..defenses.dp_sgd import DpSgd, Way, steps_after
from ._chance import Chance

if TYPE_CHECKING:
    from ..gradients._clipped import Batch
    from ..ledger import SampledGaussian
    from ._one import Work


def chosen(work: Work) -> DpSgd:
    """The defense that the work is done under."""
    if isinstance(work.recipe.defense, DpSgd):
        return work.recipe.defense
    raise AssertionError("no other defense is trained here, obstacle says so")


def setting_of(work: Work, optimizer: torch.optim.Optimizer) -> Setting:
    """The run as a defense sees it; the record that it is probed with is nobody's."""
    recipe = work.recipe
    example = torch.zeros(1, *recipe.task.shape)
    return Setting(work.module, optimizer, example, work.records, recipe.batch_size, recipe.epochs)


class PrivateSteps:
    """Poisson samples, clipped sums and Gaussian noise, as the subject's mechanism has them, from the part's seed.

    Args:
        work: What is trained.
        optimizer: Over every parameter of its module.
        way: How clipped sums are had.

    Raises:
        InputError: Too few records for this δ or batch size, a target that cannot be reached, or layers that the way
            does not know.
    """

    def __init__(self, work: Work, optimizer: torch.optim.Optimizer, way: Way) -> None:
        defense, setting = chosen(work), setting_of(work, optimizer)
        self._work, self.optimizer, self._setting = work, optimizer, setting
        self._planned: SampledGaussian = defense.planned(setting)
        self._adaptive = defense.adaptive(self._planned, work.records)
        self._most = defense.physical_batch or records_at_once(work.module, setting.example, way)
        self._sums = sums_by(way, work.module)
        self._norm, self._chance = self._planned.clipping_norm, Chance(work.seed)
        self._parameters = [p for p in work.module.parameters() if p.requires_grad]
        self._clipped, self._noised = Gradient(self._parameters), Gradient(self._parameters)

    def batches(self, epoch: int) -> Iterator[torch.Tensor]:
        """Poisson samples; one may be empty."""
        for _ in range(self._steps_by(epoch - 1), self._steps_by(epoch)):
            sample = self._chance.poisson_sample(self._work.records, self._planned.sampling_probability)
            yield torch.from_numpy(sample)

    def _steps_by(self, epoch: int) -> int:
        """Steps until the end of an epoch."""
        epochs = self._work.recipe.epochs
        return min(self._planned.steps, math.ceil(steps_after(self._setting, epochs) * epoch / epochs))

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One noised step on a sample, scaled by the expected number of its records."""
        self._clipped.flat.zero_()
        batch = add_in_pieces(self._sums, x, y, self._norm, self._clipped.parts, self._most)
        noised = self._noised.flat
        self._chance.fill(noised, self._planned.noise_multiplier * self._norm * (1 + SPARE))
        noised.add_(self._clipped.flat).mul_(1 / (self._planned.sampling_probability * self._work.records))
        for p, part in zip(self._parameters, self._noised.parts, strict=True):
            p.grad = part
        self.optimizer.step()
        self._adapt(batch)
        return torch.zeros(())

    def _adapt(self, batch: Batch | None) -> None:
        """Move the clipping norm as the subject's moves."""
        if self._adaptive is not None:
            unclipped = 0 if batch is None else int((batch.norms <= self._norm).sum())
            records = 0 if batch is None else len(batch.norms)
            self._norm = self._adaptive.next_norm(self._norm, unclipped, records, self._chance.normal())
