"""Gradients record by record, formed only where that is cheap. Imports torch: to be imported inside functions only.

Shapes: b records; a layer's answer has o channels at p places, each of which sees k values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import nn

from ..errors import InputError

#: What moving one number through memory costs, in multiplications.
_TRANSFER = 32
#: Share of the largest possible squared norm that rounding may take away where it is a sum of terms that cancel.
_CANCELLED = 1e-6


class Slope(Protocol):
    """The gradients of a batch's losses in the trained parameters of one layer."""

    @property
    def parameters(self) -> int:
        """How many these are."""
        ...

    def squares(self) -> torch.Tensor:
        """`(b,)`, squared Euclidean norm of each record's gradient over these parameters, never too small."""
        ...

    def add(self, factors: torch.Tensor, totals: Sequence[torch.Tensor]) -> None:
        """Add the weighted sum over the records. Args: factors `(b,)`; totals, one a parameter, in its shape."""
        ...

    def only(self, rows: torch.Tensor) -> Slope:
        """Of some records. Args: rows `(b,)` bool."""
        ...


class Trained(NamedTuple):
    """Which parameters of a layer are trained.

    Attributes:
        weight: Whether its weight is.
        bias: Whether there is a bias that is.
    """

    weight: bool
    bias: bool

    @classmethod
    def of(cls, layer: nn.Module) -> Trained:
        """Those of a layer whose parameters are a weight and perhaps a bias."""
        weight, bias = layer.weight, getattr(layer, "bias", None)
        return cls(bool(weight.requires_grad), bias is not None and bool(bias.requires_grad))


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer: the gradient of one record is an outer product (Goodfellow 2015, arXiv 1510.01799).

    Attributes:
        inputs: `(b, k)`.
        errors: `(b, o)`.
        trained: Which parameters.
    """

    inputs: torch.Tensor
    errors: torch.Tensor
    trained: Trained

    @property
    def parameters(self) -> int:
        """A weight, a bias, or both."""
        return self.trained.weight + self.trained.bias

    def squares(self) -> torch.Tensor:
        """||g||² (||a||² + 1), the one for the bias."""
        errors = _squares(self.errors)
        if not self.trained.weight:
            return errors
        inputs = _squares(self.inputs)
        return torch.addcmul(errors, errors, inputs) if self.trained.bias else inputs.mul_(errors)

    def add(self, factors: torch.Tensor, totals: Sequence[torch.Tensor]) -> None:
        """One product for all records."""
        if self.trained.weight:
            totals[0].addmm_((self.errors * factors[:, None]).t(), self.inputs)
        if self.trained.bias:
            totals[-1].addmv_(self.errors.t(), factors)

    def only(self, rows: torch.Tensor) -> Slope:
        """Of some records."""
        return Dense(self.inputs[rows], self.errors[rows], self.trained)


@dataclass(frozen=True, slots=True)
class Formed:
    """Gradients that are small, record by record.

    Attributes:
        gradients: One a trained parameter, `(b, ...)`.
        orders: How the dimensions of each sum are permuted to be the parameter's; empty where they are already.
    """

    gradients: tuple[torch.Tensor, ...]
    orders: tuple[tuple[int, ...], ...]

    @property
    def parameters(self) -> int:
        """One a gradient."""
        return len(self.gradients)

    def squares(self) -> torch.Tensor:
        """As they are."""
        squares = [_squares(g.flatten(start_dim=1)) for g in self.gradients]
        return squares[0] if len(squares) == 1 else torch.stack(squares).sum(dim=0)

    def add(self, factors: torch.Tensor, totals: Sequence[torch.Tensor]) -> None:
        """One product of a vector and a matrix."""
        for g, order, total in zip(self.gradients, self.orders, totals, strict=True):
            found = (factors @ g.flatten(start_dim=1)).view(g.shape[1:])
            total.add_((found.permute(order) if order else found).reshape(total.shape))

    def only(self, rows: torch.Tensor) -> Slope:
        """Of some records."""
        return Formed(tuple(g[rows] for g in self.gradients), self.orders)


@dataclass(frozen=True, slots=True)
class Unformed:
    """More parameters than places: norms from the places' products (Bu et al. 2022, arXiv 2205.10683, eq. 2).

    Attributes:
        patches: `(b, p, k)`, what each place sees.
        errors: `(b, p, o)`.
        kernel: What the k values are for a convolution, height, width and channels; empty for a linear layer.
        trained: Which parameters.
    """

    patches: torch.Tensor
    errors: torch.Tensor
    kernel: tuple[int, ...]
    trained: Trained

    @property
    def parameters(self) -> int:
        """A weight, a bias, or both."""
        return self.trained.weight + self.trained.bias

    def squares(self) -> torch.Tensor:
        """Sum over pairs of places of (what they see) · (their errors); a bias sees 1 everywhere."""
        if not self.trained.weight:
            return _squares(self.errors.sum(dim=1))
        seen = (self.patches @ self.patches.transpose(1, 2)).add_(float(self.trained.bias))
        squares = seen.mul_(self.errors @ self.errors.transpose(1, 2)).sum(dim=(1, 2))
        # The terms of a hostile record could cancel but for rounding, and its norm be found far too small.
        most = _squares(self.patches).add_(float(self.trained.bias)).mul_(_squares(self.errors)).sqrt_()
        most = most.sum(dim=1).square_()
        return squares.clamp_(min=0.0).add_(most, alpha=_CANCELLED)

    def add(self, factors: torch.Tensor, totals: Sequence[torch.Tensor]) -> None:
        """One product for all records and places."""
        scaled = (self.errors * factors[:, None, None]).flatten(end_dim=1)
        if self.trained.weight:
            weight = scaled.t() @ self.patches.flatten(end_dim=1)
            if self.kernel:
                weight = weight.view(-1, *self.kernel).permute(0, 3, 1, 2).reshape(totals[0].shape)
            totals[0].add_(weight)
        if self.trained.bias:
            totals[-1].add_(scaled.sum(dim=0))

    def only(self, rows: torch.Tensor) -> Slope:
        """Of some records."""
        return Unformed(self.patches[rows], self.errors[rows], self.kernel, self.trained)


@dataclass(frozen=True, slots=True)
class Looked:
    """A table of vectors, of which each record looks some up.

    Attributes:
        rows: `(b, t)`, which ones.
        errors: `(b, t, d)`.
    """

    rows: torch.Tensor
    errors: torch.Tensor

    @property
    def parameters(self) -> int:
        """The table."""
        return 1

    def squares(self) -> torch.Tensor:
        """Products of the errors of each two places that looked up the same vector."""
        same = self.rows[:, :, None] == self.rows[:, None, :]
        squares = (self.errors @ self.errors.transpose(1, 2)).mul_(same).sum(dim=(1, 2))
        most = _squares(self.errors).sqrt_().sum(dim=1).square_()
        return squares.clamp_(min=0.0).add_(most, alpha=_CANCELLED)

    def add(self, factors: torch.Tensor, totals: Sequence[torch.Tensor]) -> None:
        """Each place's share to the vector that it looked up."""
        totals[0].index_add_(0, self.rows.flatten(), (self.errors * factors[:, None, None]).flatten(end_dim=1))

    def only(self, rows: torch.Tensor) -> Slope:
        """Of some records."""
        return Looked(self.rows[rows], self.errors[rows])


