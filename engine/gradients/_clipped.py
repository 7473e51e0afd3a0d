"""Clipped sums of per-record gradients. Imports torch: to be imported inside functions only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ._books import Books, Keeper
from ._chain import Chain
from ._slopes import Slope


@dataclass(frozen=True, slots=True)
class Batch:
    """What is known of the records of a batch whose clipped sum was added.

    Attributes:
        logits: `(b, classes)`, what they were answered, detached.
        norms: `(b,)`, of their gradients before clipping; not finite where a gradient is not.
    """

    logits: torch.Tensor
    norms: torch.Tensor


class BookKept:
    """Clipped sums by book-keeping, in the fastest way that knows the module.

    Args:
        module: Stays as it is but for hooks, until `release`.

    Raises:
        InputError: A trained layer whose gradients are not known record by record.
    """

    def __init__(self, module: nn.Module) -> None:
        self.keeper: Keeper = Chain.of(module) or Books(module)

    def add(self, x: torch.Tensor, y: torch.Tensor, bound: float, totals: Sequence[torch.Tensor]) -> Batch:
        """Add the sum of the records' gradients, each clipped to the bound. One that is not finite counts as zero.

        Args:
            x: `(b, *shape)`, b >= 1.
            y: `(b,)`.
            bound: On the Euclidean norm over all parameters.
            totals: One a trained parameter, in its shape.
        """
        answered = self.keeper.slopes(x, y)
        with torch.inference_mode():
            return Batch(answered.logits, _add_clipped(answered.slopes, bound, totals))

    def release(self) -> None:
        """Take the hooks off."""
        self.keeper.release()


def _add_clipped(slopes: Sequence[Slope], bound: float, totals: Sequence[torch.Tensor]) -> torch.Tensor:
    """Add the clipped sum, layer by layer. Returns: `(b,)` the norms before clipping."""
    norms = _sum([s.squares() for s in slopes]).sqrt_()
    kept, own = norms, slopes
    if not math.isfinite(float(norms.sum())):
        finite = norms.isfinite()
        kept, own = norms[finite], [s.only(finite) for s in slopes]
    factors, position = factors_for(kept, bound), 0
    for s in own:
        s.add(factors, totals[position : position + s.parameters])
        position += s.parameters
    return norms


def factors_for(norms: torch.Tensor, bound: float) -> torch.Tensor:
    """By what gradients of these norms are multiplied to be within the bound; never by more than 1."""
    return bound / norms.clamp(min=bound)


def _sum(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Their sum, written over the first."""
    total = parts[0]
    for part in parts[1:]:
        total.add_(part)
    return total
