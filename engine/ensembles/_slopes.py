"""Gradients record by record, formed only where that is cheap. Imports torch: to be imported inside functions only.

Shapes: b records; a layer's answer has o channels at p places, each of which sees k values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from ..errors import InputError

#: What moving one number through memory costs, in multiplications.
_TRANSFER = 32


class Slope(Protocol):
    """The gradients of a batch's losses in one layer's parameters."""

    def squares(self) -> torch.Tensor:
        """`(b,)`, squared Euclidean norm of each record's gradient over the layer's parameters."""
        ...

    def sums(self, factors: torch.Tensor) -> list[torch.Tensor]:
        """Weighted sum over the records, one tensor a parameter. Args: factors `(b,)`."""
        ...

    def only(self, rows: torch.Tensor) -> Slope:
        """Of some records. Args: rows `(b,)` bool."""
        ...


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer: the gradient of one record is an outer product (Goodfellow 2015, arXiv 1510.01799).

    Attributes:
        inputs: `(b, k)`.
        errors: `(b, o)`.
        biased: Whether there is a bias.
    """

    inputs: torch.Tensor
    errors: torch.Tensor
    biased: bool

    def squares(self) -> torch.Tensor:
        """||g||² (||a||² + 1), the one for the bias."""
        return self.errors.square().sum(dim=1) * (self.inputs.square().sum(dim=1) + self.biased)

    def sums(self, factors: torch.Tensor) -> list[torch.Tensor]:
        """One product for all records."""
        scaled = self.errors * factors[:, None]
        weight = scaled.t() @ self.inputs
        return [weight, scaled.sum(dim=0)] if self.biased else [weight]

    def only(self, rows: torch.Tensor) -> Slope:
        """Of some records."""
        return Dense(self.inputs[rows], self.errors[rows], self.biased)


@dataclass(frozen=True, slots=True)
class Formed:
    """Gradients that are small, record by record.

    Attributes:
        gradients: One a parameter, `(b, ...)`.
        orders: How the dimensions of each sum are permuted to be the parameter's; empty where they are already.
    """

    gradients: tuple[torch.Tensor, ...]
    orders: tuple[tuple[int, ...], ...]

    def squares(self) -> torch.Tensor:
        """As they are."""
        return torch.stack([g.flatten(start_dim=1).square().sum(dim=1) for g in self.gradients]).sum(dim=0)

    def sums(self, factors: torch.Tensor) -> list[torch.Tensor]:
        """One product of a vector and a matrix."""
        totals = [(factors @ g.flatten(start_dim=1)).view(g.shape[1:]) for g in self.gradients]
        return [total.permute(order) if order else total for total, order in zip(totals, self.orders, strict=True)]

    def only(self, rows: torch.Tensor) -> Slope:
        """Of some records."""
        return Formed(tuple(g[rows] for g in self.gradients), self.orders)


@dataclass(frozen=True, slots=True)
class Unformed:
    """A convolution with more parameters than places: norms from the places' products (Bu et al. 2022, 2205.10683).

    Attributes:
        patches: `(b, p, k)`, what each place sees.
        errors: `(b, p, o)`.
        kernel: Height, width and channels of what a place sees.
        biased: Whether there is a bias.
    """

    patches: torch.Tensor
    errors: torch.Tensor
    kernel: tuple[int, int, int]
    biased: bool

    def squares(self) -> torch.Tensor:
        """Sum over pairs of places of (what they see) · (their errors); a bias sees 1 everywhere."""
        seen = self.patches @ self.patches.transpose(1, 2) + float(self.biased)
        squares = (seen * (self.errors @ self.errors.transpose(1, 2))).sum(dim=(1, 2))
        return squares.clamp_(min=0.0)  # rounding could leave a little less

    def sums(self, factors: torch.Tensor) -> list[torch.Tensor]:
        """One product for all records and places."""
        scaled = (self.errors * factors[:, None, None]).flatten(end_dim=1)
        weight = (scaled.t() @ self.patches.flatten(end_dim=1)).view(-1, *self.kernel).permute(0, 3, 1, 2)
        return [weight, scaled.sum(dim=0)] if self.biased else [weight]

    def only(self, rows: torch.Tensor) -> Slope:
        """Of some records."""
        return Unformed(self.patches[rows], self.errors[rows], self.kernel, self.biased)


def slope(layer: nn.Module, given: torch.Tensor, errors: torch.Tensor) -> Slope:
    """What a layer's gradients are made of.

    Args:
        layer: Has parameters of its own.
        given: What it was fed, a record a row.
        errors: Gradient of the sum of the losses in what it answered.

    Raises:
        InputError: A layer whose gradients are not known record by record.
    """
    if isinstance(layer, nn.Linear) and given.dim() == 2:
        return Dense(given, errors, layer.bias is not None)
    if isinstance(layer, nn.Conv2d) and _simple(layer):
        return _convolution(layer, given, errors)
    if isinstance(layer, nn.GroupNorm) and layer.affine:
        normal = nn.functional.group_norm(given, layer.num_groups, eps=layer.eps)
        places = tuple(range(2, given.dim()))
        return Formed(((normal * errors).sum(dim=places), errors.sum(dim=places)), ((), ()))
    name = type(layer).__name__
    raise InputError.of(f"the gradients of a layer of kind {name} are not known record by record", "train one by one")


def _simple(layer: nn.Conv2d) -> bool:
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    return plain and not isinstance(layer.padding, str)


def _convolution(layer: nn.Conv2d, given: torch.Tensor, errors: torch.Tensor) -> Slope:
    """Gradients record by record where they are cheaper than products of places."""
    patches, biased = _patches(layer, given), layer.bias is not None
    places, seen = patches.shape[1:]
    outputs, kernel = layer.out_channels, (*_pair(layer.kernel_size), layer.in_channels)
    errors = errors.permute(0, 2, 3, 1).reshape(len(errors), places, outputs)
    if places**2 * (seen + outputs) < _TRANSFER * seen * outputs:
        return Unformed(patches, errors, kernel, biased)
    weight = torch.bmm(errors.transpose(1, 2), patches).view(-1, outputs, *kernel)
    if biased:
        return Formed((weight, errors.sum(dim=1)), ((0, 3, 1, 2), ()))
    return Formed((weight,), ((0, 3, 1, 2),))


def _patches(layer: nn.Conv2d, given: torch.Tensor) -> torch.Tensor:
    """`(b, p, k)`: what each place sees, channels last."""
    (kernel_high, kernel_wide), (down, right) = _pair(layer.kernel_size), _pair(layer.stride)
    above, left = (int(value) for value in layer.padding)
    padded = nn.functional.pad(given.permute(0, 2, 3, 1), (0, 0, left, left, above, above)).contiguous()
    b, high, wide, channels = padded.shape
    rows, columns = (high - kernel_high) // down + 1, (wide - kernel_wide) // right + 1
    strides = (high * wide * channels, down * wide * channels, right * channels, wide * channels, channels, 1)
    windows = padded.as_strided((b, rows, columns, kernel_high, kernel_wide, channels), strides)
    return windows.reshape(b, rows * columns, kernel_high * kernel_wide * channels)


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    high, wide = value
    return high, wide