def _squares(values: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean norms over the last dimension."""
    norms: torch.Tensor = torch.linalg.vector_norm(values, dim=-1)
    return norms.square_()


def slope(layer: nn.Module, trained: Trained, given: torch.Tensor, errors: torch.Tensor) -> Slope:
    """What the gradients of a layer's trained parameters are made of.

    Args:
        layer: Has no `obstacle`.
        trained: Which of its parameters are trained, at least one.
        given: What it was fed, a record a row.
        errors: Gradient of the sum of the losses in what it answered.
    """
    if isinstance(layer, nn.Linear):
        return _linear(trained, given, errors)
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return _convolution(layer, trained, given, errors)
    if isinstance(layer, nn.Embedding):
        return _embedding(layer, given, errors)
    return _normalisation(layer, trained, given, errors)


def obstacle(layer: nn.Module) -> str:
    """Why the gradients of a layer with parameters of its own are not known here; empty where they are."""
    name = type(layer).__name__
    if type(layer) not in _KNOWN:
        return f"the gradients of a layer of kind {name} are not known record by record"
    if getattr(layer, "sparse", False) or getattr(layer, "scale_grad_by_freq", False):
        return f"a layer of kind {name} with sparse or rescaled gradients is not known"
    if getattr(layer, "max_norm", None) is not None:
        return f"a layer of kind {name} that changes its own weights is not known"
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return f"a layer of kind {name} that pads by other than zeros is not known"
    if getattr(layer, "track_running_stats", False):
        return f"a layer of kind {name} with running statistics is not known"
    return ""


#: Classes alone, no subclasses: those may compute something else.
_KNOWN = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Embedding,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


def check_known(layer: nn.Module) -> None:
    """Refuse a layer whose gradients are not known.

    Raises:
        InputError: It has an obstacle.
    """
    why = obstacle(layer)
    if why:
        raise InputError.of(why, "use mode: ghost, hooks or functorch, or another layer")


def _linear(trained: Trained, given: torch.Tensor, errors: torch.Tensor) -> Slope:
    """One place, or a sequence of places."""
    if given.dim() == 2:
        return Dense(given, errors, trained)
    given, errors = given.flatten(1, -2), errors.flatten(1, -2)
    places, seen, outputs = given.shape[1], given.shape[2], errors.shape[2]
    if places**2 * (seen + outputs) < _TRANSFER * seen * outputs:
        return Unformed(given, errors, (), trained)
    weight = torch.bmm(errors.transpose(1, 2), given) if trained.weight else None
    return _formed(weight, errors.sum(dim=1), trained)


def _formed(weight: torch.Tensor | None, bias: torch.Tensor, trained: Trained, order: tuple[int, ...] = ()) -> Formed:
    """Of a weight, `None` where it is not trained, and a bias, which counts where that is."""
    parts = [] if weight is None else [(weight, order)]
    if trained.bias:
        parts.append((bias, ()))
    return Formed(tuple(gradient for gradient, _ in parts), tuple(order for _, order in parts))


def _convolution(layer: nn.Conv1d | nn.Conv2d, trained: Trained, given: torch.Tensor, errors: torch.Tensor) -> Slope:
    """Gradients record by record where they are cheaper than products of places."""
    if isinstance(layer, nn.Conv1d):
        given, errors = given.unsqueeze(2), errors.unsqueeze(2)
    outputs, groups = layer.out_channels, layer.groups
    if not trained.weight:
        return Formed((errors.sum(dim=(2, 3)),), ((),))
    errors = errors.permute(0, 2, 3, 1).reshape(len(errors), -1, outputs)
    patches = _patches(layer, given)
    places, seen = patches.shape[1], patches.shape[2]
    kernel = (*_window(layer)[0], layer.in_channels)
    if groups == 1 and places**2 * (seen + outputs) < _TRANSFER * seen * outputs:
        return Unformed(patches, errors, kernel, trained)
    if groups == 1:
        weight = torch.bmm(errors.transpose(1, 2), patches).view(-1, outputs, *kernel)
    else:
        weight = _grouped(patches.view(-1, places, *kernel), errors, groups)
    return _formed(weight, errors.sum(dim=1), trained, (0, 3, 1, 2))


def _grouped(patches: torch.Tensor, errors: torch.Tensor, groups: int) -> torch.Tensor:
    """`(b, o, height, width, channels / groups)` from patches `(b, p, height, width, channels)`, errors `(b, p, o)`."""
    b, places, high, wide, channels = patches.shape
    seen = patches.view(b, places, high, wide, groups, channels // groups).permute(0, 4, 1, 2, 3, 5)
    apart = errors.view(b, places, groups, -1).permute(0, 2, 3, 1)
    weight = apart @ seen.reshape(b, groups, places, -1)
    return weight.reshape(b, -1, high, wide, channels // groups)


def _patches(layer: nn.Conv1d | nn.Conv2d, given: torch.Tensor) -> torch.Tensor:
    """`(b, p, k)`: what each place sees, channels last."""
    (high, wide), (down, right), (apart, aside) = _window(layer)
    above, below, before, behind = _margins(layer)
    padded = given.permute(0, 2, 3, 1).contiguous()
    if above or below or before or behind:
        padded = nn.functional.pad(padded, (0, 0, before, behind, above, below))
    b, height, width, channels = padded.shape
    rows = (height - apart * (high - 1) - 1) // down + 1
    columns = (width - aside * (wide - 1) - 1) // right + 1
    line = width * channels
    strides = (height * line, down * line, right * channels, apart * line, aside * channels, 1)
    windows = padded.as_strided((b, rows, columns, high, wide, channels), strides)
    return windows.reshape(b, rows * columns, high * wide * channels)


def _window(layer: nn.Conv1d | nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride and dilation, each down and right."""
    return _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.dilation)


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return (1, value[0]) if len(value) == 1 else (value[0], value[1])


