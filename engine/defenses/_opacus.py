"""DP-SGD on Opacus' per-record gradients. Imports torch and opacus: to be imported inside functions only."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import nn

from ..accountants import epsilon_so_far
from ..errors import MidguardError
from ._protocol import State
from ._secret import normals, poisson_sample

if TYPE_CHECKING:
    from ..ledger import Event, SampledGaussian
    from ._protocol import Setting

Mode = Literal["hooks", "ghost", "functorch"]

#: Sums and noise are rounded to one grid, so that the last bits of a weight do not tell what was added
#: (Mironov 2012). Over the clipping norm.
_GRID = 2.0**-30
#: A little more noise than is accounted pays for what float32 and the grid add to the sensitivity.
_SPARE = 1e-4
#: How often ε is computed afresh while training.
_UPDATES = 20


class _SecretNoise:
    """Noise of an Opacus optimiser from the operating system instead of a generator that somebody could repeat."""

    params: list[Any]  # parameters, on which opacus hangs grad_sample and summed_grad
    noise_multiplier: float
    max_grad_norm: float

    def add_noise(self) -> None:
        """Leave the noised sum of each parameter in its `grad`."""
        grid = _GRID * self.max_grad_norm
        deviation = self.noise_multiplier * self.max_grad_norm * (1 + _SPARE)
        for p in self.params:
            noise = torch.from_numpy(normals(p.numel())).view_as(p) * deviation
            noised = torch.round(p.summed_grad.double() / grid) + torch.round(noise / grid)
            p.grad = (noised * grid).to(p.dtype)


class _HooksOptimizer(_SecretNoise, DPOptimizer):  # type: ignore[misc]  # opacus comes without types
    """Clips materialised per-record gradients; those that are not finite count as zero."""

    def clip_and_accumulate(self) -> None:
        """Leave each parameter's clipped sum in its `summed_grad`."""
        super().clip_and_accumulate()
        if all(bool(p.summed_grad.isfinite().all()) for p in self.params):
            return
        finite = torch.stack([p.grad_sample.flatten(start_dim=1).isfinite().all(dim=1) for p in self.params]).all(dim=0)
        for p in self.params:
            p.grad_sample, p.summed_grad = p.grad_sample[finite], None
        super().clip_and_accumulate()


class _GhostOptimizer(_SecretNoise, DPOptimizerFastGradientClipping):  # type: ignore[misc]  # likewise
    """Takes gradients that the second backward pass has clipped."""


