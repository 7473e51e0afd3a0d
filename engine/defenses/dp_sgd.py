"""Differentially private stochastic gradient descent."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..accountants import Run, noise_for, steps_within
from ..errors import InputError

if TYPE_CHECKING:
    from ..ledger import SampledGaussian
    from ._protocol import Mechanism, Setting, State


@dataclass(frozen=True, slots=True)
class DpSgd:
    """DP-SGD: per-record gradients clipped, summed over a Poisson sample, noised (Abadi et al., arXiv 1607.00133).

    Attributes:
        target_epsilon: ε that both accountants' upper bounds stay within after the last epoch; or
        noise_multiplier: standard deviation of the noise over the clipping norm. One of the two.
        max_epsilon: Beside `noise_multiplier`: training ends with the last step after which the number of record is
            still within it, at the latest after the last epoch.
        delta: δ of the guarantee, below one over the number of records.
        clipping_norm: Bound on the Euclidean norm of one record's gradient.
        mode: How per-record gradients are had: `hooks` (a formula a layer), `ghost` (norms alone, for large dense
            layers) or `functorch` (any layer).
        sampling: `poisson`, the only one that the accountants account for.
    """

    target_epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    clipping_norm: float = 1.0
    mode: Literal["hooks", "ghost", "functorch"] = "hooks"
    sampling: Literal["poisson"] = "poisson"
    max_epsilon: float | None = None

    def __post_init__(self) -> None:
        if (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("dp_sgd needs either target_epsilon or noise_multiplier, one of the two")
        if self.max_epsilon is not None and self.noise_multiplier is None:
            raise ValueError(
                "max_epsilon ends a training of a given noise_multiplier; target_epsilon is itself never exceeded: "
                "write one of them"
            )
        if self.sampling != "poisson":
            raise ValueError(
                f"sampling '{self.sampling}' is not accounted for: shuffled or fixed batches can cost ten times the ε "
                "that is computed for Poisson samples; use sampling: poisson"
            )
        if self.mode not in ("hooks", "ghost", "functorch"):
            raise ValueError(f"unknown mode '{self.mode}', expected hooks, ghost or functorch")
        for name in ("target_epsilon", "max_epsilon", "noise_multiplier", "clipping_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"expected {name}={value} > 0")
        if not 0 < self.delta < 1:
            raise ValueError(f"expected 0 < delta={self.delta} < 1")

    def protect(self, setting: Setting, resumed: State | None = None) -> Mechanism:
        """Take over this run, after everything that could break the guarantee was looked for.

        Raises:
            InputError: The data are too few for this δ or batch size, the target cannot be reached, or the module or
                its optimiser would let one record's influence escape the clipping.
            AccountingError: No noise could be found for the target.
        """
        self._check_sizes(setting)
        from ._checks import check_module
        from ._opacus import DpSgdRun

        check_module(setting, self.mode)
        run = Run(setting.batch_size / setting.records, steps_after(setting, setting.epochs), self.clipping_norm)
        return DpSgdRun(setting, self._allowed(run.with_noise(self._noise(run))), self.delta, self.mode)

    def _check_sizes(self, setting: Setting) -> None:
        if self.delta * setting.records >= 1:
            raise InputError.of(
                f"δ = {self.delta:g} is not below 1/{setting.records}: publishing one of the {setting.records} records "
                "at random would satisfy it",
                f"set defense.delta to {0.01 / setting.records:.1g} or less",
            )
        if setting.batch_size > setting.records:
            raise InputError.of(
                f"batch_size {setting.batch_size} is larger than the {setting.records} records",
                f"set it to {setting.records} or less",
            )

    def _allowed(self, planned: SampledGaussian) -> SampledGaussian:
        """As much of the training as `max_epsilon` allows."""
        if self.max_epsilon is None:
            return planned
        steps = steps_within(planned, self.max_epsilon, self.delta)
        if steps == 0:
            raise InputError.of(
                f"not even one step of noise_multiplier {self.noise_multiplier:g} is within max_epsilon "
                f"{self.max_epsilon:g} at δ = {self.delta:g}",
                "set a larger noise_multiplier, or smaller batches",
            )
        return replace(planned, steps=steps)

    def _noise(self, run: Run) -> float:
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        if self.target_epsilon is None:
            raise AssertionError("one of the two is set, __post_init__ saw to it")
        return noise_for(run, self.target_epsilon, self.delta)


def steps_after(setting: Setting, epochs: int) -> int:
    """Steps after so many epochs: as many as see each record that often on average, at least one an epoch."""
    return max(epochs, round(epochs * setting.records / setting.batch_size))
