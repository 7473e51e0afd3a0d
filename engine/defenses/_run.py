"""DP-SGD at work. Imports torch: to be imported inside functions only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..accountants import epsilon_so_far
from ..errors import MidguardError
from ._descent import descend
from ._noise import Noise
from ._protocol import State, StepSeen
from ._secret import Secret
from ._sums import Gradient, Sums, add_in_pieces

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..gradients._clipped import Batch
    from ..ledger import Event, SampledGaussian
    from ._adaptive import Adaptive
    from ._protocol import Setting

#: How often ε is computed afresh while training.
_UPDATES = 20


class DpSgdRun:
    """DP-SGD at work on one module: secret Poisson samples, clipped sums, secret noise.

    Args:
        setting: What is trained.
        planned: Everything that will happen at most.
        delta: Of the ε that is told while training.
        sums: How clipped sums are had.
        most: How many records are worked on at a time.
        adaptive: How the clipping norm moves; `None` where it stays.
        resumed: Where an interrupted training goes on: what it spent stays spent, and the noise is new.

    Attributes:
        noise_key_digest: SHA-256 of the key that the noise and the samples are from.
    """

    def __init__(
        self,
        setting: Setting,
        planned: SampledGaussian,
        delta: float,
        sums: Sums,
        most: int,
        adaptive: Adaptive | None = None,
        resumed: State | None = None,
    ) -> None:
        from .dp_sgd import steps_after

        self._setting, self._planned, self._delta = setting, planned, delta
        self._sums, self._most, self._adaptive = sums, most, adaptive
        self._buffers = {name: buffer.clone() for name, buffer in setting.module.named_buffers()}
        self._parameters = [p for p in setting.module.parameters() if p.requires_grad]
        self._gradient = Gradient(self._parameters)
        self._secret = Secret()
        self._noise = Noise(self._secret, planned.noise_multiplier, self._gradient.flat)
        self.noise_key_digest = self._secret.digest
        start = resumed or State(0, 0, planned.clipping_norm)
        self._epoch, self._steps, self._norm = start.epochs, start.steps, start.clipping_norm
        self._keys = (*start.keys, self.noise_key_digest)
        self._whole = steps_after(setting, setting.epochs)
        self._drawn: NDArray[np.int64] | None = None
        self._accounted, self._epsilon = 0, 0.0

    def batches(self) -> Iterator[torch.Tensor]:
        """Fresh Poisson samples; nobody can repeat them, for the accountants count on that."""
        self._epoch += 1
        for _ in range(self._steps, self._steps_by(self._epoch)):
            if self._drawn is not None:
                raise MidguardError("a sample was drawn and left out: choosing among samples is not accounted for")
            self._drawn = self._secret.poisson_sample(self._setting.records, self._planned.sampling_probability)
            yield torch.from_numpy(self._drawn)

    def _steps_by(self, epoch: int) -> int:
        """Steps until the end of an epoch."""
        epochs = self._setting.epochs
        return min(self._planned.steps, math.ceil(self._whole * min(epoch, epochs) / epochs))

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One noised step on the sample that was drawn last.

        Raises:
            MidguardError: These are not the records of a fresh sample, for which alone the cost is known.
        """
        sample = self._drawn
        if sample is None or len(sample) != len(x) or len(x) != len(y):
            raise MidguardError(
                f"a step on {len(x)} records that are no fresh Poisson sample: its privacy loss is unknown; "
                "step once on each batch of batches()"
            )
        self._drawn = None
        self._steps += 1  # before the step: one that fails half-way has touched the records
        self._gradient.flat.zero_()
        for p in self._parameters:
            p.grad = None  # it was the sum itself: a backward pass would add its gradients to that, and unclipped
        batch = add_in_pieces(self._sums, x, y, self._norm, self._gradient.parts, self._most)
        self._release_sum(sample)
        self._adapt(batch)
        return x.new_zeros((0, 1)) if batch is None else batch.logits

    def _release_sum(self, sample: NDArray[np.int64]) -> None:
        """Add noise, divide by the expected number of records, and let the optimiser step."""
        gradient, sums = self._gradient, self._witnessed()
        self._noise.add(self._norm)
        if self._setting.witness is not None:
            noise = self._planned.noise_multiplier
            self._setting.witness.saw(StepSeen(self._steps - 1, sample, sums, gradient.parts, self._norm, noise))
        # The expected number, from the recipe alone: how many the sample has is private.
        gradient.flat.mul_(1 / (self._planned.sampling_probability * self._setting.records))
        for p, part in zip(self._parameters, gradient.parts, strict=True):
            p.grad = part if part.stride() == p.stride() else torch.empty_like(p).copy_(part)
        descend(self._setting.optimizer)

    def _witnessed(self) -> list[torch.Tensor]:
        """The clipped sum with the witness' canaries, which are added to it; nothing without a witness."""
        witness, parts = self._setting.witness, self._gradient.parts
        if witness is None:
            return []
        canaries = witness.contribute(self._steps - 1)
        if canaries is not None:
            for part, canary in zip(parts, canaries, strict=True):
                part.add_(canary)
        return [part.clone() for part in parts]

    def _adapt(self, batch: Batch | None) -> None:
        """Move the clipping norm by the noised share of records that it left as they were."""
        if self._adaptive is None:
            return
        unclipped = 0 if batch is None else int((batch.norms <= self._norm).sum())
        records = 0 if batch is None else len(batch.norms)
        self._norm = self._adaptive.next_norm(self._norm, unclipped, records, self._secret.normal())

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
        return State(self._epoch, self._steps, self._norm, self._keys)

    def finish(self) -> tuple[Event, ...]:
        """Take everything off the module; what happened is the steps that were taken, not those that were planned.

        Raises:
            MidguardError: A buffer changed while training.
        """
        from ._checks import changed_buffers

        self._sums.release()
        for p in self._parameters:
            p.grad = None
        changed = changed_buffers(self._setting.module, self._buffers)
        if changed:
            raise MidguardError(f"training wrote the records into buffers, without noise: {', '.join(changed)}")
        if self._steps == 0:
            return ()
        return (replace(self._planned, steps=self._steps),)
