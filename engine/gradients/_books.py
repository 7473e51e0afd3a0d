"""Book-keeping: what each layer was fed and the gradient in what it answered, from one backward pass.

Imports torch: to be imported inside functions only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..errors import InputError
from ._chain import Answered
from ._layout import channels_last, pooled_first
from ._slopes import Slope, Trained, check_known, slope


class Keeper(Protocol):
    """Gets the gradients of a module's records."""

    def slopes(self, x: torch.Tensor, y: torch.Tensor) -> Answered:
        """The gradients of each record's cross-entropy. Args: x `(b, *shape)`, b >= 1; y `(b,)`."""
        ...

    def release(self) -> None:
        """Take everything off the module again."""
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    """One use of a layer.

    Attributes:
        given: What it was fed.
        version: How often that had been written to by then.
        answer: Where the gradient in what it answered is had from, whatever is written over that later.
    """

    given: torch.Tensor
    version: int
    answer: GradientEdge


class Books:
    """Keeps what each layer was fed and answered, by autograd (Bu et al. 2022, arXiv 2210.00038).

    The gradient is propagated through the answers alone; that in the parameters follows from both.

    Args:
        module: Anything of layers that are known; each is used once, and whole.

    Raises:
        InputError: A trained layer that is not known, or that shares its parameters with another.
    """

    def __init__(self, module: nn.Module) -> None:
        self._forward = pooled_first(module)
        self._layers = [m for m in module.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
        own = [id(p) for layer in self._layers for p in layer.parameters(recurse=False)]
        if len(set(own)) < len(own):
            raise InputError.of("two layers share a parameter: its gradient is not that of one use", "use mode: hooks")
        for layer in self._layers:
            check_known(layer)
        self._kept: dict[nn.Module, _Entry] = {}
        self._open = False
        self._hooks = [layer.register_forward_hook(self._keep) for layer in self._layers]

    def _keep(self, layer: nn.Module, given: tuple[torch.Tensor, ...], answer: torch.Tensor) -> None:
        """Behind each layer that is trained."""
        if not self._open:
            return
        if layer in self._kept or not given:
            raise InputError.of("a layer is used twice, or by keywords: its gradient is not known", "use mode: hooks")
        self._kept[layer] = _Entry(given[0].detach(), given[0]._version, get_gradient_edge(answer))

    def slopes(self, x: torch.Tensor, y: torch.Tensor) -> Answered:
        """The gradients of each record's cross-entropy.

        Raises:
            InputError: A layer was used twice, or what one was fed was written over.
        """
        self._open = True
        try:
            with torch.enable_grad():
                logits = self._forward(channels_last(x))
                errors = self._errors(nn.functional.cross_entropy(logits, y, reduction="sum"))
            with torch.no_grad():
                return Answered(logits.detach(), [self._slope(layer, errors.get(layer)) for layer in self._layers])
        finally:
            self._open = False
            self._kept.clear()

    def _errors(self, loss: torch.Tensor) -> dict[nn.Module, torch.Tensor | None]:
        """Gradient of the loss in what each layer that was used answered."""
        used = [layer for layer in self._layers if layer in self._kept]
        edges = [self._kept[layer].answer for layer in used]
        return dict(zip(used, torch.autograd.grad(loss, edges, allow_unused=True), strict=True))

    def _slope(self, layer: nn.Module, errors: torch.Tensor | None) -> Slope:
        """Of one layer."""
        if errors is None:
            raise InputError.of(
                f"a trained layer of kind {type(layer).__name__} has no part in the answer",
                "freeze it, or leave it out",
            )
        entry = self._kept[layer]
        if entry.given._version != entry.version:
            raise InputError.of(
                f"what a layer of kind {type(layer).__name__} was fed is written over later", "do nothing in place"
            )
        return slope(layer, Trained.of(layer), entry.given, errors)

    def release(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._kept.clear()
