"""Optimisers over stacked layers, equal to torch's to rounding. Imports torch: to be imported inside functions only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from ..descent import optimizer_over

if TYPE_CHECKING:
    from ..recipe import OptimizerChoice
    from ._stacked_network import Layers, Scratch, Slope


class Descent(Protocol):
    """Steps all models at once."""

    def step(self, slopes: Sequence[Slope], noise: torch.Tensor | None, scale: float, rate: float) -> None:
        """One step on (gradient + noise) · scale.

        Args:
            slopes: One a layer.
            noise: `(k, parameters)`, in the order of torch's state_dict, or `None`.
            scale: One over the records by which the sum is divided.
            rate: Learning rate.
        """
        ...


def descent(layers: Layers, choice: OptimizerChoice, scratch: Scratch) -> Descent:
    """The optimiser that a recipe chooses, over these layers."""
    return _Sgd(layers, choice, scratch) if choice.name == "sgd" else _Adam(layers, choice, scratch)


class _Sgd:
    """Gradient descent that adds the product inputsᵀ errors straight onto what it changes: no gradient is written."""

    def __init__(self, layers: Layers, choice: OptimizerChoice, scratch: Scratch) -> None:
        self._layers, self._choice, self._scratch = layers, choice, scratch
        self._speed = layers.zeros() if choice.momentum else None

    def step(self, slopes: Sequence[Slope], noise: torch.Tensor | None, scale: float, rate: float) -> None:
        """As torch.optim.SGD: v ← μ v + g + λ w, w ← w - η v; without momentum w ← (1 - η λ) w - η g."""
        decay, weights = self._choice.weight_decay, self._layers
        if self._speed is None:
            _add_gradient(weights, slopes, noise, 1 - rate * decay, -rate * scale, self._scratch)
            return
        _add_gradient(self._speed, slopes, noise, self._choice.momentum, scale, self._scratch)
        if decay:
            self._speed.flat.add_(weights.flat, alpha=decay)
        weights.flat.add_(self._speed.flat, alpha=-rate)


class _Adam:
    """Torch's own fused Adam or AdamW over gradients that are written out."""

    def __init__(self, layers: Layers, choice: OptimizerChoice, scratch: Scratch) -> None:
        self._gradient, self._scratch = layers.zeros(), scratch
        parameter = torch.nn.Parameter(layers.flat)
        parameter.grad = self._gradient.flat
        self._optimizer = optimizer_over([parameter], choice, fused=True)

    def step(self, slopes: Sequence[Slope], noise: torch.Tensor | None, scale: float, rate: float) -> None:
        """As torch.optim.Adam or AdamW."""
        _add_gradient(self._gradient, slopes, noise, 0.0, scale, self._scratch)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()


def _add_gradient(
    onto: Layers, slopes: Sequence[Slope], noise: torch.Tensor | None, keep: float, scale: float, scratch: Scratch
) -> None:
    """In place: onto ← keep · onto + scale · (gradient + noise)."""
    for layer, slope in zip(onto.each, slopes, strict=True):
        k, b, _ = slope.errors.shape
        layer.weight.baddbmm_(slope.inputs.transpose(1, 2), slope.errors, beta=keep, alpha=scale)
        layer.bias[:, None].baddbmm_(scratch("ones", k, 1, b).fill_(1.0), slope.errors, beta=keep, alpha=scale)
    if noise is not None:
        values = [value for layer in onto.each for value in (layer.weight.transpose(1, 2), layer.bias)]
        for value, part in zip(values, torch.split(noise, [value[0].numel() for value in values], dim=1), strict=True):
            value.add_(part.reshape(value.shape), alpha=scale)
