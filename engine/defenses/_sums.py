"""Which way to clipped sums a module is trained in. Imports torch: to be imported inside functions only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, assert_never

import torch
from torch import nn

from ..gradients._clipped import Batch, BookKept

if TYPE_CHECKING:
    from .dp_sgd import Way


class Sums(Protocol):
    """Clipped sums of the gradients of a module's records."""

    def add(self, x: torch.Tensor, y: torch.Tensor, bound: float, totals: Sequence[torch.Tensor]) -> Batch:
        """Add the sum of the records' gradients, each clipped to the bound. One that is not finite counts as zero.

        Args:
            x: `(b, *shape)`, b >= 1.
            y: `(b,)`.
            bound: On the Euclidean norm over all parameters.
            totals: One a trained parameter, in its shape.
        """
        ...

    def release(self) -> None:
        """Take everything off the module again."""
        ...


def sums_by(way: Way, module: nn.Module) -> Sums:
    """Clipped sums in one way.

    Raises:
        InputError: The way does not know the module.
    """
    if way == "bookkeeping":
        return BookKept(module)
    from ._opacus import Ghost, Materialised

    if way == "ghost":
        return Ghost(module)
    if way == "hooks":
        return Materialised(module, functorch=False)
    if way == "functorch":
        return Materialised(module, functorch=True)
    assert_never(way)


class Gradient:
    """A gradient over all trained parameters, as one row of numbers and as one tensor a parameter.

    Args:
        parameters: The trained ones, in their order.
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        first = parameters[0]
        self.flat = torch.zeros(sum(p.numel() for p in parameters), dtype=first.dtype, device=first.device)
        pieces = torch.split(self.flat, [p.numel() for p in parameters])
        self.parts = [piece.view(p.shape) for piece, p in zip(pieces, parameters, strict=True)]


def add_in_pieces(
    sums: Sums, x: torch.Tensor, y: torch.Tensor, bound: float, totals: Sequence[torch.Tensor], most: int
) -> Batch | None:
    """Add the clipped sum over a batch of any size. Args: most, records at a time. Returns: `None` for no records."""
    if 0 < len(x) <= most:
        return sums.add(x, y, bound, totals)
    pieces = [sums.add(x[i : i + most], y[i : i + most], bound, totals) for i in range(0, len(x), most)]
    if not pieces:
        return None
    return Batch(torch.cat([p.logits for p in pieces]), torch.cat([p.norms for p in pieces]))
