"""DP-SGD with seeded chance, for references. Imports torch: to be imported inside functions only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from ..accountants import Run
from ..defenses import Setting
from ..defenses.dp_sgd import DpSgd, steps_after
from ._chance import Chance

if TYPE_CHECKING:
    from ..ledger import SampledGaussian
    from ._one import Work

#: The clipped sum of each parameter over a batch, without noise, in the order of the module's parameters.
Sums = Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]
#: The little more noise that `engine/defenses/_opacus.py` adds: a reference has what the subject has.
_SPARE = 1e-4


def chosen(work: Work) -> DpSgd:
    """The defense that the work is done under."""
    if isinstance(work.recipe.defense, DpSgd):
        return work.recipe.defense
    raise AssertionError("no other defense is trained here, obstacle says so")


def planned(work: Work, optimizer: torch.optim.Optimizer) -> SampledGaussian:
    """What the mechanism will do to the records, refused where the defense itself would refuse it.

    Raises:
        InputError: Too few records for this δ or batch size, or a target that cannot be reached.
    """
    defense, recipe = chosen(work), work.recipe
    setting = Setting(work.module, optimizer, torch.empty(0), work.records, recipe.batch_size, recipe.epochs)
    defense._check_sizes(setting)
    run = Run(recipe.batch_size / work.records, steps_after(setting, recipe.epochs), defense.clipping_norm)
    return run.with_noise(defense._noise(run))


class PrivateSteps:
    """Poisson samples, clipped sums and Gaussian noise, as the subject's mechanism has them, from the part's seed.

    Args:
        work: What is trained.
        optimizer: Over every parameter of its module.
        sums: How clipped sums are had.
    """

    def __init__(self, work: Work, optimizer: torch.optim.Optimizer, sums: Sums) -> None:
        self._work, self.optimizer, self._sums = work, optimizer, sums
        self._planned = planned(work, optimizer)
        self._chance = Chance(work.seed)
        self._parameters = list(work.module.parameters())

    def batches(self, epoch: int) -> Iterator[torch.Tensor]:
        """Poisson samples; one may be empty."""
        for _ in range(self._steps_by(epoch - 1), self._steps_by(epoch)):
            sample = self._chance.poisson_sample(self._work.records, self._planned.sampling_probability)
            yield torch.from_numpy(sample)

    def _steps_by(self, epoch: int) -> int:
        """Steps until the end of an epoch."""
        return math.ceil(self._planned.steps * epoch / self._work.recipe.epochs)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One noised step on a sample, scaled by the expected number of its records."""
        sums = self._sums(x, y) if len(y) else [torch.zeros(())] * len(self._parameters)
        scale = 1 / (self._planned.sampling_probability * self._work.records)
        for parameter, total, noise in zip(self._parameters, sums, self._noise(), strict=True):
            parameter.grad = noise.add_(total).mul_(scale)
        self.optimizer.step()
        return torch.zeros(())

    def _noise(self) -> list[torch.Tensor]:
        """Of one step, in the shapes of the parameters."""
        sizes = [p.numel() for p in self._parameters]
        noise = torch.empty(sum(sizes))
        self._chance.fill(noise, self._planned.noise_multiplier * self._planned.clipping_norm * (1 + _SPARE))
        return [part.view(p.shape) for part, p in zip(torch.split(noise, sizes), self._parameters, strict=True)]
