"""What a defense is: a frozen dataclass that takes over sampling and stepping of one training run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from ..ledger import Event


@dataclass(frozen=True, slots=True)
class Setting:
    """The training run that a defense takes over.

    Attributes:
        module: In training mode, not wrapped.
        optimizer: Over all of its parameters.
        example: `(k, *shape)`, k >= 2, records of the right shape that are nobody's, to probe the module with.
        records: How many records are trained on.
        batch_size: Expected records a step.
        epochs: Expected passes over the records.
    """

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    example: torch.Tensor
    records: int
    batch_size: int
    epochs: int


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

    def finish(self) -> tuple[Event, ...]:
        """Take every wrapper off the module again. Returns: what happened to the records."""
        ...


@runtime_checkable
class Defense(Protocol):
    """Its fields are the parameters that a recipe sets."""

    def protect(self, setting: Setting) -> Mechanism:
        """Take over this run.

        Raises:
            InputError: The run would break the guarantee.
        """
        ...
