"""Differentially private stochastic gradient descent."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from ..accountants import Run, noise_for, steps_within
from ..errors import InputError
from ._adaptive import Adaptive

if TYPE_CHECKING:
    from ..ledger import SampledGaussian
    from ._protocol import Mechanism, Setting, State


#: How clipped sums are had.
Way = Literal["bookkeeping", "ghost", "hooks", "functorch"]
Mode = Literal["auto", "bookkeeping", "ghost", "hooks", "functorch"]

#: A count's noise that is not given is this share of the expected records a step (Andrew et al. 2021, sec. 3.1) ...
_COUNT_SHARE = 0.1
#: ... or so many times the noise of the sum, whichever is larger: it then costs the sum at most 2 % more noise.
_COUNT_LEAST = 5.0


@dataclass(frozen=True, slots=True)
class DpSgd:
    """DP-SGD: per-record gradients clipped, summed over a Poisson sample, noised (Abadi et al., arXiv 1607.00133).

    Attributes:
        target_epsilon: ε that the number of record stays within after the last epoch; or
        noise_multiplier: standard deviation of the noise over the clipping norm. One of the two.
        max_epsilon: Beside `noise_multiplier`: training ends with the last step after which the number of record is
            still within it, at the latest after the last epoch.
        delta: δ of the guarantee, below one over the number of records.
        clipping_norm: Bound on the Euclidean norm of one record's gradient; of the first step, where it adapts.
        mode: How per-record gradients are had: `auto` for the fastest that is right for the model; `bookkeeping` (one
            backward pass), `ghost` (two), `hooks` (every gradient by a formula a layer) or `functorch` (any layer).
        sampling: `poisson`, the only one that the accountants account for.
        clipping: `flat` for one norm throughout; `adaptive` for one that follows `target_quantile` of the gradients'
            norms (Andrew et al., arXiv 1905.03871), whose noisy counts are paid for.
        target_quantile: Share of the records that adaptive clipping leaves as they are, in (0, 1).
        clipping_rate: How fast the norm adapts.
        count_noise_multiplier: Standard deviation of the noise on the count of unclipped records over its sensitivity
            of 1/2; by default a tenth of the batch size, and at least five times the noise of the sum.
        physical_batch: How many records are worked on at a time, which bounds memory and changes nothing else; by
            default as many as fit a fixed size.
    """

    target_epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    clipping_norm: float = 1.0
    mode: Mode = "auto"
    sampling: Literal["poisson"] = "poisson"
    max_epsilon: float | None = None
    clipping: Literal["flat", "adaptive"] = "flat"
    target_quantile: float = 0.5
    clipping_rate: float = 0.2
    count_noise_multiplier: float | None = None
    physical_batch: int | None = None

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
        if self.mode not in get_args(Mode):
            raise ValueError(f"unknown mode '{self.mode}', expected one of {', '.join(get_args(Mode))}")
        for name in ("target_epsilon", "max_epsilon", "noise_multiplier", "clipping_norm", "count_noise_multiplier"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"expected {name}={value} > 0")
        if not 0 < self.delta < 1:
            raise ValueError(f"expected 0 < delta={self.delta} < 1")
        self._check_clipping()

    def _check_clipping(self) -> None:
        if self.clipping not in ("flat", "adaptive"):
            raise ValueError(f"unknown clipping '{self.clipping}', expected flat or adaptive")
        if not 0 < self.target_quantile < 1:
            raise ValueError(f"expected 0 < target_quantile={self.target_quantile} < 1")
        if not 0 < self.clipping_rate < math.inf:
            raise ValueError(f"expected clipping_rate={self.clipping_rate} > 0")
        if self.clipping == "flat" and self.count_noise_multiplier is not None:
            raise ValueError("count_noise_multiplier is of clipping: adaptive, flat clipping counts nothing")
        if self.physical_batch is not None and self.physical_batch < 1:
            raise ValueError(f"expected physical_batch={self.physical_batch} >= 1")

    def protect(self, setting: Setting, resumed: State | None = None) -> Mechanism:
        """Take over this run, after everything that could break the guarantee was looked for.

        Raises:
            InputError: The data are too few for this δ or batch size, the target cannot be reached, or the module or
                its optimiser would let one record's influence escape the clipping.
            AccountingError: No noise could be found for the target.
        """
        planned = self.planned(setting)
        from ._checks import check_module
        from ._run import DpSgdRun
        from ._size import records_at_once
        from ._sums import sums_by

        way = check_module(setting, self.mode)
        most = self.physical_batch or records_at_once(setting.module, setting.example, way)
        sums = sums_by(way, setting.module)
        return DpSgdRun(setting, planned, self.delta, sums, most, self.adaptive(planned, setting.records), resumed)

    def planned(self, setting: Setting) -> SampledGaussian:
        """What will happen to the records at most.

        Raises:
            InputError: The data are too few for this δ or batch size, or the target cannot be reached.
            AccountingError: No noise could be found for the target.
        """
        self._check_sizes(setting)
        run = Run(setting.batch_size / setting.records, steps_after(setting, setting.epochs), self.clipping_norm)
        return self._allowed(self._with_counts(run, self._noise(run), setting.batch_size))

    def adaptive(self, planned: SampledGaussian, records: int) -> Adaptive | None:
        """How the clipping norm moves; `None` where it stays."""
        if planned.count_noise_multiplier is None:
            return None
        noise = planned.count_noise_multiplier / 2  # over the count's sensitivity of 1/2
        expected = planned.sampling_probability * records
        return Adaptive(self.target_quantile, self.clipping_rate, noise, expected)

    def _with_counts(self, run: Run, noise: float, batch_size: int) -> SampledGaussian:
        """The run with its noise, of which adaptive clipping spends a part on its counts.

        A target is met by both together, so that the sum gets more noise then; a noise that is given is the sum's own.
        """
        if self.clipping == "flat":
            return run.with_noise(noise)
        counts = self.count_noise_multiplier or max(_COUNT_SHARE * batch_size, _COUNT_LEAST * noise)
        if self.target_epsilon is not None:
            if counts <= noise:
                raise InputError.of(
                    f"count_noise_multiplier {counts:g} is too little: the counts alone would exceed target_epsilon, "
                    f"which needs {noise:g} for everything",
                    f"set it to {_COUNT_LEAST * noise:.3g} or more",
                )
            noise = math.ceil(1e4 / math.sqrt(noise**-2 - counts**-2)) / 1e4
        return replace(run.with_noise(noise), count_noise_multiplier=counts)

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