class Clipping:
    """A module whose gradients are clipped record by record, and the optimiser that noises their sum.

    Args:
        module: Is wrapped until `release`.
        optimizer: Over all of its trainable parameters.
        mode: How per-record gradients are had.
        bound: The clipping norm.
        noise_multiplier: Over the clipping norm; 0 in a probe.
        expected: Expected records a step, by which the noised sum is divided.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        mode: Mode,
        bound: float,
        noise_multiplier: float,
        expected: float,
    ) -> None:
        self._ghost = mode == "ghost"
        kind = _GhostOptimizer if self._ghost else _HooksOptimizer
        self.wrapped = _wrap(module, mode, bound)
        self.optimizer: Any = kind(
            optimizer, noise_multiplier=noise_multiplier, max_grad_norm=bound, expected_batch_size=expected
        )

    def gradients(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Leave the batch's gradients where the optimiser takes them. Returns: logits, detached."""
        self.optimizer.zero_grad(set_to_none=True)
        if len(x) == 0:
            return self._no_gradients(x)
        logits: torch.Tensor = self.wrapped(x)
        losses = nn.functional.cross_entropy(logits, y, reduction="none")
        with warnings.catch_warnings(action="ignore"):  # records need no gradient, as torch remarks on every step
            if self._ghost:
                DPTensorFastGradientClipping(self.wrapped, self.optimizer, losses, loss_reduction="sum").backward()
            else:
                losses.sum().backward()  # type: ignore[no-untyped-call]
        if self._ghost:
            self._leave_out_infinite(x, y)
        return logits.detach()

    def _leave_out_infinite(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Start again without the records whose gradient is not finite: zero times infinity is not zero."""
        finite = self.wrapped.per_sample_gradient_norms.isfinite()
        if not bool(finite.all()):
            self.gradients(x[finite], y[finite])

    def _no_gradients(self, x: torch.Tensor) -> torch.Tensor:
        """An empty sample: its sum is zero, and noise is added to that."""
        for p in self.optimizer.params:
            p.grad_sample, p.grad = p.new_zeros((0, *p.shape)), torch.zeros_like(p)
        return x.new_zeros((0, 1))

    def sums(self) -> list[torch.Tensor]:
        """The clipped sum of each parameter, without noise. Never to be released."""
        if self._ghost:
            self.optimizer.accumulate()
        else:
            self.optimizer.clip_and_accumulate()
        return [p.summed_grad for p in self.optimizer.params]

    def step(self) -> None:
        """Clip, sum, add noise, divide by the expected number of records, and let the optimiser step."""
        self.optimizer.step()

    def release(self) -> None:
        """Take the wrapper and everything that hangs on the parameters off again."""
        parameters: list[Any] = list(self.optimizer.params)
        self.wrapped.to_standard_module()
        for p in parameters:
            p.grad = None
            if hasattr(p, "summed_grad"):
                del p.summed_grad


def _wrap(module: nn.Module, mode: Mode, bound: float) -> Any:
    """The module with Opacus' hooks; losses are summed, so that no private batch size enters a gradient."""
    wrapped: Any  # opacus comes without types
    if mode == "ghost":
        wrapped = GradSampleModuleFastGradientClipping(module, loss_reduction="sum", max_grad_norm=bound)
    else:
        wrapped = GradSampleModule(module, loss_reduction="sum", force_functorch=mode == "functorch")
    wrapped.forbid_grad_accumulation()
    return wrapped


class DpSgdRun:
    """DP-SGD at work on one module: secret Poisson samples, clipped sums, secret noise."""

    def __init__(self, setting: Setting, planned: SampledGaussian, delta: float, mode: Mode) -> None:
        self._setting, self._planned, self._delta = setting, planned, delta
        self._buffers = {name: buffer.clone() for name, buffer in setting.module.named_buffers()}
        self._clipping = Clipping(
            setting.module,
            setting.optimizer,
            mode,
            planned.clipping_norm,
            planned.noise_multiplier,
            planned.sampling_probability * setting.records,
        )
        self._drawn: int | None = None
        self._epoch = self._steps = 0
        self._accounted, self._epsilon = 0, 0.0

    def batches(self) -> Iterator[torch.Tensor]:
        """Fresh Poisson samples; nobody can repeat them, for the accountants count on that."""
        self._epoch += 1
        for _ in range(self._steps, self._steps_by(self._epoch)):
            if self._drawn is not None:
                raise MidguardError("a sample was drawn and left out: choosing among samples is not accounted for")
            sample = poisson_sample(self._setting.records, self._planned.sampling_probability)
            self._drawn = len(sample)
            yield torch.from_numpy(sample)

    def _steps_by(self, epoch: int) -> int:
        """Steps until the end of an epoch."""
        from .dp_sgd import steps_after

        epochs = self._setting.epochs
        return min(self._planned.steps, math.ceil(steps_after(self._setting, epochs) * min(epoch, epochs) / epochs))

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One noised step on the sample that was drawn last.

        Raises:
            MidguardError: These are not the records of a fresh sample, for which alone the cost is known.
        """
        if self._drawn != len(x) or len(x) != len(y):
            raise MidguardError(
                f"a step on {len(x)} records that are no fresh Poisson sample: its privacy loss is unknown; "
                "step once on each batch of batches()"
            )
        self._drawn = None
        self._steps += 1  # before the step: one that fails half-way has touched the records
        logits = self._clipping.gradients(x, y)
        self._clipping.step()
        return logits

    def epsilon(self) -> float:
        """Upper bound on ε so far; computed ahead for a few epochs at once, so that training does not wait for it."""
        if self._steps > self._accounted:
            stride = max(1, math.ceil(self._setting.epochs / _UPDATES))
            ahead = math.ceil(self._epoch / stride) * stride
            self._accounted = max(self._steps, self._steps_by(ahead))
            self._epsilon = epsilon_so_far(self._planned, self._accounted, self._delta)
        return self._epsilon

    def planned(self) -> tuple[Event, ...]:
        """All of its steps."""
        return (self._planned,)

    def state(self) -> State:
        """How far it is."""
        return State(self._epoch, self._steps, self._planned.clipping_norm)

    def finish(self) -> tuple[Event, ...]:
        """Take the wrapper off; what happened is the steps that were taken, not those that were planned.

        Raises:
            MidguardError: A buffer changed while training.
        """
        from ._checks import changed_buffers

        self._clipping.release()
        changed = changed_buffers(self._setting.module, self._buffers)
        if changed:
            raise MidguardError(f"training wrote the records into buffers, without noise: {', '.join(changed)}")
        if self._steps == 0:
            return ()
        return (replace(self._planned, steps=self._steps),)