def _margins(layer: nn.Conv1d | nn.Conv2d) -> tuple[int, int, int, int]:
    """Zeros above, below, before and behind."""
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if layer.padding == "same":
        (high, wide), _, (apart, aside) = _window(layer)
        down, right = apart * (high - 1), aside * (wide - 1)
        return down // 2, down - down // 2, right // 2, right - right // 2
    padding = tuple(int(value) for value in layer.padding)
    above, before = (0, padding[0]) if len(padding) == 1 else (padding[0], padding[1])
    return above, above, before, before


def _embedding(layer: nn.Embedding, given: torch.Tensor, errors: torch.Tensor) -> Slope:
    """What stands for padding is not trained."""
    rows = given.reshape(len(given), -1)
    errors = errors.reshape(*rows.shape, -1)
    if layer.padding_idx is not None:
        errors = errors * (rows != layer.padding_idx)[:, :, None]
    return Looked(rows, errors)


def _normalisation(layer: nn.Module, trained: Trained, given: torch.Tensor, errors: torch.Tensor) -> Slope:
    """A scale and a shift behind a normalisation within the record."""
    if isinstance(layer, nn.LayerNorm):
        shape = tuple(layer.normalized_shape)
        normal = nn.functional.layer_norm(given, shape, eps=layer.eps)
        scales, shifts = (each.reshape(len(given), -1, *shape).sum(dim=1) for each in (normal * errors, errors))
    else:
        if isinstance(layer, nn.GroupNorm):
            normal = nn.functional.group_norm(given, layer.num_groups, eps=layer.eps)
        else:
            normal = nn.functional.instance_norm(given, eps=float(layer.eps))  # type: ignore[arg-type]
        shape = (*given.shape[:2], -1)
        scales, shifts = (each.reshape(shape).sum(dim=2) for each in (normal * errors, errors))
    return _formed(scales if trained.weight else None, shifts, trained)
