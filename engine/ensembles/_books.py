"""Book-keeping: clipped sums from one backward pass. Imports torch: to be imported inside functions only."""

from __future__ import annotations

import torch
from torch import nn

from ._layout import channels_last
from ._slopes import Slope, slope


class Books:
    """Keeps what each layer was fed and answered, and clips from that (Bu et al. 2022, arXiv 2210.00038).

    The gradient is propagated through the answers alone; that in the parameters follows from both.

    Args:
        module: Its parameters get no gradient by themselves any more.
        forward: How its answers are computed, by the same layers.
        bound: The clipping norm.
    """

    def __init__(self, module: nn.Module, forward: nn.Module, bound: float) -> None:
        self._forward, self._bound = forward, bound
        self._kept: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
        self._layers = [layer for layer in module.modules() if list(layer.parameters(recurse=False))]
        module.requires_grad_(False)
        for layer in self._layers:
            layer.register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, given: tuple[torch.Tensor, ...], answer: torch.Tensor) -> None:
        """Behind each layer that has parameters; the first ones' answers have no gradient unless asked for it."""
        if layer in self._kept:
            raise AssertionError("a layer is used twice: its gradient is not that of one use")
        answer.requires_grad_()
        self._kept[layer] = (given[0].detach(), answer)

    def sums(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        """The clipped sum of each parameter. A record whose gradient is not finite counts as zero."""
        slopes = self._slopes(x, y)
        norms = torch.stack([s.squares() for s in slopes]).sum(dim=0).sqrt_()
        finite = norms.isfinite()
        if not bool(finite.all()):
            slopes, norms = [s.only(finite) for s in slopes], norms[finite]
        factors = (self._bound / (norms + 1e-6)).clamp_(max=1.0)
        return [total for s in slopes for total in s.sums(factors)]

    def _slopes(self, x: torch.Tensor, y: torch.Tensor) -> list[Slope]:
        """One a layer, in the order of the parameters."""
        self._kept.clear()
        loss = nn.functional.cross_entropy(self._forward(channels_last(x)), y, reduction="sum")
        kept = [self._kept[layer] for layer in self._layers]
        errors = torch.autograd.grad(loss, [answer for _, answer in kept])
        with torch.no_grad():
            return [slope(a, given, e) for a, (given, _), e in zip(self._layers, kept, errors, strict=True)]
