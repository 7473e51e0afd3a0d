"""A plain row of layers, forwards and backwards without autograd. Imports torch: to be imported inside functions only.

What autograd does for each operation costs as much as small layers do. Here images have their channels last in memory,
each pooling stands before its ReLU or tanh, what may be written over is, and nothing is computed that nobody needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from ._layout import pooled_first
from ._slopes import Slope, Trained, obstacle, slope

_aten = torch.ops.aten
_NOT_TRANSPOSED, _NO_OUTPUT_PADDING = False, (0, 0)
_MINUS_ONE = torch.tensor([[-1.0]])


@dataclass(frozen=True, slots=True)
class Answered:
    """What a batch was answered, and the gradients of its losses.

    Attributes:
        logits: `(b, classes)`, detached.
        slopes: One for each layer that has trained parameters, in the order of the module's parameters.
    """

    logits: torch.Tensor
    slopes: Sequence[Slope]


class _Link(Protocol):
    """One layer at work; it keeps of its last batch what the way back needs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What it answers."""
        ...

    def backward(self, errors: torch.Tensor) -> torch.Tensor:
        """Gradient in what it was fed from that in what it answered."""
        ...


class _Dense:
    """A linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer, self.given, self.trained = layer, torch.empty(0), Trained.of(layer)
        self._weight, self._bias = layer.weight, layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.given = x
        return nn.functional.linear(x, self._weight, self._bias)

    def backward(self, errors: torch.Tensor) -> torch.Tensor:
        return errors @ self._weight

    def gradients(self, errors: torch.Tensor, onward: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """Those in what it was fed, where it goes on, and in its trained parameters, over the whole batch."""
        rows, found = errors.flatten(end_dim=-2), []
        if self.trained.weight:
            found.append(rows.t() @ self.given.flatten(end_dim=-2))
        if self.trained.bias:
            found.append(rows.sum(dim=0))
        return (self.backward(errors) if onward else None), found


class _Convolved:
    """A convolution over images whose channels are last in memory."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self.layer, self.given, self.trained = layer, torch.empty(0), Trained.of(layer)
        weight = layer.weight
        _, channels, high, wide = weight.shape
        # With one channel `contiguous` takes either layout for the other, and the answers would not be channels-last.
        strides = (high * wide * channels, 1, wide * channels, channels)
        self.weight = torch.empty_strided(weight.shape, strides, dtype=weight.dtype, device=weight.device)
        self._how = (layer.stride, layer.padding, layer.dilation, _NOT_TRANSPOSED, _NO_OUTPUT_PADDING, layer.groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.copy_(self.layer.weight)
        self.given = x.contiguous(memory_format=torch.channels_last)
        answer: torch.Tensor = _aten.convolution(self.given, self.weight, self.layer.bias, *self._how)
        return answer.contiguous(memory_format=torch.channels_last)

    def backward(self, errors: torch.Tensor) -> torch.Tensor:
        given, _, _ = self._backward(errors, [True, False, False])
        return given

    def _backward(self, errors: torch.Tensor, wanted: list[bool]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        sizes = None if self.layer.bias is None else [self.layer.out_channels]
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _aten.convolution_backward(
            errors, self.given, self.weight, sizes, *self._how, wanted
        )
        return found

    def gradients(self, errors: torch.Tensor, onward: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """Those in what it was fed, where it goes on, and in its trained parameters, over the whole batch."""
        trained = self.trained
        given, weight, bias = self._backward(errors, [onward, trained.weight, trained.bias])
        found = [weight] if trained.weight else []
        return (given if onward else None), [*found, bias] if trained.bias else found


class _Pooled:
    """Max-pooling."""

    def __init__(self, layer: nn.MaxPool2d) -> None:
        self._how = (*(_sides(v) for v in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)),)
        self._ceil = layer.ceil_mode
        self._given = self._places = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._given = x
        answer, self._places = _aten.max_pool2d_with_indices(x, *self._how, self._ceil)
        return answer  # type: ignore[no-any-return]  # torch.ops is not typed

    def backward(self, errors: torch.Tensor) -> torch.Tensor:
        how = (errors, self._given, *self._how, self._ceil, self._places)
        found: torch.Tensor = _aten.max_pool2d_with_indices_backward(*how)
        return found


class _Rectified:
    """ReLU. Args: over, whether it may write over what it is fed."""

    def __init__(self, over: bool) -> None:
        self._over, self._answer = over, torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._answer = x.relu_() if self._over else x.relu()
        return self._answer

    def backward(self, errors: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = _aten.threshold_backward(errors, self._answer, 0)
        return found


class _Bent:
    """Tanh, likewise."""

    def __init__(self, over: bool) -> None:
        self._over, self._answer = over, torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._answer = x.tanh_() if self._over else x.tanh()
        return self._answer

    def backward(self, errors: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = _aten.tanh_backward(errors, self._answer)
        return found


class _Flat:
    """Each record as a row, in the order of its channels, whatever that in memory is."""

    def __init__(self) -> None:
        self._shape = torch.Size()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, errors: torch.Tensor) -> torch.Tensor:
        found = errors.view(self._shape)
        return found.contiguous(memory_format=torch.channels_last) if found.dim() == 4 else found


class _Dropped:
    """Dropout over rows; its chance is torch's, in the order of autograd's own."""

    def __init__(self, layer: nn.Dropout) -> None:
        self._layer, self._kept = layer, torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self._layer.training or self._layer.p == 0:
            self._kept = torch.ones((), dtype=x.dtype, device=x.device)
            return x
        stays = 1 - self._layer.p
        self._kept = torch.empty_like(x).bernoulli_(stays).div_(stays)
        return x * self._kept

    def backward(self, errors: torch.Tensor) -> torch.Tensor:
        return errors * self._kept


_Weighted = _Dense | _Convolved


class Chain:
    """Layers in a row whose gradients are written out; equal to autograd's up to rounding.

    The module stays as it is, and its parameters are read afresh for each batch; which of them are trained is settled
    at the beginning.

    Args:
        links: From the record to the logits.
    """

    def __init__(self, links: Sequence[_Link]) -> None:
        self._links = tuple(links)
        self._trained = tuple(isinstance(link, _Weighted) and any(link.trained) for link in self._links)
        self._first = self._trained.index(True)

    @staticmethod
    def of(module: nn.Module) -> Chain | None:
        """The chain that a module is; `None` for any other module."""
        layers = _row(pooled_first(module)) if _is_bare(module) else []
        parameters = [p for layer in layers for p in layer.parameters()]
        if len(set(map(id, parameters))) < len(parameters) or not any(p.requires_grad for p in parameters):
            return None
        links = _links(layers)
        plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in parameters)
        return Chain(links) if links is not None and plain else None

    @torch.inference_mode()
    def slopes(self, x: torch.Tensor, y: torch.Tensor) -> Answered:
        """The gradients of each record's cross-entropy. Args: x `(b, *shape)`, b >= 1; y `(b,)`."""
        logits = self._forward(x)
        errors, found = _surprise(logits.softmax(dim=1), y), list[Slope]()
        for i in range(len(self._links) - 1, self._first - 1, -1):
            link = self._links[i]
            if self._trained[i] and isinstance(link, _Weighted):
                found.append(slope(link.layer, link.trained, link.given, errors))
            if i > self._first:
                errors = link.backward(errors)
        return Answered(logits, found[::-1])

    @torch.no_grad()
    def gradients(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The mean cross-entropy of a batch, and its gradient in each trained parameter, in their order."""
        likely = self._forward(x).log_softmax(dim=1)
        loss = nn.functional.nll_loss(likely, y)
        errors = _surprise(likely.exp_(), y).div_(len(y))
        found: list[list[torch.Tensor]] = []
        for i in range(len(self._links) - 1, self._first - 1, -1):
            link = self._links[i]
            if isinstance(link, _Weighted):
                onward, own = link.gradients(errors, i > self._first)
                found.append(own)
            else:
                onward = link.backward(errors)
            if onward is not None:
                errors = onward
        return loss, [gradient for own in reversed(found) for gradient in own]

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits."""
        for link in self._links:
            x = link.forward(x)
        return x

    def release(self) -> None:
        """Nothing hangs on the module."""


def _surprise(likely: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Gradient of the cross-entropy in the logits, written over the probabilities."""
    return likely.scatter_add_(1, y[:, None], _MINUS_ONE.expand(len(y), 1))


def _is_bare(module: nn.Module) -> bool:
    """Whether nobody listens to the module's layers: what hangs on them is not called here."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return not any(getattr(layer, name) for layer in module.modules() for name in hooks)


def _row(module: nn.Module) -> list[nn.Module]:
    """The layers of a module in their order; it is itself the only one where it is no plain row."""
    if type(module) is not nn.Sequential:
        return [module]
    return [layer for child in module for layer in _row(child)]


def _links(layers: Sequence[nn.Module]) -> list[_Link] | None:
    """What the layers do; `None` where one is not known here."""
    links: list[_Link] = []
    for layer in layers:
        if type(layer) is nn.Identity:
            continue
        # What these answer they do not need on the way back themselves.
        over = bool(links) and isinstance(links[-1], _Dense | _Convolved | _Pooled)
        make = _LINKS.get(type(layer))
        link = make(layer, over) if make is not None else None
        if link is None:
            return None
        links.append(link)
    return links


def _dense(layer: nn.Linear, _: bool) -> _Link | None:
    return _Dense(layer)


def _convolved(layer: nn.Conv2d, _: bool) -> _Link | None:
    return None if obstacle(layer) or isinstance(layer.padding, str) else _Convolved(layer)


def _pooled(layer: nn.MaxPool2d, _: bool) -> _Link | None:
    return None if layer.return_indices else _Pooled(layer)


def _flat(layer: nn.Flatten, _: bool) -> _Link | None:
    return _Flat() if (layer.start_dim, layer.end_dim) == (1, -1) else None


def _sides(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


_LINKS: dict[type, Callable[..., _Link | None]] = {
    nn.Linear: _dense,
    nn.Conv2d: _convolved,
    nn.MaxPool2d: _pooled,
    nn.Flatten: _flat,
    nn.Dropout: lambda layer, _: _Dropped(layer),
    nn.ReLU: lambda _, over: _Rectified(over),
    nn.Tanh: lambda _, over: _Bent(over),
}
