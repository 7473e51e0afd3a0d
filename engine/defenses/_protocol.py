"""What a defense is: a frozen dataclass that takes over sampling and stepping of one training run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ..ledger import Event


@dataclass(frozen=True, slots=True)
class StepSeen:
    """What a mechanism did in one step. Secret: the sums have no noise.

    Attributes:
        step: Counted from 0.
        sample: `(k,)`, positions of the records of the step.
        sums: Clipped sum of the records' gradients with the witness' canaries, one a parameter, before noise. Written
            over in the next step.
        noised: The same with the noise, before it is divided by the expected number of records. Likewise.
        clipping_norm: Bound on one record's contribution in this step.
        noise_multiplier: Standard deviation of the noise over it.
    """

    step: int
    sample: NDArray[np.int64]
    sums: Sequence[torch.Tensor]
    noised: Sequence[torch.Tensor]
    clipping_norm: float
    noise_multiplier: float


class Witness(Protocol):
    """Somebody who tests that a mechanism does what it says; it keeps nothing of what the mechanism does itself."""

    def contribute(self, step: int) -> Sequence[torch.Tensor] | None:
        """Canaries to be added to the clipped sum of this step, before noise.

        Returns: one tensor a parameter that is trained; each canary is within the clipping norm already.
        """
        ...

    def saw(self, step: StepSeen) -> None:
        """Told behind each step."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """What a mechanism needs to go on after an interruption; nothing of it is secret, least of all a key of the noise.

    Attributes:
        epochs: How many were finished.
        steps: How many were taken, those of an epoch that was not finished among them.
        clipping_norm: Bound on one record's contribution in the next step.
        keys: SHA-256 of the key of each part of the training so far: no two parts have the same noise.
    """

    epochs: int
    steps: int
    clipping_norm: float
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.steps < 0:
            raise ValueError(f"expected epochs={self.epochs} and steps={self.steps} >= 0")
        if not self.clipping_norm > 0:
            raise ValueError(f"expected clipping_norm={self.clipping_norm} > 0")


@dataclass(frozen=True, slots=True)
class Setting:
    """The training run that a defense takes over.

    Attributes:
        module: In training mode, not wrapped.
        optimizer: Over all of its parameters that are trained.
        example: `(k, *shape)`, k >= 2, records of the right shape that are nobody's, to probe the module with.
        records: How many records are trained on.
        batch_size: Expected records a step.
        epochs: Expected passes over the records.
        witness: Who tests the mechanism while it works; `None` for nobody.
    """

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    example: torch.Tensor
    records: int
    batch_size: int
    epochs: int
    witness: Witness | None = None


class Mechanism(Protocol):
    """A defense at work on one run."""

    def batches(self) -> Iterator[torch.Tensor]:
        """Positions of the records of each step of the next epoch; a batch may be empty."""
        ...

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One step of the optimiser on the batch that was drawn last. Returns: logits `(n, classes)`, detached."""
        ...

    def epsilon(self) -> float | None:
        """Privacy loss so far, an upper bound; `None` where nothing is accounted."""
        ...

    def state(self) -> State | None:
        """What `Defense.protect` needs to go on from here; `None` where there is nothing to keep."""
        ...

    def planned(self) -> tuple[Event, ...]:
        """What the whole run is going to do to the records at most; known before the first step."""
        ...

    def finish(self) -> tuple[Event, ...]:
        """Take every wrapper off the module again. Returns: what happened to the records."""
        ...


@runtime_checkable
class Defense(Protocol):
    """Its fields are the parameters that a recipe sets."""

    def protect(self, setting: Setting, resumed: State | None = None) -> Mechanism:
        """Take over this run, or the rest of one that was interrupted.

        Raises:
            InputError: The run would break the guarantee.
        """
        ...
