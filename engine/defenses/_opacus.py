"""Clipped sums of Opacus' per-record gradients. Imports torch and opacus: to be imported inside functions only."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from torch import nn

from ..gradients._clipped import Batch, factors_for

OpacusMode = Literal["ghost", "hooks", "functorch"]


class Ghost:
    """Norms from one backward pass, the clipped sum from a second one (Li et al. 2022, arXiv 2110.05679).

    Args:
        module: Is wrapped until `release`.
    """

    def __init__(self, module: nn.Module) -> None:
        # Losses are summed, so that no private batch size enters a gradient.
        self._wrapped: Any = GradSampleModuleFastGradientClipping(module, loss_reduction="sum")
        self._wrapped.forbid_grad_accumulation()
        self._parameters = [p for p in module.parameters() if p.requires_grad]

    def add(self, x: torch.Tensor, y: torch.Tensor, bound: float, totals: Sequence[torch.Tensor]) -> Batch:
        """Add the clipped sum over a batch. A record whose gradient is not finite counts as zero."""
        logits, losses = _losses(self._wrapped, x, y)
        _backward(losses.sum(), retain_graph=True)
        norms = self._wrapped.get_norm_sample().detach()
        finite = norms.isfinite()
        if not bool(finite.all()):
            # Start again without them: zero times infinity is not zero.
            self._clear()
            if bool(finite.any()):
                self.add(x[finite], y[finite], bound, totals)
            return Batch(logits.detach(), norms)
        self._clear()
        self._wrapped.disable_hooks()
        _backward((losses * factors_for(norms, bound)).sum())
        self._wrapped.enable_hooks()
        for p, total in zip(self._parameters, totals, strict=True):
            if p.grad is not None:
                total.add_(p.grad)
        self._clear()
        return Batch(logits.detach(), norms)

    def _clear(self) -> None:
        for p in self._parameters:
            p.grad = None

    def release(self) -> None:
        """Take the wrapper off."""
        _unwrap(self._wrapped, self._parameters)


class Materialised:
    """Every record's gradient is written down: by a formula a layer, or by functorch.

    Args:
        module: Is wrapped until `release`.
        functorch: Whether by functorch.
    """

    def __init__(self, module: nn.Module, functorch: bool) -> None:
        self._wrapped: Any = GradSampleModule(module, loss_reduction="sum", force_functorch=functorch)
        self._wrapped.forbid_grad_accumulation()
        self._parameters: list[Any] = [p for p in module.parameters() if p.requires_grad]

    def add(self, x: torch.Tensor, y: torch.Tensor, bound: float, totals: Sequence[torch.Tensor]) -> Batch:
        """Add the clipped sum over a batch. A record whose gradient is not finite counts as zero."""
        logits, losses = _losses(self._wrapped, x, y)
        _backward(losses.sum())
        with torch.no_grad():
            rows = [p.grad_sample.flatten(start_dim=1) for p in self._parameters]
            norms = torch.stack([row.norm(dim=1) for row in rows]).norm(dim=0)
            finite = norms.isfinite()
            factors = factors_for(norms[finite], bound)
            for row, total in zip(rows, totals, strict=True):
                total.add_((factors @ (row if bool(finite.all()) else row[finite])).view(total.shape))
        self._clear()
        return Batch(logits.detach(), norms)

    def _clear(self) -> None:
        for p in self._parameters:
            p.grad = p.grad_sample = None

    def release(self) -> None:
        """Take the wrapper off."""
        _unwrap(self._wrapped, self._parameters)


def _losses(wrapped: Any, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the module answers, and each record's cross-entropy."""
    with torch.enable_grad():
        logits: torch.Tensor = wrapped(x)
        return logits, nn.functional.cross_entropy(logits, y, reduction="none")


def _backward(loss: torch.Tensor, retain_graph: bool = False) -> None:
    with warnings.catch_warnings(action="ignore"):  # records need no gradient, as torch remarks on every step
        loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]


def _unwrap(wrapped: Any, parameters: Sequence[Any]) -> None:
    """Take the wrapper and everything that hangs on the parameters off again."""
    wrapped.to_standard_module()
    for p in parameters:
        p.grad = None
